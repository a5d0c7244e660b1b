"""What ms2torch_roi.ROIAlign costs beside other calls that pool the same rois, timed in one process.

Every round times each contender once, in turns from the first to the last and back; a ratio is that of two times of
the same round. Nothing is timed before its output was compared with ours.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cases import CASES, Case, Level
from contenders import (
    MINDSPORE,
    ONNX_RUNTIME,
    OURS,
    TORCHVISION,
    Call,
    Contender,
    contenders,
    ours,
    torchvision_boxes,
)
from memory import extra_memory

from ms2torch_roi.parity import operators
from ms2torch_roi.parity.verdicts import same_bits

NDArray = npt.NDArray[Any]

# Of ONNX Runtime, which promises nothing, relative to the largest feature.
TOLERANCE = 1e-5
# Of MindSpore, relative to the largest gradient: hundreds of bins are added up in one cell, in an order that changes.
GRADIENT_TOLERANCE = {"float32": 1e-5, "float16": 2.0**-4}

# A shorter call is repeated, and its time is that of one of as many as fill this.
SHORTEST_SECONDS = 0.005
# Before a longer one, memory that has to be had again makes no difference.
LONGEST_WARM_UP = 2.0

# By default a case, dtype and pass has as many rounds as start in so many seconds, within these limits.
SECONDS = 5.0
FEWEST_ROUNDS, MOST_ROUNDS = 3, 7

COLUMNS = {
    "case": 22,
    "dtype": 7,
    "pass": 18,
    "contender": 17,
    "ms": 8,
    "ratio": 7,
    "min": 7,
    "max": 7,
    "over bare": 10,
    "rounds": 6,
    "against ours": 20,
    "memory": 7,
}
TEXT_COLUMNS = ("case", "dtype", "pass", "contender", "against ours")


def tolerance(case: Case, name: str, dtype: str, backward: bool) -> float | None:
    """Return how far a contender may be from ours; 0 for the same bits, None if it samples elsewhere by its nature."""
    if case.way_back:  # the bare call has the gradient of mode 1
        return None if name == MINDSPORE and (backward or case.aligned or case.samples <= 0) else 0
    if name in (TORCHVISION, ONNX_RUNTIME) and (case.samples <= 0 or (backward and case.below_one_cell > 0)):
        return None
    if name == ONNX_RUNTIME:
        return TOLERANCE
    return GRADIENT_TOLERANCE[dtype] if backward and name == MINDSPORE else 0


def compare(
    case: Case, levels: Sequence[Level], dtype: str, able: Sequence[Contender], backward: bool
) -> dict[str, str]:
    """Return in words how each contender agrees with ours.

    Raises:
        SystemExit: one that should agree does not.
    """
    (own,) = (contender for contender in able if contender.name == OURS)
    expected = _arrays(own, backward)
    words = {OURS: "-"}
    for contender in able:
        if contender.name == OURS or (backward and contender.backward is None):
            continue
        allowed = tolerance(case, contender.name, dtype, backward)
        if allowed is None:
            words[contender.name] = "other samples"
            continue
        wanted = expected
        if backward and contender.name == MINDSPORE and case.mode == 0:  # whose gradient is that of mode 1
            wanted = _arrays(ours(case, levels, backward_roi_end_mode=1), backward)
        rows: Sequence[slice | NDArray] = [slice(None)] * len(levels)
        if not backward and contender.name in (TORCHVISION, ONNX_RUNTIME) and case.mode == 1:
            rows = [_at_least_one_cell(case, level) for level in levels]
        largest = max(float(np.abs(array).max()) for array in wanted) if backward else _largest_feature(levels)
        for found, right, row in zip(_arrays(contender, backward), wanted, rows, strict=True):
            difference = _difference(found[row], right[row], allowed * largest)
            if difference is not None:
                call = f"{case.name}, {dtype}, {_pass(backward)}"
                raise SystemExit(f"{call}: {contender.name} differs from ours, {difference}; it is not timed")
        words[contender.name] = f"within {allowed:.2g}" if allowed else "same bits"
    return words


def _arrays(contender: Contender, backward: bool) -> list[NDArray]:
    call = contender.backward if backward else contender.forward
    assert call is not None
    return [np.asarray(array) for array in call()]


def _at_least_one_cell(case: Case, level: Level) -> NDArray:
    """Return the rows that torchvision does not enlarge."""
    boxes = torchvision_boxes(case, level)
    large: NDArray = ((boxes[:, 3:] - boxes[:, 1:3]) / level.stride >= 1).all(1).numpy()
    return large


def _largest_feature(levels: Sequence[Level]) -> float:
    return max(float(level.features.abs().max()) for level in levels)


def _difference(found: NDArray, wanted: NDArray, allowed: float) -> str | None:
    """Say how two arrays differ, if by more than is allowed; 0 allows the same bits only."""
    if found.shape != wanted.shape:
        return f"its shape is {found.shape} instead of {wanted.shape}"
    if allowed == 0:
        different = ~same_bits(found, wanted)
        return f"in {different.sum()} of {different.size} values" if different.any() else None
    distance = float(np.abs(found.astype(np.float64) - wanted).max(initial=0))
    return None if distance <= allowed else f"by up to {distance:.3g}, where {allowed:.3g} is allowed"


def _pass(backward: bool) -> str:
    return "forward + backward" if backward else "forward"


def time_rounds(calls: dict[str, Call], rounds: int, seconds: float = math.inf) -> dict[str, list[float]]:
    """Return the seconds of each call in each round, but start no round after so many, unless they are very few."""
    once = {name: _seconds(call, 1) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    start = time.monotonic()
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and time.monotonic() - start > seconds:
            break
        for name in calls if number % 2 == 0 else reversed(calls):
            _rest()
            if once[name] < LONGEST_WARM_UP:
                calls[name]()  # it then finds the memory that it has used itself: a virtual machine takes it away
            times[name].append(_seconds(calls[name], max(1, math.ceil(SHORTEST_SECONDS / once[name]))))
    return times


# It ends with the process that has started it, however that ends.
SPINNING = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """Keep every core busy with a process of its own."""
    command = [sys.executable, "-c", SPINNING, str(os.getpid())]
    processes = [subprocess.Popen(command) for _ in range(machine()["cores"])]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _rest(seconds: float = 0.02, at_most: float = 5) -> None:
    """Wait until the threads of the call before have stopped spinning: MindSpore's go on for a while."""
    deadline = time.monotonic() + at_most
    busy = seconds
    while busy > seconds / 10 and time.monotonic() < deadline:
        start = time.process_time()
        time.sleep(seconds)
        busy = time.process_time() - start


