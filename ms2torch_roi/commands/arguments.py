"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..parity import remote
from . import PASSED, CouldNotRunError

if TYPE_CHECKING:
    from ..parity import adapters, processes, verdicts

STATUSES_OF_SCRIPTS = "Exit status: 0, or 2 if the script could not be written."

Number = TypeVar("Number", int, float)

# What nobody counts to: sums of such numbers are lengths still.
_MOST = 10**18

# Eleven days: the longest wait that every system knows.
_MOST_SECONDS = 10**6


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add how to run the cases, and what tolerance is allowed."""
    parser.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="run them on the Dask cluster whose scheduler is there (extra: dask)"
    )
    parser.add_argument("--shard", type=_shard, metavar="I/N", help="run the I-th of N parts; merge puts them together")
    parser.add_argument("--atol", type=tolerance, default=0.0, metavar="A", help="values may differ by A (default: 0)")
    parser.add_argument(
        "--rtol", type=tolerance, default=0.0, metavar="R", help="and by R times what is expected (default: 0)"
    )
    parser.add_argument(
        "--max-differing",
        type=count,
        default=0,
        metavar="N",
        help="and N values of a case by more (default: 0)",
    )


def workers_of(options: argparse.Namespace, cases: int) -> processes.Workers | None:
    """Return who runs so many cases, as ``add_run_options`` has asked for; None for this process.

    Raises:
        CouldNotRunError: there is no such cluster, or it cannot run them, or not where this process is.
    """
    from ..parity import cluster, processes

    if options.dask is not None or options.workers > 1:
        try:
            os.getcwd()  # noqa: PTH109
        except OSError as error:
            option = "--workers" if options.dask is None else "--dask"
            raise CouldNotRunError(f"{option}: the working directory is gone: {error.strerror}") from error
    if options.dask is None:
        # A single case too: whoever asks for processes is not to lose this one to it.
        return processes.workers(max(1, min(options.workers, cases))) if options.workers > 1 else None
    if options.workers > 1:
        raise CouldNotRunError("--workers starts processes here: it does not go with --dask")
    if options.adapter is not None:
        raise CouldNotRunError("--adapter runs in a process of its own, which Dask's workers may not start")
    try:
        return cluster.workers(options.dask)
    except ImportError as error:
        raise CouldNotRunError(str(error)) from error
    except (OSError, ValueError) as error:
        raise CouldNotRunError(f"--dask: {error}") from error


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the device that torch runs the port to it on."""
    parser.add_argument(
        "--device", default="cpu", metavar="D", help="where torch runs its port: cuda, cuda:1 (default: %(default)s)"
    )


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """Add a user's own port to run in place of ours."""
    parser.add_argument(
        "--adapter",
        metavar="PACKAGE.MODULE:NAME",
        help="a port of your own to run instead: a function of features, rois and the arguments of MindSpore's operator"
        " or of torchvision's, or a class that makes one, in a process that may die",
    )
    parser.add_argument(
        "--arrays",
        choices=("torch", "mindspore", "numpy"),
        help="what the adapter takes and returns (default: torch, or mindspore if it is a cell)",
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=60.0, metavar="S", help="seconds for a call of it (default: 60)"
    )


def adapter_of(options: argparse.Namespace) -> adapters.Adapter | None:
    """Return the adapter that ``add_adapter`` has asked for, which can be imported.

    Raises:
        CouldNotRunError: it cannot, or another option asks for what it does not do.
    """
    if options.adapter is None:
        return None
    if options.device != "cpu":
        raise CouldNotRunError("--device is where our port runs: an adapter chooses its own, and does not go with it")
    from ..parity.adapters import Adapter, AdapterError

    adapter = Adapter(options.adapter, options.arrays, options.timeout)
    try:
        _ = adapter.kind
    except AdapterError as error:
        raise CouldNotRunError(f"--adapter: {error}") from error
    return adapter


def engine_of(options: argparse.Namespace) -> str:
    """Return what computes on the device that ``add_device`` has asked for.

    Raises:
        CouldNotRunError: there is no such device here, or no torch.
    """
    from ..parity import operators

    try:
        return operators.engine(options.device)
    except (ImportError, ValueError) as error:
        raise CouldNotRunError(f"--device: {error}" if isinstance(error, ValueError) else str(error)) from error


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the files to write what came of them to."""
    parser.add_argument("--json", type=report, metavar="FILE", help="write the same facts for machines")
    parser.add_argument("--junit", type=report, metavar="FILE", help="write them for the test viewers of CI services")
    parser.add_argument("--summary", type=report, metavar="FILE", help="write them in short, as Markdown")
    parser.add_argument("--quiet", action="store_true", help="print the headline and the verdict alone")
    parser.add_argument("--html", type=report, metavar="FILE", help="write them as a page for a browser")


def report(text: str) -> Path:
    """Return the file of a report, for ``type=``."""
    if text == "-":
        raise argparse.ArgumentTypeError("'-' is no file: what is printed is for people")
    return path(text)


def path(text: str) -> Path:
    """Return a path or what behaves as one, of a URL, for ``type=``."""
    try:
        return remote.path(text)
    except (ImportError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def count(text: str) -> int:
    """Return a number of things, for ``type=``."""
    return _number(int, text, 0, _MOST, "a whole number from 0 to 10**18")


def _positive(text: str) -> int:
    return _number(int, text, 1, _MOST, "a whole number from 1 to 10**18")


def _seconds(text: str) -> float:
    return _number(float, text, 0.001, _MOST_SECONDS, f"a number of seconds from 0.001 to {_MOST_SECONDS:,}")


def tolerance(text: str) -> float:
    """Return a number that values may differ by, for ``type=``."""
    return _number(float, text, 0, sys.float_info.max, "a number of 0 or more")


def scale(text: str) -> float:
    """Return a spatial scale, for ``type=``."""
    number, slash, divisor = text.partition("/")
    try:
        return float(number) / float(divisor) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 0.0625 or 1/16") from None


def _number(kind: Callable[[str], Number], text: str, least: float, most: float, wanted: str) -> Number:
    try:
        number = kind(text)
    except ValueError:
        number = kind("-1")
    if not least <= number <= most:
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


def add_script_option(parser: argparse.ArgumentParser, name: str) -> None:
    """Add where a script of this name goes."""
    parser.add_argument(
        "--out", type=Path, default=Path(name), metavar="FILE", help="write it to this file (default: %(default)s)"
    )


def write_script(options: argparse.Namespace, name: str) -> int:
    """Write a script of :mod:`ms2torch_roi.parity.scripts` to where it is wanted, and return the exit status."""
    from ..parity import scripts

    source = scripts.source(name)
    try:
        found = options.out.read_bytes() if options.out.is_file() else b""
        if found and found.splitlines()[:1] != source.encode().splitlines()[:1]:
            raise CouldNotRunError(f"--out: {options.out} is there already, and is no {name} of ms2torch-roi")
        options.out.write_text(source, encoding="utf-8", newline="\n")
    except OSError as error:
        raise CouldNotRunError(f"--out: {error}") from error
    return PASSED
