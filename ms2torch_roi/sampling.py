"""Both CPU kernels from feature boxes on: sample, interpolate, sum and average, bit for bit.

Positions and weights are computed in NumPy, for many channels at a time; the values are gathered and summed by the
array library that holds the features. Every operation rounds to the dtype of the computation, in the order of the
kernels: ``((w1*v1 + w2*v2) + w3*v3) + w4*v4`` for a sample, samples row by row.

A sample outside the image contributes nothing, so it is not visited: a box a thousand times larger than the image
costs no more than one that covers it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import boxes as _boxes
from . import params
from .boxes import FeatureBoxes

Array = Any  # an array of the library that holds the features
NDArray = npt.NDArray[Any]

# Values pooled at a time. torch computes this many elements on the calling thread, in its cache; more it would split
# over threads, at a cost for every operation that is fifty times the gain when the cores are busy.
BLOCK_VALUES = 2**15

# Values of features whose channels are put side by side at a time, and so many channels at least.
TABLE_VALUES = 2**20
TABLE_CHANNELS = 16

# Terms listed at a time, 8 bytes each: many samples in a bin shall not take much memory.
TERMS = 2**20


class ArrayOps(NamedTuple):
    """What is needed of the array library that holds the features.

    ``take(table, rows, out)`` returns the rows of a table, in the memory of ``out`` if that is no slower,
    ``contiguous(array)`` copies what is not, ``lift`` turns a NumPy array into one of the library, and
    ``where(condition, value, 0)`` is NumPy's.
    """

    take: Callable[[Array, Array, Array | None], Array]
    contiguous: Callable[[Array], Array]
    lift: Callable[[NDArray], Array]
    where: Callable[[Array, Array, Any], Array]


def _take(table: NDArray, rows: NDArray, out: NDArray | None) -> NDArray:
    # np.take would copy a table that is not contiguous, and not write to ``out`` at once if it were to check the rows.
    values: NDArray = np.take(table, rows, axis=0, out=out, mode="clip") if table.flags.c_contiguous else table[rows]
    return values


NUMPY = ArrayOps(take=_take, contiguous=np.ascontiguousarray, lift=lambda array: array, where=np.where)


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
    return np.where(samples > _boxes.MAX_ADAPTIVE_SAMPLES, inside, samples)


def check_grids(
    name: str, feature_boxes: FeatureBoxes, grid: NDArray, keep: NDArray, pooled: tuple[int, int], shape: Sequence[int]
) -> None:
    """Raise RuntimeError if the adaptive grids of the boxes to ``keep`` take too long, or too much memory.

    Args:
        name: of the operator.
        feature_boxes: K boxes in NumPy.
        grid: (K, 2) numbers of samples in a bin, along x and along y.
        keep: (K,) bool, the boxes that are sampled.
        pooled: number of bins, ``(height, width)``.
        shape: of the features, (N, C, H, W).
    """
    most = int(grid.max(initial=1)) ** 2 * pooled[0] * pooled[1]
    if len(grid) * most * shape[1] <= params.MAX_SAMPLES_OF_A_BOX:  # not worth a closer look
        return
    samples = np.where(keep, samples_of_boxes(grid, pooled, shape[2:]), 0)
    row = int(samples.argmax())
    params.check_cost(
        lambda: (
            f"{name}: {len(samples)} boxes with adaptive grids, the largest of row {row},"
            f" {grid[row, 0]} x {grid[row, 1]} samples in each of {pooled[0]} x {pooled[1]} bins"
            f" of the box {feature_boxes[0][row, 1:].tolist()} in cells,"
        ),
        float(samples[row]),
        float(samples.sum()),
        shape[1],
    )


# Some rows, some channels, and what these pool to: (rows, channels, pooled_height, pooled_width).
Part = tuple[NDArray, slice, Array]


def pool_as_mindspore(
    features: Array, feature_boxes: FeatureBoxes, rows: NDArray, pooled: tuple[int, int], sample_num: int, ops: ArrayOps
) -> Iterator[Part]:
    """Pool the given rows as MindSpore's kernel does, and yield the results part by part.

    Args:
        features: (N, C, H, W) values.
        feature_boxes: K boxes in NumPy, of the dtype to compute in, whose index is in ``[0, N - 1]``.
        rows: which of them to pool, 1-D.
        pooled: number of bins, ``(height, width)``.
        sample_num: samples along each axis of a bin, adaptive if 0 or less.
        ops: how to compute with ``features``.

    """
    grid, count, border = _mindspore_grid(feature_boxes, pooled, sample_num, features.shape)
    return pool(features, feature_boxes, rows, pooled, grid, count, border, ops, outside_adds_0=False)


def pool_as_torchvision(
    features: Array,
    feature_boxes: FeatureBoxes,
    rows: NDArray,
    pooled: tuple[int, int],
    sampling_ratio: int,
    ops: ArrayOps,
) -> Iterator[Part]:
    """Pool the given rows as torchvision's kernel does; like ``pool_as_mindspore`` otherwise.

    Raises:
        RuntimeError: an adaptive grid that is negative along one axis.
    """
    grid, count, border = _torchvision_grid(feature_boxes, pooled, sampling_ratio, features.shape)
    return pool(features, feature_boxes, rows, pooled, grid, count, border, ops, outside_adds_0=True)


def gradient_as_torchvision(
    gradient: NDArray,
    shape: tuple[int, int, int, int],
    feature_boxes: FeatureBoxes,
    rows: NDArray,
    pooled: tuple[int, int],
    sampling_ratio: int,
) -> NDArray:
    """Return the gradient for the features of ``pool_as_torchvision``, in NumPy and float32.

    Args:
        gradient: (len(rows), C, pooled_height, pooled_width), the gradient for what the rows pool to.
        shape: of the features, (N, C, H, W).
        feature_boxes: as in ``pool_as_torchvision``.
        rows: as in ``pool_as_torchvision``.
        pooled: as in ``pool_as_torchvision``.
        sampling_ratio: as in ``pool_as_torchvision``.
    """
    grid, count, border = _torchvision_grid(feature_boxes, pooled, sampling_ratio, shape)
    return gradient_of_pool(gradient, shape, feature_boxes, rows, pooled, grid, count, border)


def gradient_of_pool(
    gradient: NDArray,
    shape: Sequence[int],
    feature_boxes: FeatureBoxes,
    rows: NDArray,
    pooled: tuple[int, int],
    grid: NDArray,
    count: NDArray,
    border: list[float],
) -> NDArray:
    """Return the gradient for the features of ``pool``, in float32."""
    of_values = np.zeros((len(feature_boxes[0]), *gradient.shape[1:]), np.float32)
    of_values[rows] = gradient / count[rows, None, None, None].astype(np.float32)
    of_features = np.zeros(shape, np.float32)
    rows_at_once = BLOCK_VALUES // math.prod(gradient.shape[1:])
    blocks = (
        (image, *block)
        for image, rows_of_image in _rows_of_images(feature_boxes[0], rows, shape[0])
        for block in _blocks(shape[2:], feature_boxes, rows_of_image, pooled, grid, border, rows_at_once)
    )
    for image, part, y, x in blocks:
        # The samples of a bin are a grid, and their weights products: a bin is a (H,) by a (W,) vector of weights.
        along_y, along_x = (_weights(axis, length) for axis, length in ((y, shape[2]), (x, shape[3])))
        if np.isfinite(of_values[part]).all():
            of_features[image] += np.einsum("rph,rcpq,rqw->chw", along_y, of_values[part], along_x, optimize=True)
            continue
        # Bin by bin, so that what is not finite stays in the cells of its bin.
        for (row, p), (q,) in itertools.product(np.ndindex(along_y.shape[:2]), np.ndindex(along_x.shape[1])):
            cells = np.ix_(along_y[row, p].nonzero()[0], along_x[row, q].nonzero()[0])
            weights = np.outer(along_y[row, p], along_x[row, q])[cells]
            of_features[image][(slice(None), *cells)] += of_values[part[row], :, p, q][:, None, None] * weights
    return of_features


class AxisTerms(NamedTuple):
    """What every bin of R boxes takes along one axis: (R, pooled, terms) cells and weights, and which of them exist.

    The weight of a cell in a bin is the product of one along y and one along x, divided by the count of the box.
    """

    cells: Array
    weights: Array
    exist: Array


def terms_as_mindspore(
    shape: Sequence[int],
    feature_boxes: FeatureBoxes,
    zero: NDArray,
    pooled: tuple[int, int],
    sample_num: int,
) -> Iterator[tuple[int, NDArray, AxisTerms, AxisTerms]]:
    """Yield what MindSpore's kernel sums up, in its order but for terms of 0; of as many rows as have ``TERMS`` terms.

    Args:
        shape: of the features, (N, C, H, W).
        feature_boxes: as in ``pool_as_mindspore``.
        zero: (K,) bool, rows without terms.
        pooled: as in ``pool_as_mindspore``.
        sample_num: as in ``pool_as_mindspore``.

    Yields:
        ``(first row, counts, along y, along x)``. Cells along x and y add up to those of a (N * H * W,) table.
    """
    boxes, size = feature_boxes
    _, _, height, width = shape
    grid, count, border = _mindspore_grid(feature_boxes, pooled, sample_num, shape)
    grid, count = np.where(zero[:, None], 0, grid), np.where(zero, np.ones_like(count), count)
    largest_x, largest_y = _largest_grid(grid)
    step = max(1, TERMS // (4 * largest_x * largest_y * pooled[0] * pooled[1]))
    for first in range(0, len(boxes), step):
        rows = slice(first, first + step)
        y = _axis_samples(boxes[rows, 2], size[rows, 1], grid[rows, 1], pooled[0], height, border[0])
        x = _axis_samples(boxes[rows, 1], size[rows, 0], grid[rows, 0], pooled[1], width, border[1])
        first_row = boxes[rows, 0].astype(np.int32)[:, None, None] * np.int32(height)
        along_y = _axis_terms(y)
        yield first, count[rows], along_y._replace(cells=(along_y.cells + first_row) * np.int32(width)), _axis_terms(x)


def sample_positions(start: NDArray, size: NDArray, grid: NDArray, pooled: int, samples: NDArray) -> NDArray:
    """Return where samples of R boxes lie along one axis, in cells: (R, pooled, samples).

    Args:
        start: (R,), of the boxes.
        size: (R,), of the boxes.
        grid: (R,) numbers of samples in a bin.
        pooled: number of bins.
        samples: which samples of each bin, counted from 0; integers that broadcast to the shape of the result.
    """
    dtype = start.dtype
    bin_size = (size / np.asarray(pooled, dtype))[:, None, None]
    bin_start = start[:, None, None] + np.arange(pooled).astype(dtype)[:, None] * bin_size
    at: NDArray = bin_start + (samples + 0.5).astype(dtype) * bin_size / grid.astype(dtype)[:, None, None]
    return at


def inside_image(positions: NDArray, border: float) -> NDArray:
    """Return bool: the positions along one axis that are not outside an image whose last coordinate is ``border``."""
    inside: NDArray = (positions >= -1) & (positions <= border)
    return inside


def _mindspore_grid(
    feature_boxes: FeatureBoxes, pooled: tuple[int, int], sample_num: int, shape: Sequence[int]
) -> tuple[NDArray, NDArray, list[float]]:
    """Return the (K, 2) grids, the (K,) divisors, and the last coordinates along y and x."""
    boxes, size = feature_boxes
    grid = _boxes.mindspore_grid(size, *pooled, sample_num)
    count = _boxes.mindspore_count(grid, boxes.dtype)
    return grid, count, [_boxes.mindspore_border(length, boxes.dtype) for length in shape[2:]]


def _torchvision_grid(
    feature_boxes: FeatureBoxes, pooled: tuple[int, int], sampling_ratio: int, shape: Sequence[int]
) -> tuple[NDArray, NDArray, list[float]]:
    """Return the (K, 2) grids, the (K,) divisors, and the last coordinates along y and x."""
    boxes, size = feature_boxes
    grid = _boxes.torchvision_grid(size, *pooled, sampling_ratio)
    count = _boxes.torchvision_count(grid, boxes.dtype)
    return grid, count, [_boxes.torchvision_border(length, boxes.dtype) for length in shape[2:]]


def pool(
    features: Array,
    feature_boxes: FeatureBoxes,
    rows: NDArray,
    pooled: tuple[int, int],
    grid: NDArray,
    count: NDArray,
    border: list[float],
    ops: ArrayOps,
    *,
    outside_adds_0: bool,
) -> Iterator[Part]:
    """Pool rows with (K, 2) grids of samples along x and y, (K,) divisors, and last coordinates along y and x.

    ``outside_adds_0``: a sample outside the image adds 0 times the first pixel, which is NaN if that is not finite.
    """
    images, channels, height, width = features.shape
    bins = pooled[0] * pooled[1]
    for image, rows_of_image in _rows_of_images(feature_boxes[0], rows, images):
        # The channels of a cell lie side by side if more cells are read than there are.
        side_by_side = 4 * bins * int(grid[rows_of_image].prod(1).sum()) > height * width
        step = max(TABLE_CHANNELS, TABLE_VALUES // (height * width)) if side_by_side else channels
        for channel in range(0, channels, step):
            some = slice(channel, channel + step)
            table = features[image, some].reshape(-1, height * width).T
            if side_by_side:
                table = ops.contiguous(table)
            rows_at_once = BLOCK_VALUES // (bins * table.shape[1])
            for part, y, x in _blocks(
                (height, width), feature_boxes, rows_of_image, pooled, grid, border, rows_at_once
            ):
                total = ops.lift(np.zeros((len(part) * bins, table.shape[1]), feature_boxes[0].dtype))
                _add_samples(total, table, y, x, width, ops)
                if outside_adds_0:
                    outside = (y.outside[:, :, None] | x.outside[:, None, :]) & (grid[part] > 0).all(1)[:, None, None]
                    total += ops.where(ops.lift(outside.reshape(-1, 1)), 0 * table[:1], 0)
                total = total.reshape(len(part), *pooled, -1)
                total /= ops.lift(count[part, None, None, None])
                yield part, some, total.swapaxes(1, 3).swapaxes(2, 3)


def _add_samples(total: Array, table: Array, y: _AxisSamples, x: _AxisSamples, width: int, ops: ArrayOps) -> None:
    """Add the samples of all bins of R boxes to a (bins, C) ``total``, in order; the table has (H*W, C) values."""
    corner = None
    for (first, *others), exist in _samples(y, x, width, ops):
        value = ops.take(table, first[0], None)
        value *= first[1]
        for cells, weights in others:
            corner = ops.take(table, cells, corner)
            corner *= weights
            value += corner
        total += value if exist is None else ops.where(exist, value, 0)


def _rows_of_images(boxes: NDArray, rows: NDArray, images: int) -> Iterator[tuple[int, NDArray]]:
    """Yield ``(image, those of the rows whose box is in it)`` for each image that has any."""
    for image in range(images):
        rows_of_image = rows[boxes[rows, 0] == image]
        if rows_of_image.size:
            yield image, rows_of_image


def _blocks(
    shape: Sequence[int],
    feature_boxes: FeatureBoxes,
    rows: NDArray,
    pooled: tuple[int, int],
    grid: NDArray,
    border: list[float],
    rows_at_once: int,
) -> Iterator[tuple[NDArray, _AxisSamples, _AxisSamples]]:
    """Yield ``(rows, samples along y, samples along x)`` for rows whose grids are about the same, small ones first."""
    boxes, size = feature_boxes
    largest_x, largest_y = _largest_grid(grid[rows])
    placed_at_once = max(1, BLOCK_VALUES // max(pooled[0] * largest_y, pooled[1] * largest_x))
    rows = rows[np.lexsort((grid[rows, 1], grid[rows].prod(1)))]
    for first in range(0, rows.size, placed_at_once):
        some = rows[first : first + placed_at_once]
        y = _axis_samples(boxes[some, 2], size[some, 1], grid[some, 1], pooled[0], shape[0], border[0])
        x = _axis_samples(boxes[some, 1], size[some, 0], grid[some, 0], pooled[1], shape[1], border[1])
        step = max(1, min(rows_at_once, BLOCK_VALUES // (pooled[0] * pooled[1] * x.inside.shape[2])))
        for row in range(0, some.size, step):
            part = slice(row, row + step)
            yield some[part], _some_rows(y, part), _some_rows(x, part)


def _largest_grid(grid: NDArray) -> tuple[int, int]:
    """Return the most samples in a bin along x and along y, at least 1."""
    largest_x, largest_y = grid.max(0, initial=1).tolist()
    return largest_x, largest_y


class _AxisSamples(NamedTuple):
    """The samples of R boxes along one axis that lie inside the image, in order, in arrays of (R, pooled, visits).

    ``cells`` and ``weights``, (R, pooled, visits, 2), are of the two neighbouring cells. Bins have different numbers of
    samples inside; where ``inside`` is False there is none. ``outside``, (R, pooled), tells which bins have samples
    outside as well.
    """

    cells: NDArray
    weights: NDArray
    inside: NDArray
    outside: NDArray


def _axis_samples(
    start: NDArray, size: NDArray, grid: NDArray, pooled: int, length: int, border: float
) -> _AxisSamples:
    """Place the samples of R boxes, each (R,) in cells, along an axis of ``pooled`` bins and ``length`` cells."""
    dtype = start.dtype

    def place(i: NDArray) -> tuple[NDArray, NDArray]:
        at = sample_positions(start, size, grid, pooled, i)
        return at, (i < grid[:, None, None]) & inside_image(at, border)

    # Positions never turn back along a bin, so the samples inside follow each other.
    every = np.arange(max(int(grid.max()), 1))
    at, inside = place(every)
    visits = inside.sum(2)
    most = max(int(visits.max()), 1)
    if most < len(every):
        at, inside = place(inside.argmax(2)[:, :, None] + np.arange(most))

    last = length - 1
    at = np.where(inside & (at > 0), at, dtype.type(0))
    low = np.minimum(at.astype(np.int64), last)
    at = np.where(low == last, np.asarray(last, dtype), at)
    high_weight = at - low.astype(dtype)
    cells = np.stack((low, np.minimum(low + 1, last)), axis=-1)
    return _AxisSamples(cells, np.stack((1 - high_weight, high_weight), axis=-1), inside, visits < grid[:, None])


def _some_rows(samples: _AxisSamples, rows: slice) -> _AxisSamples:
    """Return the samples of some rows, up to the last along a bin that any of these rows has inside.

    The first need not be inside in any of them: where a bin enters the image, they are outside.
    """
    used = samples.inside[rows].any((0, 1)).nonzero()[0]
    most = int(used[-1]) + 1 if used.size else 1
    cells, weights, inside = (array[rows, :, :most] for array in samples[:3])
    return _AxisSamples(cells, weights, inside, samples.outside[rows])


def _axis_terms(samples: _AxisSamples) -> AxisTerms:
    """Return the cells of each sample side by side."""
    shape = (*samples.outside.shape, -1)
    cells, weights = samples.cells.astype(np.int32).reshape(shape), samples.weights.reshape(shape)
    return AxisTerms(cells, weights, np.repeat(samples.inside, 2, axis=2))


def _weights(samples: _AxisSamples, length: int) -> NDArray:
    """Add up the weights of the samples of each bin on each cell of an axis: (R, pooled, length) in float32."""
    terms = _axis_terms(samples)
    weights = np.zeros((*samples.outside.shape, length), np.float32)
    for i in range(terms.cells.shape[2]):
        here = terms.exist[:, :, i, None] & (terms.cells[:, :, i, None] == np.arange(length))
        weights += np.where(here, terms.weights[:, :, i, None], 0)
    return weights


def _samples(
    y: _AxisSamples, x: _AxisSamples, width: int, ops: ArrayOps
) -> Iterator[tuple[list[tuple[Array, Array]], Array | None]]:
    """Yield the samples of R boxes in order, the first of every bin, then the second.

    Yields:
        ``(corners, exist)``: (bins,) cells of an image with their (bins, 1) weights, upper left, upper right and the
        lower ones; and (bins, 1), False for those bins that have no such sample. None if all have it.
    """
    bins = y.outside.size * x.outside.shape[1]

    def of_corners(combine: np.ufunc, along_y: NDArray, along_x: NDArray) -> NDArray:
        # (samples along y, 2, R, pooled_height) and (samples along x, 2, R, pooled_width)
        along_y, along_x = along_y.transpose(2, 3, 0, 1), along_x.transpose(2, 3, 0, 1)
        both: NDArray = combine(along_y[:, None, :, None, :, :, None], along_x[:, None, :, :, None])
        return both.reshape(-1, bins)

    step = max(1, BLOCK_VALUES // (bins * x.inside.shape[2]))
    for first in range(0, y.inside.shape[2], step):
        some = slice(first, first + step)
        exist_y, exist_x = y.inside[:, :, some].transpose(2, 0, 1), x.inside.transpose(2, 0, 1)
        exist = (exist_y[:, None, :, :, None] & exist_x[:, :, None]).reshape(-1, bins, 1)
        cells = of_corners(np.add, y.cells[:, :, some] * width, x.cells)
        weights = of_corners(np.multiply, y.weights[:, :, some], x.weights)
        corners = list(zip(ops.lift(cells), ops.lift(weights[:, :, None]), strict=True))
        for i, all_exist in enumerate(exist.all((1, 2)).tolist()):
            yield corners[4 * i : 4 * i + 4], None if all_exist else ops.lift(exist[i])
