"""The engine of a GPU: what any rule samples, in Triton, with the bits of both libraries on a CPU.

The kernels apply the rule themselves (``rules.place`` and ``sampling.py`` say what it means), and nothing waits for the
host. Every operation is rounded to the dtype of the features, in the order of the definition: multiplications and
additions are not fused, and divisions are rounded to nearest.

The gradient is added up without atomic operations, for each cell of the features in the order of the definition, so it
is the same in every run. With a small fixed grid, the terms are listed and sorted by cell. The number of terms of any
other grid is not known without a look at the rois: there, each program owns some cells and goes through the rois.
"""

# mypy: disable-error-code="no-any-return, untyped-decorator, no-untyped-def, attr-defined"
# Triton's arguments have types of its own, and its constants are in capitals.
# ruff: noqa: ANN001, ANN202, N803, N806, SIM300
from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from .. import rules

# Samples along an axis of a bin up to which kernels are compiled for the very number, and gradients sorted.
LARGEST_UNROLLED = 4

# What the lists of a gradient's terms may take, in bytes: rows are done one part after another, if all would take more.
MEMORY_FOR_TERMS = 2**28

# Programs of a launch, and how many keep any GPU busy.
_MOST_TASKS = 2**31 - 1
_ENOUGH_TASKS = 2**10


class Block(NamedTuple):
    """How much a program does.

    Attributes:
        channels: number of channels at a time.
        others: number of bins, or cells, at a time.
        warps: by which.
        rounds: number of times that it does so, for other channels each time.
    """

    channels: int
    others: int
    warps: int
    rounds: int = 1


# By kernel. Numbers are powers of 2, and made smaller where there are fewer channels or bins. They were measured on
# an H100; those of "pool, few samples" and "add terms" were chosen by counting instructions (benchmarks/README.md).
BLOCKS = {
    "pool": Block(2, 64, 1),
    "pool, few samples": Block(1, 64, 2, 16),
    "pool channels_last": Block(32, 64, 8),
    "pool channels_last, many bins": Block(32, 16, 4),
    "list terms": Block(1, 128, 4),
    "transpose": Block(32, 64, 4),
    "add terms": Block(64, 16, 4),
    "add tiles": Block(64, 16, 1),
}

# Terms of a cell that "add terms" has under way at a time.
TERMS_AT_ONCE = 4


class _Rule(NamedTuple):
    """The fields of a ``Rule``, its numbers as those of the dtype of the computation; a constant to the compiler."""

    start: float
    end: float
    scales_end_apart: bool
    moved: tuple[float, ...]
    smallest: float | None
    enlarges_nan: bool
    rounds_index: bool
    ceils_index: bool
    floors_grid: bool
    smallest_count: float | None
    first_coordinate: float
    outside_adds_0: bool
    skips_near_0: bool
    skips_not_finite: bool
    near_0: float


