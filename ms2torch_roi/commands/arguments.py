"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ..parity import verdicts

Number = TypeVar("Number", int, float)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add how to run the cases, and what tolerance is allowed."""
    parser.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--shard", type=_shard, metavar="I/N", help="run the I-th of N parts; merge puts them together")
    parser.add_argument("--atol", type=_tolerance, default=0.0, metavar="A", help="values may differ by A (default: 0)")
    parser.add_argument(
        "--rtol", type=_tolerance, default=0.0, metavar="R", help="and by R times what is expected (default: 0)"
    )
    parser.add_argument(
        "--max-differing",
        type=count,
        default=0,
        metavar="N",
        help="and N values of a case by more (default: 0)",
    )


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the files to write what came of them to."""
    parser.add_argument("--json", type=_report, metavar="FILE", help="write the same facts for machines")
    parser.add_argument("--junit", type=_report, metavar="FILE", help="write them for the test viewers of CI services")
    parser.add_argument("--summary", type=_report, metavar="FILE", help="write them in short, as Markdown")
    parser.add_argument("--quiet", action="store_true", help="print the headline and the verdict alone")
    parser.add_argument("--html", type=_report, metavar="FILE", help="write them as a page for a browser")


def _report(text: str) -> Path:
    if text == "-":
        raise argparse.ArgumentTypeError("'-' is no file: what is printed is for people")
    return Path(text)


def count(text: str) -> int:
    """Return a number of things, for ``type=``."""
    return _number(int, text, 0, "a whole number of 0 or more")


def _positive(text: str) -> int:
    return _number(int, text, 1, "a whole number of 1 or more")


def _tolerance(text: str) -> float:
    return _number(float, text, 0, "a number of 0 or more")


def _number(kind: Callable[[str], Number], text: str, least: int, wanted: str) -> Number:
    try:
        number = kind(text)
    except ValueError:
        number = kind("-1")
    if not least <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return number


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N")
    return int(part), int(parts)


def tolerance_of(options: argparse.Namespace) -> verdicts.Tolerance:
    """Return the tolerance that ``add_run_options`` has asked for."""
    from ..parity.verdicts import Tolerance

    return Tolerance(options.atol, options.rtol, options.max_differing)
