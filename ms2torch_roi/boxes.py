"""Where each library samples: the two rules, and the calls of the other library that sample exactly there.

A *rule* turns a library's rois, in image pixels, into **feature boxes**: a (K, 5) array of
``(index, start_x, start_y, end_x, end_y)`` in feature cells and in the dtype of the computation. From there on both
CPU kernels do the same arithmetic (``sampling.py``), so everything that differs between the libraries is in this file:
how a box is scaled and shifted, the smallest box, the number of samples, the border, and what the average divides by.

The rules use only functions that NumPy, torch and ``mindspore.numpy`` call by the same name; ``xp`` is the one to use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = Any  # an array of the namespace ``xp``
NDArray = npt.NDArray[Any]

# torchvision keeps 32 bytes for every sample of a box. Above this many (64 MiB) an adaptive grid is not worth it: such
# a box is far larger than the image, and ``sampling.py`` visits only the samples inside.
MAX_ADAPTIVE_SAMPLES = 2**21


# K boxes in feature cells, and the sizes they are sampled with: (K, 5) rows of
# ``(index, start_x, start_y, end_x, end_y)`` whose index is a whole number, and (K, 2) widths and heights,
# ``end - start`` or more where a rule enlarges small boxes. A plain pair, which MindSpore's compiler takes too.
FeatureBoxes = tuple[Array, Array]


def mindspore_boxes(xp: Any, rois: Array, spatial_scale: float, roi_end_mode: int) -> FeatureBoxes:
    """Apply MindSpore's rule to (K, 5) rois in image pixels.

    Mode 1 counts the last pixel in, ``(x2 + 1) * scale``. Mode 0 does not, and enlarges what is not larger than one
    cell to one cell; a box that is inverted, or whose end is NaN, is returned with ``end = start``.
    """
    index = rois[:, :1]
    index = xp.where(index == index, index, 0)
    start, end, size = _mindspore_corners(xp, rois, spatial_scale, roi_end_mode)
    if roi_end_mode == 0:
        size = xp.where(size > 1, size, 1)
    return xp.concatenate((mindspore_index(xp, index), start, end), 1), size


def mindspore_index(xp: Any, index: Array) -> Array:
    """Round an index that is not NaN as MindSpore does."""
    rounded = (xp.asarray(index, dtype=xp.float32) + 7e-5).round()
    return xp.asarray(rounded, dtype=index.dtype)


def _mindspore_corners(xp: Any, rois: Array, spatial_scale: float, roi_end_mode: int) -> tuple[Array, Array, Array]:
    """Return ``(start, end, end - start)``, each (K, 2), where mode 0 may still enlarge the size.

    The size is finite if and only if all three are.
    """
    scale = _scale_like(xp, rois, spatial_scale)
    if roi_end_mode == 1:
        start, end = rois[:, 1:3] * scale, (rois[:, 3:] + 1) * scale
    else:
        corners = rois[:, 1:] * scale
        start, end = corners[:, :2], corners[:, 2:]
        end = xp.where(end > start, end, start)
    return start, end, end - start


def torchvision_boxes(xp: Any, boxes: Array, spatial_scale: float, aligned: bool) -> FeatureBoxes:
    """Apply torchvision's rule to (K, 5) boxes in image pixels.

    ``aligned`` moves boxes by half a cell, so that a pixel's value stands at its centre; without it, what is smaller
    than one cell is enlarged to one cell.
    """
    scale = _scale_like(xp, boxes, spatial_scale)
    corners = boxes[:, 1:] * scale - (0.5 if aligned else 0.0)
    size = corners[:, 2:] - corners[:, :2]
    if not aligned:
        size = xp.where(size < 1, 1, size)
    return xp.concatenate((xp.trunc(boxes[:, :1]), corners), 1), size


def _scale_like(xp: Any, boxes: Array, spatial_scale: float) -> Array:
    """Return the scale in the dtype of the boxes; both libraries round it to float32 before float16."""
    if boxes.dtype != xp.float16:
        return xp.asarray(spatial_scale, dtype=boxes.dtype)
    return xp.asarray(xp.ones_like(boxes[:, :1], dtype=xp.float32) * spatial_scale, dtype=xp.float16)


def boxes_of_images(xp: Any, boxes: Sequence[Array]) -> Array:
    """Join torchvision's list of (L_i, 4) boxes, one entry for each image, to (K, 5) boxes with the index in front."""
    indices = [xp.full((part.shape[0], 1), image, dtype=part.dtype) for image, part in enumerate(boxes)]
    return xp.concatenate([xp.concatenate(pair, 1) for pair in zip(indices, boxes)], 0)  # noqa: B905


