"""The ``ms2torch-roi`` command."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from . import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from .parity import campaign, report, verdicts

Number = TypeVar("Number", int, float)

PASSED, FAILED, COULD_NOT_RUN = 0, 1, 2
DIRECTIONS = ["to-torch", "to-mindspore"]

# A workload takes as long as some twenty other random cases.
CASES_FOR_A_WORKLOAD = 50

# Seconds between two lines on the progress of a run that no terminal shows.
PROGRESS_SECONDS = 10

_REPORTS = ("json", "junit", "html")
_STATUSES = "Exit status: 0 if all are identical, 1 if one differs, 2 if the {} could not run."


class _Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(COULD_NOT_RUN, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _CouldNotRunError(Exception):
    """The command could not run, for a reason that the user can mend."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = _Parser(prog="ms2torch-roi", description="MindSpore's and torchvision's RoIAlign, interchangeable.")
    parser.add_argument("--version", action="version", version=f"ms2torch-roi {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    for add in (_add_check, _add_replay, _add_merge, _add_explain):
        add(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except _CouldNotRunError as error:
        print(f"ms2torch-roi {options.command}: cannot run: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"ms2torch-roi {options.command}: interrupted", file=sys.stderr)
    except BrokenPipeError:
        # Whoever read the output is gone. Python would complain once more when it flushes what is left at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception:  # a fault of this program, which must not look like a difference
        traceback.print_exc()
    return COULD_NOT_RUN


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="prove on this machine that both libraries agree to the last bit",
        description="Run both frameworks on the documented example, a catalogue of edge cases, and random cases, and"
        " compare the bits of every row that the original defines. There are two directions: MindSpore's operator"
        " against its port to torch (to-torch), and torchvision's against its port to MindSpore (to-mindspore). In a"
        " round trip, the calls of the other framework that a port makes are taken back by the other port.",
        epilog=_STATUSES.format("check"),
    )
    check.add_argument(
        "--cases", type=_count, default=500, metavar="N", help="random cases for each direction (default: %(default)s)"
    )
    check.add_argument(
        "--workloads",
        type=_count,
        metavar="N",
        help="random cases as large as models make them, of which the gradients are compared too, for each direction"
        " (default: one for every 50 of the others)",
    )
    check.add_argument("--seed", type=_count, default=0, metavar="S", help="of the random cases (default: %(default)s)")
    check.add_argument("--direction", choices=DIRECTIONS, help="check one direction (default: both)")
    check.add_argument(
        "--without-mindspore",
        action="store_true",
        help="compare the port to torch with the NumPy reference instead of MindSpore",
    )
    _add_run_options(check)
    _add_report_options(check)
    check.set_defaults(run=_check)


def _add_replay(commands: Any) -> None:
    replay = commands.add_parser(
        "replay",
        help="compare the ports with calls that ms2torch_roi.record has recorded",
        description="Run the port on every recorded call, and compare its output, and its gradient if that was"
        " recorded, with the recorded ones. The framework that they were recorded in is not needed.",
        epilog=_STATUSES.format("replay"),
    )
    replay.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="recorded calls, or folders of them")
    replay.add_argument(
        "--golden", action="store_true", help="replay the calls of every supported MindSpore that come with the package"
    )
    replay.add_argument(
        "--backward-roi-end-mode",
        type=int,
        choices=(0, 1),
        help="of the port to torch: 1 for the gradient that MindSpore has in mode 0 (default: as roi_end_mode)",
    )
    _add_run_options(replay)
    _add_report_options(replay)
    replay.set_defaults(run=_replay, parser=replay)


def _add_merge(commands: Any) -> None:
    merge = commands.add_parser(
        "merge",
        help="put the --json reports of all shards of a run together",
        description="Put the --json reports of all shards of a run together, as if it had not been split.",
        epilog=_STATUSES.format("merge"),
    )
    merge.add_argument("files", nargs="+", type=Path, metavar="FILE", help="report of a shard, made by --json")
    _add_report_options(merge)
    merge.set_defaults(run=_merge)


def _add_explain(commands: Any) -> None:
    from .explain import command

    parser = commands.add_parser("explain", help="show where both libraries sample one box", **command.DESCRIPTION)
    command.add_arguments(parser)
    parser.set_defaults(run=lambda options: command.run(options, _console()))


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--shard", type=_shard, metavar="I/N", help="run the I-th of N parts; merge puts them together")
    parser.add_argument("--atol", type=_tolerance, default=0.0, metavar="A", help="values may differ by A (default: 0)")
    parser.add_argument(
        "--rtol", type=_tolerance, default=0.0, metavar="R", help="and by R times what is expected (default: 0)"
    )
    parser.add_argument(
        "--max-differing",
        type=_count,
        default=0,
        metavar="N",
        help="and N values of a case by more (default: 0)",
    )


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same facts for machines")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write them for the test viewers of CI services")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write them as a page for a browser")


