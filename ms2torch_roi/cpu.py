"""ROIAlign on a CPU: torch's and torchvision's kernels, given as much at a time as the caches hold, on all threads.

There are two ways to pool, ``pool`` with MindSpore's bits and ``pool_fast`` in another order of summation, and a
``gradient`` for either. Where the samples lie is the business of ``boxes.py`` and ``sampling.py``.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import embedding_bag
from torchvision.ops import roi_align

from . import boxes as _boxes
from . import sampling
from .boxes import FeatureBoxes, TorchvisionCall
from .sampling import AxisTerms
from .threads import run

NDArray = npt.NDArray[Any]
Pooled = tuple[int, int]

# ``pool`` works in blocks of ``sampling.BLOCK_VALUES`` values or less: a thread gets at least 20, so that what it holds
# is 5 % of its part of the output.
BLOCKS_OF_A_THREAD = 20

# Values of the output that are worth a thread, and worth blocks where there is one thread only.
VALUES_OF_A_THREAD = 2**19
VALUES_OF_BLOCKS_ON_ONE_THREAD = 2**23

# The features of such a block, some channels of an image, have so many values, which stay in the cache. The fewer the
# channels, the more often torchvision computes the same positions and weights, so there are so many at least.
FEATURES_OF_A_BLOCK = 2**20
CHANNELS_OF_A_BLOCK = 32

# Its boxes are neighbours: from left to right in bands of so many cells.
BAND = 32

# Values that torch's own operators get at a time: enough for all threads, and little enough for the last cache.
VALUES_AT_ONCE = 2**20

# From so many bytes on NumPy asks the system for huge pages, but torch does not. Where that fails, pages are small.
_HUGE = 2**22
_MADVISE: Callable[[int, int, int], int] | None = None
if sys.platform == "linux":
    _MADVISE = ctypes.CDLL(None).madvise
    _MADVISE.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

# Channels whose gradient is added up at a time: enough to make little of the cost of a term, and of the memory.
CHANNELS_AT_ONCE = 128


def pool(
    features: torch.Tensor, feature_boxes: FeatureBoxes, zero: NDArray, pooled: Pooled, sample_num: int
) -> torch.Tensor:
    """Pool each row by the call that samples exactly where MindSpore does, or without torchvision if there is none.

    Args:
        features: (N, C, H, W), on any device.
        feature_boxes: K boxes in NumPy, by MindSpore's rule, whose index is in ``[0, N - 1]``.
        zero: (K,) bool, rows that pool to 0 whatever their box.
        pooled: number of bins, ``(height, width)``.
        sample_num: samples along each axis of a bin, adaptive if 0 or less.
    """
    _, channels, height, width = features.shape
    if _first_pixels_are_finite(features) and _boxes.rounds_alike(
        feature_boxes[0].dtype, height, width, *pooled, sample_num
    ):
        calls, sampled = _boxes.torchvision_calls(feature_boxes, zero, *pooled, sample_num)
    else:
        calls, sampled = [], np.flatnonzero(~zero)
    values = len(zero) * channels * pooled[0] * pooled[1]
    threads = _threads(values) if features.device.type == "cpu" else 0
    if threads == 0 and calls and len(calls[0].rows) == len(zero):
        return _call(features, calls[0].boxes, pooled, calls[0])

    output = _empty((len(zero), channels, *pooled), features)
    in_no_part = np.ones(len(zero), bool)
    for rows in (sampled, *(call.rows for call in calls)):
        in_no_part[rows] = False
    if in_no_part.any():
        output[torch.from_numpy(in_no_part)] = 0

    def pool_block(
        features: torch.Tensor, channels: slice, rows: NDArray, boxes: NDArray, call: TorchvisionCall
    ) -> None:
        with torch.inference_mode():  # without torchvision's autograd in Python, which costs as much as a small block
            _store(_call(features, boxes, pooled, call), output, rows, channels)

    def pool_sampled() -> None:
        ops = sampling.ArrayOps(
            take=lambda table, rows, out: torch.index_select(table, 0, rows, out=out),
            contiguous=torch.Tensor.contiguous,
            lift=lambda array: torch.from_numpy(array).to(features.device),
            where=torch.where,
        )
        with torch.inference_mode(), np.errstate(all="ignore"):  # of which each thread has its own
            parts = sampling.pool_as_mindspore(features, feature_boxes, sampled, pooled, sample_num, ops)
            for rows, channels, values in parts:
                _store(values, output, rows, channels)

    tasks: list[Callable[[], None]] = []
    if len(sampled):
        tasks.append(pool_sampled)
    if threads:
        features = features.contiguous()
    for call in calls:
        if threads:
            blocks = _blocks(features, call, pooled, values // (BLOCKS_OF_A_THREAD * threads))
            tasks.extend(functools.partial(pool_block, *block, call) for block in blocks)
        else:
            tasks.append(functools.partial(pool_block, features, slice(None), call.rows, call.boxes, call))
    run(tasks, threads)
    return output


def _threads(values: int) -> int:
    """Return on how many threads to pool so many values in blocks, or 0 to do without blocks."""
    threads = min(torch.get_num_threads(), values // VALUES_OF_A_THREAD)
    return threads if threads > 1 or values >= VALUES_OF_BLOCKS_ON_ONE_THREAD else 0


def pool_fast(
    features: torch.Tensor, feature_boxes: FeatureBoxes, zero: NDArray, pooled: Pooled, sample_num: int
) -> torch.Tensor:
    """Pool as ``pool``, but sum in another order: each bin is a weighted bag of the cells in a table of all images.

    Channels are the columns of the table, so that a cell is one piece of memory. It is a copy of the features unless
    they are channels_last; then so is the output.
    """
    features = features.detach()
    channels = features.shape[1]
    table = features.permute(0, 2, 3, 1)
    if table.is_contiguous() and not features.is_contiguous():
        output = _empty((len(zero), *pooled, channels), features).permute(0, 3, 1, 2)
    else:
        output = _empty((len(zero), channels, *pooled), features)
    if not table.is_contiguous():
        table = _empty(table.shape, features).copy_(table)
    table = table.view(-1, channels)
    rows_at_once = VALUES_AT_ONCE // (channels * pooled[0] * pooled[1])
    for bags in _bags(features.shape, feature_boxes, zero, pooled, sample_num, rows_at_once):
        starts = bags.lengths.cumsum(0, dtype=torch.int32) - bags.lengths
        values = embedding_bag(bags.cells, table, starts, mode="sum", per_sample_weights=bags.weights)
        values = values.view(len(bags.counts), -1, pooled[1], channels)
        part = output[bags.rows, :, bags.bin_rows].permute(0, 2, 3, 1)
        torch.div(values, bags.counts[:, None, None, None], out=part)
    return output


def gradient(
    of_output: torch.Tensor,
    shape: tuple[int, int, int, int],
    feature_boxes: FeatureBoxes,
    zero: NDArray,
    pooled: Pooled,
    sample_num: int,
    *,
    exact: bool,
) -> torch.Tensor:
    """Return the gradient for the features of this shape, added up in the order of MindSpore's kernel if ``exact``.

    Terms are sorted by cell, and some channels of some cells at a time get all of theirs.
    """
    images, channels, height, width = shape
    if not len(zero):
        return of_output.new_zeros(shape)
    area = height * width
    result = _empty(shape, of_output)
    of_features = result.view(images, channels, area)
    step = min(channels, CHANNELS_AT_ONCE)
    cells_at_once = max(1, VALUES_AT_ONCE // step)
    parts = [(image, cell) for image in range(images) for cell in range(0, area, cells_at_once)]
    first_cells = [image * area + cell for image, cell in parts]
    started = False
    for bags in _bags(shape, feature_boxes, zero, pooled, sample_num, len(zero)):
        cells, order = bags.cells.sort(stable=True)
        bins, weights = torch.repeat_interleave(bags.lengths)[order], bags.weights[order]
        counts = bags.counts.repeat_interleave(len(bags.lengths) // len(bags.counts))[bins]
        starts = torch.searchsorted(cells, torch.tensor(first_cells, dtype=torch.int32)).tolist()
        memory = _empty((len(bags.lengths) * step,), of_output)
        for channel in range(0, channels, step):
            some = slice(channel, channel + step)
            of_some = of_output[bags.rows, some, bags.bin_rows].permute(0, 2, 3, 1)
            of_bins = memory[: of_some.numel()].view(of_some.shape).copy_(of_some).view(-1, of_some.shape[3])
            for (image, cell), first_cell, start, end in zip(
                parts, first_cells, starts, [*starts[1:], len(cells)], strict=True
            ):
                if started and start == end:
                    continue
                part = of_features[image, some, cell : cell + cells_at_once]
                of_cells = part.t().contiguous() if started else of_output.new_zeros(part.shape[::-1])
                terms = cells[start:end] - first_cell, bins[start:end], weights[start:end], counts[start:end]
                _add(of_cells, of_bins, *terms, exact=exact)
                part.copy_(of_cells.t())
        started = True
    return result


def _add(
    of_cells: torch.Tensor,
    of_bins: torch.Tensor,
    cells: torch.Tensor,
    bins: torch.Tensor,
    weights: torch.Tensor,
    counts: torch.Tensor,
    *,
    exact: bool,
) -> None:
    """Add ``of_bins[bins] * weights / counts`` to the ``cells``, in their order, one after the other if ``exact``."""
    if not exact:
        starts = torch.searchsorted(cells, torch.arange(len(of_cells), dtype=cells.dtype))
        of_cells += embedding_bag(bins, of_bins, starts, mode="sum", per_sample_weights=weights / counts)
        return
    at_once = max(1, VALUES_AT_ONCE // of_cells.shape[1])
    terms = (torch.split(tensor.to(of_cells.device), at_once) for tensor in (cells, bins, weights, counts))
    for some_cells, some_bins, some_weights, some_counts in zip(*terms, strict=True):
        values = of_bins.index_select(0, some_bins).mul_(some_weights[:, None]).div_(some_counts[:, None])
        if values.dtype == torch.float16:  # index_add_ would add these up in float32
            of_cells.index_put_((some_cells.long(),), values, accumulate=True)
        else:
            of_cells.index_add_(0, some_cells, values)


class _Bags(NamedTuple):
    """The terms of all bins of some rows, or of some rows of their bins, bin by bin; see ``sampling.AxisTerms``."""

    rows: slice
    bin_rows: slice
    counts: torch.Tensor  # for each row
    lengths: torch.Tensor  # numbers of terms, for each bin
    cells: torch.Tensor
    weights: torch.Tensor


def _bags(
    shape: Sequence[int],
    feature_boxes: FeatureBoxes,
    zero: NDArray,
    pooled: Pooled,
    sample_num: int,
    rows_at_once: int,
) -> Iterator[_Bags]:
    """Yield the bins of all K rows, so many rows at a time, and fewer if they have more than ``sampling.TERMS``."""
    for first, all_counts, *axes in sampling.terms_as_mindspore(shape, feature_boxes, zero, pooled, sample_num):
        all_y, all_x = (AxisTerms(*map(torch.from_numpy, axis)) for axis in axes)
        of_bin_row = len(all_counts) * pooled[1] * all_y.cells.shape[2] * all_x.cells.shape[2]
        row_step, bin_row_step = max(1, rows_at_once), max(1, sampling.TERMS // of_bin_row)
        for row, bin_row in itertools.product(range(0, len(all_counts), row_step), range(0, pooled[0], bin_row_step)):
            rows, bin_rows = slice(row, row + row_step), slice(bin_row, bin_row + bin_row_step)
            counts = torch.from_numpy(all_counts[rows])
            y = AxisTerms(*(array[rows, bin_rows, None, :, None] for array in all_y))
            x = AxisTerms(*(array[rows, None, :, None, :] for array in all_x))
            lengths = (y.exist.sum(3, dtype=torch.int32) * x.exist.sum(4, dtype=torch.int32)).view(-1)
            cells, weights = (y.cells + x.cells).view(-1), (y.weights * x.weights).view(-1)
            if lengths.sum() < len(cells):
                exist = torch.from_numpy(np.flatnonzero((y.exist & x.exist).numpy()))
                cells, weights = cells.index_select(0, exist), weights.index_select(0, exist)
            yield _Bags(slice(first + row, first + row + len(counts)), bin_rows, counts, lengths, cells, weights)


def _blocks(
    features: torch.Tensor, call: TorchvisionCall, pooled: Pooled, values: int
) -> Iterator[tuple[torch.Tensor, slice, NDArray, NDArray]]:
    """Cut a call into blocks of some channels and neighbouring boxes, which use the same part of the features.

    Args:
        features: contiguous.
        call: what to cut.
        pooled: number of bins.
        values: at most so many in a block of several bins, and no more than ``sampling.BLOCK_VALUES``.

    Yields:
        ``(part of the features, channels, rows, boxes)``, the last two of the output.
    """
    bins, (_, channels, height, width) = pooled[0] * pooled[1], features.shape
    order = np.lexsort((call.boxes[:, 1], call.boxes[:, 2] // BAND, call.boxes[:, 0]))
    rows, boxes = call.rows[order], call.boxes[order]
    images, starts = np.unique(boxes[:, 0], return_index=True)
    boxes[:, 0] = 0
    rows_of_block = max(1, min(sampling.BLOCK_VALUES, values) // bins)  # of one channel
    for image, first, last in zip(images.astype(int).tolist(), starts, [*starts[1:], len(rows)], strict=True):
        enough = max(CHANNELS_OF_A_BLOCK, FEATURES_OF_A_BLOCK // (height * width), rows_of_block // (last - first))
        step = min(channels, rows_of_block, enough)
        for channel in range(0, channels, step):
            some = slice(channel, channel + step)
            part_of_features = features[image : image + 1, some]
            for row in range(first, last, rows_of_block // step):
                part = slice(row, min(row + rows_of_block // step, last))
                yield part_of_features, some, rows[part], boxes[part]


def _first_pixels_are_finite(features: torch.Tensor) -> bool:
    """Tell whether torchvision adds 0 for samples outside the image: it adds 0 * the first pixel, which can be NaN."""
    if features.device.type != "cpu":
        features = features[:, :, :1, :1].cpu()
    return bool(np.isfinite(features.detach().resolve_neg().numpy()[:, :, 0, 0]).all())


def _call(features: torch.Tensor, boxes: NDArray, pooled: Pooled, call: TorchvisionCall) -> torch.Tensor:
    tensor = torch.from_numpy(boxes)
    if features.device.type != "cpu":
        tensor = tensor.to(features.device)
    values: torch.Tensor = roi_align(features, tensor, pooled, 1.0, call.sampling_ratio, call.aligned)
    return values


def _store(values: torch.Tensor, output: torch.Tensor, rows: NDArray, channels: slice) -> None:
    if output.device.type == "cpu":
        _as_numpy(output)[rows, channels] = values.numpy()  # torch would wake its threads for more than a few values
    else:
        output[torch.from_numpy(rows).to(output.device), channels] = values


def _as_numpy(tensor: torch.Tensor) -> NDArray:
    """Return an array in the memory of a float16, float32 or float64 tensor; ``numpy()`` would forbid to resize it."""
    itemsize = tensor.element_size()
    dtype = np.dtype(f"f{itemsize}")
    if not tensor.numel():  # it has no address
        return np.empty(tensor.shape, dtype)
    holder = types.SimpleNamespace(
        tensor=tensor,
        __array_interface__={
            "version": 3,
            "data": (tensor.data_ptr(), False),
            "typestr": dtype.str,
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * itemsize for stride in tensor.stride()),
        },
    )
    return np.asarray(holder)


def _empty(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Return a tensor to fill. On Linux it asks for huge pages, which are filled in a quarter of the time."""
    output = like.new_empty(shape)
    if _MADVISE is not None and output.device.type == "cpu" and output.nbytes >= _HUGE:
        skipped = -output.data_ptr() % mmap.PAGESIZE
        _MADVISE(output.data_ptr() + skipped, output.nbytes - skipped, mmap.MADV_HUGEPAGE)
    return output
