"""``torch.ops.ms2torch_roi.roi_align`` and its gradient: schemas, kernels by device, shapes, derivative and vmap.

Opaque to compilers, so that a compiled program has the bits of an eager one. There is no autocast rule, so that
float16 stays float16. Both operators take tensors of one dtype and device, as ``ROIAlign`` makes them, and the names of
rules in ``rules.NAMED``: one for the output, one for the gradient.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"
from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch

from .. import engine, params, rules
from . import batches, cpu, torchvision
from .batches import refuse_forward_mode

_SAMPLING = "int pooled_height, int pooled_width, float spatial_scale, int sample_num, str rule"

_library = torch.library.Library("ms2torch_roi", "DEF")
_library.define(f"roi_align(Tensor features, Tensor rois, {_SAMPLING}, str backward_rule) -> Tensor")
# The channels are those of the gradient: as a number they would be those of all ranks of a DTensor.
_library.define(
    f"roi_align_backward(Tensor of_output, Tensor rois, SymInt images, SymInt height, SymInt width, {_SAMPLING})"
    " -> Tensor"
)
_library.define("whole_index(Tensor index, SymInt images, str rule) -> Tensor")  # of a batch, checked

roi_align = torch.ops.ms2torch_roi.roi_align.default
roi_align_backward = torch.ops.ms2torch_roi.roi_align_backward.default


def pool(features: torch.Tensor, rois: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """Call the operator with its derivative, under ``torch.func`` too."""
    transformed = not torch.compiler.is_dynamo_compiling() and _is_transformed()
    if rois.requires_grad and not transformed:
        rois = rois.detach()  # or the output would require a gradient where they alone do, which get none
    if transformed or (torch.is_grad_enabled() and features.requires_grad):
        rois = rois.clone()  # so that the caller can write to them, and may have made them in inference mode
    else:
        arguments = (*arguments[:-1], arguments[-2])  # no boxes of another rule count
    output: torch.Tensor = (Pool.apply if transformed else roi_align)(features, rois, *arguments)
    return output


def _is_transformed() -> bool:
    """Tell whether ``torch.func`` asks for a derivative or a batch of what is computed."""
    if not torch._C._are_functorch_transforms_active():
        return False
    innermost = torch._C._functorch.peek_interpreter_stack()
    return innermost is not None and innermost.key() != torch._C._functorch.TransformType.Functionalize


def _pool_on_cpu(features: torch.Tensor, rois: torch.Tensor, *arguments: Any) -> torch.Tensor:
    *_, sample_num, rule, backward_rule = arguments
    if sample_num <= 0 and backward_rule != rule:
        of_backward = (*arguments[:-2], backward_rule)
        cpu.check_grids(features.shape, torchvision.computed(rois, backward_rule), *of_backward)
    computed = torchvision.computed(features, rule)
    return cpu.pool(computed, torchvision.computed(rois, rule), *arguments[:-1]).to(features.dtype)


def _gradient_on_cpu(of_output: torch.Tensor, rois: torch.Tensor, *arguments: Any) -> torch.Tensor:
    computed = torchvision.computed(of_output, arguments[-1])
    return cpu.gradient(computed, torchvision.computed(rois, arguments[-1]), *arguments).to(of_output.dtype)


@functools.cache
def _triton() -> ModuleType | None:
    """Return the engine of a GPU of NVIDIA's, if Triton is installed and compiles its kernels here."""
    if torch.version.cuda is None:
        return None
    try:
        from . import cuda

        one = torch.ones(1, 1, 1, 1, device="cuda")
        cuda.pool(one, one.new_zeros(1, 5), rules.MINDSPORE[0], (1, 1), 1.0, 1)
    except ModuleNotFoundError:
        return None
    except Exception as error:  # whatever a compiler, a driver or a missing header may raise
        warnings.warn(
            f"ROIAlign: torchvision's kernel takes the place of Triton's, without its bits: {error}", stacklevel=2
        )
        return None
    return cuda


