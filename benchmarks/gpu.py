"""The engine of a GPU beside torchvision's kernels: time, launches, and with ``--bits`` its values beside the CPU's.

    python benchmarks/gpu.py           # one table, in under three minutes on a card
    python benchmarks/gpu.py --bits    # the bits of the engine of a CPU, on 10 million values at least
    python benchmarks/gpu.py --tune    # times of other sizes of blocks

A section that fails says why, the others go on, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import roi_align

from ms2torch_roi import rules

if torch.cuda.is_available():
    from ms2torch_roi.torch import cuda

NDArray = npt.NDArray[Any]
Call = Callable[[], Any]

RULE = rules.MINDSPORE[1]

# Seconds after which the deterministic gradient of torchvision, which torch compiles, is left out.
ENOUGH_SECONDS = 100


@dataclass(frozen=True)
class Shape:
    """Calls of the table: features (images, 256, height, width) at a scale, and square numbers of bins of rois."""

    images: int
    height: int
    width: int
    stride: int
    rois: int
    pooled: int
    samples: int = 2
    channels: int = 256

    def __str__(self) -> str:
        features = f"({self.images}, {self.channels}, {self.height}, {self.width})"
        return f"{features} 1/{self.stride}, {self.rois} rois, {self.pooled} x {self.pooled} bins"

    def tensors(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features and rois of at least one cell, which both libraries sample alike; the same ones each time."""
        generator = torch.Generator("cuda").manual_seed(0)
        size = self.images, self.channels, self.height, self.width
        features = torch.randn(size, generator=generator, device="cuda", dtype=dtype)
        rng = np.random.default_rng(0)
        ends = np.array([self.width, self.height]) * self.stride
        start = rng.uniform(0, 0.9, (self.rois, 2)) * ends
        sides = np.exp(rng.uniform(np.log(2 * self.stride), np.log(40 * self.stride), (self.rois, 2)))
        rois = np.hstack(
            (np.sort(rng.integers(0, self.images, (self.rois, 1)), 0), start, (start + sides).clip(0, ends))
        )
        return features, torch.from_numpy(rois).to("cuda", dtype)


SHAPES = (
    Shape(2, 200, 304, 4, 1000, 7),
    Shape(2, 50, 76, 16, 1000, 7),
    Shape(2, 200, 304, 4, 200, 14),
    Shape(8, 200, 304, 4, 4096, 7),
)


class Sections:
    """Runs parts of the benchmark, each whatever became of the others."""

    def __init__(self) -> None:
        self.have_failed = False

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        try:
            yield
            torch.cuda.synchronize()
        except Exception:
            self.have_failed = True
            print(f"\n{name} failed:\n{traceback.format_exc()}", flush=True)


section = Sections()


def milliseconds(call: Call, seconds: float = 0.15, smallest_number: int = 10) -> float:
    """Return the median time of a call on the device, once it has been compiled and the device is warm."""
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    started = time.perf_counter()
    while len(events) < smallest_number or (time.perf_counter() - started < seconds and len(events) < 200):
        pair = _event(), _event()
        pair[0].record()
        call()
        pair[1].record()
        pair[1].synchronize()
        events.append(pair)
    median: float = statistics.median(begin.elapsed_time(end) for begin, end in events)
    return median


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def kernels(call: Call) -> dict[str, tuple[int, float]]:
    """Return how often each kernel is launched by a call, and its milliseconds."""
    call()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    found: dict[str, tuple[int, float]] = {}
    for event in profile.events():
        if event.device_type.name == "CUDA":
            number, spent = found.get(event.name, (0, 0.0))
            found[event.name] = number + 1, spent + event.device_time / 1000
    return found


def launches(call: Call) -> int:
    return sum(number for number, _ in kernels(call).values())


def bandwidth() -> float:
    """Return the bytes that a copy on the device reads and writes, per millisecond."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / milliseconds(lambda: target.copy_(source))


def torchvision_boxes(rois: torch.Tensor) -> torch.Tensor:
    """Return the boxes that torchvision's ``aligned=False`` samples as mode 1 does."""
    boxes = rois.clone()
    boxes[:, 3:] += 1
    return boxes


