"""What comes of samples: both CPU kernels from feature boxes on, bit for bit, in plain NumPy. This is the definition.

One row at a time, every operation rounded to the dtype of the computation, in the order of the kernels:
``((w1*v1 + w2*v2) + w3*v3) + w4*v4`` for a sample, samples row by row. A sample outside the image contributes nothing,
so it is not visited: a box a thousand times larger than the image costs no more than one that covers it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .rules import Samples

NDArray = npt.NDArray[Any]

# The two neighbours along y, and for each those along x: how a sample adds up its four cells.
_CORNERS = tuple(itertools.product((0, 1), (0, 1)))


def pool(features: NDArray, samples: Samples, pooled: Sequence[int]) -> NDArray:
    """Pool K rows of (N, C, H, W) features, of the dtype of the samples: (K, C, pooled_height, pooled_width)."""
    output = np.zeros((len(samples.image), features.shape[1], *pooled), features.dtype)
    with np.errstate(all="ignore"):  # overflow and NaN are part of the definition
        for row in np.flatnonzero(samples.image >= 0):
            planes = features[samples.image[row]]
            y, x = _along_both_axes(samples, row, pooled, planes.shape[1:])
            total = output[row]
            for i, j in itertools.product(range(y.inside.shape[1]), range(x.inside.shape[1])):
                value: Any = None
                for low_or_high_y, low_or_high_x in _CORNERS:
                    weight = y.weights[:, i, low_or_high_y, None] * x.weights[:, j, low_or_high_x]
                    term = planes[:, y.cells[:, i, low_or_high_y, None], x.cells[:, j, low_or_high_x]] * weight
                    value = term if value is None else value + term
                np.add(total, value, out=total, where=y.inside[:, i, None] & x.inside[:, j])
            if samples.outside_adds_0:
                outside = np.multiply.outer(y.inside.sum(1), x.inside.sum(1)) < samples.grid[row].clip(0).prod()
                np.add(total, 0 * planes[:, :1, :1], out=total, where=outside)
            total /= samples.divisor[row]
    return output


def gradient(of_output: NDArray, samples: Samples, shape: Sequence[int]) -> NDArray:
    """Return the gradient for features of this shape, given the (K, C, pooled_height, pooled_width) one of ``pool``.

    It is added up in the order of MindSpore's kernel, which is torchvision's.
    """
    _, channels, height, width = shape
    of_features = np.zeros(shape, of_output.dtype)
    with np.errstate(all="ignore"):  # overflow and NaN are part of the definition
        for row in np.flatnonzero(samples.image >= 0):
            of_cells = np.zeros((height * width, channels), of_output.dtype)
            planes = of_features[samples.image[row]].reshape(channels, -1)
            of_cells[:] = planes.T
            y, x = _along_both_axes(samples, row, of_output.shape[2:], (height, width))
            for p in range(len(y.cells)):
                inside = y.inside[p, :, None] & x.inside[:, None]  # (bins along x, samples along y, samples along x)
                cells = (y.cells[p, :, None, :, None] * width + x.cells[:, None, :, None])[inside]
                weights = (y.weights[p, :, None, :, None] * x.weights[:, None, :, None])[inside]
                of_bins = of_output[row, :, p].T[np.nonzero(inside)[0], None]  # (samples, 1, channels)
                terms = of_bins * weights.reshape(-1, len(_CORNERS), 1) / samples.divisor[row]
                np.add.at(of_cells, cells.reshape(-1), terms.reshape(-1, channels))
            planes[:] = of_cells.T
    return of_features


def sample_positions(start: Any, bin_size: Any, grid: int, bins: int) -> NDArray:
    """Return where the samples of a box lie along one axis, in cells: (bins, grid).

    Args:
        start: of the box, a NumPy number of the dtype of the computation.
        bin_size: likewise.
        grid: the number of samples in a bin.
        bins: number of bins.
    """
    dtype = start.dtype
    in_bin = (np.arange(grid) + 0.5).astype(dtype) * bin_size / dtype.type(grid)
    at: NDArray = (start + np.arange(bins).astype(dtype) * bin_size)[:, None] + in_bin
    return at


def inside_image(positions: NDArray, border: Any) -> NDArray:
    """Return bool: the positions along one axis that are not outside an image, ``border`` its first and last ones."""
    first, last = border
    inside: NDArray = (positions >= first) & (positions <= last)
    return inside


class _Axis(NamedTuple):
    """The samples of one box along one axis that lie inside the image, in order: (bins, visits) arrays.

    ``cells`` and ``weights``, (bins, visits, 2), are of the two neighbouring cells. Bins have different numbers of
    samples inside; where ``inside`` is False there is none.
    """

    cells: NDArray
    weights: NDArray
    inside: NDArray


def _along_both_axes(samples: Samples, row: int, pooled: Sequence[int], size: Sequence[int]) -> tuple[_Axis, _Axis]:
    """Place the samples of a row along y and along x; ``size`` is that of the image."""
    y, x = (
        _along_axis(
            samples.start[row, axis],
            samples.bin_size[row, axis],
            int(samples.grid[row, axis]),
            samples.border[axis],
            bins,
            length,
        )
        for axis, bins, length in ((1, pooled[0], size[0]), (0, pooled[1], size[1]))
    )
    return y, x


def _along_axis(start: Any, bin_size: Any, grid: int, border: Any, bins: int, length: int) -> _Axis:
    at = sample_positions(start, bin_size, max(grid, 0), bins)
    is_inside = inside_image(at, border)
    # Positions never turn back along a bin, so the samples inside follow each other.
    visits = is_inside.sum(1)
    number = np.arange(visits.max(initial=0))
    inside = number < visits[:, None]
    if grid > 0:
        at = np.take_along_axis(at, np.minimum(is_inside.argmax(1)[:, None] + number, grid - 1), 1)
    last, dtype = length - 1, at.dtype
    at = np.where(inside & (at > 0), at, dtype.type(0))
    low = np.minimum(at.astype(np.int64), last)
    high_weight = np.where(low == last, dtype.type(0), at - low.astype(dtype))
    cells = np.stack((low, np.minimum(low + 1, last)), axis=-1)
    return _Axis(cells, np.stack((1 - high_weight, high_weight), axis=-1), inside)
