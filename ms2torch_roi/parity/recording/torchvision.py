"""Recording the calls of ``torchvision.ops.roi_align``.

Each of them reaches one operator, by way of an attribute that is looked up every time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ... import params
from ..calls import Call
from ..cases import TorchvisionCase
from .capture import DTYPES, Gradients, UnrecordableError, record_call, refuse, versions, wants_gradients
from .session import due

NDArray = npt.NDArray[Any]

_INPUTS = ("input", "rois", "spatial_scale", "pooled_height", "pooled_width", "sampling_ratio", "aligned")


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
    """Call the operator, and record that."""
    is_traced = (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or _get_current_dispatch_mode() is not None
    )
    recordings = [] if is_traced else due()
    if not recordings:
        return original(*args, **kwargs)
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
    on_cpu = tensor.detach().cpu().resolve_neg()  # this raises what the device has left to raise
    try:
        array: NDArray = on_cpu.numpy()
    except RuntimeError as error:  # tensors without values of their own, such as torch.func makes
        raise UnrecordableError(str(error)) from error
    return array
