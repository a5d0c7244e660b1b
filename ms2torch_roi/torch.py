"""MindSpore's ROIAlign on torch: its constructor and call, computed by ``torchvision.ops.roi_align``."""

from __future__ import annotations

import inspect
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.fx
from torch._subclasses import FakeTensor
from torchvision.ops import roi_align

from . import arrays, cpu, params, sampling
from . import boxes as _boxes

NDArray = npt.NDArray[Any]

# What the rules use of NumPy. torch.asarray would move a tensor to the default device, and make one of a number.
_xp = types.SimpleNamespace(
    **{**vars(torch), "asarray": lambda value, dtype: value.to(dtype) if isinstance(value, torch.Tensor) else value}
)

_DTYPES = (torch.float16, torch.float32, torch.float64, torch.bfloat16)


class ROIAlign(torch.nn.Module):
    """Region of interest align, as ``mindspore.ops.ROIAlign`` computes it on a CPU, bit for bit.

    Each box is scaled to the feature map, cut into ``pooled_height`` x ``pooled_width`` bins, and every bin is the
    average of bilinear samples in it. A sample more than one cell outside the map counts as 0.

    Args:
        pooled_height: number of bins along y, at least 1.
        pooled_width: number of bins along x, at least 1.
        spatial_scale: feature cells per image pixel, 1/16 for a stride of 16. A float.
        sample_num: samples along each axis of a bin. With 0 or less there are ``floor(size / pooled)``, for each box
            and axis; a box where that is 0 pools to NaN, as in MindSpore.
        roi_end_mode: with 1, ``x2, y2`` is the last pixel of the box, which ends at ``x2 + 1``, and boxes may be
            smaller than a feature cell. With 0 the box ends at ``x2``, and is enlarged to one cell at least. (Neither
            is torchvision's ``aligned=True``; MAPPING.md has the details.)
        backward_roi_end_mode: the mode whose gradient ``features`` get; None for ``roi_end_mode``, the true gradient.
            MindSpore's own gradient of mode 0 is that of mode 1. If the losses of a port agree at the first step and
            diverge from the second, this is why: 1 trains as MindSpore does.
        exact: False to give up the bits for speed on a CPU, where the same samples are then summed in another order. A
            value differs by at most 1e-5 of the largest feature (float16: ``2**-8``), and a gradient by 1e-5 of the
            largest one (float16, in which the exact one adds up rounding errors: 5 %). The output is channels_last if
            the features are.

    Shape:
        ``features`` (N, C, H, W) and ``rois`` (K, 5), rows of ``(index, x1, y1, x2, y2)`` with the coordinates in
        image pixels, give (K, C, pooled_height, pooled_width).

    Both inputs may be torch tensors, NumPy arrays or MindSpore tensors, in any mix; the output is of the kind of
    ``features``. Only torch features have a gradient. DTensors are pooled where they are: features sharded by channel,
    or rois by row.

    The computation runs in the dtype of the tensors, float16, float32 or (an extension to MindSpore) float64, with
    autocast or without; two of float16, float32 and bfloat16 mixed, and bfloat16 alone, are computed in float32. The
    output has the dtype of ``features``. On CPU in float16 and float32 every row that MindSpore defines has the same
    bits, and so has the gradient for ``features`` of mode 1 as long as MindSpore adds it up on one thread. Rows that
    MindSpore leaves unwritten, those with ``|x1|`` and ``|x2|`` below 0.001, pool to 0; they have no gradient, and
    ``rois`` have none. ``torch.func`` works, but for what needs forward mode or a second derivative; a batch of calls
    (``vmap``) has the bits of a loop.

    Compiled, exported or traced, and on accelerators, the module is one torchvision call and some arithmetic on the
    boxes, which never waits for their values. On a CPU, mode 0 keeps its bits. Mode 1 keeps them for most boxes; a
    value differs by at most ``2**-19`` (float16: ``2**-6``) times the largest coordinate of its box in cells, or 1,
    relative to the largest feature. A sample on the border, one cell around the image, may fall on its other side, but
    no box within the image loses one. What is not finite in the first pixel of an image turns samples outside, and rows
    that pool to 0, into NaN, and float16 has torchvision's border above 2048 cells. Accelerators have kernels of their
    own, and no promise of bits. Adaptive grids depend on the values of the rois: they cannot be exported, break a
    compiled graph, and wait for the values on an accelerator.

    Raises:
        TypeError: at construction, an argument that is not an int (``spatial_scale``: a float); in a call, inputs
            that are not such arrays, or of another dtype.
        ValueError: a mode neither 0 nor 1; in a call, another shape, inputs on different devices, or DTensors that are
            placed otherwise.
        RuntimeError: a pooled size below 1; in a call, an image index outside ``[0, N - 1]`` (on an accelerator a
            device-side assertion, as of torch's own indexing), more samples than can be pooled in 12 minutes, or
            in a box than 4 GiB hold, by an estimate, or an adaptive grid where the rois have no values.

    Example, the one of MindSpore's documentation:

    >>> import torch
    >>> from ms2torch_roi import ROIAlign
    >>> features = torch.tensor([[[[1., 2.], [3., 4.]]]])
    >>> rois = torch.tensor([[0, 0.2, 0.3, 0.2, 0.3]])
    >>> ROIAlign(3, 3, 0.25, 2, 0)(features, rois)
    tensor([[[[1.7000, 2.0333, 2.3667],
              [2.3667, 2.7000, 3.0333],
              [3.0333, 3.3667, 3.7000]]]])
    """

    def __init__(
        self,
        pooled_height: int,
        pooled_width: int,
        spatial_scale: float,
        sample_num: int = 2,
        roi_end_mode: int = 1,
        backward_roi_end_mode: int | None = None,
        *,
        exact: bool = True,
    ) -> None:
        super().__init__()
        params.check_mindspore_arguments(
            pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode, backward_roi_end_mode
        )
        if not isinstance(exact, bool):
            raise TypeError(f"ROIAlign: exact must be of type bool, got {exact!r} ({type(exact).__name__})")
        self.pooled_height = pooled_height
        self.pooled_width = pooled_width
        self.spatial_scale = float(spatial_scale)
        self.sample_num = sample_num
        self.roi_end_mode = roi_end_mode
        self.backward_roi_end_mode = backward_roi_end_mode
        self.exact = exact

    def extra_repr(self) -> str:
        names = ["pooled_height", "pooled_width", "spatial_scale", "sample_num", "roi_end_mode"]
        if self.backward_roi_end_mode is not None:
            names.append("backward_roi_end_mode")
        if not self.exact:
            names.append("exact")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def forward(self, features: Any, rois: Any) -> Any:
        return _roi_align(
            features,
            rois,
            self.pooled_height,
            self.pooled_width,
            self.spatial_scale,
            self.sample_num,
            self.roi_end_mode,
            self.backward_roi_end_mode,
            self.exact,
        )


