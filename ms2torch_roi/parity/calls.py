"""Recorded calls on disk: one ``.npz`` file for each, which NumPy alone can read and write, without pickle.

A file holds the arrays ``features`` (N, C, H, W) and ``rois`` (K, 5), as the operator was given them; ``output``,
unless the call raised an error; and, if they were recorded, ``output_gradient`` and ``features_gradient``, what came
into its backward pass and what went out. A text ``call`` holds the rest as JSON::

    {"format": 1, "operator": "mindspore.ops.ROIAlign", "arguments": {"pooled_height": 7, ...},
     "versions": {"mindspore": "2.10.0", "numpy": "1.26.4", "python": "3.11.2"}, "device": "CPU",
     "error": {"type": "RuntimeError", "message": "..."}}

``operator`` may be ``torchvision.ops.roi_align``, with its own arguments; ``error`` is there if the call raised one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import params
from .cases import Case, MindSporeCase, TorchvisionCase

NDArray = npt.NDArray[Any]

FORMAT = 1
SUFFIX = ".npz"
PARTIAL_SUFFIX = ".partial"

_OPERATORS: dict[str, tuple[str, type[Case]]] = {
    "mindspore.ops.ROIAlign": ("mindspore", MindSporeCase),
    "torchvision.ops.roi_align": ("torchvision", TorchvisionCase),
}
ERRORS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError)
_MEMBERS = ("call", "features", "rois", "output", "output_gradient", "features_gradient")
_DTYPES = ("float16", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One recorded call: its case, and what came of it; ``output`` is None if it raised ``case.raises``.

    ``versions`` are those of the recording environment, and ``device`` is what the operator ran on, ``"CPU"`` or
    another name.
    """

    case: Case
    output: NDArray | None
    output_gradient: NDArray | None = None
    features_gradient: NDArray | None = None
    error_message: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = "CPU"

    @property
    def result(self) -> NDArray | Exception:
        """The output, or the error that the call ended in."""
        if self.case.raises is not None:
            return self.case.raises(self.error_message)
        assert self.output is not None
        return self.output


def write(path: Path, call: Call) -> None:
    """Write a call to a file, which is there in full or not at all, however the process ends.

    Raises:
        OSError: the file cannot be written.
    """
    case = call.case
    facts = {
        "format": FORMAT,
        "operator": next(name for name, (_, kind) in _OPERATORS.items() if isinstance(case, kind)),
        "arguments": case.arguments,
        "versions": dict(call.versions),
        "device": call.device,
    }
    if case.raises is not None:
        facts["error"] = {"type": case.raises.__name__, "message": call.error_message}
    arrays = {
        "features": case.features,
        "rois": case.rois,
        "output": call.output,
        "output_gradient": call.output_gradient,
        "features_gradient": call.features_gradient,
    }
    present = {name: array for name, array in arrays.items() if array is not None}
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with partial.open("wb") as file:
            np.savez(file, call=np.array(json.dumps(facts)), **present)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read(path: Path) -> Call:
    """Read a call from a file.

    Raises:
        ValueError: it holds no recorded call, or not all of it; the message says what is wrong, and names the file.
        OSError: it cannot be opened.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is no .npz file")
        with file:
            found = ", ".join(sorted(file.files)) or "nothing"
            contents = {name: file[name] for name in _MEMBERS if name in file.files}
        if "call" not in contents:
            raise ValueError(f"there is no 'call' in it, but {found}")
        return _call(path, contents)
    except Exception as error:  # NumPy and zipfile raise a dozen kinds for a file that is damaged
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path}: not a recorded call: {type(error).__name__}: {error}") from error


def name_of(path: Path) -> str:
    """Return what a call is called after its file: the folder and the file."""
    return "/".join(path.absolute().parts[-2:])


def _call(path: Path, contents: dict[str, NDArray]) -> Call:
    facts = json.loads(str(contents["call"]))
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else facts
        raise ValueError(f"its format is {found!r}; this version of ms2torch_roi reads {FORMAT}")
    if facts.get("operator") not in _OPERATORS:
        raise ValueError(f"its operator is {facts.get('operator')!r}, not one of {', '.join(_OPERATORS)}")
    library, kind = _OPERATORS[facts["operator"]]
    versions, arguments, error = facts.get("versions"), facts.get("arguments"), facts.get("error")
    if not isinstance(versions, dict) or not isinstance(arguments, dict):
        raise ValueError("its versions or arguments are missing")
    arguments = _checked(kind, arguments)
    for name in ("features", "rois"):
        if name not in contents:
            raise ValueError(f"there are no {name} in it")
    features, rois, output = contents["features"], contents["rois"], contents.get("output")
    raises = None
    if error is not None:
        known = {kind.__name__: kind for kind in ERRORS}
        if error["type"] not in known:
            raise ValueError(f"it ended in {error['type']!r}, which is not one of {', '.join(known)}")
        raises = known[error["type"]]
    elif output is None:
        raise ValueError("there is no output in it")
    else:
        _check_arrays(contents)
    device = str(facts.get("device", "CPU"))
    if not all(map(str.isprintable, (device, *map(str, versions.values())))):
        raise ValueError("its device or versions are not printable")
    of = f"{'MindSpore' if library == 'mindspore' else library} {versions.get(library, 'unknown')} on {device}"
    case = kind(
        name=name_of(path),
        category="recorded",
        source=f"calls.read(Path({str(path)!r})).case",
        features=features,
        rois=rois,
        raises=raises,
        **arguments,
    )
    return Call(
        case=replace(case, category=f"recorded: {of}, {features.dtype.name}, {case.kind}"),
        output=output,
        output_gradient=contents.get("output_gradient"),
        features_gradient=contents.get("features_gradient"),
        error_message=str(error["message"]) if error is not None else "",
        versions={str(name): str(version) for name, version in versions.items()},
        device=device,
    )


def _checked(kind: type[Case], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return valid arguments of the operator."""
    if kind is MindSporeCase:
        params.check_mindspore_arguments(**arguments)
        return arguments
    names = ("output_size", "spatial_scale", "sampling_ratio", "aligned")
    return dict(zip(names, params.torchvision_arguments(**arguments), strict=True))


def _check_arrays(contents: dict[str, NDArray]) -> None:
    """Raise ValueError unless the arrays of a call that returned fit together."""
    for name in ("features", "rois", "output", "output_gradient", "features_gradient"):
        array = contents.get(name)
        if array is not None and array.dtype.name not in _DTYPES:
            raise ValueError(f"{name} is {array.dtype}, not one of {', '.join(_DTYPES)}")
    features, rois, output = (contents[name] for name in ("features", "rois", "output"))
    params.check_shapes("ROIAlign", features.shape, rois.shape)
    if output.ndim != 4 or output.shape[:2] != (rois.shape[0], features.shape[1]):
        raise ValueError(f"output has shape {output.shape} for features {features.shape} and rois {rois.shape}")
    for name, like in (("output_gradient", output), ("features_gradient", features)):
        array = contents.get(name, like)
        if array.shape != like.shape or array.dtype != like.dtype:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not {like.dtype} {like.shape}")
