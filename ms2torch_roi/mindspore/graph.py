"""torchvision's rule on MindSpore's operator, in graphs: what MindSpore's compiler reads, and calls."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import mindspore as ms
from mindspore import ops

from .. import encodings, params, rules
from . import host
from .cells import Pooled, operator_of


@ms.jit_class
class _Namespace:
    """What the rules use of NumPy, for graphs, in operators that MindSpore can export to ONNX.

    ``mindspore.numpy`` has it too, but not where a length is unknown when compiling.
    """

    float16, float32 = ms.float16, ms.float32

    def asarray(self, value: ms.Tensor | float, dtype: Any) -> ms.Tensor:
        return ops.cast(value, dtype)

    def ones_like(self, tensor: ms.Tensor, dtype: Any) -> ms.Tensor:
        return ops.cast(ops.ones_like(tensor), dtype)

    def full(self, shape: tuple[int, int], value: float, dtype: Any) -> ms.Tensor:
        return ops.full(shape, value, dtype=dtype)

    def concatenate(self, tensors: Sequence[ms.Tensor], axis: int) -> ms.Tensor:
        return ops.cat(tensors, axis)

    def where(self, condition: ms.Tensor, value: Any, other: Any) -> ms.Tensor:
        return ops.where(condition, value, other)

    def abs(self, value: ms.Tensor) -> ms.Tensor:
        return ops.abs(value)

    def trunc(self, value: ms.Tensor) -> ms.Tensor:
        return ops.floor(value)  # of an index, which is not negative, or -1

    def isfinite(self, value: ms.Tensor) -> ms.Tensor:
        return ops.abs(value) < math.inf

    def reshape(self, value: ms.Tensor, shape: tuple[int, ...]) -> ms.Tensor:
        return ops.reshape(value, shape)

    def logical_and(self, value: ms.Tensor, other: ms.Tensor) -> ms.Tensor:
        return ops.logical_and(value, other)


XP = _Namespace()

# So that MindSpore's compiler reads the fields of a rule.
ms.jit_class(rules.Rule)

# What follows is for MindSpore's compiler to call, rather than to read. A length that it does not know yet is None.
arguments = ops.constexpr(params.torchvision_arguments, check=False)
check_boxes_of_images = ops.constexpr(params.check_boxes_of_images, check=False)


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def check_shapes(input: Sequence[int | None], boxes: Sequence[int | None], pooled: Pooled, samples: int) -> None:
    """Raise unless the lengths that are known are those of a call, and not of too large a one."""
    known_input, known_boxes = ([1 if length is None else length for length in shape] for shape in (input, boxes))
    params.check_shapes("roi_align", known_input, known_boxes)
    params.check_sizes("roi_align", known_input, known_boxes, *pooled, samples)


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def _check_adaptive_grid(input: Sequence[int | None], boxes: Sequence[int | None], exports: bool) -> None:
    """Raise unless a graph can call back for it."""
    lengths = [*input, *boxes]
    if exports or None in lengths or min(lengths) < 0:  # type: ignore[type-var, operator]
        raise RuntimeError(
            "roi_align: an adaptive grid (sampling_ratio <= 0) depends on the values of the boxes, which a graph looks"
            " at in Python, if it is not exported and knows all lengths when it is compiled. Give a sampling_ratio"
            " above 0, or leave out set_inputs, or call this outside mindspore.jit in PyNative mode."
        )


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def _scale_of_mode_1(dtype: str, height: int | None, width: int | None) -> float:
    return encodings.mindspore_scale(dtype, *(512 if length is None else length for length in (height, width)))


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def _no_nan(scale: float) -> float:
    """Return infinity for NaN: no box is finite with either, and MindSpore's compiler makes x of ``x * NaN``."""
    return math.inf if math.isnan(scale) else scale


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def may_be_0(length: int | None) -> bool:
    """Tell whether a length is 0, or not known yet."""
    return not length


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def is_compiling(function: Any) -> bool:
    """Tell whether MindSpore compiles this code: its functions are no constants then, and arrive here as None."""
    return function is None