def engine_on(device: torch.device) -> str:
    """Say what computes on a device."""
    if device.type == "cpu":
        return "Numba's kernels on the CPU" if engine.is_compiled(np.dtype(np.float32)) else "NumPy on the CPU"
    if device.type == "cuda" and _triton() is not None:
        return f"Triton's kernels on {torch.cuda.get_device_name(device)}"
    return f"torchvision's operator on {device}, whose bits may be others"


def _pool_on_cuda(
    features: torch.Tensor,
    rois: torch.Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sample_num: int,
    rule: str,
    backward_rule: str,
) -> torch.Tensor:
    pooled = (pooled_height, pooled_width)
    cuda = _triton()
    if cuda is None:
        return _pool_elsewhere(features, rois, *pooled, spatial_scale, sample_num, rule, backward_rule)
    params.check_sizes("ROIAlign", features.shape, rois.shape, *pooled, sample_num)
    inputs = torchvision.computed(features, rule), torchvision.computed(rois, rule)
    output: torch.Tensor = cuda.pool(*inputs, rules.NAMED[rule], pooled, spatial_scale, sample_num)
    return output.to(features.dtype)


def _gradient_on_cuda(
    of_output: torch.Tensor,
    rois: torch.Tensor,
    images: int,
    height: int,
    width: int,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sample_num: int,
    rule: str,
) -> torch.Tensor:
    cuda = _triton()
    if cuda is None:
        return _gradient_elsewhere(
            of_output, rois, images, height, width, pooled_height, pooled_width, spatial_scale, sample_num, rule
        )
    shape = (images, of_output.shape[1], height, width)
    inputs = torchvision.computed(of_output, rule), torchvision.computed(rois, rule)
    of_features: torch.Tensor = cuda.gradient(*inputs, rules.NAMED[rule], shape, spatial_scale, sample_num)
    return of_features.to(of_output.dtype)


def _pool_elsewhere(features: torch.Tensor, rois: torch.Tensor, *arguments: Any) -> torch.Tensor:
    *_, sample_num, _, _ = arguments
    if sample_num > 0:
        return torchvision.pool(features, rois, *arguments)
    return _pool_on_cpu(features.cpu(), rois.cpu(), *arguments).to(features.device)


def _gradient_elsewhere(of_output: torch.Tensor, rois: torch.Tensor, *arguments: Any) -> torch.Tensor:
    *_, sample_num, _ = arguments
    # On an accelerator torchvision's has no order of sums, and is refused where one is asked for.
    if sample_num > 0 and not torch.are_deterministic_algorithms_enabled():
        return torchvision.gradient(of_output, rois, *arguments)
    return _gradient_on_cpu(of_output.cpu(), rois.cpu(), *arguments).to(of_output.device)


for _operator, _kernel, _key in (
    ("roi_align", _pool_on_cpu, "CPU"),
    ("roi_align", _pool_on_cuda, "CUDA"),
    ("roi_align", _pool_elsewhere, "CompositeExplicitAutograd"),
    ("roi_align_backward", _gradient_on_cpu, "CPU"),
    ("roi_align_backward", _gradient_on_cuda, "CUDA"),
    ("roi_align_backward", _gradient_elsewhere, "CompositeExplicitAutograd"),
    ("whole_index", batches.whole_index, "CompositeExplicitAutograd"),
):
    # Where torch.compile leaves their caller as it is, as one it has met under torch.func, it would take these instead.
    _library.impl(_operator, torch.compiler.disable(_kernel), _key)


@torch.library.register_fake("ms2torch_roi::roi_align", lib=_library)
def _(features: torch.Tensor, rois: torch.Tensor, pooled_height: int, pooled_width: int, *_: Any) -> torch.Tensor:
    if features.device.type == "meta":  # others are checked by their kernel when it runs
        for what, values in params.sizes("ROIAlign", features.shape, rois.shape, pooled_height, pooled_width).items():
            params.check_size(what, values)
    return features.new_empty(rois.shape[0], features.shape[1], pooled_height, pooled_width)


@torch.library.register_fake("ms2torch_roi::roi_align_backward", lib=_library)
def _(of_output: torch.Tensor, rois: torch.Tensor, images: int, height: int, width: int, *_: Any) -> torch.Tensor:
    return of_output.new_empty(images, of_output.shape[1], height, width)


