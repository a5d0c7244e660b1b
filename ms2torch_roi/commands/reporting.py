"""What ``check``, ``replay`` and ``merge`` share: the progress of a run, and its reports."""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import json
import os
import posixpath
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..parity import remote
from . import COULD_NOT_RUN, FAILED, PASSED, CouldNotRunError, arguments

if TYPE_CHECKING:
    from rich.console import Console

    from ..parity import campaign, report, verdicts

# Seconds between two lines on the progress of a run that no terminal shows.
PROGRESS_SECONDS = 10

_REPORTS = ("json", "junit", "html", "summary")

# What files are whose names end so, which no report replaces.
_NO_REPORTS = {".npz": "calls", ".zip": "calls", ".py": "sources", ".ipynb": "sources"}


def run_cases(cases: campaign.Campaign, run: report.Run, options: argparse.Namespace, console: Console) -> None:
    """Run the cases of a campaign that are of this shard, and add what came of them to the run."""
    from ..parity import sharing

    part, parts = options.shard or (1, 1)
    run.shard = f"{part}/{parts}" if options.shard else None
    numbers = range(part - 1, len(cases), parts)
    workers = arguments.workers_of(options, len(numbers))
    lost = () if workers is None else workers.lost
    broken: tuple[type[Exception], ...] = (*lost, futures.CancelledError, futures.TimeoutError)
    started = time.monotonic()
    try:
        for verdicts in _with_progress(sharing.run(cases, numbers, workers), len(numbers), console):
            run.verdicts += verdicts
    except ImportError as error:
        raise CouldNotRunError(str(error)) from error
    except broken as error:
        if options.dask is None:
            raise CouldNotRunError("--workers: no process can be started, or it ends at once") from error
        raise CouldNotRunError(f"--dask: the cluster at {options.dask} is gone, or its workers end at once") from error
    first = [(verdict, cases.shrunk(verdict)) for verdict in run.to_shrink]
    run.shrunk = [small for verdict, small in first if small != verdict]
    run.seconds = time.monotonic() - started