def mindspore_has_image(index: Array, images: int) -> Array:
    """Return bool: the indices, as given, that MindSpore takes: ``[0, images - 1]`` before rounding, and NaN as 0."""
    return ~((index < 0) | (index > images - 1)) & (images > 0)


def torchvision_has_image(xp: Any, index: Array, images: int) -> Array:
    """Return bool: the indices, as given, that torchvision takes: all that truncate to an image, but no NaN."""
    return xp.logical_and(index >= 0, index < images)


def mindspore_unwritten(xp: Any, rois: Array) -> Array:
    """Return (K,) bool: the rows that MindSpore skips, leaving whatever was in the memory of the output."""
    near_0 = xp.abs(rois) < 0.001
    return near_0[:, 1] & near_0[:, 3]


def mindspore_grid(size: NDArray, pooled_height: int, pooled_width: int, sample_num: int) -> NDArray:
    """Return (K, 2) numbers of samples in a bin, along x and along y; MindSpore rounds an adaptive one down."""
    return sampling_grid(np.floor, size, pooled_height, pooled_width, sample_num)


def torchvision_grid(size: NDArray, pooled_height: int, pooled_width: int, sampling_ratio: int) -> NDArray:
    """Return (K, 2) numbers of samples in a bin, along x and along y; torchvision rounds an adaptive one up.

    Raises:
        RuntimeError: a box that is inverted along one axis only has a negative number of samples.
    """
    grid = sampling_grid(np.ceil, size, pooled_height, pooled_width, sampling_ratio)
    negative = (grid.prod(1) < 0) & np.isfinite(size).all(1)
    if negative.any():
        row = int(negative.argmax())
        raise RuntimeError(
            f"the adaptive sampling grid of row {row} is negative: {grid[row, 0]} x {grid[row, 1]} samples in a bin,"
            f" for a box of {size[row, 0]} x {size[row, 1]} feature cells (width x height)"
        )
    return grid


def sampling_grid(rounding: np.ufunc, size: NDArray, pooled_height: int, pooled_width: int, samples: int) -> NDArray:
    """Return (K, 2) numbers of samples in a bin, along x and along y, where an adaptive one is rounded like this."""
    if samples > 0:
        return np.full(size.shape, samples)
    bins = rounding(size / np.asarray((pooled_width, pooled_height), size.dtype)).astype(np.float64)
    # A number that does not fit 32 bits, or NaN, becomes the smallest integer on x86: negative, so no sample is taken.
    return np.where(np.abs(bins) < 2**31, bins, -1).astype(np.int64)


def mindspore_count(grid: NDArray, dtype: np.dtype[Any]) -> NDArray:
    """Return the (K,) divisors of MindSpore's average: 0 where the grid is, so that such rows become NaN."""
    along_x, along_y = grid.astype(dtype).T
    count: NDArray = along_x * along_y
    return count


def torchvision_count(grid: NDArray, dtype: np.dtype[Any]) -> NDArray:
    """Return the (K,) divisors of torchvision's average, at least 1."""
    count: NDArray = np.maximum(grid.prod(1), 1).astype(dtype)
    return count


def mindspore_border(length: int, dtype: np.dtype[Any]) -> float:
    """Return the last coordinate inside an image of ``length`` cells: ``length`` itself, rounded to ``dtype``.

    In float16 an odd length above 2048 may round up, and a sample on that value is inside for MindSpore only.
    """
    return float(np.asarray(length, dtype))


