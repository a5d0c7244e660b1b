"""Where a library samples a box: a rule is data, each is written down once, and one function places samples by any.

A rule turns a library's rois, in image pixels, into **feature boxes**: a (K, 5) array of
``(index, start_x, start_y, end_x, end_y)`` in feature cells and in the dtype of the computation, whose index is a whole
number, and the (K, 2) widths and heights that are sampled, ``end - start`` or more where a rule enlarges small boxes.
From there on the kernels do the same arithmetic, whatever the rule (``sampling.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from . import params

# From so many on, it is worth it not to visit those outside the image.
_MANY_SAMPLES = 2**21

Array = Any  # an array of the namespace ``xp``
NDArray = npt.NDArray[Any]

# A plain pair, which MindSpore's compiler takes too.
FeatureBoxes = tuple[Array, Array]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one library takes a roi.

    Attributes:
        start: pixels added to x1 and y1.
        end: pixels added to x2 and y2.
        scales_end_apart: whether ``end`` is scaled before it is added, which rounds otherwise: ``x2 * s + end * s``.
        moved: cells subtracted from the corners once they are scaled, one after the other.
        smallest: the size in cells that boxes below it are enlarged to; None to leave them.
        enlarges_nan: whether a size that is NaN counts as too small.
        index: how an image index is made a whole number: to the nearest one, toward 0, down or up.
        grid: how the number of samples of an adaptive grid is rounded: ``floor(size / pooled)`` or ``ceil``.
        smallest_count: the smallest divisor of the average, 1 to make 0 of a bin without samples; None for none, to
            make NaN of it (0 / 0).
        border: the coordinates that are not outside an image of ``n`` cells, as an interval.
        rounds_lengths: whether the height and the width of the features, which are the last coordinates inside, and the
            two factors of the divisor are rounded to the dtype of the computation.
        outside_adds_0: whether a sample outside adds 0 times the first pixel of the image, NaN if that is not finite,
            rather than nothing.
        refuses_negative_grids: whether a box that is inverted along one axis, of an adaptive grid, is an error.
        skips: which rows have no result: those whose x1 and x2 are both nearer to 0 than 0.001, or those whose start or
            size is not finite; None for none.
        dtype: what the computation runs in, if not in the dtype of the tensors.
    """

    start: int = 0
    end: int = 0
    scales_end_apart: bool = False
    moved: tuple[float, ...] = ()
    smallest: int | None
    enlarges_nan: bool
    index: Literal["round", "trunc", "floor", "ceil"]
    grid: Literal["floor", "ceil"]
    smallest_count: int | None
    border: Literal["[-1, n]", "[-1, n)", "(-1, n)", "[0, n)"] = "[-1, n]"
    rounds_lengths: bool
    outside_adds_0: bool
    refuses_negative_grids: bool
    skips: Literal["near 0", "not finite"] | None
    dtype: str | None = None


def _moved(rule: Rule) -> Rule:
    return replace(rule, moved=(0.5,), smallest=None)


_MINDSPORE = Rule(
    smallest=1,
    enlarges_nan=True,
    index="round",
    grid="floor",
    smallest_count=None,
    rounds_lengths=True,
    outside_adds_0=False,
    refuses_negative_grids=False,
    skips="near 0",
)
# MindSpore's CPU operator, by roi_end_mode.
MINDSPORE = (_MINDSPORE, replace(_MINDSPORE, end=1, smallest=None))

_TORCHVISION = Rule(
    smallest=1,
    enlarges_nan=False,
    index="trunc",
    grid="ceil",
    smallest_count=1,
    rounds_lengths=False,
    outside_adds_0=True,
    refuses_negative_grids=True,
    skips="not finite",
)
# torchvision's CPU operator, by aligned.
TORCHVISION = (_TORCHVISION, _moved(_TORCHVISION))

_ASCEND = replace(_MINDSPORE, grid="ceil", smallest_count=1, skips=None)
# With an adaptive grid, a box without a size is divided by 0 on the device, with any result: here it is NaN.
_STATIC = replace(_ASCEND, index="ceil", border="[-1, n)", smallest_count=None)
_STATIC_GRADIENT = replace(_ASCEND, index="floor")
_DYNAMIC = replace(_STATIC_GRADIENT, dtype="float32")
_950 = replace(_DYNAMIC, index="trunc")