def _with_progress(
    results: Iterator[list[verdicts.Verdict]], total: int, console: Console
) -> Iterator[list[verdicts.Verdict]]:
    """Pass results on, and show how many there are, how many failed, how fast they come, and when the last will."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:3], MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    columns += (TimeRemainingColumn(),)
    first = told = 0.0
    failed = 0
    with Progress(
        *columns, console=console, transient=True, disable=console.quiet or not console.is_terminal
    ) as progress:
        task = progress.add_task("comparing", total=total, rate="")
        for done, verdicts in enumerate(results, 1):
            yield verdicts
            failed += sum(not verdict.passed for verdict in verdicts)
            now = time.monotonic()
            if done == 1:  # which took as long as the imports
                first = told = now
            rate = (done - 1) / (now - first) if now > first else 0.0
            progress.update(task, completed=done, rate=f"{rate:,.0f}/s, {failed:,} failed")
            if not console.is_terminal and not console.quiet and now - told > PROGRESS_SECONDS:
                told = now
                left = (total - done) / rate
                print(
                    f"{done:,} of {total:,} cases, {failed:,} comparisons failed, {rate:,.0f}/s, {left:,.0f} s left",
                    flush=True,
                )


def prepare_reports(options: argparse.Namespace, inputs: Sequence[Path] = ()) -> None:
    """Find out before a run that a report cannot be written after it, or would replace something else.

    Those of an earlier run are removed: however this run ends, none of them is taken for its own.
    """
    files: dict[str, Path] = {name: file for name in _REPORTS if (file := getattr(options, name)) is not None}
    taken = what_is_read(inputs)
    made = []
    try:
        for name, file in files.items():
            if not remote.is_remote(file):  # of which nothing is known before it is there
                there = file.exists()
                file.open("a").close()
                if not there:
                    made.append(file)
            take(name, file, taken)
            if remote.is_remote(file) and not _seems_there(file):
                remote.write(file, lambda _: None)
                made.append(file)
        for name, file in files.items():  # noqa: B007
            _remove(file)
    except (OSError, ValueError) as error:
        raise CouldNotRunError(f"--{name}: {error}") from error
    finally:
        for file in made:
            with contextlib.suppress(OSError, ValueError):
                _remove(file)


def what_is_read(inputs: Sequence[Path]) -> dict[Hashable, str]:
    """Return what :func:`take` must not take."""
    return dict.fromkeys(filter(None, map(_identity, inputs)), "is read")


def take(name: str, report: Path, taken: dict[Hashable, str]) -> None:
    """Take a file for a report.

    Raises:
        CouldNotRunError: it is taken, or may be a recorded call or a source.
    """
    identity, suffix = _identity(report), _target(report).suffix
    if identity in taken:
        raise CouldNotRunError(f"--{name}: {remote.name(report)} {taken[identity]}")
    if suffix in _NO_REPORTS:
        of = _NO_REPORTS[suffix]
        raise CouldNotRunError(f"--{name}: {remote.name(report)} is no place for a report: {suffix} is of {of}")
    taken[identity] = f"is what --{name} writes"


def _seems_there(report: Path) -> bool:
    """Tell whether there is a file at a URL; where files may be written but not looked at, there seems to be none.

    Raises:
        IsADirectoryError: there is a folder, or it is a bucket, which would be removed.
    """
    there = is_folder = False
    with contextlib.suppress(OSError, ValueError), remote.errors(report):
        there, is_folder = report.exists(), report.is_dir()
    if is_folder:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), remote.name(report))
    return there


def _identity(path: Path) -> Hashable:
    """Return what two names of one file have in common, be they links of whatever kind; None if there is no file."""
    if remote.is_remote(path):
        # A file system, unlike an object store, has one file by all of these names.
        *where, place = remote.identity(path)
        return (*where, posixpath.normpath(str(place)))
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _target(report: Path) -> Path:
    """Return the file that a link leads to."""
    return report if remote.is_remote(report) else Path(os.path.realpath(report))


def _remove(report: Path) -> None:
    """Remove a file, but no device or pipe; where it cannot be removed, as when it is mounted, make it empty.

    Raises:
        OSError: it cannot be made empty either.
    """
    if remote.is_remote(report) or report.is_file():
        try:
            with remote.errors(report):
                _target(report).unlink(missing_ok=True)
        except OSError:
            write(report, b"")


def write(report: Path, content: bytes) -> None:
    """Write a report as a whole or not at all; but into a device, a pipe, or what could not be removed.

    Raises:
        OSError: it cannot be written.
    """
    if not remote.is_remote(report) and report.exists():
        report.write_bytes(content)
    else:
        remote.write(_target(report), lambda opened: opened.write(content))


def finish(run: report.Run, options: argparse.Namespace, console: Console) -> int:
    """Print and write the reports, and return the exit status."""
    from ..parity import report
    from ..parity.report import facts, html, junit, markdown, terminal

    terminal.print_run(run, console)
    if console.quiet:
        console.quiet = False
        terminal.print_headline(run, console)
    terminal.print_conclusion(run, console)
    found = facts.as_json(run)
    renderers: dict[str, Callable[[dict[str, Any]], str]] = {
        "json": lambda found: json.dumps(found, indent=1, allow_nan=False) + "\n",
        "junit": junit.render,
        "html": html.render,
        "summary": markdown.render,
    }
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(*itertools.islice(markdown.github_annotations(found), report.SHOWN), sep="\n")
    problems = []
    for name, render in renderers.items():
        file: Path | None = getattr(options, name)
        if file is not None:
            try:
                write(file, render(found).encode("utf-8", "backslashreplace"))
            except OSError as error:
                problems.append(f"--{name}: {error}")
    if problems:
        raise CouldNotRunError("; ".join(problems))
    if run.verdict == "nothing compared":  # which is nothing wrong in a shard, if others compare something
        return PASSED if run.shard and not run.total.failed else COULD_NOT_RUN
    return FAILED if run.total.failed else PASSED