_BAD_INDEX = "ROIAlign: rois with an image index out of range"

_Shape = tuple[int, int, int]  # N, H and W


# One node to torch.fx, so that what it traces stays as exact as this is.
@torch.fx.wrap
def _roi_align(
    features: Any,
    rois: Any,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sample_num: int,
    roi_end_mode: int,
    backward_roi_end_mode: int | None,
    exact: bool,
) -> Any:
    """Compute ``ROIAlign(pooled_height, ...)(features, rois)``."""
    arguments = _Arguments((pooled_height, pooled_width), spatial_scale, sample_num, roi_end_mode, exact)
    backward_mode = roi_end_mode if backward_roi_end_mode is None else backward_roi_end_mode

    def pool_tensors(features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        return _pool(features, rois, arguments, backward_mode)

    if type(features) is not torch.Tensor or type(rois) is not torch.Tensor:
        distributed = sys.modules.get("torch.distributed.tensor")
        if distributed is not None and any(isinstance(value, distributed.DTensor) for value in (features, rois)):
            from .distributed import pool

            return pool(features, rois, pool_tensors)
        if not (isinstance(features, torch.Tensor) and isinstance(rois, torch.Tensor)):
            return _pool_arrays(features, rois, pool_tensors)
    return pool_tensors(features, rois)


class _Arguments(NamedTuple):
    """The arguments of ROIAlign."""

    pooled: tuple[int, int]
    scale: float
    samples: int
    mode: int
    exact: bool


def _pool(features: torch.Tensor, rois: torch.Tensor, arguments: _Arguments, backward_mode: int) -> torch.Tensor:
    """Compute ROIAlign, with the gradient of ``backward_mode``."""
    dtype = _compute_dtype(features, rois)
    if not (features.dtype == rois.dtype == dtype):
        return _pool(features.to(dtype), rois.to(dtype), arguments, backward_mode).to(features.dtype)
    params.check_shapes("ROIAlign", features.shape, rois.shape)
    rois = _check_sizes(features, rois, arguments)
    if torch.compiler.is_dynamo_compiling() or not _is_transformed():  # which has batches that cannot be asked
        for tensor in (features, rois):
            if torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
                _refuse_forward_mode()
    pool: Callable[..., torch.Tensor]
    if arguments.samples <= 0:
        pool = _pool_adaptive_grids
    elif _is_traced(rois) or (rois.device.type != "cpu" and not _is_transformed()):
        pool = _pool_in_one_call
    else:
        pool = _pool_by_values
    if dtype == torch.float16 and torch.is_autocast_enabled(features.device.type):
        # It would compute float16 in float32, which is what it does of torchvision's operator.
        with torch.autocast(features.device.type, enabled=False):
            return pool(features, rois, arguments, backward_mode)
    return pool(features, rois, arguments, backward_mode)


_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)  # torch has it since 2.7