def _count(text: str) -> int:
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


def _check(options: argparse.Namespace) -> int:
    console = _console()
    from .parity import campaign, cases, operators, report

    with_mindspore = not options.without_mindspore
    if options.direction == "to-mindspore" and not with_mindspore:
        raise _CouldNotRunError("--direction to-mindspore needs MindSpore: it does not go with --without-mindspore")
    directions = [options.direction] if options.direction else DIRECTIONS
    check = campaign.Check(
        random_cases=options.cases,
        workloads=options.cases // CASES_FOR_A_WORKLOAD if options.workloads is None else options.workloads,
        seed=options.seed,
        directions=tuple(directions if with_mindspore else ["to-torch"]),
        with_mindspore=with_mindspore,
        tolerance=_tolerance_of(options),
    )
    try:
        if with_mindspore:
            operators.import_mindspore()
        operators.port(cases.documented_cases()[0])
    except ImportError as error:
        hint = ", or use --without-mindspore" if "MindSpore is not installed" in str(error) else ""
        raise _CouldNotRunError(f"{error}{hint}") from error
    _check_reports(options)
    versions = operators.versions(with_mindspore=with_mindspore)
    oracle = "frameworks" if with_mindspore else "reference"
    run = report.Run(
        oracle=oracle,
        headline=report.headline(oracle, versions),
        versions=versions,
        numbers=len(check),
        settings=dataclasses.asdict(check),
        seed=options.seed,
    )
    if "to-mindspore" in check.directions and not operators.torchvision_has_its_errors():
        run.notes.append("Not run in torchvision, which may read out of bounds with this torch: what must be an error.")
    _run(check, run, options, console)
    for verdict in run.verdicts:
        printed = check.case(verdict.number).printed if verdict.category == cases.DOCUMENTED else None
        if printed is not None and verdict.passed:
            page = f"{verdict.case} ({verdict.direction}), from both, as its page has it:\n{printed}"
            console.print(page, markup=False, highlight=False, soft_wrap=True)
    return _finish(run, options, console)


def _replay(options: argparse.Namespace) -> int:
    console = _console()
    from .parity import campaign, operators, report

    if bool(options.paths) == options.golden:
        raise _CouldNotRunError("give files or folders of recorded calls, or --golden")
    paths = sorted(campaign.GOLDEN.iterdir()) if options.golden else options.paths
    try:
        files, others = campaign.recorded_files(paths)
    except (OSError, ValueError) as error:
        raise _CouldNotRunError(str(error)) from error
    _check_reports(options, files)
    replay = campaign.Replay(files, options.backward_roi_end_mode, _tolerance_of(options))
    versions = operators.versions()
    run = report.Run(
        oracle="recording",
        headline=report.headline("recording", versions),
        versions=versions,
        numbers=len(replay),
        settings={
            "files": [str(file) for file in files],
            "backward_roi_end_mode": options.backward_roi_end_mode,
            "tolerance": dataclasses.asdict(replay.tolerance),
        },
        notes=[f"Not compared: {file} is no recorded call." for file in others],
    )
    _run(replay, run, options, console)
    return _finish(run, options, console)


def _merge(options: argparse.Namespace) -> int:
    console = _console()
    from .parity import report

    _check_reports(options, options.files)
    try:
        run = report.merged([report.read(file) for file in options.files])
    except (OSError, ValueError) as error:
        raise _CouldNotRunError(str(error)) from error
    return _finish(run, options, console)


