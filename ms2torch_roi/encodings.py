"""The exact calls: one library's operator, sampling exactly where another library's rule does (``rules.py``).

Both kernels do the same arithmetic on feature boxes, so that to encode a call is to find rois that the other library
takes to those very boxes. Where it has none, the row is left to an engine.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import rules
from .rules import FeatureBoxes, is_finite

Array = Any  # an array of the namespace ``xp``
NDArray = npt.NDArray[Any]

# torchvision keeps 32 bytes for every sample of a box. Above this many (64 MiB) an adaptive grid is not worth it: such
# a box is far larger than the image, and the engines visit only the samples inside.
MAX_ADAPTIVE_SAMPLES = 2**21


class TorchvisionCall(NamedTuple):
    """``torchvision.ops.roi_align(features, boxes, pooled, 1.0, sampling_ratio, aligned)`` and the rows it computes."""

    rows: NDArray
    boxes: NDArray
    sampling_ratio: int
    aligned: bool


def torchvision_calls(
    feature_boxes: FeatureBoxes, skipped: NDArray, pooled_height: int, pooled_width: int, sample_num: int
) -> tuple[list[TorchvisionCall], NDArray]:
    """Encode MindSpore's feature boxes as torchvision calls with the same samples, bit for bit.

    Three encodings are exact. ``aligned=False`` enlarges boxes to one cell, so it serves boxes that have one (and mode
    0, which does the same). ``aligned=True`` does not, but subtracts 0.5, so it serves smaller boxes whose coordinates
    survive adding 0.5. An adaptive grid is torchvision's fixed one, where it is as wide as high. Boxes that are not
    finite, which torchvision's kernel would crash on, are never passed on.

    Args:
        feature_boxes: MindSpore's, in NumPy.
        skipped: (K,) bool, rows that pool to 0 whatever their box.
        pooled_height: as MindSpore's.
        pooled_width: as MindSpore's.
        sample_num: as MindSpore's.

    Returns:
        The calls, of rows of their own, and the rows that no call expresses: 1-D, ascending. Rows in neither pool to 0.
    """
    boxes, size = feature_boxes
    boxes = boxes_to_enlarge(np, boxes, size)
    keep = is_finite(np, boxes, size) & ~skipped
    if sample_num <= 0:
        grid = rules.sampling_grid(rules.MINDSPORE[1], size, (pooled_height, pooled_width), sample_num)
        widest = math.isqrt(MAX_ADAPTIVE_SAMPLES // (pooled_height * pooled_width))
        square = keep & (grid[:, 0] == grid[:, 1]) & (grid[:, 0] > 0) & (grid[:, 0] <= widest)
        calls = []
        for samples in np.unique(grid[square, 0]):
            rows = np.flatnonzero(square & (grid[:, 0] == samples))
            calls.append(TorchvisionCall(rows, boxes[rows], int(samples), aligned=False))
        return calls, np.flatnonzero(~square & ~skipped)

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


class MindSporeCall(NamedTuple):
    """``mindspore.ops.ROIAlign(*pooled, scale, sample_num, mode)(features, rois)`` and the rows it computes.

    The scale is 1 in mode 0, ``mindspore_scale`` in mode 1.
    """

    rows: NDArray
    rois: NDArray
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
    MindSpore's fixed one, where it is as wide as high. Round trips make these calls; a graph, which knows no values,
    makes calls of all rows by the functions below.

    Args:
        feature_boxes: torchvision's, in NumPy.
        aligned: as torchvision's.
        pooled_height: number of bins along y.
        pooled_width: number of bins along x.
        sampling_ratio: as torchvision's.
        scale: ``mindspore_scale``.

    Returns:
        The calls, of rows of their own, and the rows that no call expresses: 1-D, ascending. Rows in neither pool to 0:
        those that are not finite, on which torchvision crashes, and those whose adaptive grid is empty.
    """
    boxes, size = feature_boxes
    grid = rules.sampling_grid(rules.TORCHVISION[aligned], size, (pooled_height, pooled_width), sampling_ratio)
    todo = is_finite(np, boxes, size) & (grid > 0).all(1)
    if aligned:
        has_mode_1 = mindspore_has_mode_1(np, boxes, scale)
        encodings = [(1, has_mode_1), (0, ~has_mode_1 & (size >= 1).all(1))]
    else:
        encodings = [(0, np.ones(len(boxes), bool))]
    widest = (
        sampling_ratio if sampling_ratio > 0 else math.isqrt(MAX_ADAPTIVE_SAMPLES // (pooled_height * pooled_width))
    )
    square = todo & (grid[:, 0] == grid[:, 1]) & (grid[:, 0] <= widest)
    calls: list[MindSporeCall] = []
    for mode, has_mode in encodings:
        for samples in np.unique(grid[square & has_mode, 0]):
            rows = np.flatnonzero(square & has_mode & (grid[:, 0] == samples))
            part = boxes[rows], size[rows]
            rois = mindspore_rois_of_mode_1(np, *part, scale) if mode == 1 else boxes_to_enlarge(np, *part)
            calls.append(MindSporeCall(rows, rois, int(samples), mode))
            todo[rows] = False
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
    end = enlarged_end(xp, boxes, size, size) / scale
    end = xp.where(end + 1 == end, end, end - 1)
    end = xp.where(xp.logical_and(xp.abs(start) < 0.0015, xp.abs(end) < 0.0015), 2.0**-9, end)
    return xp.concatenate((boxes[:, :1], start, end), 1)


def boxes_to_enlarge(xp: Any, boxes: Array, size: Array) -> Array:
    """Encode feature boxes for a call that enlarges to one cell: mode 0 of scale 1, or ``aligned=False``.

    Of a box that it enlarges any end will do that is not a cell away, nor NaN, nor near 0 when the start is.
    """
    return xp.concatenate((boxes[:, :3], enlarged_end(xp, boxes, size, 0.5)), 1)


def enlarged_end(xp: Any, boxes: Array, size: Array, enlarged_size: Any) -> Array:
    """Return the ends of boxes, or what is ``enlarged_size`` behind the start of those that a rule enlarges."""
    start, end = boxes[:, 1:3], boxes[:, 3:]
    return xp.where(end - start == size, end, start + enlarged_size)


def mindspore_has_mode_1(xp: Any, boxes: Array, scale: float) -> Array:
    """Return (K,) bool: the boxes, not enlarged, that ``mindspore_rois_of_mode_1`` encodes without losing a bit."""
    rois = mindspore_rois_of_mode_1(xp, boxes, boxes[:, 3:] - boxes[:, 1:3], scale)
    start, end = rois[:, 1:3] * scale, (rois[:, 3:] + 1) * scale
    return (xp.concatenate((start, end), 1) == boxes[:, 1:]).all(1)


def outside_unless(xp: Any, keep: Array, boxes: Array, size: Array) -> FeatureBoxes:
    """Move the boxes of rows not to ``keep`` to where every sample, however many there are, lies outside the image."""
    kept = xp.reshape(keep, (-1, 1))
    start, end = xp.where(kept, boxes[:, 1:3], -4), xp.where(kept, boxes[:, 3:], -2)
    return xp.concatenate((boxes[:, :1], start, end), 1), xp.where(kept, size, 2)
