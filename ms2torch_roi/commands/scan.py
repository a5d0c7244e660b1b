"""``ms2torch-roi scan``: find the RoIAlign calls of a project, and say what each becomes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .. import how_to_install
from . import CouldNotRunError, reporting

if TYPE_CHECKING:
    from ..migrate.files import File

HELP = "find the RoIAlign calls of a project, and say what each becomes"
DESCRIPTION = (
    "Find each RoIAlign of MindSpore, torchvision, detectron2 and mmcv in Python files and notebooks, and say for each"
    " what its arguments are, as far as the file tells, what it becomes, and what a person should know. Of folders, all"
    " files are read but those in hidden folders, node_modules and site-packages. Nothing is run, and neither framework"
    " is needed. An operator is found in the files that import it, not in one that gets it from another file. Of those"
    " that are chosen by a string, dicts with a type, as in mmdet's configs, and getattr are found; other ways, such as"
    " YAML and importlib, are not."
)
EPILOG = "Exit status: 0 if nothing needs a person, 1 if something does, 2 if a file could not be read."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files, or folders of them")
    parser.add_argument("--json", metavar="FILE", help="write the same facts for machines, to standard output with -")


def run(options: argparse.Namespace) -> int:
    """Run the command, and return its exit status."""
    if options.json not in (None, "-"):
        reporting.take("json", Path(options.json), reporting.what_is_read(options.paths))
    files, unreadable = read_project(options.paths)
    from ..migrate import report

    if options.json != "-":
        _print(files)
    if options.json is not None:
        facts = json.dumps(report.as_json(files, unreadable), indent=1, default=repr) + "\n"
        if options.json == "-":
            sys.stdout.write(facts)
        else:
            try:
                Path(options.json).write_text(facts, encoding="utf-8")
            except OSError as error:
                raise CouldNotRunError(f"--json: {error}") from error
    if unreadable:
        raise CouldNotRunError("; ".join(unreadable))
    return 1 if report.needs_person(files) else 0


def read_project(paths: list[Path]) -> tuple[list[File], list[str]]:
    """Return what was found in files and folders, and in a line for each file that cannot be read, why.

    Raises:
        CouldNotRunError: there is no such path, or LibCST is not installed.
    """
    try:
        from ..migrate import files
    except ModuleNotFoundError as error:
        if error.name != "libcst":
            raise
        raise CouldNotRunError(f"LibCST is not installed. {how_to_install('port')}") from error
    try:
        return files.read_all(paths)
    except FileNotFoundError as error:
        raise CouldNotRunError(str(error)) from error


def _print(files: list[File]) -> None:
    from ..migrate import report

    for file in files:
        for site in file.found.sites:
            print(*report.describe(file, site), sep="\n")
        for note in report.notes(file, files):
            print(report.describe_note(file, note))
    sites = sum(len(file.found.sites) for file in files)
    with_sites = sum(bool(file.found.sites) for file in files)
    print(
        f"{report.counted(sites, 'site')} in {report.counted(with_sites, 'file')},"
        f" {report.counted(report.needs_person(files), 'thing')} for a person to decide."
    )