@torch.library.register_fake("ms2torch_roi::whole_index", lib=_library)
def _(index: torch.Tensor, images: int, rule: str) -> torch.Tensor:
    return index.new_empty(index.shape)


class Pool(torch.autograd.Function):
    """The operator for ``torch.func``, which takes the derivative of functions rather than of operators."""

    jvp = staticmethod(refuse_forward_mode)

    @staticmethod
    def forward(*inputs: Any) -> torch.Tensor:
        output: torch.Tensor = roi_align(*inputs)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        features, rois, *sampling, _, backward_rule = inputs
        ctx.save_for_backward(rois)
        images, _, height, width = features.shape
        ctx.arguments = (images, height, width, *sampling, backward_rule)

    @staticmethod
    def backward(ctx: Any, of_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient = Gradient.apply if torch._C._are_functorch_transforms_active() else roi_align_backward
        return gradient(of_output, *ctx.saved_tensors, *ctx.arguments), *[None] * 7

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[torch.Tensor, int]:
        return _pool_batch(Pool.apply, info, in_dims, *inputs)


class Gradient(torch.autograd.Function):
    """The gradient for features, which has no derivative of its own."""

    jvp = staticmethod(refuse_forward_mode)

    @staticmethod
    def forward(*inputs: Any) -> torch.Tensor:
        of_features: torch.Tensor = roi_align_backward(*inputs)
        return of_features

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        raise RuntimeError("ROIAlign: trying to differentiate twice, but it has a first derivative only")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[torch.Tensor, int]:
        return _gradient_batch(Gradient.apply, info, in_dims, *inputs)


def _pool_batch(
    operator: Callable[..., torch.Tensor],
    info: Any,
    in_dims: tuple[Any, ...],
    features: torch.Tensor,
    rois: torch.Tensor,
    *arguments: Any,
) -> tuple[torch.Tensor, int]:
    def pool(features: torch.Tensor, rois: torch.Tensor, images: int) -> torch.Tensor:
        return operator(features, rois, *arguments)

    features, rois = batches.in_front(in_dims, features, rois)
    images, channels, height, width = features.shape[-4:]
    shape, pooled = (images, height, width), arguments[:2]
    result = (rois.shape[-2], channels, *pooled)
    return batches.fold(pool, info.batch_size, features, rois, shape, pooled, arguments[4], result), 0


def _gradient_batch(
    operator: Callable[..., torch.Tensor],
    info: Any,
    in_dims: tuple[Any, ...],
    of_output: torch.Tensor,
    rois: torch.Tensor,
    images: int,
    height: int,
    width: int,
    *arguments: Any,
) -> tuple[torch.Tensor, int]:
    def gradient(of_output: torch.Tensor, rois: torch.Tensor, images: int) -> torch.Tensor:
        return operator(of_output, rois, images, height, width, *arguments)

    of_output, rois = batches.in_front(in_dims, of_output, rois)
    if of_output.ndim == 4:  # each has features of its own that it is the gradient for
        of_output = of_output.expand(info.batch_size, *of_output.shape)
    shape, result = (images, height, width), (images, of_output.shape[-3], height, width)
    return batches.fold(gradient, info.batch_size, of_output, rois, shape, arguments[:2], arguments[4], result), 0


for _name, _function in (("roi_align", Pool), ("roi_align_backward", Gradient)):
    torch.library.register_autograd(
        f"ms2torch_roi::{_name}", _function.backward, setup_context=_function.setup_context, lib=_library
    )
torch.library.register_vmap(
    "ms2torch_roi::roi_align",
    lambda info, in_dims, *inputs: _pool_batch(roi_align, info, in_dims, *inputs),
    lib=_library,
)
torch.library.register_vmap(
    "ms2torch_roi::roi_align_backward",
    lambda info, in_dims, *inputs: _gradient_batch(roi_align_backward, info, in_dims, *inputs),
    lib=_library,
)
torch.library.register_vmap(
    "ms2torch_roi::whole_index",
    lambda info, in_dims, index, *rest: (torch.ops.ms2torch_roi.whole_index(index.movedim(in_dims[0], 0), *rest), 0),
    lib=_library,
)
