"""``ms2torch-roi merge``."""

from __future__ import annotations

import argparse

from . import STATUSES, UNREADABLE, CouldNotRunError, arguments, make_console, reporting

HELP = "put the --json reports of all shards of a run together"
DESCRIPTION = "Put the --json reports of all shards of a run together, as if it had not been split."
EPILOG = STATUSES.format("merge") + UNREADABLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("files", nargs="+", type=arguments.path, metavar="FILE", help="report of a shard, or its URL")
    arguments.add_report_options(parser)


def run(options: argparse.Namespace) -> int:
    """Run it, and return the exit status."""
    console = make_console(quiet=options.quiet)
    from ..parity.report import facts, terminal

    reporting.prepare_reports(options, options.files)
    try:
        run = facts.merged([facts.read(file) for file in options.files])
    except (OSError, ValueError) as error:
        raise CouldNotRunError(str(error)) from error
    terminal.print_headline(run, console)
    terminal.print_origins(run, console)
    return reporting.finish(run, options, console)