# What MindSpore's operator computes on a device, by roi_end_mode. MAPPING.md has the evidence. Modes 2 and 3, which
# MindSpore itself does not accept, are what other libraries ask Ascend's kernels for when aligned.
DEVICES = {
    "cpu": MINDSPORE,
    "gpu": MINDSPORE,
    "ascend-static": (_STATIC, replace(_STATIC, end=1, smallest=0), *[_moved(_ASCEND)] * 2),
    "ascend-dynamic": (_DYNAMIC, replace(_DYNAMIC, end=1, scales_end_apart=True), *[_moved(_DYNAMIC)] * 2),
    "ascend-950": (_950, replace(_950, start=1, end=1), *[_moved(_950)] * 2),
}

# What the kernel of its gradient computes there, by the mode of the gradient; MindSpore asks all of them for mode 1.
GRADIENTS = DEVICES | {
    "ascend-static": (
        _STATIC_GRADIENT,
        replace(_STATIC_GRADIENT, end=1, smallest=0),
        *[_moved(_STATIC_GRADIENT)] * 2,
    ),
    "ascend-950": DEVICES["ascend-dynamic"],
}

# All of them by a name of text: ``"cpu, mode 1"``, ``"cpu, gradient of mode 1"``.
NAMED = {
    f"{device}, {what}mode {mode}": rule
    for what, rules_of_devices in (("", DEVICES), ("gradient of ", GRADIENTS))
    for device, of_modes in rules_of_devices.items()
    for mode, rule in enumerate(of_modes)
}


def computed_in(rule: Rule, dtype: str) -> str:
    """Return the dtype that a rule computes tensors of a dtype in. Only float16 is ever computed in another."""
    return rule.dtype if rule.dtype is not None and dtype == "float16" else dtype


def names(device: str, mode: int, backward_device: str | None, backward_mode: int | None) -> tuple[str, str]:
    """Return the names of a device's rule, and of the one for the gradient: the same, unless another is asked for."""
    rule = f"{device}, mode {mode}"
    if backward_device is None and backward_mode is None:
        return rule, rule
    return rule, f"{backward_device or device}, gradient of mode {1 if backward_mode is None else backward_mode}"


def feature_boxes(xp: Any, rule: Rule, rois: Array, spatial_scale: float) -> FeatureBoxes:
    """Apply a rule to (K, 5) rois in image pixels.

    It uses only functions that NumPy, torch and ``mindspore.numpy`` call by the same name; ``xp`` is the one to use.
    """
    scale = _scale_like(xp, rois, spatial_scale)
    corners = rois[:, 1:]
    added_to_end = 0 if rule.scales_end_apart else rule.end
    if rule.start or added_to_end:
        start, end = rois[:, 1:3], rois[:, 3:]
        corners = xp.concatenate(
            (start + rule.start if rule.start else start, end + added_to_end if added_to_end else end), 1
        )
    corners = corners * scale
    if rule.scales_end_apart:
        corners = xp.concatenate((corners[:, :2], corners[:, 2:] + scale * rule.end), 1)
    for cells in rule.moved:
        corners = corners - cells
    size = corners[:, 2:] - corners[:, :2]
    if rule.smallest is not None:
        if rule.enlarges_nan:
            size = xp.where(size > rule.smallest, size, rule.smallest)
        else:
            size = xp.where(size < rule.smallest, rule.smallest, size)
    return xp.concatenate((whole_index(xp, rule, rois[:, :1]), corners), 1), size


def whole_index(xp: Any, rule: Rule, index: Array) -> Array:
    """Make whole numbers of image indices, as they stand in the rois."""
    if rule.index != "round":
        return getattr(xp, rule.index)(index)
    rounded = (xp.asarray(_number(xp, index), dtype=xp.float32) + 7e-5).round()
    return xp.asarray(rounded, dtype=index.dtype)


def has_image(xp: Any, rule: Rule, index: Array, images: int) -> Array:
    """Return bool: the indices, as they stand in the rois, that the library takes.

    One that is rounded must be in ``[0, images - 1]`` before, where NaN counts as 0; others must be at least 0 before
    they are rounded down, or afterwards.
    """
    if rule.index == "ceil":
        return xp.logical_and(index > -1, index <= images - 1)
    if rule.index != "round":
        return xp.logical_and(index >= 0, index < images)
    number = _number(xp, index)
    return xp.logical_and(number >= 0, number <= images - 1)


def check_index(rule: Rule, index: NDArray, images: int, name: str) -> None:
    """Raise RuntimeError naming the first row of ``name`` whose image index, as it stands there, is not taken."""
    in_range = has_image(np, rule, index, images)
    if not in_range.all():
        row = int(in_range.argmin())
        allowed = f"[0, {images - 1}]" if images else "empty: there are no images"
        raise RuntimeError(f"{name} row {row}: image index {index[row]} is out of range, allowed is {allowed}")


def _number(xp: Any, index: Array) -> Array:
    return xp.where(index == index, index, 0)