def _console() -> Console:
    """Return a console to report on; this finds out whether rich is there."""
    try:
        from rich.console import Console
    except ModuleNotFoundError as error:
        raise _CouldNotRunError("rich is not installed. Install it with: pip install 'ms2torch-roi[cli]'") from error

    class ReportConsole(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with status 1, which stands for a difference
            raise BrokenPipeError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    return ReportConsole()


def _tolerance_of(options: argparse.Namespace) -> verdicts.Tolerance:
    from .parity.verdicts import Tolerance

    return Tolerance(options.atol, options.rtol, options.max_differing)


def _run(cases: campaign.Campaign, run: report.Run, options: argparse.Namespace, console: Console) -> None:
    """Run the cases of a campaign that are of this shard, and add what came of them to the run."""
    from .parity import campaign, report

    part, parts = options.shard or (1, 1)
    run.shard = f"{part}/{parts}" if options.shard else None
    numbers = range(part - 1, len(cases), parts)
    console.print(run.headline, style="bold", highlight=False, soft_wrap=True)
    started = time.monotonic()
    try:
        for verdicts in _with_progress(campaign.run(cases, numbers, options.workers), len(numbers), console):
            run.verdicts += verdicts
    except ImportError as error:
        raise _CouldNotRunError(str(error)) from error
    except BrokenProcessPool as error:
        raise _CouldNotRunError("a worker process died; --workers 1 may tell at which case") from error
    first = [(verdict, cases.shrunk(verdict)) for verdict in run.failures[: report.SHOWN_FAILURES]]
    run.shrunk = [small for verdict, small in first if small != verdict]
    run.seconds = time.monotonic() - started


def _with_progress(
    results: Iterator[list[verdicts.Verdict]], total: int, console: Console
) -> Iterator[list[verdicts.Verdict]]:
    """Pass results on, and show how many there are, how many failed, how fast they come, and when the last will."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:3], MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    columns += (TimeRemainingColumn(),)
    started = told = time.monotonic()
    failed = 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("comparing", total=total, rate="")
        for done, verdicts in enumerate(results, 1):
            yield verdicts
            failed += sum(not verdict.passed for verdict in verdicts)
            now = time.monotonic()
            rate = done / (now - started)
            progress.update(task, completed=done, rate=f"{rate:,.0f}/s, {failed:,} failed")
            if not console.is_terminal and now - told > PROGRESS_SECONDS:
                told = now
                left = (total - done) / rate
                print(
                    f"{done:,} of {total:,} cases, {failed:,} comparisons failed, {rate:,.0f}/s, {left:,.0f} s left",
                    flush=True,
                )


def _check_reports(options: argparse.Namespace, inputs: Sequence[Path] = ()) -> None:
    """Find out before a long run that a report cannot be written after it, or would replace something else."""
    taken = dict.fromkeys(map(os.path.realpath, inputs), "is read")
    for name in _REPORTS:
        file: Path | None = getattr(options, name)
        if file is None:
            continue
        real = os.path.realpath(file)
        if real in taken:
            raise _CouldNotRunError(f"--{name}: {file} {taken[real]}")
        taken[real] = f"is what --{name} writes"
        was_there = file.exists()
        try:
            with file.open("a"):
                pass
            if not was_there:
                file.unlink()
        except OSError as error:
            raise _CouldNotRunError(f"--{name}: {error}") from error


def _finish(run: report.Run, options: argparse.Namespace, console: Console) -> int:
    """Print and write the reports, and return the exit status."""
    from .parity import html, junit, report

    report.print_run(run, console)
    facts = report.as_json(run)
    renderers: dict[str, Callable[[dict[str, Any]], str]] = {
        "json": lambda facts: json.dumps(facts, indent=1, allow_nan=False) + "\n",
        "junit": junit.render,
        "html": html.render,
    }
    for name, render in renderers.items():
        file: Path | None = getattr(options, name)
        if file is not None:
            try:
                file.write_text(render(facts), encoding="utf-8")
            except OSError as error:
                raise _CouldNotRunError(f"--{name}: {error}") from error
    return FAILED if run.total.failed else PASSED
