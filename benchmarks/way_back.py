"""What ms2torch_roi.roi_align costs over the bare MindSpore call, measured in pairs in one process, in PyNative mode.

1,000 rois of (2, 256, 50, 76) features, 7 x 7 bins, a stride of 16, 2 x 2 samples or adaptive grids; the bare call is
``mindspore.ops.ROIAlign`` in mode 0 on the same rois (with 2 x 2 samples: it has no grids as torchvision's). Each pair
times both calls, one after the other, in turns as to which comes first; what counts is the median of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import ms2torch_roi
from ms2torch_roi.parity import operators

SCALE, POOLED = 1 / 16, 7


def random_rois(count: int, below_one_cell: float) -> np.ndarray:
    """Return boxes of 16 to 316 pixels, of which a share is smaller than one feature cell instead."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1, (count, 2)) * (1000, 600)
    size = rng.uniform(16, 316, (count, 2))
    small = rng.uniform(size=count) < below_one_cell
    size[small] = rng.uniform(0, 14, (small.sum(), 2))
    return np.concatenate((rng.integers(0, 2, (count, 1)), corner, corner + size), axis=1)


def seconds(call: Callable[[], Any]) -> float:
    """Time one call and the reading of its result."""
    start = time.perf_counter()
    call().asnumpy()
    return time.perf_counter() - start


def compare(
    ours: Callable[[], Any], bare: Callable[[], Any], exact: bool, pairs: int
) -> tuple[list[float], list[float]]:
    """Return the milliseconds of the bare call, and the ratios of ours to it; equal outputs are wanted if ``exact``."""
    if exact and not np.array_equal(ours().asnumpy(), bare().asnumpy()):
        raise SystemExit("the outputs differ: there is nothing to time")
    milliseconds, ratios = [], []
    for pair in range(pairs):
        times = {call: seconds(call) for call in ((ours, bare) if pair % 2 else (bare, ours))}
        milliseconds.append(times[bare] * 1e3)
        ratios.append(times[ours] / times[bare])
    return milliseconds, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="pairs of calls (default: %(default)s)")
    pairs = parser.parse_args().pairs
    ms = operators.import_mindspore()
    bare = ms.ops.ROIAlign(POOLED, POOLED, SCALE, 2, 0)
    print(f"MindSpore {ms.__version__}, {pairs} pairs")
    print(f"{'dtype':<10}{'rois below one cell':<22}{'samples':<10}{'aligned':<9}{'bare':>10}{'ratio: median':>15}")
    for dtype in (np.float32, np.float16):
        features = ms.Tensor(np.random.default_rng(0).standard_normal((2, 256, 50, 76)).astype(dtype))
        for share, samples, aligned in ((0, 2, False), (0, 2, True), (0.4, 2, True), (0, -1, False)):
            rois = ms.Tensor(random_rois(1000, share).astype(dtype))
            op = ms2torch_roi.RoIAlign(POOLED, SCALE, samples, aligned)
            exact = samples == 2 and not aligned
            milliseconds, ratios = compare(partial(op, features, rois), partial(bare, features, rois), exact, pairs)
            row = f"{np.dtype(dtype).name:<10}{share:<22}{samples:<10}{aligned!s:<9}"
            figures = f"{statistics.median(ratios):>15.3f}{min(ratios):>8.3f}{max(ratios):>8.3f}"
            print(f"{row}{statistics.median(milliseconds):>7.0f} ms{figures}", flush=True)


if __name__ == "__main__":
    main()