def near_0(xp: Any, rois: Array) -> Array:
    """Return (K,) bool: the rows that MindSpore skips, leaving whatever was in the memory of the output."""
    near = xp.abs(rois) < 0.001
    return near[:, 1] & near[:, 3]


def boxes_of_images(xp: Any, boxes: Sequence[Array]) -> Array:
    """Join torchvision's list of (L_i, 4) boxes, one entry for each image, to (K, 5) boxes with the index in front."""
    indices = [xp.full((part.shape[0], 1), image, dtype=part.dtype) for image, part in enumerate(boxes)]
    return xp.concatenate([xp.concatenate(pair, 1) for pair in zip(indices, boxes)], 0)  # noqa: B905


def skipped_rows(rule: Rule, rois: NDArray, boxes: FeatureBoxes) -> NDArray:
    """Return (K,) bool: the rows that have no result, and pool to 0."""
    if rule.skips is None:
        return np.zeros(len(rois), bool)
    skipped: NDArray = near_0(np, rois) if rule.skips == "near 0" else ~is_finite(np, *boxes)
    return skipped


def is_finite(xp: Any, boxes: Array, size: Array) -> Array:
    """Return (K,) bool: the boxes whose start and size, which are all that sampling uses, are finite."""
    return xp.isfinite(xp.concatenate((boxes[:, 1:3], size), 1)).all(1)


class Samples(NamedTuple):
    """What is sampled of K boxes, in NumPy: all that an engine has to know. Pairs are along x, then along y.

    Attributes:
        image: (K,) ints; -1 for a row that pools to 0.
        start: (K, 2), where boxes start, in cells.
        bin_size: (K, 2), in cells.
        grid: (K, 2) ints, the samples in a bin; none if one is 0 or less.
        divisor: (K,), what their sum is divided by.
        border: (2, 2), along each axis the first and the last coordinate that are not outside the image.
        outside_adds_0: as :class:`Rule` has it.
    """

    image: NDArray
    start: NDArray
    bin_size: NDArray
    grid: NDArray
    divisor: NDArray
    border: NDArray
    outside_adds_0: bool

    def of_rows(self, rows: NDArray) -> Samples:
        """Return those of some rows."""
        return self._replace(
            image=self.image[rows],
            start=self.start[rows],
            bin_size=self.bin_size[rows],
            grid=self.grid[rows],
            divisor=self.divisor[rows],
        )


def place(
    rule: Rule,
    rois: NDArray,
    spatial_scale: float,
    pooled: tuple[int, int],
    sample_num: int,
    size: Sequence[int],
) -> Samples:
    """Place the samples of (K, 5) rois, whose dtype is that of the computation and whose indices have an image.

    Args:
        rule: by which.
        rois: in image pixels.
        spatial_scale: cells per pixel.
        pooled: number of bins, ``(height, width)``.
        sample_num: samples along each axis of a bin; adaptive if 0 or less.
        size: of the features, ``(height, width)``.
    """
    dtype = rois.dtype
    boxes, sizes = feature_boxes(np, rule, rois, spatial_scale)
    grid = sampling_grid(rule, sizes, pooled, sample_num)
    return Samples(
        image=np.where(skipped_rows(rule, rois, (boxes, sizes)), -1, boxes[:, 0]).astype(np.intp),
        start=boxes[:, 1:3],
        bin_size=sizes / np.asarray(pooled[::-1], dtype),
        grid=grid,
        divisor=divisors(rule, grid, dtype),
        border=np.array([coordinates_inside(rule, length, dtype) for length in reversed(size)], dtype),
        outside_adds_0=rule.outside_adds_0,
    )


def place_checked(
    name: str,
    rule: Rule,
    rois: NDArray,
    spatial_scale: float,
    pooled: tuple[int, int],
    sample_num: int,
    shape: Sequence[int],
) -> Samples:
    """Place the samples of a call of the operator ``name``, on features of this shape (N, C, H, W).

    Raises:
        RuntimeError: adaptive grids that cannot be pooled, or not in reason.
    """
    with np.errstate(all="ignore"):  # overflow and NaN are part of the rule
        samples = place(rule, rois, spatial_scale, pooled, sample_num, shape[2:])
        if sample_num <= 0:
            _check_grids(name, rule, samples, pooled, shape)
    return samples


