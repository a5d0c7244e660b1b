"""The command ``ms2torch-roi explain``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import devices, params
from ..explain import Explanation, explain, shortest
from ..explain.placement import Placement, agreement
from . import arguments, make_console

if TYPE_CHECKING:
    from rich.console import Console

PLOT_SUFFIXES = (".pdf", ".png", ".svg")

HELP = "show where both libraries sample one box"
DESCRIPTION = (
    "Print where MindSpore's ROIAlign and torchvision's roi_align, given the same arguments, sample one"
    " box: its edges in feature cells, bins, samples and where they are; and the call of torchvision that returns the"
    " bits of MindSpore's, if there is one. With --chip instead of a box, say which of MindSpore's kernels, and so"
    " which rule, a run on that chip most likely used. Neither framework is needed."
)
EPILOG = "Exit status: 0, or 2 for arguments that are not allowed or a file that cannot be written."

# What is shown of bins, and of the samples in a bin: all of up to so many, else the first two and the last.
SHOWN_BINS, SHOWN_SAMPLES = 4, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ms2torch-roi explain``; ``run`` is to be called with what the parser makes of them."""
    parser.set_defaults(parser=parser)
    # argparse knows -1 and -0.5 as numbers, but takes -1e3 and -inf for options.
    parser._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)
    parser.add_argument(
        "--roi",
        type=float,
        nargs=5,
        metavar=("INDEX", "X1", "Y1", "X2", "Y2"),
        help="the box, in image pixels",
    )
    parser.add_argument("--pooled", type=int, nargs=2, metavar=("H", "W"), help="numbers of bins")
    parser.add_argument(
        "--scale", type=arguments.scale, metavar="S", help="feature cells per image pixel: 0.0625, or 1/16"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=2,
        metavar="N",
        help="along each axis of a bin; 0 is adaptive (default: %(default)s)",
    )
    parser.add_argument(
        "--mode",
        choices=("0", "1", "2", "3", "pynative", "graph"),
        help="MindSpore's roi_end_mode (default: 1); with --chip, the mode that it ran in (default: pynative)",
    )
    parser.add_argument(
        "--rule", choices=tuple(params.MODES), default="cpu", help="what MindSpore runs on (default: %(default)s)"
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="(default: %(default)s)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="of the features, to count the samples outside"
    )
    parser.add_argument("--chip", metavar="CHIP", help=f"that a model ran on: {', '.join(devices.CHIPS)}")
    parser.add_argument("--mindspore", metavar="VERSION", help="which ran there, such as 2.3 (default: the newest)")
    parser.add_argument(
        "--shapes",
        choices=("static", "dynamic"),
        default="static",
        help="whether the shapes of features and rois were fixed (default: %(default)s)",
    )
    parser.add_argument("--plot", type=_plot_file, metavar="FILE", help="draw both boxes (.png, .svg or .pdf)")


def _plot_file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(PLOT_SUFFIXES[:-1])} or .svg")
    return path


def run(options: argparse.Namespace) -> int:
    """Run ``ms2torch-roi explain``, and return its exit status: 0, unless it exits with a line on what is wrong."""
    console = make_console()
    parser: argparse.ArgumentParser = options.parser
    if options.chip is not None:
        return _explain_chip(options, console)
    if options.mode in ("pynative", "graph"):
        parser.error(f"--mode {options.mode} goes with --chip")
    if missing := [f"--{name}" for name in ("roi", "pooled", "scale") if getattr(options, name) is None]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    try:
        explanation = explain(
            options.roi,
            options.pooled[0],
            options.pooled[1],
            options.scale,
            options.samples,
            int(options.mode or 1),
            dtype=options.dtype,
            size=None if options.size is None else tuple(options.size),
            rule=options.rule,
        )
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    if options.plot is not None:
        try:
            from ..explain import plot

            plot.save(explanation, options.plot)
        except (ImportError, OSError, ValueError) as error:
            parser.error(f"--plot: {error}")
    print_explanation(explanation, console)
    return 0