def _is_traced(rois: torch.Tensor) -> bool:
    """Tell whether the rois have no values to look at: while torch compiles, exports, traces or infers shapes."""
    is_tracing: bool = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return is_tracing or rois.is_meta or isinstance(rois, FakeTensor) or torch._is_functional_tensor(rois)


def _is_transformed() -> bool:
    """Tell whether a function of torch.func is at work, so that tensors may stand for batches of others."""
    return torch._C._are_functorch_transforms_active()


def _check_sizes(features: torch.Tensor, rois: torch.Tensor, arguments: _Arguments) -> torch.Tensor:
    """Raise RuntimeError if the tensors or the output are too large, or take too long, and return the rois.

    A check of a size that a program leaves open would bind it to a range of sizes, so that is up to the program.
    """
    if not _is_traced(rois):
        params.check_sizes("ROIAlign", features.shape, rois.shape, *arguments.pooled, arguments.samples)
        return rois
    in_strict_export = torch.compiler.is_dynamo_compiling() and _is_exporting()  # where no size is known to be open
    values: Any  # an int, or what stands for one while a program is made
    for what, values in params.sizes("ROIAlign", features.shape, rois.shape, *arguments.pooled).items():
        if isinstance(values, torch.Tensor):  # in torch.jit.trace, which keeps only what something depends on
            rois = torch._functional_assert_async(values <= params.INT32_MAX, _too_many(what), rois)
        elif isinstance(values, torch.SymInt) or in_strict_export:
            torch._assert_async(torch.scalar_tensor(values, dtype=torch.int64) <= params.INT32_MAX, _too_many(what))
        else:
            params.check_size(what, values)
    return rois


def _too_many(what: str) -> str:
    return f"ROIAlign: {what} would hold more values than the {params.INT32_MAX} that are allowed in one call"


def _refuse_forward_mode(ctx: Any = None, *grad_inputs: Any) -> Any:
    raise NotImplementedError("ROIAlign has no derivative in forward mode (jvp), only the one of backward()")


def _pool_in_one_call(
    features: torch.Tensor, rois: torch.Tensor, arguments: _Arguments, backward_mode: int
) -> torch.Tensor:
    """Pool every row in one torchvision call, without a look at the values of the rois."""
    pooled, scale, samples, roi_end_mode, _ = arguments
    rois = rois.detach()

    def call(features: torch.Tensor, mode: int) -> torch.Tensor:
        boxes, have_image = _boxes.torchvision_call_of_all(_xp, rois, features.shape[0], scale, mode)
        torch._assert_async(have_image, _BAD_INDEX)
        output: torch.Tensor = roi_align(features, boxes, pooled, 1.0, samples, mode == 1)
        return output

    if backward_mode == roi_end_mode or not (features.requires_grad and torch.is_grad_enabled()):
        return call(features, roi_end_mode)
    # Pooling is linear: pooled zeros add nothing but their gradient. (A custom one would be lost on torch.export.)
    zeros = (features - features.detach()).nan_to_num()
    return call(features.detach(), roi_end_mode) + call(zeros, backward_mode)


_NOT_TRACED = (
    "an adaptive grid (sample_num <= 0) depends on the values of the rois, which one program for all of them cannot"
    " branch on; give a sample_num above 0, or leave the module out of it"
)
_REASON: dict[str, Any] = (  # torch takes one since 2.7
    {"reason": _NOT_TRACED} if "reason" in inspect.signature(torch.compiler.disable).parameters else {}
)


@torch.compiler.disable(**_REASON)  # type: ignore[untyped-decorator, no-untyped-call]
def _pool_adaptive_grids(
    features: torch.Tensor, rois: torch.Tensor, arguments: _Arguments, backward_mode: int
) -> torch.Tensor:
    """Pool by values on any device: nothing else can tell the grids."""
    if _is_traced(rois):
        raise RuntimeError(f"ROIAlign: {_NOT_TRACED}")
    return _pool_by_values(features, rois, arguments, backward_mode)