def _check_grids(name: str, rule: Rule, samples: Samples, pooled: tuple[int, int], shape: Sequence[int]) -> None:
    grid, is_pooled = samples.grid, samples.image >= 0
    negative = is_pooled & (grid.prod(1) < 0)
    if rule.refuses_negative_grids and negative.any():
        row = int(negative.argmax())
        raise RuntimeError(
            f"{name}: the adaptive sampling grid of row {row} is negative: {grid[row, 0]} x {grid[row, 1]} samples in a"
            f" bin of {samples.bin_size[row, 0]} x {samples.bin_size[row, 1]} feature cells (width x height)"
        )
    most = int(grid.max(initial=1)) ** 2 * pooled[0] * pooled[1]
    if len(grid) * most * shape[1] <= params.MAX_SAMPLES_OF_A_BOX:  # not worth a closer look
        return
    of_boxes = np.where(is_pooled, samples_of_boxes(grid, pooled, shape[2:]), 0)
    row = int(of_boxes.argmax())
    params.check_cost(
        lambda: (
            f"{name}: {len(grid)} boxes with adaptive grids, the largest of row {row},"
            f" {grid[row, 0]} x {grid[row, 1]} samples in each of {pooled[0]} x {pooled[1]} bins"
            f" of the box that starts at {samples.start[row].tolist()} in cells,"
        ),
        float(of_boxes[row]),
        float(of_boxes.sum()),
        shape[1],
    )


def samples_of_boxes(grid: NDArray, pooled: tuple[int, int], size: Sequence[int]) -> NDArray:
    """Return (K,) float64: about how many samples of boxes with adaptive grids are computed.

    Those are all that a box of few has. Of many only those inside the image are visited, which are half a cell apart at
    least, or one in a bin; but all are placed along each axis.

    Args:
        grid: (K, 2) numbers of samples in a bin, along x and along y.
        pooled: number of bins, ``(height, width)``.
        size: of the features, (H, W).
    """
    bins = np.asarray(pooled[::-1], np.float64)
    placed = np.maximum(grid, 0) * bins
    inside = np.minimum(placed, 2 * np.asarray(size[::-1]) + 4 + bins).prod(1) + placed.sum(1)
    samples: NDArray = placed.prod(1)
    return np.where(samples > _MANY_SAMPLES, inside, samples)


def sampling_grid(rule: Rule, size: NDArray, pooled: tuple[int, int], sample_num: int) -> NDArray:
    """Return (K, 2) numbers of samples in a bin, along x and along y, of boxes of these (K, 2) sizes."""
    if sample_num > 0:
        return np.broadcast_to(np.int64(sample_num), size.shape)  # takes no memory
    rounding = np.floor if rule.grid == "floor" else np.ceil
    bins = rounding(size / np.asarray(pooled[::-1], size.dtype)).astype(np.float64)
    # A number that does not fit 32 bits, or NaN, becomes the smallest integer on x86: negative, so no sample is taken.
    return np.where(np.abs(bins) < 2**31, bins, -1).astype(np.int64)


def divisors(rule: Rule, grid: NDArray, dtype: np.dtype[Any]) -> NDArray:
    """Return the (K,) divisors of the average."""
    if rule.rounds_lengths:
        along_x, along_y = grid.astype(dtype).T
        count: NDArray = along_x * along_y
    else:
        count = grid.prod(1).astype(dtype)
    return count if rule.smallest_count is None else np.maximum(count, dtype.type(rule.smallest_count))


def coordinates_inside(rule: Rule, length: int, dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the first and the last coordinate of ``dtype`` that are not outside an image of so many cells.

    The last is the length rounded to ``dtype``, or the largest number of ``dtype`` up to it, or below it. In float16 a
    length above 2048 may round up, and a sample on that value is inside for some libraries only.
    """
    zero, first, last = dtype.type(0), dtype.type(0 if "0" in rule.border else -1), np.asarray(length, dtype)
    if rule.border.startswith("("):
        first = np.nextafter(first, zero)
    is_after = not rule.rounds_lengths and float(last) > length
    if is_after or (rule.border.endswith(")") and float(last) >= length):
        last = np.nextafter(last, zero)
    return float(first), float(last)


def rounds_alike(dtype: np.dtype[Any], *lengths: int) -> bool:
    """Tell whether all rules round these lengths and counts to ``dtype`` alike: whether ``dtype`` has them exactly.

    Above that (2048 in float16) the border and the count of samples can differ, and a product overflow.
    """
    largest_exact: int = 2 ** (np.finfo(dtype).nmant + 1)
    return max(lengths) <= largest_exact


def _scale_like(xp: Any, rois: Array, spatial_scale: float) -> Array:
    """Return the scale in the dtype of the rois; the libraries round it to float32 before float16."""
    if rois.dtype != xp.float16:
        return xp.asarray(spatial_scale, dtype=rois.dtype)
    return xp.asarray(xp.ones_like(rois[:, :1], dtype=xp.float32) * spatial_scale, dtype=xp.float16)
