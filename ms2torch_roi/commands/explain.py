"""The command ``ms2torch-roi explain``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..explain import Explanation, explain, shortest
from ..explain.placement import Placement, agreement
from . import make_console

if TYPE_CHECKING:
    from rich.console import Console

PLOT_SUFFIXES = (".pdf", ".png", ".svg")

HELP = "show where both libraries sample one box"
DESCRIPTION = (
    "Print where MindSpore's ROIAlign and torchvision's roi_align, given the same arguments, sample one"
    " box: its edges in feature cells, bins, samples and where they are; and the call of torchvision that returns the"
    " bits of MindSpore's, if there is one. Neither framework is needed."
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
        required=True,
        metavar=("INDEX", "X1", "Y1", "X2", "Y2"),
        help="the box, in image pixels",
    )
    parser.add_argument("--pooled", type=int, nargs=2, required=True, metavar=("H", "W"), help="numbers of bins")
    parser.add_argument(
        "--scale", type=_scale, required=True, metavar="S", help="feature cells per image pixel: 0.0625, or 1/16"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=2,
        metavar="N",
        help="along each axis of a bin; 0 is adaptive (default: %(default)s)",
    )
    parser.add_argument(
        "--mode", type=int, choices=(0, 1), default=1, help="MindSpore's roi_end_mode (default: %(default)s)"
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="(default: %(default)s)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="of the features, to count the samples outside"
    )
    parser.add_argument("--plot", type=_plot_file, metavar="FILE", help="draw both boxes (.png, .svg or .pdf)")


def _scale(text: str) -> float:
    number, slash, divisor = text.partition("/")
    try:
        return float(number) / float(divisor) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 0.0625 or 1/16") from None


def _plot_file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(PLOT_SUFFIXES[:-1])} or .svg")
    return path


def run(options: argparse.Namespace) -> int:
    """Run ``ms2torch-roi explain``, and return its exit status: 0, unless it exits with a line on what is wrong."""
    console = make_console()
    parser: argparse.ArgumentParser = options.parser
    try:
        explanation = explain(
            options.roi,
            options.pooled[0],
            options.pooled[1],
            options.scale,
            options.samples,
            options.mode,
            dtype=options.dtype,
            size=None if options.size is None else tuple(options.size),
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
    line("The same bits as MindSpore's, on a CPU:", "bold")
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