def _pool_by_values(
    features: torch.Tensor, rois: torch.Tensor, arguments: _Arguments, backward_mode: int
) -> torch.Tensor:
    """Pool each row by the call that samples exactly where MindSpore does, or without torchvision if there is none."""
    transformed = _is_transformed()
    if transformed or (torch.is_grad_enabled() and features.requires_grad):
        # A copy, so that the caller can write to the rois, and may have made them in inference mode.
        rois = (rois if transformed else rois.detach()).clone()
        output: torch.Tensor = _Pool.apply(features, rois, arguments, backward_mode)
        return output
    return _pool_plain_tensors(features, rois, arguments)


def _pool_plain_tensors(features: torch.Tensor, rois: torch.Tensor, arguments: _Arguments) -> torch.Tensor:
    if _takes_one_call(rois, arguments):
        return _pool_in_one_call(features, rois, arguments, arguments.mode)
    pixels = _values(rois)
    in_range = _boxes.mindspore_has_image(pixels[:, 0], features.shape[0])
    params.check_index(pixels[:, 0], in_range, features.shape[0], "rois")
    pool = cpu.pool if arguments.exact or features.device.type != "cpu" else cpu.pool_fast
    with np.errstate(all="ignore"):  # overflow and NaN are part of the rule
        feature_boxes = _boxes.mindspore_boxes(np, pixels, arguments.scale, arguments.mode)
        zero = _boxes.mindspore_unwritten(np, pixels)
        if arguments.samples <= 0:
            grid = _boxes.mindspore_grid(feature_boxes[1], *arguments.pooled, arguments.samples)
            sampling.check_grids("ROIAlign", feature_boxes, grid, ~zero, arguments.pooled, features.shape)
        return pool(features, feature_boxes, zero, arguments.pooled, arguments.samples)


def _gradient_of_plain_tensors(
    of_output: torch.Tensor, rois: torch.Tensor, shape: _Shape, arguments: _Arguments
) -> torch.Tensor:
    """Return the gradient for features of this shape, added up in the order of MindSpore's kernel."""
    if _takes_one_call(rois, arguments):
        images, height, width = shape
        with torch.enable_grad():  # of zeros as of any features: pooling is linear
            zeros = of_output.new_zeros(images, of_output.shape[1], height, width).requires_grad_()
            output = _pool_in_one_call(zeros, rois, arguments, arguments.mode)
        return torch.autograd.grad(output, zeros, of_output)[0]
    of_features: torch.Tensor = _add_up(of_output, rois, *shape, *arguments.pooled, *arguments[1:])
    return of_features


# An operator, as torch has batches of gradients (is_grads_batched) that know what to do in operators only.
@torch.library.custom_op(
    "ms2torch_roi::_gradient",
    mutates_args=(),
    schema="(Tensor of_output, Tensor rois, int images, int height, int width, int pooled_height, int pooled_width,"
    " float scale, int samples, int mode, bool exact) -> Tensor",
)
def _add_up(
    of_output: torch.Tensor,
    rois: torch.Tensor,
    images: int,
    height: int,
    width: int,
    pooled_height: int,
    pooled_width: int,
    scale: float,
    samples: int,
    mode: int,
    exact: bool,
) -> torch.Tensor:
    """Return the gradient for features by the values of the rois."""
    pixels = _values(rois)
    pooled, shape = (pooled_height, pooled_width), (images, of_output.shape[1], height, width)
    with np.errstate(all="ignore"):
        feature_boxes = _boxes.mindspore_boxes(np, pixels, scale, mode)
        zero = _boxes.mindspore_unwritten(np, pixels)
        if samples <= 0:
            grid = _boxes.mindspore_grid(feature_boxes[1], *pooled, samples)
            sampling.check_grids("ROIAlign", feature_boxes, grid, ~zero, pooled, shape)
        return cpu.gradient(
            of_output,
            shape,
            feature_boxes,
            zero,
            pooled,
            samples,
            exact=exact or of_output.device.type != "cpu",
        )


def _takes_one_call(rois: torch.Tensor, arguments: _Arguments) -> bool:
    return arguments.samples > 0 and (rois.device.type != "cpu" or _is_traced(rois))


