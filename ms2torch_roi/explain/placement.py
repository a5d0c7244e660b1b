"""Where one library samples one box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import params, rules, sampling
from ..rules import Rule, Samples

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


def of_mindspore(box: Box, roi_end_mode: int, device: str = "cpu") -> Placement:
    """Return where MindSpore samples a box on a device."""
    setting = f"roi_end_mode={roi_end_mode}" + (f"\nrule={device!r}" if device != "cpu" else "")
    return _placement("MindSpore", setting, rules.DEVICES[device][roi_end_mode], box)


def of_torchvision(box: Box, aligned: bool) -> Placement:
    """Return where torchvision samples a box."""
    return _placement("torchvision", f"aligned={aligned}", rules.TORCHVISION[aligned], box)


def _placement(library: str, setting: str, rule: Rule, box: Box) -> Placement:
    """Return where a rule samples a box."""
    rois, pooled, spatial_scale, sample_num, size = box
    rois = rois.astype(rules.computed_in(rule, rois.dtype.name))
    boxes, used_size = rules.feature_boxes(np, rule, rois, spatial_scale)
    samples = rules.place(rule, rois, spatial_scale, pooled, sample_num, size or (1, 1))
    start, bin_size, grid = samples.start[0], samples.bin_size[0], samples.grid[0]
    along_x_and_y = pooled[::-1]
    finite = bool(rules.is_finite(np, boxes, used_size).all())
    positions = outside = None
    few = all(0 < n * bins <= MAX_POSITIONS for n, bins in zip(grid.tolist(), along_x_and_y, strict=True))
    if few and finite:
        x, y = (
            sampling.sample_positions(start[axis], bin_size[axis], int(grid[axis]), bins)
            for axis, bins in enumerate(along_x_and_y)
        )
        positions = x, y
        if size is not None:
            inside_x, inside_y = (
                int(sampling.inside_image(at, border).sum())
                for at, border in zip(positions, samples.border, strict=True)
            )
            outside = x.size * y.size - inside_x * inside_y
    return Placement(
        library,
        setting,
        index=float(boxes[0, 0]),
        start=start,
        end=boxes[0, 3:],
        size=boxes[0, 3:] - start,
        used_size=used_size[0],
        bin=bin_size,
        grid=grid,
        count=float(samples.divisor[0]),
        positions=positions,
        outside=outside,
        problem=_problem(rule, box, samples, finite),
    )


def _problem(rule: Rule, box: Box, samples: Samples, finite: bool) -> str | None:
    """Say what comes of a box, if bins are not the average of their samples."""
    grid = samples.grid[0]
    if not rules.has_image(np, rule, box.rois[:, 0], params.INT32_MAX).all():
        return "index refused"
    if rule.skips == "near 0" and (samples.image < 0).all():
        return "never written"
    if rule.skips == "not finite" and not finite:
        return "undefined, may crash"
    if rule.refuses_negative_grids and grid.prod() < 0:
        return "refused: negative"
    if (grid <= 0).any():
        return "NaN (no samples)" if samples.divisor[0] == 0 else "0 (no samples)"
    if not finite:
        return "0 (not finite)"
    of_box = rules.samples_of_boxes(samples.grid, box.pooled, box.size or (0, 0))
    if box.samples <= 0 and of_box[0] > params.MAX_SAMPLES_OF_A_BOX:
        return "too many samples"
    return None


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