def _explain_chip(options: argparse.Namespace, console: Console) -> int:
    """Print which rule a run on a chip most likely obeyed."""
    parser: argparse.ArgumentParser = options.parser
    if options.mode in ("0", "1", "2", "3"):
        parser.error(f"--mode is pynative or graph with --chip, got {options.mode}")
    try:
        likely = devices.likely_rule(
            options.chip, options.mindspore, options.mode or "pynative", options.shapes, options.dtype
        )
    except ValueError as error:
        parser.error(str(error))
    rule = "no rule of ROIAlign" if likely.rule is None else f"rule={likely.rule!r}"
    text = f"Most likely {rule} (confidence: {likely.confidence}). {likely.sentence}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print("ms2torch-roi identify tells from recorded calls.", markup=False, highlight=False, soft_wrap=True)
    return 0


def print_explanation(explanation: Explanation, console: Console) -> None:
    """Print the numbers as a table, and the call of torchvision that is the same as MindSpore's."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    line(explanation.title, "bold")
    line("Lengths and positions are in feature cells.")
    if explanation.size is not None:
        line("The features have {} x {} cells (height x width).".format(*explanation.size))
    line("")
    table = Table(box=box.SIMPLE, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column()
    for placement in explanation.placements:
        table.add_column(f"{placement.library}\n{placement.setting}")
    for name, cells in _rows(explanation):
        table.add_row(
            Text(name, style="" if cells else "bold"),
            *(Text(cell, style="yellow" if cell != cells[0] else "") for cell in cells),
        )
    console.print(table)
    line("")
    if explanation.call is None:
        line("No call of torchvision is the same as MindSpore's:", "bold")
        console.print(Text(explanation.remark))
        return
    limit = ""
    if explanation.size is None and explanation.roi.dtype == np.float16:
        limit = " of at most 2048 x 2048 cells"
    if explanation.size is None and "ascend-static" in explanation.mindspore.setting:
        limit += ", no sample of which is on the far border"
    on_cpu = "rule=" not in explanation.mindspore.setting
    line("The same bits as MindSpore's, on a CPU:" if on_cpu else "The same samples as MindSpore's:", "bold")
    console.print(Text(f"(for finite features{limit}; boxes: {explanation.remark})"))
    line("")
    line(explanation.call)


def _rows(explanation: Explanation) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of the table: a name, and what each library has there; nothing for a heading."""
    placements = explanation.placements
    yield "image index", [shortest(placement.index) for placement in placements]
    for axis, name in enumerate("xy"):
        yield f"along {name}", []
        yield "  start", [shortest(placement.start[axis]) for placement in placements]
        yield "  end", [shortest(placement.end[axis]) for placement in placements]
        yield "  end - start", [shortest(placement.size[axis]) for placement in placements]
        yield "  size", [_used_size(placement, axis) for placement in placements]
        yield "  bin", [shortest(placement.bin[axis]) for placement in placements]
        yield "  samples", [str(placement.grid[axis]) for placement in placements]
        for number in _some(explanation.pooled[1 - axis], SHOWN_BINS):
            if number is None:
                yield "  ...", []
            else:
                yield f"  bin {number} at", [_positions(placement, axis, number) for placement in placements]
    if explanation.size is not None:
        yield "outside", [_outside(placement) for placement in placements]
    yield "result", [placement.problem or f"mean of {placement.count:g}" for placement in placements]
    yield "samples are", ["", *(agreement(explanation.mindspore, other) or "-" for other in explanation.torchvision)]


def _used_size(placement: Placement, axis: int) -> str:
    used = placement.used_size[axis]
    smallest = "" if used == placement.size[axis] or np.isnan(used) else ", enlarged"
    return f"{shortest(used)}{smallest}"


def _positions(placement: Placement, axis: int, number: int) -> str:
    if placement.positions is None:
        return "-"
    at = placement.positions[axis][number]
    return ", ".join("..." if i is None else shortest(at[i]) for i in _some(at.size, SHOWN_SAMPLES))


def _some(count: int, shown: int) -> list[int | None]:
    """Return the numbers up to a count, or of many the first two and the last with None between them."""
    return [*range(count)] if count <= shown else [0, 1, None, count - 1]


def _outside(placement: Placement) -> str:
    if placement.outside is None or placement.positions is None:
        return "-"
    x, y = placement.positions
    return f"{placement.outside:,} of {x.size * y.size:,}"