def _values(rois: torch.Tensor) -> NDArray:
    if _is_traced(rois):
        raise RuntimeError(f"ROIAlign: {_NOT_TRACED}")
    values: NDArray = rois.detach().cpu().resolve_neg().numpy()
    return values


class _Pool(torch.autograd.Function):
    """The pooled rows, with a gradient for features."""

    jvp = staticmethod(_refuse_forward_mode)

    @staticmethod
    def forward(features: torch.Tensor, rois: torch.Tensor, arguments: _Arguments, backward_mode: int) -> torch.Tensor:
        return _pool_plain_tensors(features, rois, arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        features, rois, arguments, backward_mode = inputs
        ctx.save_for_backward(rois)
        ctx.shape = _shape(features)
        ctx.arguments = arguments._replace(mode=backward_mode)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        of_features = _Gradient.apply(gradient, *ctx.saved_tensors, ctx.shape, ctx.arguments)
        return of_features, None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        features: torch.Tensor,
        rois: torch.Tensor,
        arguments: _Arguments,
        backward_mode: int,
    ) -> tuple[torch.Tensor, int]:
        def pool(features: torch.Tensor, rois: torch.Tensor, images: int) -> torch.Tensor:
            output: torch.Tensor = _Pool.apply(features, rois, arguments, backward_mode)
            return output

        features, rois = _batches_in_front(in_dims, features, rois)
        return _pool_batch(pool, info.batch_size, features, rois, _shape(features), arguments.pooled), 0


class _Gradient(torch.autograd.Function):
    """The gradient of ``_Pool`` for features, which has no derivative of its own."""

    jvp = staticmethod(_refuse_forward_mode)

    @staticmethod
    def forward(of_output: torch.Tensor, rois: torch.Tensor, shape: _Shape, arguments: _Arguments) -> torch.Tensor:
        return _gradient_of_plain_tensors(of_output, rois, shape, arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        raise RuntimeError("ROIAlign: trying to differentiate twice, but it has a first derivative only")

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        of_output: torch.Tensor,
        rois: torch.Tensor,
        shape: _Shape,
        arguments: _Arguments,
    ) -> tuple[torch.Tensor, int]:
        def gradient(of_output: torch.Tensor, rois: torch.Tensor, images: int) -> torch.Tensor:
            of_features: torch.Tensor = _Gradient.apply(of_output, rois, (images, *shape[1:]), arguments)
            return of_features

        of_output, rois = _batches_in_front(in_dims, of_output, rois)
        if of_output.ndim == 4:  # each has features of its own that it is the gradient for
            of_output = of_output.expand(info.batch_size, *of_output.shape)
        return _pool_batch(gradient, info.batch_size, of_output, rois, shape, arguments.pooled), 0


def _shape(features: torch.Tensor) -> _Shape:
    """Return N, H and W."""
    return features.shape[-4], features.shape[-2], features.shape[-1]


def _batches_in_front(in_dims: tuple[Any, ...], *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor if dim is None else tensor.movedim(dim, 0) for dim, tensor in zip(in_dims, tensors)]  # noqa: B905


