"""mindspore.ops.ROIAlign and torchvision.ops.roi_align, interchangeable bit for bit.

    from ms2torch_roi import ROIAlign            # MindSpore's constructor and call, a torch.nn.Module, on torch
    from ms2torch_roi import RoIAlign, roi_align # torchvision's constructor and call, a mindspore.nn.Cell, on MindSpore
    from ms2torch_roi import SingleRoIExtractor  # the extractor of MindSpore's detectors, on torch
    from ms2torch_roi import MultiScaleRoIAlign  # torchvision's, on MindSpore
    from ms2torch_roi import reference           # both operators in NumPy
    from ms2torch_roi import record              # record the calls that a model makes, to replay them elsewhere
    from ms2torch_roi import save_call           # make a recorded call of arrays that were saved otherwise
    from ms2torch_roi import assert_parity       # assert that a call has the same bits in both
    from ms2torch_roi import compare             # the outputs of a whole head or model, and where they part

Nothing here imports a framework; each name imports the one it runs on when it is first used.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import reference
    from .mindspore import RoIAlign, roi_align
    from .mindspore.extractors import MultiScaleRoIAlign
    from .parity.assertions import assert_parity
    from .parity.comparison import compare
    from .parity.recording import record
    from .parity.recording.saving import save_call
    from .torch import ROIAlign
    from .torch.extractors import SingleRoIExtractor

__version__ = "0.1.0"
if TYPE_CHECKING:  # otherwise those that can be had, see __getattr__
    __all__ = [
        "MultiScaleRoIAlign",
        "ROIAlign",
        "RoIAlign",
        "SingleRoIExtractor",
        "assert_parity",
        "compare",
        "record",
        "reference",
        "roi_align",
        "save_call",
    ]

# Public function: module that holds it.
_FUNCTIONS = {
    "assert_parity": "parity.assertions",
    "compare": "parity.comparison",
    "record": "parity.recording",
    "save_call": "parity.recording.saving",
}

# Extra: the packages that it is for.
PACKAGES = {"torch": ("torch", "torchvision"), "mindspore": ("mindspore",)}

# Public name: module that holds it, the extra that it runs on.
_FRAMEWORK_NAMES = {
    "ROIAlign": ("torch", "torch"),
    "SingleRoIExtractor": ("torch.extractors", "torch"),
    "RoIAlign": ("mindspore", "mindspore"),
    "MultiScaleRoIAlign": ("mindspore.extractors", "mindspore"),
    "roi_align": ("mindspore", "mindspore"),
}

# CPython versions that MindSpore has wheels for: the first, and the first that it has none for.
_MINDSPORE_PYTHONS = (3, 10), (3, 13)


def __getattr__(name: str) -> Any:
    if name == "__all__":  # of "import *", which must work where a framework is missing
        return ["reference", *_FUNCTIONS, *(name for name in _FRAMEWORK_NAMES if not _missing(name))]
    if name == "reference":
        return importlib.import_module(".reference", __name__)
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f".{_FUNCTIONS[name]}", __name__), name)
    if name not in _FRAMEWORK_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _FRAMEWORK_NAMES[name]
    try:
        return getattr(importlib.import_module(f".{module}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES[extra]:
            raise
        raise ImportError(
            f"ms2torch_roi.{name} runs on {' and '.join(PACKAGES[extra])}, but {error.name} is not installed."
            f" {how_to_install(extra)}"
        ) from error


def how_to_install(extra: str) -> str:
    """Return a sentence on how the packages of an extra are installed, or why this Python cannot have them.

    It names them rather than this package, which may have been installed from anywhere.
    """
    first, end = _MINDSPORE_PYTHONS
    if extra == "mindspore" and not first <= sys.version_info[:2] < end:
        wheels = f"from CPython {first[0]}.{first[1]} to {end[0]}.{end[1] - 1}"
        return f"MindSpore has wheels {wheels}, and this is Python {sys.version_info[0]}.{sys.version_info[1]}."
    import importlib.metadata
    import re

    try:
        requirements = importlib.metadata.requires("ms2torch-roi") or []
    except importlib.metadata.PackageNotFoundError:  # a folder on the path
        return f"It comes with the extra '{extra}' of ms2torch-roi."
    needed = [line.split(";")[0].strip() for line in requirements if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    return f"Install the extra '{extra}' with: pip install " + " ".join(f"'{requirement}'" for requirement in needed)


def _missing(name: str) -> bool:
    """Tell whether a package is not installed that a public name runs on."""
    _, extra = _FRAMEWORK_NAMES[name]
    return any(importlib.util.find_spec(package) is None for package in PACKAGES[extra])


def __dir__() -> list[str]:
    return sorted({*globals(), *_FRAMEWORK_NAMES, *_FUNCTIONS, "reference"})