@dataclass(frozen=True)
class Calls:
    """The two contenders, on the same tensors."""

    ours: Call
    torchvision: Call
    our_gradient: Call
    torchvision_gradient: Call


def calls(shape: Shape, dtype: torch.dtype, channels_last: bool = False, rule: rules.Rule = RULE) -> Calls:
    features, rois = shape.tensors(dtype)
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    boxes = torchvision_boxes(rois) if rule == RULE else rois
    pooled, scale = (shape.pooled, shape.pooled), 1 / shape.stride
    output = cuda.pool(features, rois, rule, pooled, scale, shape.samples)
    of_output = torch.randn_like(output)
    backward = torch.ops.torchvision._roi_align_backward
    return Calls(
        lambda: cuda.pool(features, rois, rule, pooled, scale, shape.samples),
        lambda: roi_align(features, boxes, pooled, scale, shape.samples, False),
        lambda: cuda.gradient(of_output, rois, rule, features.shape, scale, shape.samples),
        lambda: backward(of_output, boxes, scale, *pooled, *features.shape, shape.samples, False),
    )


COLUMNS = (
    "call",
    "dtype",
    "limit",
    "torchvision",
    "ours",
    "ratio",
    "torchvision, channels_last",
    "ours, channels_last",
    "ratio, channels_last",
    "gradient: torchvision",
    "gradient: ours",
    "gradient: ratio",
)


