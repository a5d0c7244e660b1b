"""The operators that a case can be run on. Frameworks are imported when they are first used."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import ms2torch_roi

from .cases import Case

NDArray = npt.NDArray[Any]
Operator = Callable[[Case], NDArray]


def outcome(operator: Operator, case: Case) -> NDArray | Exception:
    """Run a case, and return the result or the error that it ended in."""
    try:
        return operator(case)
    except Exception as error:
        return error


def mindspore(case: Case) -> NDArray:
    """Run ``mindspore.ops.ROIAlign`` on a CPU, in PyNative mode."""
    ms = import_mindspore()
    operator = ms.ops.ROIAlign(*case.arguments)
    # PyNative mode finds compiled operators by a key that joins the attributes without a separator: (1, 12) and (11, 2)
    # are one operator to it. An attribute with the arguments in it keeps them apart.
    operator.add_prim_attr("arguments", "x".join(map(str, case.arguments)))
    result: NDArray = operator(ms.Tensor(case.features), ms.Tensor(case.rois)).asnumpy()
    return result


def import_mindspore() -> Any:
    """Import MindSpore, quietly, for the CPU and in PyNative mode.

    Raises:
        ImportError: it is not installed, or does not work here; the message says what to do.
    """
    os.environ.setdefault("GLOG_v", "3")  # errors only, or every refused index is logged as well as raised
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mindspore as ms
    except ModuleNotFoundError as error:
        if error.name != "mindspore":
            raise
        raise ImportError(
            "MindSpore is not installed. Install it with: pip install 'ms2torch-roi[mindspore]'"
        ) from error
    ms.set_context(mode=ms.PYNATIVE_MODE, device_target="CPU")
    return ms


def adapter(case: Case) -> NDArray:
    """Run :class:`ms2torch_roi.ROIAlign` on a CPU."""
    operator = ms2torch_roi.ROIAlign(*case.arguments)  # first, so that a missing torch is reported as such
    import torch

    result: NDArray = operator(torch.from_numpy(case.features), torch.from_numpy(case.rois)).numpy()
    return result


def reference(case: Case) -> NDArray:
    """Run :func:`ms2torch_roi.reference.ms_roi_align`."""
    return ms2torch_roi.reference.ms_roi_align(case.features, case.rois, *case.arguments)


def versions(*, with_mindspore: bool) -> dict[str, str]:
    """Return the version of everything that takes part, by name."""
    import torch
    import torchvision

    found = {
        "ms2torch_roi": ms2torch_roi.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
    }
    if with_mindspore:
        found["mindspore"] = import_mindspore().__version__
    return found
