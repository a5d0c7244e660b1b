"""What ms2torch_roi.ROIAlign costs over the bare torchvision call, measured in pairs in one process.

1,000 rois of (2, 256, 50, 76) features, 7 x 7 bins of 2 x 2 samples, a stride of 16. Each pair times both calls, one
after the other, in turns as to which comes first; what counts is the median of the ratios. The outputs are compared
before anything is timed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torchvision.ops import roi_align

from ms2torch_roi import ROIAlign

SCALE, POOLED, SAMPLES = 1 / 16, 7, 2


def random_rois(count: int, below_one_cell: float) -> torch.Tensor:
    """Return boxes of 16 to 316 pixels, of which a share is smaller than one feature cell instead."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([1000.0, 600.0])
    size = 16 + 300 * torch.rand(count, 2, generator=generator)
    small = torch.rand(count, generator=generator) < below_one_cell
    size[small] = 14 * torch.rand(int(small.sum()), 2, generator=generator)
    index = torch.randint(0, 2, (count, 1), generator=generator)
    return torch.cat((index, corner, corner + size), 1)


def seconds(call: Callable[[], torch.Tensor]) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(features: torch.Tensor, rois: torch.Tensor, mode: int, pairs: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds of the bare call, and the ratios of ours to it."""
    op = ROIAlign(POOLED, POOLED, SCALE, SAMPLES, mode)
    moved = torch.cat((rois[:, :3], rois[:, 3:] + mode), 1)

    def ours() -> torch.Tensor:
        return op(features, rois)

    def bare() -> torch.Tensor:
        result: torch.Tensor = roi_align(features, moved, POOLED, SCALE, SAMPLES)
        return result

    large = ((moved[:, 3:] - moved[:, 1:3]) * SCALE >= 1).all(1) | (mode == 0)
    if not torch.equal(ours()[large], bare()[large]):
        raise SystemExit("the outputs differ: there is nothing to time")
    milliseconds, ratios = [], []
    for pair in range(pairs):
        times = {call: seconds(call) for call in ((ours, bare) if pair % 2 else (bare, ours))}
        milliseconds.append(times[bare] * 1e3)
        ratios.append(times[ours] / times[bare])
    return milliseconds, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15, help="pairs of calls (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="(default: %(default)s)")
    options = parser.parse_args()
    pairs, dtype = options.pairs, getattr(torch, options.dtype)
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.machine()}"
    print(f"{versions}, {options.dtype}, {pairs} pairs")
    print(f"{'rois':<28}{'mode':<6}{'bare torchvision':>18}{'ratio: median':>16}{'min':>8}{'max':>8}")
    features = torch.randn(2, 256, 50, 76, generator=torch.Generator().manual_seed(0)).to(dtype)
    for name, share in {"1000": 0.0, "1000, 5 % below one cell": 0.05, "1000, 40 % below one cell": 0.4}.items():
        for mode in (0, 1):
            milliseconds, ratios = compare(features, random_rois(1000, share).to(dtype), mode, pairs)
            figures = f"{statistics.median(ratios):>16.3f}{min(ratios):>8.3f}{max(ratios):>8.3f}"
            print(f"{name:<28}{mode:<6}{statistics.median(milliseconds):>15.0f} ms{figures}", flush=True)


if __name__ == "__main__":
    main()