def pool(
    features: torch.Tensor,
    rois: torch.Tensor,
    rule: rules.Rule,
    pooled: tuple[int, int],
    spatial_scale: float,
    sample_num: int,
) -> torch.Tensor:
    """Pool K rows, in one launch: (K, C, pooled_height, pooled_width), contiguous.

    A row whose image index is out of range is a device-side assertion, and is read from no image.

    Args:
        features: (N, C, H, W), float16, float32 or float64, of any strides.
        rois: (K, 5), of that dtype and on that device.
        rule: by which.
        pooled: number of bins, ``(height, width)``.
        spatial_scale: cells per pixel.
        sample_num: samples along each axis of a bin; adaptive if 0 or less. Rows that the rule refuses have none.
    """
    images, channels, height, width = features.shape
    bins = math.prod(pooled)
    output = features.new_empty((len(rois), channels, *pooled))
    if not output.numel():
        return output
    strides = features.stride()
    channels_last = strides[1] == 1 and channels > 1
    call = _call(rule, spatial_scale, sample_num, (height, width), features.dtype)
    if channels_last:
        name = "pool channels_last, many bins" if bins > 64 else "pool channels_last"
    else:  # in rounds, where each sample is stays in registers, if they are few; and few programs leave a GPU idle
        block = BLOCKS["pool, few samples"]
        programs = len(rois) * _blocks(bins, block.others) * _blocks(channels, block.channels * block.rounds)
        name = "pool, few samples" if 0 < call.unrolled <= 2 and programs >= _ENOUGH_TASKS else "pool"
    block = _fitting(BLOCKS[name], channels, bins)
    extent = sum((length - 1) * stride for length, stride in zip(features.shape[1:], strides[1:], strict=True))
    tasks_of_row = _blocks(bins, block.others) * _blocks(channels, block.channels * block.rounds)
    for part, part_output in _parts(_MOST_TASKS // tasks_of_row, rois.contiguous(), output):
        with torch.cuda.device_of(features):  # type: ignore[no-untyped-call]
            _pool[(len(part) * tasks_of_row,)](
                features,
                part,
                part_output,
                *strides,
                channels,
                images,
                height,
                width,
                *pooled,
                len(part),
                block.rounds,
                *call.numbers,
                RULE=call.rule,
                GRID=call.unrolled,
                INVERSE=call.inverse,
                CHANNELS=block.channels,
                BINS=block.others,
                CHANNELS_LAST=channels_last,
                WIDE=max(extent, channels * bins) >= 2**31,
                num_warps=block.warps,
                **_OPTIONS,
            )
    return output


def gradient(
    of_output: torch.Tensor,
    rois: torch.Tensor,
    rule: rules.Rule,
    shape: Sequence[int],
    spatial_scale: float,
    sample_num: int,
) -> torch.Tensor:
    """Return the gradient for features of a shape (N, C, H, W), contiguous; ``pool`` has asserted the image indices.

    Args:
        of_output: (K, C, pooled_height, pooled_width), of any strides.
        rois: as in :func:`pool`, and so are the others.
        rule: by which.
        shape: of the features.
        spatial_scale: cells per pixel.
        sample_num: samples along each axis of a bin; adaptive if 0 or less.
    """
    pooled = of_output.shape[2:]
    of_features = of_output.new_empty(tuple(shape))
    if not of_features.numel() or not of_output.numel():
        return of_features.zero_()
    call = _call(rule, spatial_scale, sample_num, tuple(shape[2:]), of_output.dtype)
    rois = rois.contiguous()
    with torch.cuda.device_of(of_output):  # type: ignore[no-untyped-call]
        terms = math.prod(pooled) * 4 * sample_num**2
        cells = math.prod(shape) // shape[1]
        # Of fewer bits, keys are sorted in less time.
        key_dtype = torch.int16 if cells < 2**15 else torch.int32 if cells < 2**31 - 1 else torch.int64
        # Keys and indices, both twice, and as much again to sort them; a weight.
        bytes_of_row = terms * (2 * (2 * key_dtype.itemsize + 2 * 8) + of_output.itemsize)
        if call.unrolled and bytes_of_row <= MEMORY_FOR_TERMS:
            parts = _parts(MEMORY_FOR_TERMS // bytes_of_row, rois, of_output)
            for number, (part, of_part) in enumerate(parts):
                _add_part(of_part, part, call, of_features, terms, key_dtype, number == 0)
        else:
            _add_by_tiles(of_output, rois, call, of_features)
    return of_features


class _Call(NamedTuple):
    """The arguments of a call as kernels take them.

    Attributes:
        numbers: which every kernel gets: the scale, the number of samples, what their sum is divided by if the grid is
            fixed, and the last coordinates inside along y and x; floats as integers.
        rule: a constant to the compiler.
        unrolled: the number of samples, if it is one that kernels are compiled for; else 0.
        inverse: by which to multiply a sum, where that is the same, to the bit, as to divide it; else 0.
    """

    numbers: tuple[int, ...]
    rule: _Rule
    unrolled: int
    inverse: float


@functools.lru_cache(256)
def _call(
    rule: rules.Rule, spatial_scale: float, sample_num: int, size: tuple[int, int], torch_dtype: torch.dtype
) -> _Call:
    dtype = np.dtype(str(torch_dtype).removeprefix("torch."))
    with np.errstate(over="ignore"):
        count = rules.divisors(rule, np.full((1, 2), max(sample_num, 0)), dtype).item()
        (first, height), (_, width) = (rules.coordinates_inside(rule, length, dtype) for length in size)
    return _Call(
        numbers=(_bits(spatial_scale), sample_num, _bits(count), _bits(height), _bits(width)),
        rule=_Rule(
            start=_rounded(rule.start, dtype),
            end=_rounded(rule.end, dtype),
            scales_end_apart=rule.scales_end_apart,
            moved=tuple(_rounded(cells, dtype) for cells in rule.moved),
            smallest=None if rule.smallest is None else _rounded(rule.smallest, dtype),
            enlarges_nan=rule.enlarges_nan,
            rounds_index=rule.index == "round",
            ceils_index=rule.index == "ceil",
            floors_grid=rule.grid == "floor",
            smallest_count=None if rule.smallest_count is None else _rounded(rule.smallest_count, dtype),
            first_coordinate=first,
            outside_adds_0=rule.outside_adds_0,
            skips_near_0=rule.skips == "near 0",
            skips_not_finite=rule.skips == "not finite",
            near_0=_rounded(0.001, dtype),
        ),
        unrolled=sample_num if 0 < sample_num <= LARGEST_UNROLLED else 0,
        inverse=1 / count if sample_num > 0 and count in _POWERS_OF_2 else 0.0,
    )


_POWERS_OF_2 = [float(2**exponent) for exponent in range(15)]


def _rounded(number: float, dtype: np.dtype[Any]) -> float:
    return float(np.asarray(number, dtype))


def _bits(number: float) -> int:
    """Return a float64 as an integer, since Triton passes a float on as float32."""
    bits: int = struct.unpack("q", struct.pack("d", number))[0]
    return bits


def _blocks(length: int, block: int) -> int:
    return -(-length // block)


def _fitting(block: Block, channels: int, others: int) -> Block:
    """Return the block, or a smaller one that holds all there is."""
    of_channels = min(block.channels, triton.next_power_of_2(channels))
    return block._replace(
        channels=of_channels,
        others=min(block.others, triton.next_power_of_2(others)),
        rounds=min(block.rounds, _blocks(channels, of_channels)),
    )


def _parts(rows: int, *tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Split tensors of as many rows into parts of at most ``rows`` rows."""
    if len(tensors[0]) <= rows:
        return [tensors]
    return list(zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True))


def _add_part(
    of_output: torch.Tensor,
    rois: torch.Tensor,
    call: _Call,
    of_features: torch.Tensor,
    terms_of_row: int,
    key_dtype: torch.dtype,
    is_first: bool,
) -> None:
    """Write the gradient of some rows, or add it to that of the rows before them, by lists of terms sorted by cell."""
    rows, channels, *pooled = of_output.shape
    images, _, height, width = of_features.shape
    cells, bins = images * height * width, math.prod(pooled)
    keys = rois.new_empty(rows * terms_of_row, dtype=key_dtype)
    weights = of_output.new_empty(rows * terms_of_row)
    block = BLOCKS["list terms"]
    _list_terms[(_blocks(rows * bins, block.others),)](
        rois,
        keys,
        weights,
        images,
        height,
        width,
        *pooled,
        rows,
        *call.numbers,
        RULE=call.rule,
        GRID=call.unrolled,
        BLOCK=block.others,
        num_warps=block.warps,
        **_OPTIONS,
    )
    keys, terms = torch.sort(keys, stable=True)
    first_terms = torch.searchsorted(keys, torch.arange(cells + 1, dtype=key_dtype, device=keys.device), out_int32=True)
    of_bins = of_output.new_empty((rows * bins, channels))
    block = _fitting(BLOCKS["transpose"], channels, bins)
    _transpose[(rows * _blocks(channels, block.channels) * _blocks(bins, block.others),)](
        of_output,
        of_bins,
        *of_output.stride(),
        channels,
        *pooled,
        CHANNELS=block.channels,
        BINS=block.others,
        num_warps=block.warps,
        **_OPTIONS,
    )
    block = _fitting(BLOCKS["add terms"], channels, cells)
    _add_terms[(_blocks(cells, block.others) * _blocks(channels, block.channels),)](
        of_bins,
        terms,
        weights,
        first_terms,
        of_features,
        channels,
        cells,
        height * width,
        *call.numbers,
        GRID=call.unrolled,
        INVERSE=call.inverse,
        IS_FIRST=is_first,
        AT_ONCE=TERMS_AT_ONCE,
        CHANNELS=block.channels,
        CELLS=block.others,
        num_warps=block.warps,
        **_OPTIONS,
    )


def _add_by_tiles(of_output: torch.Tensor, rois: torch.Tensor, call: _Call, of_features: torch.Tensor) -> None:
    """Write the gradient of all rows, each program that of some cells."""
    images, channels, height, width = of_features.shape
    block = _fitting(BLOCKS["add tiles"], channels, height * width)
    tile_width = min(8, block.others)
    tiles = _blocks(height, block.others // tile_width) * _blocks(width, tile_width)
    extent = sum(
        (length - 1) * stride for length, stride in zip(of_output.shape[1:], of_output.stride()[1:], strict=True)
    )
    _add_tiles[(images * tiles * _blocks(channels, block.channels),)](
        of_output,
        rois,
        of_features,
        *of_output.stride(),
        channels,
        images,
        height,
        width,
        *of_output.shape[2:],
        len(rois),
        *call.numbers,
        RULE=call.rule,
        INVERSE=call.inverse,
        CHANNELS=block.channels,
        TILE_HEIGHT=block.others // tile_width,
        TILE_WIDTH=tile_width,
        ROWS=128,
        WIDE=max(extent, channels * height * width) >= 2**31,
        num_warps=block.warps,
        **_OPTIONS,
    )


@triton.jit
def _divide(x, y):
    """Divide, rounded to nearest: ``/`` is approximate in float32."""
    return x / y if x.dtype == tl.float64 else tl.math.div_rn(x.to(tl.float32), y.to(tl.float32)).to(x.dtype)


@triton.jit
def _number(bits, T: tl.constexpr):
    """Return the number of dtype ``T`` nearest to a float64 that came as an integer; by way of float32, as in NumPy."""
    number = bits.to(tl.int64).to(tl.float64, bitcast=True)
    if T != tl.float64:
        number = number.to(tl.float32)
    return number.to(T)


@triton.jit
def _compared(x):
    """Return a number as one that is compared: what float16 is compared with may have more bits."""
    return x.to(tl.float32) if x.dtype == tl.float16 else x


@triton.jit
def _to_float(x, T: tl.constexpr):
    """Return integers as numbers of dtype ``T``, rounded once."""
    return x.to(tl.float64) if T == tl.float64 else x.to(tl.float32).to(T)


@triton.jit
def _boxes(rois, rows, is_row, images, scale, RULE: tl.constexpr):
    """Apply the rule to rows of rois: start and size along x and y, and the image before them.

    It is -1 for a row that pools to 0, and -2 for one whose index is out of range.
    """
    T: tl.constexpr = rois.dtype.element_ty
    row = rois + rows.to(tl.int64) * 5
    index = tl.load(row, is_row, other=0)
    x1, y1 = tl.load(row + 1, is_row, other=0), tl.load(row + 2, is_row, other=0)
    x2, y2 = tl.load(row + 3, is_row, other=0), tl.load(row + 4, is_row, other=0)
    if RULE.skips_near_0:
        near_0 = tl.full((), RULE.near_0, T)
        is_pooled = (tl.abs(x1) >= near_0) | (tl.abs(x2) >= near_0) | (x1 != x1) | (x2 != x2)
    else:
        is_pooled = is_row
    if RULE.start != 0:
        x1, y1 = x1 + tl.full((), RULE.start, T), y1 + tl.full((), RULE.start, T)
    if RULE.end != 0 and not RULE.scales_end_apart:
        x2, y2 = x2 + tl.full((), RULE.end, T), y2 + tl.full((), RULE.end, T)
    scale = _number(scale, T)
    x1, y1, x2, y2 = x1 * scale, y1 * scale, x2 * scale, y2 * scale
    if RULE.scales_end_apart:
        end = tl.full((), RULE.end, T) * scale
        x2, y2 = x2 + end, y2 + end
    for number in tl.static_range(len(RULE.moved)):
        cells = tl.full((), RULE.moved[number], T)
        x1, y1, x2, y2 = x1 - cells, y1 - cells, x2 - cells, y2 - cells
    size_x, size_y = x2 - x1, y2 - y1
    if RULE.smallest is not None:
        smallest = tl.full((), RULE.smallest, T)
        if RULE.enlarges_nan:
            size_x, size_y = (
                tl.where(size_x > smallest, size_x, smallest),
                tl.where(size_y > smallest, size_y, smallest),
            )
        else:
            size_x, size_y = (
                tl.where(size_x < smallest, smallest, size_x),
                tl.where(size_y < smallest, smallest, size_y),
            )
    if RULE.skips_not_finite:  # what is not finite, minus itself, is NaN
        is_pooled = (x1 - x1 == 0) & (y1 - y1 == 0) & (size_x - size_x == 0) & (size_y - size_y == 0)
    index = _compared(index)
    if RULE.rounds_index:
        index = tl.where(index == index, index, 0)
        has_image = (index >= 0) & (index <= (images - 1).to(index.dtype))
        index = index.to(tl.float32) + 7e-5
        image = tl.where(has_image, index, 0).to(tl.int32)
        part = index - image.to(tl.float32)
        image += tl.where((part > 0.5) | ((part == 0.5) & (image % 2 == 1)), 1, 0)
    elif RULE.ceils_index:
        has_image = (index > -1) & (index <= (images - 1).to(index.dtype))
        image = tl.where(has_image, index, 0).to(tl.int32)
        image += tl.where(has_image & (image.to(index.dtype) < index), 1, 0)
    else:
        has_image = (index >= 0) & (index < images.to(index.dtype))
        image = tl.where(has_image, index, 0).to(tl.int32)
    return tl.where(has_image, tl.where(is_pooled & is_row, image, -1), -2), x1, y1, size_x, size_y


@triton.jit
def _bin_size(size, pooled):
    return _divide(size, _to_float(pooled, size.dtype))


@triton.jit
def _grid(bin_size, samples, RULE: tl.constexpr):
    """Return the samples in a bin along an axis, as the rule has it: a negative number if they are too many."""
    cells = _compared(bin_size)
    fits = tl.abs(cells) < 2147483648.0
    # tl.floor and tl.ceil take subnormal numbers for 0.
    adaptive = tl.where(fits, cells, -1.0).to(tl.int32)
    if RULE.floors_grid:
        adaptive -= tl.where(fits & (adaptive.to(cells.dtype) > cells), 1, 0)
    else:
        adaptive += tl.where(fits & (adaptive.to(cells.dtype) < cells), 1, 0)
    return tl.where(samples > 0, samples, adaptive)


@triton.jit
def _count(grid_x, grid_y, samples, count, RULE: tl.constexpr, T: tl.constexpr):
    """Return what the sum of the samples of a bin is divided by; ``count`` is that of a fixed grid."""
    # Adaptive grids are numbers of T before they are integers: rounded, both factors are the same.
    adaptive = _to_float(grid_x, T) * _to_float(grid_y, T)
    if RULE.smallest_count is not None:
        smallest = tl.full((), RULE.smallest_count, T)
        adaptive = tl.where(adaptive < smallest, smallest, adaptive)
    return tl.where(samples > 0, _number(count, T), adaptive)


@triton.jit
def _offset(bin_size, i, grid):
    """Return how far sample ``i`` is from the start of its bin."""
    T: tl.constexpr = bin_size.dtype
    middle = i.to(tl.float64) + 0.5 if T == tl.float64 else (i.to(tl.float32) + 0.5).to(T)
    return _divide(middle * bin_size, _to_float(grid, T))


@triton.jit
def _unrolled_offset(bin_size, NUMBER: tl.constexpr, GRID: tl.constexpr):
    """Return the same of a grid that the compiler knows."""
    product = tl.full((), NUMBER + 0.5, bin_size.dtype) * bin_size
    if GRID == 1 or GRID == 2 or GRID == 4:
        result = product * tl.full((), 1.0 / GRID, bin_size.dtype)
    else:
        result = _divide(product, tl.full((), 1.0 * GRID, bin_size.dtype))
    return result


@triton.jit
def _start_of_bin(start, bin_size, p):
    return start + _to_float(p, start.dtype) * bin_size


@triton.jit
def _first(start, bin_size, p, grid, lower, upper, LEAVING: tl.constexpr):
    """Return the first sample of bin ``p`` that has entered, or left, what lies from ``lower`` to ``upper``.

    Positions never turn back along a bin, but may end in NaN, which counts as having left.
    """
    start_of_bin = _start_of_bin(start, bin_size, p)
    rising = bin_size >= 0
    low = p * 0
    high = low + grid
    remaining = grid
    while remaining > 0:
        middle = low + (high - low) // 2
        at = _compared(start_of_bin + _offset(bin_size, middle, grid))
        entered = tl.where(rising, at < lower, at > upper) == 0
        left = tl.where(rising, at <= upper, at >= lower) == 0
        is_before = (left if LEAVING else entered) == 0
        is_open = low < high
        low = tl.where(is_open & is_before, middle + 1, low)
        high = tl.where(is_open & (is_before == 0), middle, high)
        remaining = remaining // 2
    return low


@triton.jit
def _neighbours(at, inside, length):
    """Return the two cells along an axis that a sample lies between, and their weights."""
    T: tl.constexpr = at.dtype
    zero = tl.full((), 0.0, T)
    at = tl.where(inside & (at > zero), at, zero)
    low = at.to(tl.int32)
    is_last = low >= length - 1
    high_weight = tl.where(is_last, zero, at - _to_float(low, T))
    low = tl.where(is_last, length - 1, low)
    return low, tl.where(is_last, low, low + 1), tl.full((), 1.0, T) - high_weight, high_weight


@triton.jit
def _sample(planes, y, x, inside_y, inside_x, is_read, height, width, stride_y, stride_x, WIDE: tl.constexpr):
    """Return the values of samples: 0 for those that are outside, or not to be read."""
    y_low, y_high, of_y_low, of_y_high = _neighbours(y, inside_y, height)
    x_low, x_high, of_x_low, of_x_high = _neighbours(x, inside_x, width)
    if WIDE:
        y_low, y_high, x_low, x_high = y_low.to(tl.int64), y_high.to(tl.int64), x_low.to(tl.int64), x_high.to(tl.int64)
    is_read = inside_y & inside_x & is_read
    value = tl.load(planes + (y_low * stride_y + x_low * stride_x), is_read, other=0) * (of_y_low * of_x_low)
    value += tl.load(planes + (y_low * stride_y + x_high * stride_x), is_read, other=0) * (of_y_low * of_x_high)
    value += tl.load(planes + (y_high * stride_y + x_low * stride_x), is_read, other=0) * (of_y_high * of_x_low)
    value += tl.load(planes + (y_high * stride_y + x_high * stride_x), is_read, other=0) * (of_y_high * of_x_high)
    return value


_NUMBERS = ("scale", "samples", "count", "border_y", "border_x")
_SIZES = ("images", "height", "width", "pooled_height", "pooled_width", "rows")


@triton.jit(debug=True, do_not_specialize=[*_SIZES, *_NUMBERS])
def _pool(
    features,
    rois,
    output,
    stride_image,
    stride_channel,
    stride_y,
    stride_x,
    channels,
    images,
    height,
    width,
    pooled_height,
    pooled_width,
    rows,
    rounds,
    scale,
    samples,
    count,
    border_y,
    border_x,
    RULE: tl.constexpr,
    GRID: tl.constexpr,
    INVERSE: tl.constexpr,
    CHANNELS: tl.constexpr,
    BINS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Pool some bins of a row, in so many rounds of channels: what depends on no channel is computed once."""
    T: tl.constexpr = features.dtype.element_ty
    bins = pooled_height * pooled_width
    blocks = tl.cdiv(bins, BINS)
    # All rows of some channels at a time: these stay in the cache.
    task = tl.program_id(0)
    row = task // blocks % rows
    b = task % blocks * BINS + tl.arange(0, BINS)
    b = b[:, None] if CHANNELS_LAST else b[None, :]
    p, q = b // pooled_width, b % pooled_width
    image, start_x, start_y, size_x, size_y = _boxes(rois, row, row < rows, images, scale, RULE)
    tl.device_assert(image > -2, "rois with an image index out of range")
    bin_x, bin_y = _bin_size(size_x, pooled_width), _bin_size(size_y, pooled_height)
    lower = _compared(tl.full((), RULE.first_coordinate, T))
    border_x, border_y = _number(border_x, lower.dtype), _number(border_y, lower.dtype)
    of_image = features + tl.maximum(image, 0).to(tl.int64) * stride_image
    first_channel = task // blocks // rows * (CHANNELS * rounds)
    for number in range(rounds):
        c = first_channel + number * CHANNELS + tl.arange(0, CHANNELS)
        c = c[None, :] if CHANNELS_LAST else c[:, None]
        is_read = (b < tl.where(image >= 0, bins, 0)) & (c < channels)
        planes = of_image + (c.to(tl.int64) if WIDE else c) * stride_channel
        total = tl.zeros([BINS, CHANNELS] if CHANNELS_LAST else [CHANNELS, BINS], T)
        if GRID > 0:
            start_of_y, start_of_x = _start_of_bin(start_y, bin_y, p), _start_of_bin(start_x, bin_x, q)
            is_any_outside = b < 0
            divisor = _number(count, T)
            for i in tl.static_range(GRID):
                y = start_of_y + _unrolled_offset(bin_y, i, GRID)
                inside_y = (_compared(y) >= lower) & (_compared(y) <= border_y)
                for j in tl.static_range(GRID):
                    x = start_of_x + _unrolled_offset(bin_x, j, GRID)
                    inside_x = (_compared(x) >= lower) & (_compared(x) <= border_x)
                    total += _sample(planes, y, x, inside_y, inside_x, is_read, height, width, stride_y, stride_x, WIDE)
                    is_any_outside = is_any_outside | ((inside_y & inside_x) == 0)
        else:
            grid_x, grid_y = _grid(bin_x, samples, RULE), _grid(bin_y, samples, RULE)
            divisor = _count(grid_x, grid_y, samples, count, RULE, T)
            grid_x, grid_y = (
                tl.where(image >= 0, tl.maximum(grid_x, 0), 0),
                tl.where(image >= 0, tl.maximum(grid_y, 0), 0),
            )
            first_y = _first(start_y, bin_y, p, grid_y, lower, border_y, False)
            first_x = _first(start_x, bin_x, q, grid_x, lower, border_x, False)
            visits_y = tl.maximum(_first(start_y, bin_y, p, grid_y, lower, border_y, True) - first_y, 0)
            visits_x = tl.maximum(_first(start_x, bin_x, q, grid_x, lower, border_x, True) - first_x, 0)
            is_any_outside = visits_y.to(tl.int64) * visits_x < grid_y.to(tl.int64) * grid_x
            for i in range(tl.max(visits_y)):
                y = _start_of_bin(start_y, bin_y, p) + _offset(bin_y, first_y + i, grid_y)
                for j in range(tl.max(visits_x)):
                    x = _start_of_bin(start_x, bin_x, q) + _offset(bin_x, first_x + j, grid_x)
                    total += _sample(
                        planes, y, x, i < visits_y, j < visits_x, is_read, height, width, stride_y, stride_x, WIDE
                    )
        if RULE.outside_adds_0:
            total += tl.load(planes, is_any_outside & is_read, other=0) * tl.full((), 0.0, T)
        if INVERSE != 0:
            total = total * tl.full((), INVERSE, T)
        else:
            total = tl.where(is_read, _divide(total, divisor), tl.full((), 0.0, T))
        at = (c.to(tl.int64) if WIDE else c) * bins + b
        tl.store(output + row.to(tl.int64) * channels * bins + at, total, (b < bins) & (c < channels))


@triton.jit
def _store_term(keys, weights, at, y, x, weight, image, inside, height, width, cells):
    cell = (image.to(cells.dtype) * height + y) * width + x
    tl.store(keys + at, tl.where(inside, cell, cells), at >= 0)
    tl.store(weights + at, weight, at >= 0)


@triton.jit(do_not_specialize=[*_SIZES, *_NUMBERS])
def _list_terms(
    rois,
    keys,
    weights,
    images,
    height,
    width,
    pooled_height,
    pooled_width,
    rows,
    scale,
    samples,
    count,
    border_y,
    border_x,
    RULE: tl.constexpr,
    GRID: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """List the terms of some bins, in the order of the definition: their weights, and the cells, numbered through.

    A sample that is outside has terms of a cell behind the last one.
    """
    T: tl.constexpr = rois.dtype.element_ty
    bins = pooled_height * pooled_width
    bin_of_row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row, b = bin_of_row // bins, (bin_of_row % bins).to(tl.int32)
    p, q = b // pooled_width, b % pooled_width
    is_row = row < rows
    image, start_x, start_y, size_x, size_y = _boxes(rois, row, is_row, images, scale, RULE)
    bin_x, bin_y = _bin_size(size_x, pooled_width), _bin_size(size_y, pooled_height)
    lower = _compared(tl.full((), RULE.first_coordinate, T))
    border_x, border_y = _number(border_x, lower.dtype), _number(border_y, lower.dtype)
    cells = images.to(keys.dtype.element_ty) * height * width
    start_of_y, start_of_x = _start_of_bin(start_y, bin_y, p), _start_of_bin(start_x, bin_x, q)
    for i in tl.static_range(GRID):
        y = start_of_y + _unrolled_offset(bin_y, i, GRID)
        inside_y = (_compared(y) >= lower) & (_compared(y) <= border_y) & (image >= 0)
        y_low, y_high, of_y_low, of_y_high = _neighbours(y, inside_y, height)
        for j in tl.static_range(GRID):
            x = start_of_x + _unrolled_offset(bin_x, j, GRID)
            inside_x = (_compared(x) >= lower) & (_compared(x) <= border_x)
            x_low, x_high, of_x_low, of_x_high = _neighbours(x, inside_x, width)
            inside = inside_y & inside_x
            at = tl.where(is_row, bin_of_row * (4 * GRID * GRID) + 4 * (i * GRID + j), -4)
            _store_term(keys, weights, at, y_low, x_low, of_y_low * of_x_low, image, inside, height, width, cells)
            _store_term(keys, weights, at + 1, y_low, x_high, of_y_low * of_x_high, image, inside, height, width, cells)
            _store_term(keys, weights, at + 2, y_high, x_low, of_y_high * of_x_low, image, inside, height, width, cells)
            _store_term(
                keys, weights, at + 3, y_high, x_high, of_y_high * of_x_high, image, inside, height, width, cells
            )


@triton.jit(do_not_specialize=["pooled_height", "pooled_width"])
def _transpose(
    of_output,
    of_bins,
    stride_row,
    stride_channel,
    stride_y,
    stride_x,
    channels,
    pooled_height,
    pooled_width,
    CHANNELS: tl.constexpr,
    BINS: tl.constexpr,
):
    """Copy some channels and bins of a row from (rows, C, pooled_height, pooled_width) to (rows * bins, C)."""
    bins = pooled_height * pooled_width
    blocks = tl.cdiv(bins, BINS)
    channel_blocks = tl.cdiv(channels, CHANNELS)
    task = tl.program_id(0)
    row = (task // blocks // channel_blocks).to(tl.int64)
    c = (task // blocks % channel_blocks * CHANNELS + tl.arange(0, CHANNELS))[:, None].to(tl.int64)
    b = (task % blocks * BINS + tl.arange(0, BINS))[None, :]
    is_there = (c < channels) & (b < bins)
    at = row * stride_row + c * stride_channel + (b // pooled_width) * stride_y + (b % pooled_width) * stride_x
    tl.store(of_bins + (row * bins + b) * channels + c, tl.load(of_output + at, is_there), is_there)


@triton.jit
def _term(of_bin, weight, divisor, INVERSE: tl.constexpr):
    """Return a weighted share of the gradient of a bin."""
    term = of_bin * weight
    return term * tl.full((), INVERSE, term.dtype) if INVERSE != 0 else _divide(term, divisor)


@triton.jit(do_not_specialize=["cells", "cells_of_image", *_NUMBERS])
def _add_terms(
    of_bins,
    terms,
    weights,
    first_terms,
    of_features,
    channels,
    cells,
    cells_of_image,
    scale,
    samples,
    count,
    border_y,
    border_x,
    GRID: tl.constexpr,
    INVERSE: tl.constexpr,
    IS_FIRST: tl.constexpr,
    AT_ONCE: tl.constexpr,
    CHANNELS: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Add up the terms of some cells and channels, each cell's in the order in which they are listed."""
    T: tl.constexpr = of_features.dtype.element_ty
    channel_blocks = tl.cdiv(channels, CHANNELS)
    task = tl.program_id(0).to(tl.int64)
    cell = task // channel_blocks * CELLS + tl.arange(0, CELLS)
    c = (task % channel_blocks * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    is_cell = cell < cells
    first = tl.load(first_terms + cell, is_cell, other=0)
    end = tl.load(first_terms + cell + 1, is_cell, other=0)
    most = tl.max(end - first, 0)
    cell = cell[:, None]
    at = (cell // cells_of_image * channels + c) * cells_of_image + cell % cells_of_image
    is_there = (cell < cells) & (c < channels)
    if IS_FIRST:
        total = tl.zeros([CELLS, CHANNELS], T)
    else:
        is_there = is_there & (c < tl.where(most > 0, channels, 0))
        total = tl.load(of_features + at, is_there, other=0)
    divisor = _number(count, T)
    for first_number in range(0, most, AT_ONCE):
        for offset in tl.static_range(AT_ONCE):
            number = first_number + offset
            is_term = number < end - first
            term = tl.load(terms + first + number, is_term, other=0)
            weight = tl.load(weights + term, is_term, other=0)
            of_bin = tl.load(
                of_bins + (term // (4 * GRID * GRID))[:, None] * channels + c,
                is_term[:, None] & (c < channels),
                other=0,
            )
            total += _term(of_bin, weight[:, None], divisor, INVERSE)
    tl.store(of_features + at, total, is_there)


@triton.jit(do_not_specialize=[*_SIZES, *_NUMBERS])
def _add_tiles(
    of_output,
    rois,
    of_features,
    stride_row,
    stride_channel,
    stride_y,
    stride_x,
    channels,
    images,
    height,
    width,
    pooled_height,
    pooled_width,
    rows,
    scale,
    samples,
    count,
    border_y,
    border_x,
    RULE: tl.constexpr,
    INVERSE: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILE_HEIGHT: tl.constexpr,
    TILE_WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Add up the gradient of the cells of a tile, in some channels, going through all rows."""
    T: tl.constexpr = of_features.dtype.element_ty
    tiles_x, tiles_y = tl.cdiv(width, TILE_WIDTH), tl.cdiv(height, TILE_HEIGHT)
    channel_blocks = tl.cdiv(channels, CHANNELS)
    task = tl.program_id(0)
    c = (task % channel_blocks * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    left = task // channel_blocks % tiles_x * TILE_WIDTH
    top = task // channel_blocks // tiles_x % tiles_y * TILE_HEIGHT
    own_image = task // channel_blocks // tiles_x // tiles_y
    lane = tl.arange(0, TILE_HEIGHT * TILE_WIDTH)[:, None]
    cell_y, cell_x = top + lane // TILE_WIDTH, left + lane % TILE_WIDTH
    if WIDE:
        c, cell_y, cell_x = c.to(tl.int64), cell_y.to(tl.int64), cell_x.to(tl.int64)
    # Where samples lie that the tile has a part of, and maybe some more.
    C: tl.constexpr = _compared(tl.full((), 0.0, T)).dtype
    first_coordinate = tl.full((), RULE.first_coordinate, C)
    lower_y, lower_x = tl.maximum((top - 1).to(C), first_coordinate), tl.maximum((left - 1).to(C), first_coordinate)
    upper_y = tl.where(top + TILE_HEIGHT < height, (top + TILE_HEIGHT).to(C), _number(border_y, C))
    upper_x = tl.where(left + TILE_WIDTH < width, (left + TILE_WIDTH).to(C), _number(border_x, C))
    upper_y, upper_x = tl.minimum(upper_y, _number(border_y, C)), tl.minimum(upper_x, _number(border_x, C))
    total = tl.zeros([TILE_HEIGHT * TILE_WIDTH, CHANNELS], T)
    for first_row in range(0, rows, ROWS):
        candidates = first_row + tl.arange(0, ROWS)
        image, box_x, box_y, box_width, box_height = _boxes(rois, candidates, candidates < rows, images, scale, RULE)
        touches_x = _touches(box_x, box_width, samples, pooled_width, lower_x, upper_x, RULE)
        touches_y = _touches(box_y, box_height, samples, pooled_height, lower_y, upper_y, RULE)
        touching = tl.where((image == own_image) & touches_x & touches_y, candidates, rows)
        row = tl.min(touching, 0)
        while row < rows:
            _, start_x, start_y, size_x, size_y = _boxes(rois, row, row < rows, images, scale, RULE)
            bin_x, bin_y = _bin_size(size_x, pooled_width), _bin_size(size_y, pooled_height)
            grid_x, grid_y = _grid(bin_x, samples, RULE), _grid(bin_y, samples, RULE)
            divisor = _count(grid_x, grid_y, samples, count, RULE, T)
            zero = row * 0  # makes numbers of the interpreter's loops the tensors that they are to the compiler
            for number_p in range(pooled_height):
                p = zero + number_p
                first_y = _first(start_y, bin_y, p, grid_y, lower_y, upper_y, False)
                end_y = _first(start_y, bin_y, p, grid_y, lower_y, upper_y, True)
                for number_q in range(tl.where(first_y < end_y, pooled_width, 0)):
                    q = zero + number_q
                    first_x = _first(start_x, bin_x, q, grid_x, lower_x, upper_x, False)
                    end_x = _first(start_x, bin_x, q, grid_x, lower_x, upper_x, True)
                    of_bin = tl.load(
                        of_output + (row.to(tl.int64) * stride_row + p * stride_y + q * stride_x) + c * stride_channel,
                        c < tl.where(first_x < end_x, channels, 0),
                        other=0,
                    )
                    for i in range(first_y, tl.where(first_x < end_x, end_y, first_y)):
                        y = _start_of_bin(start_y, bin_y, p) + _offset(bin_y, zero + i, grid_y)
                        y_low, y_high, of_y_low, of_y_high = _neighbours(y, y == y, height)
                        is_y_low, is_y_high = cell_y == y_low, cell_y == y_high
                        for j in range(first_x, end_x):
                            x = _start_of_bin(start_x, bin_x, q) + _offset(bin_x, zero + j, grid_x)
                            x_low, x_high, of_x_low, of_x_high = _neighbours(x, x == x, width)
                            is_x_low, is_x_high = cell_x == x_low, cell_x == x_high
                            term = _term(of_bin, of_y_low * of_x_low, divisor, INVERSE)
                            total = tl.where(is_y_low & is_x_low, total + term, total)
                            term = _term(of_bin, of_y_low * of_x_high, divisor, INVERSE)
                            total = tl.where(is_y_low & is_x_high, total + term, total)
                            term = _term(of_bin, of_y_high * of_x_low, divisor, INVERSE)
                            total = tl.where(is_y_high & is_x_low, total + term, total)
                            term = _term(of_bin, of_y_high * of_x_high, divisor, INVERSE)
                            total = tl.where(is_y_high & is_x_high, total + term, total)
            touching = tl.where(touching == row, rows, touching)
            row = tl.min(touching, 0)
    planes = of_features + own_image.to(tl.int64) * channels * height * width
    is_there = (cell_y < height) & (cell_x < width) & (c < channels)
    tl.store(planes + (c * height + cell_y) * width + cell_x, total, is_there)


@triton.jit
def _touches(start, size, samples, pooled, lower, upper, RULE: tl.constexpr):
    """Return whether boxes may have samples from ``lower`` to ``upper``: what is NaN counts as if it did."""
    bin_size = _bin_size(size, pooled)
    grid = _grid(bin_size, samples, RULE)
    one = _compared(_start_of_bin(start, bin_size, 0 * grid) + _offset(bin_size, 0 * grid, grid))
    other = _compared(_start_of_bin(start, bin_size, 0 * grid + (pooled - 1)) + _offset(bin_size, grid - 1, grid))
    is_beside = ((one < lower) & (other < lower)) | ((one > upper) & (other > upper))
    return (is_beside == 0) & (grid > 0)


# Under TRITON_INTERPRET=1 kernels are Python functions, which know no such options.
_OPTIONS = {"enable_fp_fusion": False, "sanitize_overflow": False} if isinstance(_pool, triton.JITFunction) else {}