@ops.constexpr(check=False, reuse_result=False)  # type: ignore[untyped-decorator]
def _is_exporting_to_onnx() -> bool:
    """Tell whether MindSpore compiles this code, in a phase that only its callers know, to export it."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "compile" and str(frame.f_locals.get("phase")).startswith("export.onnx"):
            return True
        frame = frame.f_back
    return False


def pool(
    input: ms.Tensor,
    boxes: ms.Tensor | Sequence[ms.Tensor],
    pooled: Pooled,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> ms.Tensor:
    """Pool in a graph: on the host, if grids depend on the values of the boxes, and else without a look at these.

    MindSpore's compiler reads this, and functions it calls.
    """
    if isinstance(boxes, ms.Tensor):
        pixels = boxes
    elif len(boxes) == 0:
        pixels = check_boxes_of_images(boxes)  # which raises, before MindSpore does
    else:
        check_boxes_of_images([part.shape for part in boxes])
        pixels = rules.boxes_of_images(XP, boxes)
    check_shapes(input.shape, pixels.shape, pooled, sampling_ratio)
    rule = rules.TORCHVISION[aligned]
    # MindSpore (2.10) cannot slice what mindspore.vmap does not map over, such as boxes of one image for all features.
    nothing = ops.zeros_like(ops.reduce_max(input))
    pixels = ops.stop_gradient(pixels + nothing)
    # MindSpore (2.10) dies of slicing a tensor without rows.
    padded = may_be_0(pixels.shape[0])
    if padded:
        pixels = XP.concatenate((XP.full((1, 5), 0, pixels.dtype), pixels), 0)
    if sampling_ratio <= 0:
        _check_adaptive_grid(input.shape, pixels.shape, _is_exporting_to_onnx())
        output = host.operator_of(pooled, spatial_scale, sampling_ratio, aligned)(input, pixels)
        return output[1:] if padded else output
    index = pixels[:, :1]
    # MindSpore's operator raises RuntimeError for -1.
    index = XP.where(rules.has_image(XP, rule, index, input.shape[0]), index, -1)
    pixels = XP.concatenate((index, pixels[:, 1:]), 1)
    half = input.dtype == ms.float16
    scale = _scale_of_mode_1("float16" if half else "float32", input.shape[2], input.shape[3])

    boxes, size = rules.feature_boxes(XP, rule, pixels, _no_nan(spatial_scale))
    boxes, size = encodings.outside_unless(XP, rules.is_finite(XP, boxes, size), boxes, size)
    if aligned and _is_exporting_to_onnx():
        output = _pool_samples(input, boxes, size, pooled, sampling_ratio)
    elif aligned and half:
        in_mode_0 = (size >= 1).all(1) & ~encodings.mindspore_has_mode_1(XP, boxes, scale)
        boxes_0, size_0 = encodings.outside_unless(XP, in_mode_0, boxes, size)
        boxes_1, size_1 = encodings.outside_unless(XP, ~in_mode_0, boxes, size)
        output = _pool_all(input, boxes_0, size_0, pooled, sampling_ratio, 0, scale)
        output = output + _pool_all(input, boxes_1, size_1, pooled, sampling_ratio, 1, scale)
    else:
        output = _pool_all(input, boxes, size, pooled, sampling_ratio, 1 if aligned else 0, scale)
    return output[1:] if padded else output


def _pool_all(
    input: ms.Tensor,
    boxes: ms.Tensor,
    size: ms.Tensor,
    pooled: Pooled,
    sampling_ratio: int,
    roi_end_mode: int,
    scale: float,
) -> ms.Tensor:
    """Pool every box in one call of that mode."""
    in_mode_1 = encodings.mindspore_rois_of_mode_1(XP, boxes, size, scale)
    rois = in_mode_1 if roi_end_mode == 1 else encodings.boxes_to_enlarge(XP, boxes, size)
    return operator_of(pooled, sampling_ratio, roi_end_mode, scale)(input, rois, in_mode_1)


def _pool_samples(
    input: ms.Tensor, boxes: ms.Tensor, size: ms.Tensor, pooled: Pooled, sampling_ratio: int
) -> ms.Tensor:
    """Pool every box by a call for each sample of a bin: a box of one bin and sample, half a cell around it.

    This is for ONNX, whose operator, as MindSpore exports both modes to it, enlarges boxes to one cell.
    """
    height, width = pooled
    bin_height, bin_width = size[:, 1:] / height, size[:, :1] / width
    p, q = ms.Tensor([[*range(height)]], input.dtype), ms.Tensor([[*range(width)]], input.dtype)
    of_bins = ops.zeros((1, height, width, 1), input.dtype)
    index = ops.reshape(boxes[:, :1], (-1, 1, 1, 1)) + of_bins
    output = 0
    for i in range(sampling_ratio):
        y = boxes[:, 2:3] + p * bin_height + (i + 0.5) * bin_height / sampling_ratio - 0.5
        y = ops.reshape(y, (-1, height, 1, 1)) + of_bins
        for j in range(sampling_ratio):
            x = boxes[:, 1:2] + q * bin_width + (j + 0.5) * bin_width / sampling_ratio - 0.5
            x = ops.reshape(x, (-1, 1, width, 1)) + of_bins
            rois = ops.reshape(ops.cat((index, x, y, x, y), 3), (-1, 5))
            output = output + operator_of((1, 1), 1, 0, 1.0)(input, rois, rois)
    output = ops.reshape(output / sampling_ratio**2, (-1, height, width, input.shape[1]))
    return ops.transpose(output, (0, 3, 1, 2))
