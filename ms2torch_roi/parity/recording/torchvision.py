"""Recording the calls of ``torchvision.ops.roi_align``.

Each of them reaches one operator, by way of an attribute that is looked up every time.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import numpy.typing as npt
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.overrides import has_torch_function
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

from ... import params
from ..case import TorchvisionCase
from .calls import Call
from .capture import DTYPES, Gradients, UnrecordableError, record_call, refuse, versions, wants_gradients
from .session import Recording, due

NDArray = npt.NDArray[Any]

_INPUTS = ("input", "rois", "spatial_scale", "pooled_height", "pooled_width", "sampling_ratio", "aligned")
_TRACING = (FakeTensorMode, FunctionalTensorMode, ProxyTorchDispatchMode)

_this_thread = threading.local()  # is_in_call: it runs the operator, for a call that has been counted


def patch() -> Callable[[], None]:
    """Record the calls of the operator, under whatever names it is known; return what undoes it."""
    packet: Any = torch.ops.torchvision.roi_align
    original = packet._op

    def restore() -> None:
        packet._op = original

    packet._op = _stand_in(original)
    return restore


@functools.cache
def _stand_in(original: Any) -> _StandIn:
    """Return the one that this operator has for good, as TorchScript knows operators by their id."""
    stand_in = _StandIn(original)
    torch.jit._builtins._register_builtin(stand_in, "torchvision::roi_align")
    return stand_in


class _StandIn:
    """torchvision's operator, whose calls are recorded; for all else that torch does with it, it is the operator."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _call(self._original, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __hash__(self) -> int:  # torch keeps tables of operators
        return hash(self._original)

    def __eq__(self, other: object) -> bool:
        return other is self or other == self._original


def _call(original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call the operator, and record that unless it is recorded elsewhere, or nothing is to be."""
    if not _is_seen_here(args, kwargs):
        return original(*args, **kwargs)
    _this_thread.is_in_call = True
    try:
        recordings = due()
        return _recorded(recordings, original, args, kwargs) if recordings else original(*args, **kwargs)
    finally:
        _this_thread.is_in_call = False


def _is_seen_here(args: Any, kwargs: Any) -> bool:
    """Tell whether this is a call of its own, and has values.

    Function modes and tensor subclasses see a call first, and call the operator in their turn; dispatch modes may do so
    when it has been counted.
    """
    return not (
        getattr(_this_thread, "is_in_call", False)
        or has_torch_function((*args, *kwargs.values()))
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or any(isinstance(mode, _TRACING) for mode in _get_current_dispatch_mode_stack())
        or _is_recomputation()
    )


def _is_recomputation() -> bool:
    """Tell whether torch.utils.checkpoint computes again, for a backward pass, what a call has computed before.

    With ``use_reentrant=True`` it is another call: the one before had no gradient.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "unpack_hook" and frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return True
        frame = frame.f_back
    return False


def _recorded(recordings: Sequence[Recording], original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call the operator, and record that."""
    named = dict(zip(_INPUTS, args, strict=False)) | kwargs
    inputs: list[Any] = [named.get(name) for name in _INPUTS]
    features, rois, *arguments = inputs
    if len(args) + len(kwargs) != len(inputs) or not all(isinstance(value, torch.Tensor) for value in (features, rois)):
        refuse(recordings, f"torchvision's operator takes {', '.join(_INPUTS)}, and got others")
        return original(*args, **kwargs)
    dtype, device_type, run = features.dtype, features.device.type, original
    if device_type in ("cpu", "cuda") and torch.is_autocast_enabled(device_type):
        # What the operator would do itself; done here, the call that is recorded is the one in float32.
        features, rois = (
            tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
            for tensor in (features, rois)
        )
        run = torch.autocast(device_type, enabled=False)(original)
    try:
        call = _before(features, rois, arguments)
    except UnrecordableError as error:
        refuse(recordings, error)
        return original(*args, **kwargs)
    wanted = wants_gradients(recordings)
    if not (wanted and features.requires_grad and torch.is_grad_enabled()):
        return record_call(recordings, call, lambda: run(features, rois, *arguments), _read, None).to(dtype)
    # The hook is on a tensor that nothing else uses, or it would see the gradients of other uses.
    with _disable_current_modes():
        alias = features.view_as(features)
    gradients = Gradients(_read)
    output = record_call(recordings, call, lambda: run(alias, rois, *arguments), _read, gradients)
    # Not hooks on tensors, which run before the model's own hooks, and so do not see what these make of a gradient.
    output.grad_fn.register_prehook(lambda of_output: gradients.of_output(of_output[0]))
    alias.grad_fn.register_prehook(lambda of_features: gradients.of_features(of_features[0]))
    return output.to(dtype)


def _before(features: Any, rois: Any, arguments: Any) -> Call:
    """Return what is known of a call before it is made."""
    scale, height, width, ratio, aligned = arguments
    try:
        (height, width), scale, ratio, aligned = params.torchvision_arguments((height, width), scale, ratio, aligned)
    except RuntimeError as error:
        raise UnrecordableError(str(error)) from error
    device = features.device
    return Call(
        case=TorchvisionCase(
            name="",
            category="",
            source="",
            features=_read(features),
            rois=_read(rois),
            output_size=(height, width),
            spatial_scale=scale,
            sampling_ratio=ratio,
            aligned=aligned,
        ),
        output=None,
        versions=versions("torch", "torchvision"),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper(),
    )


def _read(tensor: Any) -> NDArray:
    if str(tensor.dtype).removeprefix("torch.") not in DTYPES or tensor.layout != torch.strided or tensor.is_meta:
        raise UnrecordableError(f"a tensor is {tensor.dtype}, {tensor.layout}, on {tensor.device}")
    with torch._C.DisableTorchFunction(), _disable_current_modes():  # no mode of the model's sees this
        on_cpu = tensor.detach().cpu().resolve_neg()  # this raises what the device has left to raise
        try:
            array: NDArray = on_cpu.numpy()
        except RuntimeError as error:  # tensors without values of their own, such as torch.func makes
            raise UnrecordableError(str(error)) from error
    return array
