"""``ms2torch-roi rewrite``: put the ports in the place of the RoIAlign calls of a project."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from . import CouldNotRunError
from .scan import read_project

if TYPE_CHECKING:
    from ..migrate.files import File

HELP = "put the ports in the place of the RoIAlign calls of a project"
DESCRIPTION = (
    "Rewrite the calls that ms2torch-roi scan finds to calls of ms2torch_roi, and import it; nothing else is changed."
    " What cannot be rewritten safely is left, and named. The files are written only if all of them can be read and"
    " written."
)
EPILOG = (
    "Exit status: 0 if all calls were rewritten, 1 if some were left, 2 if a file could not be read or written. With"
    " --diff, what it would be."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files, or folders of them")
    parser.add_argument("--diff", action="store_true", help="print what would change as a diff, and write nothing")
    parser.add_argument(
        "--direction",
        choices=("to-torch", "to-mindspore"),
        help="rewrite MindSpore's calls (to-torch) or all others (to-mindspore); needed where there are both",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command, and return its exit status."""
    project, unreadable = read_project(options.paths)
    from ..migrate import report, rewriting

    if unreadable:
        raise CouldNotRunError("; ".join(unreadable))
    directions = Counter(site.form.direction for file in project for site in file.found.sites)
    if options.direction is None and len(directions) > 1:
        # A project goes one way. Whoever calls both frameworks in it compares them, or is half way there.
        counts = " and ".join(f"{count} {direction}" for direction, count in sorted(directions.items()))
        raise CouldNotRunError(f"there are calls of both frameworks, {counts}: choose one with --direction")
    messages: list[str] = []
    texts: list[tuple[File, str]] = []
    rewritten = left = 0
    for file in project:
        sites = rewriting.rewritable(file.found, options.direction)
        for site in file.found.sites:
            if site in sites:
                rewritten += 1
                messages += [report.describe_note(file, note) for note in site.notes if note.needs_person]
            elif options.direction in (None, site.form.direction):
                left += 1
                messages.append(f"{report.place(file, site.line)}: left: {site.text}: {site.left}")
        messages += [report.describe_note(file, note) for note in file.found.notes if note.kind == "registry"]
        if sites:
            texts.append((file, file.rewritten(sites)))
    if options.diff:
        for file, text in texts:
            sys.stdout.writelines(_diff(file.path, file.text, text))
    else:
        _write(texts)
    done = f"{report.counted(rewritten, 'site')} {'to rewrite' if options.diff else 'rewritten'}"
    messages.append(f"{done} in {report.counted(len(texts), 'file')}, {left:,} left.")
    print(*messages, sep="\n", file=sys.stderr if options.diff else sys.stdout)
    return 1 if left else 0


def _write(texts: list[tuple[File, str]]) -> None:
    from ..migrate import files

    try:
        for file, _ in texts:
            files.check_writable(file.path)
        for file, text in texts:
            files.write(file, text)
    except OSError as error:
        raise CouldNotRunError(str(error)) from error


def _diff(path: Path, before: str, after: str) -> Iterator[str]:
    from ..migrate.source import split_lines

    for line in difflib.unified_diff(split_lines(before), split_lines(after), f"a/{path}", f"b/{path}"):
        yield line if line.endswith(("\n", "\r")) else f"{line}\n\\ No newline at end of file\n"
