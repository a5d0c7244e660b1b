"""Where one library samples one box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import boxes as _boxes
from .. import params, sampling

NDArray = npt.NDArray[Any]

# Samples of a box along one axis, above which their positions are not computed.
MAX_POSITIONS = 2**20


class Box(NamedTuple):
    """One box, and the arguments that both libraries have.

    Attributes:
        rois: (1, 5), in image pixels.
        pooled: number of bins, ``(height, width)``.
        spatial_scale: feature cells per image pixel.
        samples: along each axis of a bin; adaptive if 0 or less.
        size: height and width of the features, if they are known.
    """

    rois: NDArray
    pooled: tuple[int, int]
    spatial_scale: float
    samples: int
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Placement:
    """Where one library samples one box. Pairs are along x, then along y, in feature cells and the dtype of the box.

    Attributes:
        library: ``"MindSpore"`` or ``"torchvision"``.
        setting: the argument that picks the rule, ``"roi_end_mode=1"`` or ``"aligned=False"``.
        index: the image, as the library takes it from the index of the box.
        start: pair, where the box starts.
        end: pair, where it ends.
        size: pair, ``end - start``.
        used_size: pair, ``size`` or the smallest size allowed.
        bin: pair, the size of a bin.
        grid: pair of ints, the samples in a bin.
        count: what the sum of the samples in a bin is divided by.
        positions: where the samples are, (pooled_width, grid x) and (pooled_height, grid y); None for a box that is not
            finite, or has none or too many.
        outside: how many samples of the box are outside the image; None if its size or the positions are not known.
        problem: what comes of the box, if bins are not the average of their samples.
    """

    library: str
    setting: str
    index: float
    start: NDArray
    end: NDArray
    size: NDArray
    used_size: NDArray
    bin: NDArray
    grid: NDArray
    count: float
    positions: tuple[NDArray, NDArray] | None
    outside: int | None
    problem: str | None

    def samples_as(self, other: Placement) -> bool:
        """Tell whether both average the same samples of the same image, so that they pool to the same bits."""
        return (
            self.problem is None
            and other.problem is None
            and (self.index, self.count, self.outside) == (other.index, other.count, other.outside)
            and all(
                np.array_equal(getattr(self, pair), getattr(other, pair)) for pair in ("start", "used_size", "grid")
            )
        )

    def distance_to(self, other: Placement) -> float | None:
        """Return the largest distance of two samples along an axis, in cells; None if they have no counterpart."""
        if self.positions is None or other.positions is None or (self.grid != other.grid).any():
            return None
        return max(float(np.abs(a - b).max()) for a, b in zip(self.positions, other.positions, strict=True))


def of_mindspore(box: Box, roi_end_mode: int) -> Placement:
    """Return where MindSpore samples a box."""
    rois, pooled, spatial_scale, sample_num, _ = box
    feature_boxes = boxes, used_size = _boxes.mindspore_boxes(np, rois, spatial_scale, roi_end_mode)
    end = boxes[:, 3:]
    if roi_end_mode == 0:
        # The end of an enlarged box is its start there. A box from x2, y2 starts where this one ends.
        end = _boxes.mindspore_boxes(np, rois[:, [0, 3, 4, 1, 2]], spatial_scale, roi_end_mode)[0][:, 1:3]
    grid = _boxes.mindspore_grid(used_size, *pooled, sample_num)
    count = _boxes.mindspore_count(grid, rois.dtype)
    problem = None
    if not _boxes.mindspore_has_image(rois[:, 0], params.INT32_MAX).all():
        problem = "index refused"
    elif _boxes.mindspore_unwritten(np, rois).any():
        problem = "never written"
    elif (grid <= 0).any():
        problem = "NaN (no samples)" if count == 0 else "0 (no samples)"
    elif not _boxes.is_finite(np, *feature_boxes).all():
        problem = "0 (not finite)"
    elif sample_num <= 0 and _has_too_many(grid, box):
        problem = "too many samples"
    setting = f"roi_end_mode={roi_end_mode}"
    return _placement("MindSpore", setting, box, feature_boxes, end, grid, count, _boxes.mindspore_border, problem)


def of_torchvision(box: Box, aligned: bool) -> Placement:
    """Return where torchvision samples a box."""
    rois, pooled, spatial_scale, sampling_ratio, _ = box
    feature_boxes = boxes, used_size = _boxes.torchvision_boxes(np, rois, spatial_scale, aligned)
    problem = None
    try:
        grid = _boxes.torchvision_grid(used_size, *pooled, sampling_ratio)
    except RuntimeError:  # of both axes together
        grid = _boxes.torchvision_grid(np.diag(used_size[0]), *pooled, sampling_ratio).diagonal()[None]
        problem = "refused: negative"
    count = _boxes.torchvision_count(grid, rois.dtype)
    if not _boxes.torchvision_has_image(np, rois[:, 0], params.INT32_MAX).all():
        problem = "index refused"
    elif not _boxes.is_finite(np, *feature_boxes).all():
        problem = "undefined, may crash"
    elif problem is None and (grid <= 0).any():
        problem = "0 (no samples)"
    elif sampling_ratio <= 0 and _has_too_many(grid, box):
        problem = "too many samples"
    setting, end = f"aligned={aligned}", boxes[:, 3:]
    return _placement("torchvision", setting, box, feature_boxes, end, grid, count, _boxes.torchvision_border, problem)


def _has_too_many(grid: NDArray, box: Box) -> bool:
    samples = sampling.samples_of_boxes(grid, box.pooled, box.size or (0, 0))
    return bool((samples > params.MAX_SAMPLES_OF_A_BOX).any())


def _placement(
    library: str,
    setting: str,
    box: Box,
    feature_boxes: _boxes.FeatureBoxes,
    end: NDArray,
    grid: NDArray,
    count: NDArray,
    border: Callable[[int, np.dtype[Any]], float],
    problem: str | None,
) -> Placement:
    """Work out the rest, which is the same in both libraries but for the border."""
    boxes, used_size = feature_boxes
    along_x_and_y = box.pooled[::-1]
    positions = outside = None
    few = all(
        0 < samples * bins <= MAX_POSITIONS for samples, bins in zip(grid[0].tolist(), along_x_and_y, strict=True)
    )
    if few and _boxes.is_finite(np, boxes, used_size).all():
        x, y = (
            sampling.sample_positions(
                boxes[:, 1 + axis], used_size[:, axis], grid[:, axis], bins, np.arange(grid[0, axis])
            )[0]
            for axis, bins in enumerate(along_x_and_y)
        )
        positions = x, y
        if box.size is not None:
            inside_x, inside_y = (
                int(sampling.inside_image(at, border(length, boxes.dtype)).sum())
                for at, length in zip(positions, reversed(box.size), strict=True)
            )
            outside = x.size * y.size - inside_x * inside_y
    return Placement(
        library,
        setting,
        index=float(boxes[0, 0]),
        start=boxes[0, 1:3],
        end=end[0],
        size=end[0] - boxes[0, 1:3],
        used_size=used_size[0],
        bin=used_size[0] / np.asarray(along_x_and_y, boxes.dtype),
        grid=grid[0],
        count=float(count[0]),
        positions=positions,
        outside=outside,
        problem=problem,
    )


def agreement(mindspore: Placement, torchvision: Placement) -> str | None:
    """Say what the samples of the two are to each other, as in "samples are ...", or None if one has no result."""
    if mindspore.problem is not None or torchvision.problem is not None:
        return None
    if torchvision.samples_as(mindspore):
        return "the same"
    if (torchvision.grid != mindspore.grid).any():
        return "of another number"
    distance = torchvision.distance_to(mindspore)
    return f"up to {distance:.3g} apart" if distance else "not the same"