def _seconds(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def measure(case: Case, dtype: str, rounds: int, seconds: float = math.inf) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a record of each contender and direction, and why others were left out."""
    levels = case.levels(dtype)
    able, left_out = contenders(case, levels)
    if OURS not in [contender.name for contender in able]:
        return [], left_out
    records = []
    for backward in (False, True) if case.backward else (False,):
        agreement = compare(case, levels, dtype, able, backward)
        calls = {c.name: call for c in able if (call := c.backward if backward else c.forward) is not None}
        with busy_cores() if case.busy else contextlib.nullcontext():
            times = time_rounds(calls, rounds, seconds)
        baseline = times[able[0].name]
        for name, of_rounds in times.items():
            with_memory = not backward and not case.way_back and name in (TORCHVISION, OURS)
            ratios = [one / bare for one, bare in zip(of_rounds, baseline, strict=True)]
            over = [one - bare for one, bare in zip(of_rounds, baseline, strict=True)]
            records.append(
                {
                    "case": dataclasses.asdict(case),
                    "dtype": dtype,
                    "pass": _pass(backward),
                    "contender": name,
                    "milliseconds": statistics.median(of_rounds) * 1e3,
                    "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
                    "microseconds_over_bare": statistics.median(over) * 1e6,
                    "against_ours": agreement[name],
                    "extra_memory": extra_memory(calls[name]) if with_memory else None,
                    "seconds": of_rounds,
                }
            )
    return records, left_out


def machine() -> dict[str, Any]:
    """Return the processor, and how many of its cores are ours."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": names[0] if names else platform.processor(), "architecture": platform.machine(), "cores": cores}


def versions() -> dict[str, str]:
    """Return the version of all that takes part, by name."""
    found = {"python": platform.python_version(), **operators.versions()}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["onnxruntime"] = importlib.metadata.version("onnxruntime")
    return found


def row(values: Mapping[str, str]) -> str:
    """Return a line of the table."""
    cells = [
        values[name].ljust(width) if name in TEXT_COLUMNS else values[name].rjust(width)
        for name, width in COLUMNS.items()
    ]
    return f"| {' | '.join(cells)} |"


def row_of(record: Mapping[str, Any]) -> str:
    """Return the line of a record."""
    milliseconds, over = record["milliseconds"], record["microseconds_over_bare"]
    ratio, memory = record["ratio"], record["extra_memory"]
    return row(
        {
            "case": record["case"]["name"],
            "dtype": record["dtype"],
            "pass": record["pass"],
            "contender": record["contender"],
            "ms": f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:#.3g}",
            **{column: f"{ratio[name]:.3f}" for column, name in (("ratio", "median"), ("min", "min"), ("max", "max"))},
            "over bare": f"{over:,.0f} µs" if abs(over) < 1e4 else f"{over / 1e3:,.0f} ms",
            "rounds": str(len(record["seconds"])),
            "against ours": record["against_ours"],
            "memory": "" if memory is None else f"{100 * memory:.0f} %",
        }
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = {case.name: case for case in CASES}
    parser.add_argument(
        "--all", action="store_true", help="all cases, and as many rounds of each, however long it takes"
    )
    parser.add_argument(
        "--pairs",
        type=int,
        help=f"rounds of each case (default: {MOST_ROUNDS}; without --all {FEWEST_ROUNDS} if they take long)",
    )
    parser.add_argument(
        "--case", action="append", choices=names, metavar="NAME", help=f"only this one; repeatable: {', '.join(names)}"
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), help="only this one")
    parser.add_argument(
        "--threads", type=int, help="of torch and ONNX Runtime (default: torch's own number); MindSpore has its own"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all that is measured to this file")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)

    report: dict[str, Any] = {
        "machine": machine(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "left_out": [],
        "records": [],
    }
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    print("{cpu}, {architecture}, cores: {cores}".format(**report["machine"]) + f", threads: {report['threads']}")
    print(row({name: name for name in COLUMNS}))
    print("|" + "|".join("-" * (width + 1) + ("-" if n in TEXT_COLUMNS else ":") for n, width in COLUMNS.items()) + "|")
    by_default = [case.name for case in CASES if options.all or case.by_default]
    calls = [(names[name], dtype) for name in options.case or by_default for dtype in names[name].dtypes]
    seconds = math.inf if options.all or options.pairs else SECONDS
    for case, dtype in calls:
        if options.dtype not in (None, dtype):
            continue
        records, left_out = measure(case, dtype, options.pairs or MOST_ROUNDS, seconds)
        for record in records:
            print(row_of(record), flush=True)
        report["records"] += records
        report["left_out"] += [reason for reason in left_out if reason not in report["left_out"]]
        if options.json is not None:  # each time, so that little is lost if it is interrupted
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    for reason in report["left_out"]:
        print(f"left out: {reason}")


if __name__ == "__main__":
    main()
