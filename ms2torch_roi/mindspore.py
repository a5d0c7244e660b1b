"""torchvision's RoIAlign on MindSpore: its constructor and call, computed by ``mindspore.ops.ROIAlign``."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import mindspore as ms
import mindspore.rewrite
import numpy as np
import numpy.typing as npt
from mindspore import nn, ops
from mindspore.ops.operations._grad_ops import ROIAlignGrad

from . import arrays, params, sampling
from . import boxes as _boxes

NDArray = npt.NDArray[Any]
Pooled = tuple[int, int]


class RoIAlign(nn.Cell):  # type: ignore[misc]
    """Region of interest align, as ``torchvision.ops.RoIAlign`` computes it on a CPU, as a MindSpore cell.

    It holds torchvision's arguments, as they were given, and calls :func:`ms2torch_roi.roi_align`, which describes
    them, the inputs, and how exact the result is. There are no parameters.

    Args:
        output_size: number of bins, ``(height, width)`` or an int for both.
        spatial_scale: feature cells per image pixel, 1/16 for a stride of 16.
        sampling_ratio: samples along each axis of a bin; with 0 or less, ``ceil(size / output_size)``.
        aligned: True to move boxes by half a cell; False not to, and to enlarge boxes to one cell.

    Raises:
        RuntimeError: an argument that is not such a number, or a size below 1. torchvision raises it in the call.

    Example, the one of MindSpore's documentation:

    >>> import mindspore
    >>> from ms2torch_roi import RoIAlign
    >>> input = mindspore.Tensor([[[[1., 2.], [3., 4.]]]])
    >>> boxes = mindspore.Tensor([[0, 0.2, 0.3, 0.2, 0.3]])
    >>> print(RoIAlign((3, 3), 0.25, 2, aligned=False)(input, boxes))
    [[[[1.7       2.0333333 2.3666668]
       [2.3666668 2.7       3.0333335]
       [3.0333333 3.3666668 3.7      ]]]]
    """

    def __init__(
        self, output_size: int | Sequence[int], spatial_scale: float, sampling_ratio: int, aligned: bool = False
    ) -> None:
        super().__init__()
        params.torchvision_arguments(output_size, spatial_scale, sampling_ratio, aligned)
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def construct(self, input: ms.Tensor, rois: ms.Tensor | Sequence[ms.Tensor]) -> ms.Tensor:
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def __repr__(self) -> str:
        return (
            f"RoIAlign(output_size={self.output_size}, spatial_scale={self.spatial_scale},"
            f" sampling_ratio={self.sampling_ratio}, aligned={self.aligned})"
        )


# MindSpore's mixed precision O1 copies the source of every cell in a model but those listed here.
getattr(mindspore.rewrite.common.namespace, "_subtree_black_list", []).append(RoIAlign)


def roi_align(
    input: ms.Tensor,
    boxes: ms.Tensor | Sequence[ms.Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> ms.Tensor:
    """Compute ``torchvision.ops.roi_align`` on MindSpore tensors.

    On a CPU in PyNative mode the result has the bits of torchvision's CPU operator, in float32 and float16, for every
    box on which that does not crash; boxes that are not finite, on which it does, pool to 0. The gradient for ``input``
    is torchvision's, up to the order of summation; ``boxes`` get none (zeros).

    In graph mode and inside ``mindspore.jit`` the values of the boxes cannot choose what is called. A fixed grid then
    takes one call (two for float16 with ``aligned``), with the same bits but for three kinds of rows: aligned float16
    boxes below one cell whose end loses its last digits (one value in ten thousand at most), aligned boxes with
    coordinates of 2**75 cells and more, and samples outside where the first pixel of the image is not finite, which
    add 0 instead of NaN. float16 features of more than 2048 cells have the border of MindSpore, and float16 boxes of 64
    times the features get no gradient. Adaptive grids are refused.

    Under ``to_float`` and ``auto_mixed_precision`` both inputs are what MindSpore would make of them for its own
    operator. float16 with float32 is computed in float32, and returned in the dtype of ``input``, as torchvision does
    under autocast.

    MindSpore exports it to ONNX, where in float32 the result has the same bits. With ``aligned`` it takes a call for
    each sample of a bin there, and samples in the first quarter of the first cells can lose their last digits: at most
    2**-22 of the largest feature. ONNX Runtime computes float16 in float32. ``mindspore.vmap`` compiles as graph mode
    does; gradients are to be taken inside of it.

    Args:
        input: (N, C, H, W) features, float16 or float32.
        boxes: (K, 5) rows of ``(index, x1, y1, x2, y2)``, coordinates in image pixels, or a list or tuple of N tensors
            of (L_i, 4), one for each image; of the dtype of ``input``.
        output_size: number of bins, ``(height, width)`` or an int for both.
        spatial_scale: feature cells per image pixel.
        sampling_ratio: samples along each axis of a bin; with 0 or less, ``ceil(size / output_size)`` for each box and
            axis.
        aligned: True to move boxes by half a cell; False not to, and to enlarge boxes to one cell.

    Returns:
        (K, C, height, width), in the dtype of ``input``.

    Raises:
        TypeError: ``input`` is no MindSpore tensor, or a tensor is neither float16 nor float32.
        AssertionError: ``boxes`` is not one of the above, or of another shape.
        ValueError: ``boxes`` is an empty list.
        RuntimeError: another argument or shape, an image index outside ``[0, N - 1]``, an adaptive grid that
            torchvision refuses (a box inverted along one axis), or any in graph mode, or more samples than can be
            pooled in 12 minutes, or in a box than 4 GiB hold, by an estimate.

    >>> import mindspore
    >>> from ms2torch_roi import roi_align
    >>> input = mindspore.ops.arange(1.0, 5.0).reshape(1, 1, 2, 2)
    >>> print(roi_align(input, [mindspore.Tensor([[0.5, 0.5, 2.5, 1.5]])], (1, 2), 1.0, 2))
    [[[[3.625 1.875]]]]
    """

    # MindSpore's mixed precision O1 copies the source of what a model calls, unless there is a function within.
    def nothing() -> None:
        """Do nothing. This is what ``_is_compiling`` is asked about."""

    pooled, scale, samples, half_a_cell = _arguments(output_size, spatial_scale, sampling_ratio, aligned)
    if _is_compiling(nothing):
        _check_tensors(input, boxes)
        features, boxes = _in_one_dtype(input, boxes)
        return _cast(_pool_in_graph(features, boxes, pooled, scale, samples, half_a_cell), input.dtype)
    return _pool_arrays(input, boxes, pooled, scale, samples, half_a_cell)


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


_xp = _Namespace()

# What follows is for MindSpore's compiler to call, rather than to read. A length that it does not know yet is None.
_arguments = ops.constexpr(params.torchvision_arguments, check=False)
_check_boxes_of_images = ops.constexpr(params.check_boxes_of_images, check=False)


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def _check_shapes(input: Sequence[int | None], boxes: Sequence[int | None], pooled: Pooled, samples: int) -> None:
    known_input, known_boxes = ([1 if length is None else length for length in shape] for shape in (input, boxes))
    params.check_shapes("roi_align", known_input, known_boxes)
    params.check_sizes("roi_align", known_input, known_boxes, *pooled, samples)


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def _scale_of_mode_1(dtype: str, height: int | None, width: int | None) -> float:
    return _boxes.mindspore_scale(dtype, *(512 if length is None else length for length in (height, width)))


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def _may_be_0(length: int | None) -> bool:
    return not length


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def _is_compiling(function: Any) -> bool:
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


def _check_tensors(input: Any, boxes: Any) -> None:
    """Raise unless the inputs are tensors that MindSpore's operator takes; their shapes are looked at elsewhere."""
    if not isinstance(input, ms.Tensor):
        raise TypeError(
            f"roi_align: input must be MindSpore's tensor, or in PyNative mode torch's or NumPy's, got {type(input)}"
        )
    if input.dtype not in (ms.float16, ms.float32):
        raise TypeError(f"roi_align: MindSpore's operator takes float16 and float32, got input {input.dtype}")
    for part in boxes if isinstance(boxes, (list, tuple)) else (boxes,):
        if not isinstance(part, ms.Tensor):
            raise AssertionError(
                f"roi_align: boxes must be a tensor like input, or a list of such tensors, got {type(part)}"
            )
        if part.dtype not in (ms.float16, ms.float32):
            raise TypeError(f"roi_align: MindSpore's operator takes float16 and float32, got boxes {part.dtype}")