def _pool_batch(
    pool: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor],
    size: int,
    values: torch.Tensor,
    rois: torch.Tensor,
    shape: _Shape,
    pooled: tuple[int, int],
) -> torch.Tensor:
    """Make one call of so many: the rule of ``torch.vmap`` for an operator that pools, and for its gradient.

    Args:
        pool: the operator, of values, rois and the number of images that the rois count.
        size: number of calls.
        values: features (N, C, H, W) or a gradient for outputs (K, C, pooled_height, pooled_width), which all calls
            share, or those of each, (size, ...).
        rois: (K, 5) that all calls share, or (size, K, 5).
        shape: N, H and W of the features of one call.
        pooled: number of bins.

    Returns:
        (size, ...), what each call returns.
    """
    images, height, width = shape
    rows, channels = rois.shape[-2], values.shape[-3]
    largest = max(params.sizes("ROIAlign", (images, channels, height, width), (rows, 5), *pooled).values())
    at_once = max(1, params.INT32_MAX // max(1, largest))
    if values.ndim == 5 and rois.ndim == 3:
        whole = min(2 / torch.finfo(dtype).eps for dtype in (rois.dtype, torch.float32))  # all up to that are exact
        at_once = max(1, min(at_once, int(whole) // max(1, images)))
    if size > at_once:
        parts = [slice(first, first + at_once) for first in range(0, size, at_once)]
        outputs = [
            _pool_batch(
                pool,
                min(size, part.stop) - part.start,
                values[part] if values.ndim == 5 else values,
                rois[part] if rois.ndim == 3 else rois,
                shape,
                pooled,
            )
            for part in parts
        ]
        return torch.cat(outputs)

    if rois.ndim == 2:  # as more channels
        output = pool(values.movedim(0, 1).flatten(1, 2), rois, images)
        return output.view(output.shape[0], size, channels, *output.shape[2:]).movedim(1, 0)
    index = _Index.apply(rois[..., 0], images)
    if values.ndim == 5:  # as more images
        first = torch.arange(size, dtype=index.dtype, device=index.device) * images
        index = index + first[:, None]
        values, images = values.flatten(0, 1), size * images
    rois = torch.cat((index[..., None], rois[..., 1:]), 2)
    output = pool(values, rois.flatten(0, 1), images)
    return output.view(size, output.shape[0] // max(1, size), *output.shape[1:])


class _Index(torch.autograd.Function):
    """The whole image indices of a batch of rois, of any number of dimensions, where they are in range."""

    jvp = staticmethod(_refuse_forward_mode)

    @staticmethod
    def forward(index: torch.Tensor, images: int) -> torch.Tensor:
        has_image = _boxes.mindspore_has_image(index, images)
        if index.device.type != "cpu" or isinstance(index, FakeTensor):
            torch._assert_async(has_image.all(), _BAD_INDEX)
        elif not has_image.all():
            entry = tuple((~has_image).nonzero()[0, :-1].tolist())
            name = f"rois of entry {entry[0] if len(entry) == 1 else entry} of the batch of vmap,"
            params.check_index(index[entry].numpy(), has_image[entry].numpy(), images, name)
        return _boxes.mindspore_index(_xp, index.nan_to_num(0.0))  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], index: torch.Tensor, images: int) -> tuple[torch.Tensor, int]:
        (index,) = _batches_in_front(in_dims, index)
        return _Index.apply(index, images), 0


def _pool_arrays(features: Any, rois: Any, pool_tensors: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Any:
    """Pool NumPy arrays and MindSpore tensors, in any mix with torch's, and return the kind of ``features``."""
    features_array, rois_array = (
        None if isinstance(value, torch.Tensor) else arrays.to_numpy(value, "ROIAlign") for value in (features, rois)
    )
    output = pool_tensors(
        features if features_array is None else _as_tensor("features", features_array),
        rois if rois_array is None else _as_tensor("rois", rois_array),
    )
    if features_array is None:
        return output
    if output.dtype == torch.bfloat16:
        output_array = output.detach().cpu().view(torch.int16).numpy().view(features_array.dtype)
    else:
        output_array = output.numpy(force=True)
    return arrays.from_numpy(output_array, features, "ROIAlign")


def _as_tensor(name: str, array: NDArray) -> torch.Tensor:
    """Return a tensor in the memory of an array, which may be of bfloat16 as ml_dtypes and MindSpore define it."""
    if array.dtype.name == "bfloat16":
        return _as_tensor(name, array.view(np.int16)).view(torch.bfloat16)
    try:
        if array.flags.writeable:
            return torch.from_numpy(array)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing here writes to it
            return torch.from_numpy(array)
    except TypeError:
        raise _dtype_error(name, array.dtype) from None


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, torch.Tensor):
        found = f"{type(value).__module__}.{type(value).__qualname__}"  # MindSpore's is called Tensor as well
        if isinstance(value, np.ma.MaskedArray):
            found += ": a mask would be lost"
        found += params.hint_of_list(name, value)
        raise TypeError(f"ROIAlign: {name} must be a tensor of torch or MindSpore or a NumPy array, got {found}")
    if value.dtype not in _DTYPES:
        raise _dtype_error(name, value.dtype)


def _dtype_error(name: str, dtype: Any) -> TypeError:
    return TypeError(f"ROIAlign: {name} must be float16, float32, float64 or bfloat16, got {dtype}")


def _compute_dtype(features: torch.Tensor, rois: torch.Tensor) -> torch.dtype:
    """Check the tensors, and return the dtype to compute in."""
    _check_tensor("features", features)
    _check_tensor("rois", rois)
    if features.device != rois.device:
        raise ValueError(f"ROIAlign: features are on {features.device} but rois on {rois.device}")
    if features.dtype == rois.dtype != torch.bfloat16:
        return features.dtype
    if torch.float64 in (features.dtype, rois.dtype):
        raise TypeError(f"ROIAlign: float64 does not mix, got features {features.dtype} and rois {rois.dtype}")
    return torch.float32
