"""The ``ms2torch-roi`` command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import __version__

IDENTICAL, DIFFERENT, COULD_NOT_RUN = 0, 1, 2
DIRECTIONS = ["to-torch", "to-mindspore"]


class _Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(COULD_NOT_RUN, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = _Parser(prog="ms2torch-roi", description="MindSpore's and torchvision's RoIAlign, interchangeable.")
    parser.add_argument("--version", action="version", version=f"ms2torch-roi {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="prove on this machine that both libraries agree to the last bit",
        description="Run both frameworks on the documented example, a catalogue of edge cases, and random cases, and"
        " compare the bits of every row that the original defines. There are two directions: MindSpore's operator"
        " against its port to torch (to-torch), and torchvision's against its port to MindSpore (to-mindspore). In a"
        " round trip, the calls of the other framework that a port makes are taken back by the other port.",
        epilog="Exit status: 0 if all are identical, 1 if one differs, 2 if the check could not run.",
    )
    check.add_argument(
        "--cases", type=_count, default=500, metavar="N", help="random cases for each direction (default: %(default)s)"
    )
    check.add_argument("--seed", type=_count, default=0, metavar="S", help="of the random cases (default: %(default)s)")
    check.add_argument("--direction", choices=DIRECTIONS, help="check one direction (default: both)")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the same facts for machines")
    check.add_argument(
        "--without-mindspore",
        action="store_true",
        help="compare the port to torch with the NumPy reference instead of MindSpore",
    )
    options = parser.parse_args(arguments)
    directions = [options.direction] if options.direction else DIRECTIONS
    if options.without_mindspore:
        if options.direction == "to-mindspore":
            check.error("--direction to-mindspore needs MindSpore: it does not go with --without-mindspore")
        directions = ["to-torch"]
    try:
        return _check(
            options.cases, options.seed, options.json, directions, with_mindspore=not options.without_mindspore
        )
    except _CouldNotRunError as error:
        print(f"ms2torch-roi check: cannot run: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("ms2torch-roi check: interrupted", file=sys.stderr)
    except BrokenPipeError:
        # Whoever read the output is gone. Python would complain once more when it flushes what is left at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return COULD_NOT_RUN


class _CouldNotRunError(Exception):
    """The check could not run, for a reason that the user can mend."""


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return number


def _check(
    random_cases: int, seed: int, json_file: Path | None, directions: Sequence[str], *, with_mindspore: bool
) -> int:
    try:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        from .parity import cases, edges, operators, report, verdicts
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "rich":
            raise
        raise _CouldNotRunError("rich is not installed. Install it with: pip install 'ms2torch-roi[cli]'") from error
    try:
        original = operators.original if with_mindspore else operators.reference
        if with_mindspore:
            operators.import_mindspore()
        operators.port(cases.documented_cases()[0])
        versions = operators.versions(with_mindspore=with_mindspore)
    except ImportError as error:
        hint = ", or use --without-mindspore" if "MindSpore is not installed" in str(error) else ""
        raise _CouldNotRunError(f"{error}{hint}") from error
    if json_file is not None:
        try:
            json_file.touch()
        except OSError as error:
            raise _CouldNotRunError(f"--json: {error}") from error

    class ReportConsole(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with status 1, which stands for a difference
            raise BrokenPipeError

    console = ReportConsole()
    run = report.Run("frameworks" if with_mindspore else "reference", versions, seed)
    console.print(run.headline, style="bold", highlight=False, soft_wrap=True)
    makers = {"to-torch": cases.random_case, "to-mindspore": cases.random_torchvision_case}
    todo = [case for case in (*cases.documented_cases(), *edges.edge_cases()) if case.direction in directions]
    total = len(todo) + random_cases * len(directions)
    failed = 0
    started = time.monotonic()
    columns = (*Progress.get_default_columns()[:3], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for number in progress.track(range(total), description="comparing"):
            if number < len(todo):
                case = todo[number]
            else:
                of_series, direction = divmod(number - len(todo), len(directions))
                case = makers[directions[direction]](seed, of_series)
            expected = operators.outcome(original, case)
            ports = [(operators.port, case.category)]
            if with_mindspore and case.raises is None:
                ports.append((operators.round_trip, f"round trip: {case.category.split(':')[0]}"))
            for port, category in ports:
                verdict = verdicts.judge(case, expected, operators.outcome(port, case), category)
                if not verdict.passed:
                    failed += 1
                    again = verdicts.reproduction(case, original.__name__, port.__name__)
                    verdict = dataclasses.replace(verdict, reproduction=again)
                run.verdicts.append(verdict)
            if case.printed is not None and not failed:
                console.print(
                    f"{case.name} ({case.direction}), from both, as its page has it:",
                    highlight=False,
                    soft_wrap=True,
                )
                console.print(str(expected), markup=False, highlight=False)
            if not console.is_terminal and (number + 1) % 100 == 0:
                print(f"{number + 1} of {total} cases, {failed} comparisons failed", flush=True)
    run.seconds = time.monotonic() - started
    report.print_run(run, console)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(run), indent=1, allow_nan=False) + "\n")
    return DIFFERENT if failed else IDENTICAL
