"""Recording the calls of ``mindspore.ops.ROIAlign``."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy.typing as npt

from ... import params
from ...mindspore.tensors import as_operator_sees
from ..case import MindSporeCase
from .calls import Call
from .capture import DTYPES, Gradients, UnrecordableError, record_call, refuse, versions, wants_gradients
from .session import due

NDArray = npt.NDArray[Any]

_ARGUMENTS = ("pooled_height", "pooled_width", "spatial_scale", "sample_num", "roi_end_mode")


def runs_graphs() -> bool:
    """Tell whether MindSpore makes graphs of cells, which do not call Python; with MS_JIT=0 it does in no mode."""
    return bool(ms.get_context("mode") == ms.GRAPH_MODE) and os.environ.get("MS_JIT") != "0"


def patch() -> Callable[[], None]:
    """Record the calls of all operators, also of those made before; return what undoes it."""
    kind = ms.ops.ROIAlign
    original, is_own = kind.__call__, "__call__" in vars(kind)

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _call(functools.partial(original, self), self, args, kwargs)

    def restore() -> None:
        if is_own:
            kind.__call__ = original
        else:
            del kind.__call__

    kind.__call__ = recorded
    return restore


def _call(original: Callable[..., Any], primitive: Any, args: Any, kwargs: Any) -> Any:
    """Call the operator, and record that."""
    # While mindspore.jit traces, or runs what it has traced, there may be nothing to read.
    recordings = [] if ms.ops.primitive.jit_context() else due()
    if not recordings:
        return original(*args, **kwargs)
    # What the operator would do itself; done here, the call that is recorded is the one that is computed.
    seen = [as_operator_sees(arg) if isinstance(arg, ms.Tensor) else arg for arg in args]
    try:
        call = _before(primitive, seen, kwargs)
    except UnrecordableError as error:
        refuse(recordings, error)
        return original(*args, **kwargs)
    features, rois = seen
    gradients = None
    if wants_gradients(recordings):
        # The hooks are on tensors that nothing else uses, or they would see the gradients of other uses, or not see
        # what the model's own hooks make of a gradient.
        alias = features.view(features.shape)
        gradients = Gradients(_read)
        try:
            alias.register_hook(_hook(gradients.of_features))
        except RuntimeError:  # MindSpore takes no gradient here
            gradients = None
    if gradients is None:
        return record_call(recordings, call, lambda: original(features, rois), _read, None)
    output = record_call(recordings, call, lambda: original(alias, rois), _read, gradients)
    output.register_hook(_hook(gradients.of_output))
    return output.view(output.shape)


def _hook(see: Callable[[Any], None]) -> Callable[[Any], Any]:
    def hook(gradient: Any) -> Any:
        see(gradient)
        return gradient

    return hook


def _before(primitive: Any, args: Any, kwargs: Any) -> Call:
    """Return what is known of a call before it is made."""
    if kwargs or len(args) != 2 or not all(isinstance(arg, ms.Tensor) for arg in args):
        kinds = ", ".join([type(arg).__name__ for arg in args] + [f"{name}=" for name in kwargs])
        raise UnrecordableError(f"mindspore.ops.ROIAlign takes two tensors, got ({kinds})")
    arguments = {name: getattr(primitive, name) for name in _ARGUMENTS}
    try:
        params.check_mindspore_arguments(**arguments, rule="ascend-static")  # which has all modes
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnrecordableError(str(error)) from error
    features, rois = (_read(arg) for arg in args)  # this raises what earlier operators have left to raise
    return Call(
        case=MindSporeCase(name="", category="", source="", features=features, rois=rois, **arguments),
        output=None,
        versions=versions("mindspore"),
        device=ms.get_context("device_target"),
    )


def _read(tensor: Any) -> NDArray:
    if str(tensor.dtype).lower() not in DTYPES:
        raise UnrecordableError(f"a tensor is {tensor.dtype}")
    array: NDArray = tensor.asnumpy()
    return array