def _in_one_dtype(input: ms.Tensor, boxes: Any) -> tuple[ms.Tensor, Any]:
    """Return both in the dtype to compute in: float16 if all are, and float32 otherwise, as in MindSpore's operator.

    torchvision refuses two dtypes, except under autocast. MindSpore's mixed precision leaves no mark by which such a
    call could be told from others, neither in graph mode nor of ``to_float`` of other cells.
    """
    dtype = input.dtype
    for part in boxes if isinstance(boxes, (list, tuple)) else (boxes,):
        if part.dtype != dtype:
            dtype = ms.float32
    if isinstance(boxes, (list, tuple)):
        return _cast(input, dtype), [_cast(part, dtype) for part in boxes]
    return _cast(input, dtype), _cast(boxes, dtype)


def _cast(tensor: ms.Tensor, dtype: Any) -> ms.Tensor:
    return tensor if tensor.dtype == dtype else ops.cast(tensor, dtype)


def as_operator_sees(tensor: ms.Tensor) -> ms.Tensor:
    """Cast a tensor in PyNative mode as MindSpore would for its operator, in the cell that is being called.

    There the inputs of each operator are cast that runs in a cell with ``to_float``, or in a cell called by one.
    """
    dtype = ops.stop_gradient(_one(tensor.dtype)).dtype
    return _cast(tensor, dtype)