def torchvision_border(length: int, dtype: np.dtype[Any]) -> float:
    """Return the last coordinate inside an image of ``length`` cells: the largest of ``dtype`` up to ``length``."""
    border = np.asarray(length, dtype)
    return float(border if float(border) <= length else np.nextafter(border, dtype.type(0)))


def rounds_alike(dtype: np.dtype[Any], *lengths: int) -> bool:
    """Tell whether both kernels round these lengths and counts to ``dtype`` alike: whether ``dtype`` has them exactly.

    Above that (2048 in float16) the border and the count of samples can differ, and a product overflow.
    """
    largest_exact: int = 2 ** (np.finfo(dtype).nmant + 1)
    return max(lengths) <= largest_exact


class TorchvisionCall(NamedTuple):
    """``torchvision.ops.roi_align(features, boxes, pooled, 1.0, sampling_ratio, aligned)`` and the rows it computes."""

    rows: NDArray
    boxes: NDArray
    sampling_ratio: int
    aligned: bool


def torchvision_calls(
    feature_boxes: FeatureBoxes, zero: NDArray, pooled_height: int, pooled_width: int, sample_num: int
) -> tuple[list[TorchvisionCall], NDArray]:
    """Encode MindSpore's feature boxes as torchvision calls with the same samples, bit for bit.

    Three encodings are exact. ``aligned=False`` enlarges boxes to one cell, so it serves boxes that have one (and mode
    0, which does the same). ``aligned=True`` does not, but subtracts 0.5, so it serves smaller boxes whose coordinates
    survive adding 0.5. An adaptive grid is torchvision's fixed one, where it is as wide as high. Boxes that are not
    finite, which torchvision's kernel would crash on, are never passed on.

    Args:
        feature_boxes: MindSpore's, in NumPy.
        zero: (K,) bool, rows that pool to 0 whatever their box.
        pooled_height: as MindSpore's.
        pooled_width: as MindSpore's.
        sample_num: as MindSpore's.

    Returns:
        The calls, of rows of their own, and the rows that no call expresses: 1-D, ascending. Rows in neither pool to 0.
    """
    boxes, size = feature_boxes
    keep = is_finite(np, boxes, size) & ~zero
    if sample_num <= 0:
        grid = mindspore_grid(size, pooled_height, pooled_width, sample_num)
        widest = math.isqrt(MAX_ADAPTIVE_SAMPLES // (pooled_height * pooled_width))
        square = keep & (grid[:, 0] == grid[:, 1]) & (grid[:, 0] > 0) & (grid[:, 0] <= widest)
        calls = []
        for samples in np.unique(grid[square, 0]):
            rows = np.flatnonzero(square & (grid[:, 0] == samples))
            calls.append(TorchvisionCall(rows, boxes[rows], int(samples), aligned=False))
        return calls, np.flatnonzero(~square & ~zero)

    large = keep & (size >= 1).all(1)
    rows = large.nonzero()[0]
    if len(rows) == len(boxes):
        return [TorchvisionCall(rows, boxes, sample_num, aligned=False)], rows[:0]
    calls = [TorchvisionCall(rows, boxes[rows], sample_num, aligned=False)]
    small = np.flatnonzero(keep & ~large)
    shifted = boxes[small] + np.asarray((0, 0.5, 0.5, 0.5, 0.5), boxes.dtype)
    survives = (shifted[:, 1:] - boxes.dtype.type(0.5) == boxes[small, 1:]).all(1)
    calls.append(TorchvisionCall(small[survives], shifted[survives], sample_num, aligned=True))
    return [call for call in calls if len(call.rows)], small[~survives]


def torchvision_call_of_all(
    xp: Any, rois: Array, images: int, spatial_scale: float, roi_end_mode: int
) -> tuple[Array, Array]:
    """Encode (K, 5) rois of MindSpore as the boxes of one torchvision call, without a look at their values.

    The call is ``roi_align(features, boxes, pooled, 1.0, sample_num, aligned=roi_end_mode == 1)``. In mode 0 it has the
    samples of MindSpore. In mode 1 adding 0.5 can cost a coordinate its last digits: between -0.25 and 0.5, and in the
    half cell below a power of two. Whole cells and the order of coordinates are kept, so that a box within the image
    stays there, with all its samples.

    Rows that pool to 0 lie outside the image, and an index that MindSpore refuses becomes -1.

    Args:
        xp: torch.
        rois: (K, 5), in image pixels.
        images: N.
        spatial_scale: as MindSpore's.
        roi_end_mode: as MindSpore's.

    Returns:
        (K, 5) boxes, and a bool without dimensions: MindSpore takes every index. torchvision checks that on a CPU only.
    """
    index = xp.nan_to_num(rois[:, :1], 0.0, math.inf, -math.inf)
    has_image = index.clip(0, images - 1) == index if images else index != index
    start, end, size = _mindspore_corners(xp, rois, spatial_scale, roi_end_mode)
    # 0 times what is not finite is NaN, which a sum keeps everywhere, and a maximum does not in ONNX Runtime.
    pool_to_0 = ((size * 0).sum(1) != 0) | mindspore_unwritten(xp, rois)
    boxes = xp.concatenate((mindspore_index(xp, index), start, end), 1)
    if roi_end_mode == 1:
        boxes[:, 1:].add_(0.5)
    boxes[:, 1:].masked_fill_(pool_to_0[:, None], -4)
    boxes[:, :1].masked_fill_(~has_image, -1)
    return boxes, has_image.all()


class MindSporeCall(NamedTuple):
    """``mindspore.ops.ROIAlign(*pooled, scale, sample_num, mode)(features, rois)`` and the rows it computes.

    The scale is 1 in mode 0, ``mindspore_scale`` in mode 1. MindSpore's gradient knows mode 1 only:
    ``gradient_rois`` are the rois, of scale ``mindspore_scale``, whose gradient is that of this call.
    """

    rows: NDArray | None  # None: every row
    rois: NDArray
    gradient_rois: NDArray
    sample_num: int
    roi_end_mode: int


def mindspore_calls(
    feature_boxes: FeatureBoxes,
    aligned: bool,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    scale: float,
) -> tuple[list[MindSporeCall], NDArray]:
    """Encode torchvision's feature boxes as MindSpore calls with the same samples, bit for bit.

    Mode 0 enlarges boxes to one cell, as torchvision does when not ``aligned``. Mode 1 does not; a few aligned boxes
    have no encoding in it (``mindspore_has_mode_1``), of which the large ones can do with mode 0. An adaptive grid is
    MindSpore's fixed one, where it is as wide as high.

    Args:
        feature_boxes: torchvision's, in NumPy.
        aligned: as torchvision's.
        pooled_height: number of bins along y.
        pooled_width: number of bins along x.
        sampling_ratio: as torchvision's.
        scale: ``mindspore_scale``.

    Returns:
        The calls, and the rows that no call expresses: 1-D, ascending. A first call may cover every row
        (``rows=None``); later calls and the caller then overwrite theirs. Rows in neither pool to 0: those that are not
        finite, on which torchvision crashes, and those whose adaptive grid is empty.
    """
    boxes, size = feature_boxes
    grid = torchvision_grid(size, pooled_height, pooled_width, sampling_ratio)
    todo = is_finite(np, boxes, size) & (grid > 0).all(1)
    if aligned:
        has_mode_1 = mindspore_has_mode_1(np, boxes, scale)
        encodings = [(1, has_mode_1), (0, ~has_mode_1 & (size >= 1).all(1))]
    else:
        encodings = [(0, np.ones(len(boxes), bool))]
    widest = (
        sampling_ratio if sampling_ratio > 0 else math.isqrt(MAX_ADAPTIVE_SAMPLES // (pooled_height * pooled_width))
    )
    # Without finite rois of mode 1 there would be no gradient.
    has_gradient = np.isfinite(mindspore_rois_of_mode_1(np, boxes, size, scale)[:, 1:]).all(1)
    square = todo & has_gradient & (grid[:, 0] == grid[:, 1]) & (grid[:, 0] <= widest)
    calls: list[MindSporeCall] = []
    for mode, has_mode in encodings:
        for samples in np.unique(grid[square & has_mode, 0]):
            mask = square & has_mode & (grid[:, 0] == samples)
            if sampling_ratio > 0 and not calls:
                rows, part = None, outside_unless(np, mask, boxes, size)
            else:
                rows = np.flatnonzero(mask)
                part = boxes[rows], size[rows]
            in_mode_1 = mindspore_rois_of_mode_1(np, *part, scale)
            rois = in_mode_1 if mode == 1 else mindspore_rois_of_mode_0(np, *part)
            calls.append(MindSporeCall(rows, rois, in_mode_1, int(samples), mode))
            todo = todo & ~mask
    return calls, np.flatnonzero(todo)


def mindspore_scale(dtype: str, height: int, width: int) -> float:
    """Return the ``spatial_scale`` for rois of mode 1 on features of this height and width: a power of two.

    Mode 1 adds 1 to the end before it scales. The smaller the scale, the larger the numbers that 1 is added to: it then
    falls on a digit that a box never has, or beyond the last one. float32 has the range for the latter, whatever the
    box; float16 (65504, and whole numbers up to 2048) for the former, on the boxes within the features.
    """
    if dtype == "float16":
        return 2.0 ** math.ceil(math.log2(max(height, width) / 1024))
    return 2.0**-52


def mindspore_rois_of_mode_1(xp: Any, boxes: Array, size: Array, scale: float) -> Array:
    """Encode feature boxes as rois that mode 1 takes back to them: ``x1 * scale`` and ``(x2 + 1) * scale``.

    Where both are so near to 0 that MindSpore would not write the row, the end is moved by a few of its last digits.
    """
    start = boxes[:, 1:3] / scale
    end = _enlarged_end(xp, boxes, size, size) / scale
    end = xp.where(end + 1 == end, end, end - 1)
    end = xp.where(xp.logical_and(xp.abs(start) < 0.0015, xp.abs(end) < 0.0015), 2.0**-9, end)
    return xp.concatenate((boxes[:, :1], start, end), 1)


def mindspore_rois_of_mode_0(xp: Any, boxes: Array, size: Array) -> Array:
    """Encode feature boxes as rois of mode 0 and scale 1, where those that it enlarges need an end only to be written.

    Of those, any end will do that is not a cell away and not near 0 when the start is.
    """
    return xp.concatenate((boxes[:, :3], _enlarged_end(xp, boxes, size, 0.5)), 1)


def _enlarged_end(xp: Any, boxes: Array, size: Array, enlarged_size: Any) -> Array:
    start, end = boxes[:, 1:3], boxes[:, 3:]
    return xp.where(end - start == size, end, start + enlarged_size)


def mindspore_has_mode_1(xp: Any, boxes: Array, scale: float) -> Array:
    """Return (K,) bool: the boxes, not enlarged, that ``mindspore_rois_of_mode_1`` encodes without losing a bit."""
    rois = mindspore_rois_of_mode_1(xp, boxes, boxes[:, 3:] - boxes[:, 1:3], scale)
    start, end = rois[:, 1:3] * scale, (rois[:, 3:] + 1) * scale
    return (xp.concatenate((start, end), 1) == boxes[:, 1:]).all(1)


def is_finite(xp: Any, boxes: Array, size: Array) -> Array:
    """Return (K,) bool: the boxes whose start and size, which are all that sampling uses, are finite."""
    return xp.isfinite(xp.concatenate((boxes[:, 1:3], size), 1)).all(1)


def outside_unless(xp: Any, keep: Array, boxes: Array, size: Array) -> FeatureBoxes:
    """Move the boxes of rows not to ``keep`` to where every sample, however many there are, lies outside the image."""
    kept = xp.reshape(keep, (-1, 1))
    start, end = xp.where(kept, boxes[:, 1:3], -4), xp.where(kept, boxes[:, 3:], -2)
    return xp.concatenate((boxes[:, :1], start, end), 1), xp.where(kept, size, 2)