def table() -> None:
    """Print times in milliseconds, on contiguous features unless it says otherwise."""
    speed = bandwidth()
    print(
        f"Copying device memory: {speed / 1e9:.2f} TB/s, bytes read and written; the limit is a copy of all values.\n"
    )
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS))
    for shape, dtype in itertools.product(SHAPES, (torch.float32, torch.float16)):
        with section(f"{shape}, {dtype}"):
            values = shape.images * shape.channels * shape.height * shape.width
            values += shape.rois * shape.channels * shape.pooled**2
            limit = values * dtype.itemsize / speed
            contiguous, channels_last = calls(shape, dtype), calls(shape, dtype, channels_last=True)
            cells = [str(shape), str(dtype).removeprefix("torch."), f"{limit:.3f}"]
            for torchvision, ours in (
                (contiguous.torchvision, contiguous.ours),
                (channels_last.torchvision, channels_last.ours),
                (contiguous.torchvision_gradient, contiguous.our_gradient),
            ):
                bare, own = milliseconds(torchvision), milliseconds(ours)
                cells += [f"{bare:.3f}", f"{own:.3f}", f"{own / bare:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


def adaptive_grids() -> None:
    """Print the times of adaptive grids, each library's own; torchvision has its own only."""
    shape = dataclasses.replace(SHAPES[1], samples=0)
    for name, rule in (("torchvision", rules.TORCHVISION[0]), ("MindSpore", rules.MINDSPORE[0])):
        found = calls(shape, torch.float32, rule=rule)
        times = [
            milliseconds(call)
            for call in (found.ours, found.torchvision, found.our_gradient, found.torchvision_gradient)
        ]
        print(
            "- adaptive grids of {}, {}: {:.3f} ms, torchvision {:.3f}; gradient {:.3f}, torchvision {:.3f}".format(
                name, shape, *times
            ),
            flush=True,
        )


def fixed_costs() -> None:
    """Print launches, and the wall time of one roi of 8 channels."""
    found = calls(SHAPES[0], torch.float32)
    print(f"- launches: ours {launches(found.ours)}, torchvision {launches(found.torchvision)}", end="; ")
    print(f"gradient: ours {launches(found.our_gradient)}, torchvision {launches(found.torchvision_gradient)}")
    one = calls(Shape(1, 50, 76, 16, 1, 7, channels=8), torch.float32)
    for name, call in (("ours", one.ours), ("torchvision", one.torchvision), ("our gradient", one.our_gradient)):
        print(f"- one roi of 8 channels, {name}: {microseconds(call):.0f} microseconds")


def microseconds(call: Call) -> float:
    """Return the median wall time of a call in a row of many."""
    rounds = []
    for _ in range(5):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(200):
            call()
        torch.cuda.synchronize()
        rounds.append((time.perf_counter() - started) / 200 * 1e6)
    return statistics.median(rounds)


def deterministic_gradients(started: float) -> None:
    """Print forward and gradient of torchvision in deterministic mode, where it goes through a compiled program."""
    for shape in (SHAPES[1], SHAPES[2], SHAPES[0]):
        if time.perf_counter() - started > ENOUGH_SECONDS:
            print(f"- deterministic mode, {shape}: left out, for lack of time")
            continue
        with section(f"deterministic mode, {shape}"):
            features, rois = shape.tensors(torch.float32)
            features.requires_grad_()
            boxes, size = torchvision_boxes(rois), (shape.pooled, shape.pooled)
            own = calls(shape, torch.float32)

            def train(
                features: torch.Tensor = features, boxes: torch.Tensor = boxes, shape: Shape = shape, size: Any = size
            ) -> Any:
                output = roi_align(features, boxes, size, 1 / shape.stride, shape.samples, False)
                return torch.autograd.grad(output.sum(), features)

            torch.use_deterministic_algorithms(True)
            try:
                bare = milliseconds(train, 0, 3)
            finally:
                torch.use_deterministic_algorithms(False)
            both = milliseconds(own.ours) + milliseconds(own.our_gradient)
            print(
                f"- forward and gradient, {shape}: ours {both:.3f} ms, torchvision's deterministic mode {bare:.3f}",
                flush=True,
            )


def mixed_boxes(rng: np.random.Generator, count: int, images: int, size: tuple[int, int], scale: float) -> NDArray:
    """Return rois of all kinds: within the image, below one cell, inverted, outside, huge, not finite, padded."""
    height, width = size
    ends = np.array([width, height])
    start = rng.uniform(-0.2, 1, (count, 2)) * ends
    sides = rng.uniform(0, 0.6, (count, 2)) * ends
    kind = rng.integers(0, 10, count)
    sides[kind == 0] *= 0.01
    sides[kind == 1] *= -1
    sides[kind == 2, 0] *= -1
    start[kind == 3] *= 3
    start[kind == 4], sides[kind == 4] = start[kind == 4] - 2000, 4000 + 50 * sides[kind == 4]
    start[kind == 5], sides[kind == 5] = np.round(start[kind == 5]), np.round(sides[kind == 5])
    boxes = np.hstack((rng.integers(0, images, (count, 1)), start / scale, (start + sides) / scale))
    broken = np.flatnonzero(kind == 6)
    boxes[broken, rng.integers(1, 5, len(broken))] = rng.choice([np.nan, np.inf, -np.inf], len(broken))
    boxes[kind == 7, 1:] = 0
    return boxes


def other_rules(count: int) -> list[rules.Rule]:
    """Return rules that no library has, of random fields."""
    rng = np.random.default_rng(1)

    def one_of(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    return [
        rules.Rule(
            start=one_of(0, 1),
            end=one_of(0, 1),
            scales_end_apart=one_of(True, False),
            moved=one_of((), (0.5,), (0.3, 0.1)),
            smallest=one_of(None, 1),
            enlarges_nan=one_of(True, False),
            index=one_of("round", "trunc", "ceil", "floor"),
            grid=one_of("floor", "ceil"),
            smallest_count=one_of(None, 1, 3),
            border=one_of("[-1, n]", "[-1, n)", "(-1, n)", "[0, n)"),
            rounds_lengths=one_of(True, False),
            outside_adds_0=one_of(True, False),
            refuses_negative_grids=False,
            skips=one_of("near 0", "not finite", None),
        )
        for _ in range(count)
    ]


class Bits:
    """Counts values of the GPU and those that differ from the CPU's."""

    def __init__(self) -> None:
        self.values = self.differing = 0

    def compare(self, found: torch.Tensor, expected: NDArray, what: str) -> None:
        """Compare values: NaN equals NaN, and 0 equals -0."""
        array = found.cpu().numpy()
        different = ~((array == expected) | (np.isnan(array) & np.isnan(expected)))
        self.values += array.size
        self.differing += int(different.sum())
        if different.any():
            at = tuple(index[0] for index in np.nonzero(different))
            print(f"{different.sum()} of {array.size} values differ: {what}; at {at} {array[at]}, not {expected[at]}")


def bits(threads: int = 8) -> bool:
    """Compare forward and gradient with the engine of a CPU; tell whether no value differs."""
    from ms2torch_roi import compiled

    started = time.perf_counter()
    forward, gradient, again = Bits(), Bits(), Bits()
    shape, scale = (2, 64, 50, 76), 1 / 16
    dtypes = (np.float32, np.float16)
    # Each rule, dtype and small grid has kernels of its own, which take a second to compile.
    every_call = (
        *itertools.product((*rules.MINDSPORE, *rules.TORCHVISION), dtypes, ((7, 7, 2), (7, 5, 0), (2, 2, 9))),
        *itertools.product(rules.MINDSPORE[1:], dtypes, ((3, 14, 3),)),
        *itertools.product(other_rules(2), dtypes[:1], ((7, 7, 2), (7, 5, 0))),
        *itertools.product(other_rules(4)[2:], dtypes[1:], ((7, 7, 2), (7, 5, 0))),
    )
    for number, (rule, dtype, (*pooled, samples)) in enumerate(every_call):
        what = f"{rule}, {dtype.__name__}, {pooled} bins, {samples} samples"
        with section(what):
            rng = np.random.default_rng(number)
            features = rng.standard_normal(shape).astype(dtype)
            if number % 3 == 0:
                features[:, :, 0, 0] = np.inf
            size = int(pooled[0]), int(pooled[1])
            with np.errstate(all="ignore"):
                rois = mixed_boxes(rng, 300, shape[0], shape[2:], scale).astype(dtype)
                placed = rules.place(rule, rois, scale, size, samples, shape[2:])
            expected = np.empty((len(rois), shape[1], *size), dtype)
            of_output = rng.standard_normal(expected.shape).astype(dtype)
            of_features = np.empty(shape, dtype)
            compiled.pool(features, placed, expected, threads)
            compiled.gradient(of_output, placed, of_features, threads)
            on_gpu, boxes, of_gpu = (torch.from_numpy(array).cuda() for array in (features, rois, of_output))
            for layout in (torch.contiguous_format, torch.channels_last):
                laid_out = on_gpu.contiguous(memory_format=layout)
                forward.compare(cuda.pool(laid_out, boxes, rule, size, scale, samples), expected, f"{what}, {layout}")
                incoming = of_gpu.contiguous(memory_format=layout)
                found = cuda.gradient(incoming, boxes, rule, shape, scale, samples)
                gradient.compare(found, of_features, f"gradient, {what}, {layout}")
                second = cuda.gradient(incoming, boxes, rule, shape, scale, samples)
                again.compare(second, found.cpu().numpy(), f"second run of the gradient, {what}, {layout}")
    with section("the first shape of the table"):
        on_gpu, boxes = SHAPES[0].tensors(torch.float32)
        features, rois = on_gpu.cpu().numpy(), boxes.cpu().numpy()
        placed = rules.place(RULE, rois, 0.25, (7, 7), 2, (200, 304))
        expected, of_features = np.empty((len(rois), features.shape[1], 7, 7), np.float32), np.empty_like(features)
        compiled.pool(features, placed, expected, threads)
        compiled.gradient(expected, placed, of_features, threads)
        of_gpu = torch.from_numpy(expected).cuda()
        forward.compare(cuda.pool(on_gpu, boxes, RULE, (7, 7), 0.25, 2), expected, "first shape")
        found = cuda.gradient(of_gpu, boxes, RULE, features.shape, 0.25, 2)
        gradient.compare(found, of_features, "gradient, first shape")
        second = cuda.gradient(of_gpu, boxes, RULE, features.shape, 0.25, 2)
        again.compare(second, found.cpu().numpy(), "second run of the gradient, first shape")
    for name, found_bits in (("forward", forward), ("gradient", gradient), ("second run of the gradient", again)):
        print(f"- {name}: {found_bits.differing} of {found_bits.values} values differ")
    print(f"- {time.perf_counter() - started:.0f} seconds")
    return forward.differing + gradient.differing + again.differing == 0


# By kernel, the shapes to try it on (their numbers in SHAPES), and blocks: channels, bins or cells, warps, rounds.
TRIED: dict[str, tuple[tuple[int, ...], Sequence[tuple[int, ...]]]] = {
    "pool, few samples": (
        (0, 1, 2),
        (
            (1, 64, 2, 16),
            (1, 64, 2, 8),
            (1, 64, 2, 32),
            (1, 32, 1, 16),
            (2, 64, 4, 8),
            (2, 32, 1, 8),
            (2, 64, 1),  # as "pool" was measured to be best
        ),
    ),
    "pool channels_last": (
        (0, 1),
        ((32, 64, 8), (32, 64, 4), (64, 64, 8), (32, 32, 4), (64, 16, 4), (128, 8, 4), (32, 32, 8, 8), (32, 16, 4, 8)),
    ),
    "pool channels_last, many bins": (
        (2,),
        ((32, 16, 4), (64, 16, 4), (64, 16, 8), (32, 32, 4), (64, 32, 8), (128, 8, 4)),
    ),
    "list terms": ((0,), ((1, 64, 2), (1, 128, 4), (1, 256, 8))),
    "transpose": ((0,), ((32, 64, 4), (64, 64, 4), (64, 64, 8), (32, 64, 8), (16, 64, 4))),
    "add terms": (
        (1, 2),
        (
            (64, 16, 4),
            (64, 32, 4),
            (32, 32, 4),
            (64, 16, 2),
            (128, 16, 4),
            (64, 8, 2),
            (128, 8, 4),
            (256, 4, 4),
            (32, 64, 4),
        ),
    ),
    "add tiles": ((1,), ((64, 16, 1), (32, 16, 1), (64, 16, 2), (128, 16, 2), (64, 8, 1), (128, 8, 2), (64, 32, 2))),
}


def tune() -> None:
    """Print milliseconds of a whole call, by the blocks of one of its kernels."""
    for number in (0, 1):
        with section("kernels of the gradient"):
            for name, (times, spent) in kernels(calls(SHAPES[number], torch.float32).our_gradient).items():
                print(f"- gradient, {SHAPES[number]}: {spent:.3f} ms in {times} x {name[:100]}", flush=True)
    for (name, (numbers, blocks)), dtype in itertools.product(TRIED.items(), (torch.float32, torch.float16)):
        for number in numbers:
            if dtype == torch.float16 and (number == 1 or not name.startswith("pool")):
                continue
            shape = Shape(2, 50, 76, 16, 1000, 7, samples=0) if name == "add tiles" else SHAPES[number]
            found = calls(shape, dtype, channels_last="channels_last" in name)
            call = found.ours if name.startswith("pool") else found.our_gradient
            usual = cuda.BLOCKS[name]
            for block in blocks:
                cuda.BLOCKS[name] = cuda.Block(*block)
                with section(f"{name} {block}"):
                    print(f"- {name} {block}, {shape}, {dtype}: {milliseconds(call, 0.05):.3f}", flush=True)
            cuda.BLOCKS[name] = usual
    for number, at_once in itertools.product((1, 2), (1, 2, 4, 8)):
        cuda.TERMS_AT_ONCE = at_once
        with section(f"{at_once} terms at once"):
            call = calls(SHAPES[number], torch.float32).our_gradient
            print(f"- {at_once} terms at once, {SHAPES[number]}: {milliseconds(call, 0.05):.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", action="store_true", help="compare values with those of the engine of a CPU")
    parser.add_argument("--tune", action="store_true", help="time other sizes of blocks")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch finds no CUDA GPU: nothing to measure")
        return
    import triton

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}\n", flush=True)
    started = time.perf_counter()
    same = True
    if options.bits:
        with section("bits"):
            same = bits()
    if options.tune:
        with section("tune"):
            tune()
    if not (options.bits or options.tune):
        with section("table"):
            table()
        print()
        for name, part in (("fixed costs", fixed_costs), ("adaptive grids", adaptive_grids)):
            with section(name):
                part()
        deterministic_gradients(started)
    print(f"\n{time.perf_counter() - started:.0f} seconds in all")
    if section.have_failed or not same:
        sys.exit(1)


if __name__ == "__main__":
    main()