@functools.cache
def _one(dtype: Any) -> ms.Tensor:
    return ms.Tensor(1, dtype)


def _pool_arrays(
    input: Any,
    boxes: Any,
    pooled: Pooled,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Any:
    """Pool in PyNative mode, where NumPy arrays and torch tensors are taken too, and return the kind of ``input``."""

    def as_tensor(value: Any) -> Any:
        array = None if isinstance(value, ms.Tensor) else arrays.to_numpy(value, "roi_align")
        if array is not None:
            try:
                value = ms.Tensor.from_numpy(array)
            except (RuntimeError, TypeError, ValueError):  # no dtype of MindSpore's
                dtype = array.dtype
                raise TypeError(f"roi_align: MindSpore's operator takes float16 and float32, got {dtype}") from None
        return as_operator_sees(value) if isinstance(value, ms.Tensor) else value

    features = as_tensor(input)
    boxes = [as_tensor(part) for part in boxes] if isinstance(boxes, (list, tuple)) else as_tensor(boxes)
    _check_tensors(features, boxes)
    output = _cast(
        _pool(*_in_one_dtype(features, boxes), pooled, spatial_scale, sampling_ratio, aligned), features.dtype
    )
    return output if isinstance(input, ms.Tensor) else arrays.from_numpy(output.asnumpy(), input, "roi_align")


def _pool(
    input: ms.Tensor,
    boxes: ms.Tensor | Sequence[ms.Tensor],
    pooled: Pooled,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> ms.Tensor:
    """Pool in PyNative mode, routing rows on the host by the values of their boxes."""
    if isinstance(boxes, ms.Tensor):
        pixels = boxes.asnumpy()
    else:
        _check_boxes_of_images([part.shape for part in boxes])
        pixels = _boxes.boxes_of_images(np, [part.asnumpy() for part in boxes])
    _check_shapes(input.shape, pixels.shape, pooled, sampling_ratio)
    in_range = _boxes.torchvision_has_image(np, pixels[:, 0], input.shape[0])
    params.check_index(pixels[:, 0], in_range, input.shape[0], "boxes")
    count, dtype = len(pixels), pixels.dtype
    _, channels, height, width = input.shape
    scale = _scale_of_mode_1(dtype.name, height, width)
    with np.errstate(all="ignore"):  # overflow and NaN are part of the rule
        feature_boxes = _boxes.torchvision_boxes(np, pixels, spatial_scale, aligned)
        if sampling_ratio <= 0:
            grid = _boxes.torchvision_grid(feature_boxes[1], *pooled, sampling_ratio)
            is_finite = _boxes.is_finite(np, *feature_boxes)
            sampling.check_grids("roi_align", feature_boxes, grid, is_finite, pooled, input.shape)
        # Where a sample is outside the image, torchvision adds 0 * the first pixel: NaN, unless that pixel is finite.
        if (
            _boxes.rounds_alike(dtype, height, width, *pooled, sampling_ratio)
            and np.isfinite(input.asnumpy()[:, :, 0, 0]).all()
        ):
            calls, sampled = _boxes.mindspore_calls(feature_boxes, aligned, *pooled, sampling_ratio, scale)
        else:
            calls, sampled = [], np.flatnonzero(_boxes.is_finite(np, *feature_boxes))

    parts: list[tuple[NDArray | None, ms.Tensor]] = []
    for call in calls:
        operator = _operator(pooled, call.sample_num, call.roi_end_mode, scale)
        parts.append((call.rows, operator(input, ms.Tensor(call.rois), ms.Tensor(call.gradient_rois))))
    if sampled.size:
        sampler = _Sampler(feature_boxes, sampled, pooled, sampling_ratio)
        # With graph mode set, calling a cell would compile it, and no gradient is recorded outside of graphs.
        in_graph_mode = ms.get_context("mode") == ms.GRAPH_MODE
        parts.append((sampled, sampler.construct(input) if in_graph_mode else sampler(input)))
    if not parts or parts[0][0] is not None:
        parts.insert(0, (None, ops.zeros((count, channels, *pooled), input.dtype)))
    if len(parts) == 1:
        return parts[0][1]
    # Lay the parts end to end, and take each row from the last part that has it.
    source = np.arange(count, dtype=np.int32)
    end = 0
    for rows, values in parts:
        source[slice(None) if rows is None else rows] = end + np.arange(values.shape[0])
        end += values.shape[0]
    # MindSpore keeps an operator for each constant that it has got, for ever; the result of an addition is none.
    return ops.gather(ops.cat([values for _, values in parts]), ms.Tensor(source) + 0, 0)


def _pool_in_graph(
    input: ms.Tensor,
    boxes: ms.Tensor | Sequence[ms.Tensor],
    pooled: Pooled,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> ms.Tensor:
    """Pool without a look at the values of the boxes. MindSpore's compiler reads this, and functions it calls."""
    if sampling_ratio <= 0:
        raise RuntimeError(
            "roi_align: an adaptive grid (sampling_ratio <= 0) depends on the values of the boxes, which graph mode"
            " cannot branch on. Give a sampling_ratio above 0, or call this outside mindspore.jit in PyNative mode."
        )
    if isinstance(boxes, ms.Tensor):
        pixels = boxes
    else:
        _check_boxes_of_images([part.shape for part in boxes])
        pixels = _boxes.boxes_of_images(_xp, boxes)
    _check_shapes(input.shape, pixels.shape, pooled, sampling_ratio)
    # MindSpore (2.10) cannot slice what mindspore.vmap does not map over, such as boxes of one image for all features.
    nothing = ops.zeros_like(ops.reduce_max(input))
    pixels = ops.stop_gradient(pixels + nothing)
    # MindSpore (2.10) dies of slicing a tensor without rows.
    padded = _may_be_0(pixels.shape[0])
    if padded:
        pixels = _xp.concatenate((_xp.full((1, 5), 0, pixels.dtype), pixels), 0)
    index = pixels[:, :1]
    # MindSpore's operator raises RuntimeError for -1.
    index = _xp.where(_boxes.torchvision_has_image(_xp, index, input.shape[0]), index, -1)
    pixels = _xp.concatenate((index, pixels[:, 1:]), 1)
    half = input.dtype == ms.float16
    scale = _scale_of_mode_1("float16" if half else "float32", input.shape[2], input.shape[3])

    boxes, size = _boxes.torchvision_boxes(_xp, pixels, spatial_scale, aligned)
    boxes, size = _boxes.outside_unless(_xp, _boxes.is_finite(_xp, boxes, size), boxes, size)
    if aligned and _is_exporting_to_onnx():
        output = _pool_samples(input, boxes, size, pooled, sampling_ratio)
    elif aligned and half:
        in_mode_0 = (size >= 1).all(1) & ~_boxes.mindspore_has_mode_1(_xp, boxes, scale)
        boxes_0, size_0 = _boxes.outside_unless(_xp, in_mode_0, boxes, size)
        boxes_1, size_1 = _boxes.outside_unless(_xp, ~in_mode_0, boxes, size)
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
    in_mode_1 = _boxes.mindspore_rois_of_mode_1(_xp, boxes, size, scale)
    rois = in_mode_1 if roi_end_mode == 1 else _boxes.mindspore_rois_of_mode_0(_xp, boxes, size)
    return _operator(pooled, sampling_ratio, roi_end_mode, scale)(input, rois, in_mode_1)


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
            output = output + _operator((1, 1), 1, 0, 1.0)(input, rois, rois)
    output = ops.reshape(output / sampling_ratio**2, (-1, height, width, input.shape[1]))
    return ops.transpose(output, (0, 3, 1, 2))


class _Operator(nn.Cell):  # type: ignore[misc]
    """MindSpore's ROIAlign with the gradient of other rois: of its own, it has the gradient of mode 1 in mode 0 too."""

    def __init__(self, pooled: Pooled, sample_num: int, roi_end_mode: int, scale: float) -> None:
        super().__init__()
        self.pool = ops.ROIAlign(*pooled, scale if roi_end_mode else 1.0, sample_num, roi_end_mode)
        self.gradient = ROIAlignGrad(*pooled, scale, sample_num)
        # PyNative mode finds compiled operators by a key that joins the attributes without a separator: (1, 12) and
        # (11, 2) are one operator to it. An attribute with all of them in it keeps them apart.
        for operator in (self.pool, self.gradient):
            operator.add_prim_attr("arguments", repr((pooled, sample_num, roi_end_mode, scale)))

    def construct(self, features: ms.Tensor, rois: ms.Tensor, gradient_rois: ms.Tensor) -> ms.Tensor:
        return self.pool(features, rois)

    def bprop(
        self, features: ms.Tensor, rois: ms.Tensor, gradient_rois: ms.Tensor, output: ms.Tensor, gradient: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        of_features = self.gradient(gradient, gradient_rois, features.shape)
        return of_features, ops.zeros_like(rois), ops.zeros_like(gradient_rois)


_operator = functools.cache(_Operator)


class _Sampler(nn.Cell):  # type: ignore[misc]
    """The rows that no call of MindSpore's operator expresses, pooled in NumPy, whose small operations cost less."""

    def __init__(self, feature_boxes: _boxes.FeatureBoxes, rows: NDArray, pooled: Pooled, sampling_ratio: int) -> None:
        super().__init__()
        self.plan = (feature_boxes, rows, pooled, sampling_ratio)

    def construct(self, features: ms.Tensor) -> ms.Tensor:
        values = features.asnumpy()
        feature_boxes, rows, pooled, _ = self.plan
        output = np.empty((len(feature_boxes[0]), values.shape[1], *pooled), values.dtype)
        with np.errstate(all="ignore"):
            for part, channels, values_of_part in sampling.pool_as_torchvision(values, *self.plan, sampling.NUMPY):
                output[part, channels] = values_of_part
        return ms.Tensor(output[rows])

    def bprop(self, features: ms.Tensor, output: ms.Tensor, gradient: ms.Tensor) -> tuple[ms.Tensor]:
        return (_SamplerGradient(self.plan, features)(gradient),)


class _SamplerGradient(nn.Cell):  # type: ignore[misc]
    """The gradient of ``_Sampler``: a cell, so as to refuse a second derivative rather than take it for 0."""

    def __init__(self, plan: tuple[_boxes.FeatureBoxes, NDArray, Pooled, int], features: ms.Tensor) -> None:
        super().__init__()
        self.plan = plan
        self.shape = features.shape
        self.features_dtype = features.dtype

    def construct(self, gradient: ms.Tensor) -> ms.Tensor:
        with np.errstate(all="ignore"):
            of_features = sampling.gradient_as_torchvision(gradient.asnumpy(), self.shape, *self.plan)
        return ms.Tensor(of_features).astype(self.features_dtype)

    def bprop(self, gradient: ms.Tensor, output: ms.Tensor, of_output: ms.Tensor) -> tuple[ms.Tensor]:
        raise RuntimeError("roi_align: there is no second derivative, in torchvision neither")


def without_gradient(array: NDArray, features: ms.Tensor, operator: str) -> ms.Tensor:
    """Return the tensor of an array that another framework has computed from ``features``, without a gradient.

    MindSpore would take the gradient for 0. Computing it raises RuntimeError instead, and inside a graph this does.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "eval_script":  # by which MindSpore's graphs run Python
            raise RuntimeError(f"{operator}: inside a MindSpore graph its gradient would be 0; use it in PyNative mode")
        frame = frame.f_back
    cell = _Computed(array, operator)
    # With graph mode set, calling a cell would compile it, and no gradient is recorded outside of graphs.
    return cell.construct(features) if ms.get_context("mode") == ms.GRAPH_MODE else cell(features)


class _Computed(nn.Cell):  # type: ignore[misc]
    """An output that is there already."""

    def __init__(self, output: NDArray, operator: str) -> None:
        super().__init__()
        self.output = output
        self.operator = operator

    def construct(self, features: ms.Tensor) -> ms.Tensor:
        return ms.Tensor.from_numpy(self.output)

    def bprop(self, features: ms.Tensor, output: ms.Tensor, gradient: ms.Tensor) -> tuple[ms.Tensor]:
        raise RuntimeError(
            f"{self.operator}: torch cannot give the gradient of a MindSpore tensor; stop_gradient it first"
        )
