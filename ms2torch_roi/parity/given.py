"""A call that a user describes, by arrays of any library and the arguments of either operator, as a case."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import arrays, params, reference, rules
from .case import MindSporeCase, TorchvisionCase

NDArray = npt.NDArray[Any]

# The operators that a call may be of. Their arguments, and the defaults of these, are those of the references.
MINDSPORE, TORCHVISION = "mindspore.ops.ROIAlign", "torchvision.ops.roi_align"
_PARAMETERS = {
    name: dict(list(inspect.signature(function).parameters.items())[2:])
    for name, function in ((MINDSPORE, reference.ms_roi_align), (TORCHVISION, reference.tv_roi_align))
}


def case(caller: str, features: Any, rois: Any, arguments: dict[str, Any]) -> MindSporeCase | TorchvisionCase:
    """Return the case of a call, whose operator the names of the arguments tell; ``caller`` is named in errors.

    Raises:
        TypeError: arguments of neither operator or of both, or too few; no arrays, or arrays of another dtype.
        ValueError, RuntimeError, AssertionError: what the operators refuse.
    """
    name = _operator_of(caller, arguments)
    defaults = {key: parameter.default for key, parameter in _PARAMETERS[name].items()}
    arguments = {**defaults, **arguments}
    if missing := [key for key, value in arguments.items() if value is inspect.Parameter.empty]:
        raise TypeError(f"{caller}: {name} needs {' and '.join(missing)} too")
    kind: type[MindSporeCase] | type[TorchvisionCase]
    if name == MINDSPORE:
        kind, rule = MindSporeCase, "ROIAlign"
        params.check_mindspore_arguments(**arguments)
    else:
        kind, rule = TorchvisionCase, "roi_align"
        arguments = dict(zip(defaults, params.torchvision_arguments(**arguments), strict=True))
        if isinstance(rois, (list, tuple)):
            parts = [array(caller, f"rois[{image}]", part) for image, part in enumerate(rois)]
            params.check_boxes_of_images([part.shape for part in parts])
            rois = rules.boxes_of_images(np, parts)
    features, rois = array(caller, "features", features), array(caller, "rois", rois)
    params.check_shapes(rule, features.shape, rois.shape)
    return kind(name=name, category=caller, source="", features=features, rois=rois, **arguments)


def _operator_of(caller: str, arguments: dict[str, Any]) -> str:
    """Return the name of the operator whose arguments these are."""
    only = {name: [key for key in arguments if _owners(key) == [name]] for name in _PARAMETERS}
    takes = "; ".join(f"{name} takes {', '.join(parameters)}" for name, parameters in _PARAMETERS.items())
    if unknown := [key for key in arguments if not _owners(key)]:
        raise TypeError(f"{caller}: there is no argument {', '.join(unknown)}: {takes}")
    if all(only.values()):
        mixed = " and ".join(f"{', '.join(keys)} of {name}" for name, keys in only.items())
        raise TypeError(f"{caller}: the arguments are mixed, {mixed}; give those of one operator")
    if not any(only.values()):
        raise TypeError(f"{caller}: give the arguments of one operator: {takes}")
    return next(name for name, keys in only.items() if keys)


def _owners(argument: str) -> list[str]:
    return [name for name, parameters in _PARAMETERS.items() if argument in parameters]


def array(caller: str, name: str, value: Any) -> NDArray:
    """Return the values of an array of any library and device as NumPy's; ``name`` is what the caller calls it.

    Raises:
        TypeError: it is no array, or not of float16 or float32.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
    dtype = getattr(value, "dtype", None)
    found = None if str(dtype) == "torch.bfloat16" else arrays.to_numpy(value, caller)  # NumPy has none
    if found is None or found.dtype not in (np.float16, np.float32):
        got = f"{type(value).__name__}{'' if dtype is None else f' of {dtype}'}"
        wanted = "a tensor of torch or MindSpore or a NumPy array, of float16 or float32"
        raise TypeError(f"{caller}: {name} must be {wanted}, got {got}")
    return found if found.flags.writeable else found.copy()  # torch warns of memory that it must not write to
