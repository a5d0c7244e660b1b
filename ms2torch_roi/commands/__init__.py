"""The subcommands of ``ms2torch-roi``, a file for each: its HELP, DESCRIPTION and EPILOG, its arguments, and its run.

``add_arguments(parser)`` adds the arguments, and ``run(options)`` returns the exit status or raises
:class:`CouldNotRunError`. ``arguments.py`` and ``reporting.py`` have what several commands share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import how_to_install

if TYPE_CHECKING:
    from rich.console import Console

# In the order in which --help lists them.
NAMES = ("check", "replay", "merge", "identify", "import", "explain", "scan", "rewrite", "recorder", "probe")

PASSED, FAILED, COULD_NOT_RUN = 0, 1, 2
STATUSES = "Exit status: 0 if all are identical, 1 if one differs, 2 if the {} could not run or compared nothing."


UNREADABLE = (
    " A recorded call that cannot be read counts as one that differs, unless there is nothing else: then it is 2."
)


class CouldNotRunError(Exception):
    """The command could not run, for a reason that the user can mend."""


def make_console(*, quiet: bool = False) -> Console:
    """Return a console to report on; this finds out whether rich is there."""
    try:
        from rich.console import Console
    except ModuleNotFoundError as error:
        raise CouldNotRunError(f"rich is not installed. {how_to_install('cli')}") from error

    class ReportConsole(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with status 1, which stands for a difference
            raise BrokenPipeError

    return ReportConsole(quiet=quiet)
