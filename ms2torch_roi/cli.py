"""The ``ms2torch-roi`` command."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import __version__

IDENTICAL, DIFFERENT, COULD_NOT_RUN = 0, 1, 2


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
        " compare the bits of every row that MindSpore defines.",
        epilog="Exit status: 0 if all are identical, 1 if one differs, 2 if the check could not run.",
    )
    check.add_argument("--cases", type=_count, default=500, metavar="N", help="random cases (default: %(default)s)")
    check.add_argument("--seed", type=_count, default=0, metavar="S", help="of the random cases (default: %(default)s)")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the same facts for machines")
    check.add_argument(
        "--without-mindspore", action="store_true", help="compare with the NumPy reference instead of MindSpore"
    )
    options = parser.parse_args(arguments)
    try:
        return _check(options.cases, options.seed, options.json, with_mindspore=not options.without_mindspore)
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


def _check(random_cases: int, seed: int, json_file: Path | None, *, with_mindspore: bool) -> int:
    try:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        from .parity import cases, edges, operators, report, verdicts
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "rich":
            raise
        raise _CouldNotRunError("rich is not installed. Install it with: pip install 'ms2torch-roi[cli]'") from error
    try:
        oracle = operators.mindspore if with_mindspore else operators.reference
        if with_mindspore:
            operators.import_mindspore()
        operators.adapter(cases.documented_cases()[0])
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
    run = report.Run(oracle.__name__, versions, seed)
    console.print(run.headline, style="bold", highlight=False, soft_wrap=True)
    todo = [*cases.documented_cases(), *edges.edge_cases()]
    total = len(todo) + random_cases
    started = time.monotonic()
    columns = (*Progress.get_default_columns()[:3], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for number in progress.track(range(total), description="comparing"):
            case = todo[number] if number < len(todo) else cases.random_case(seed, number - len(todo))
            expected, actual = operators.outcome(oracle, case), operators.outcome(operators.adapter, case)
            verdict = verdicts.judge(case, expected, actual)
            run.verdicts.append(verdict)
            if not verdict.passed:
                run.reproductions[case.name] = verdicts.reproduction(case, with_mindspore=with_mindspore)
            elif case.printed is not None:
                console.print(f"{case.name}, from both, as its page prints it:", highlight=False)
                console.print(str(actual), markup=False, highlight=False)
            if not console.is_terminal and (number + 1) % 100 == 0:
                print(f"{number + 1} of {total} cases, {len(run.reproductions)} failed", flush=True)
    run.seconds = time.monotonic() - started
    report.print_run(run, console)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(run), indent=1, allow_nan=False) + "\n")
    return DIFFERENT if run.reproductions else IDENTICAL
