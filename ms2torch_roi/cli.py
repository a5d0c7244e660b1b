"""The ``ms2torch-roi`` command: which subcommand is meant, and the exit status whatever happens in it."""

from __future__ import annotations

import argparse
import importlib
import io
import keyword
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from . import __version__
from .commands import COULD_NOT_RUN, NAMES, CouldNotRunError
from .parity import processes, remote


class _Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        _say(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(COULD_NOT_RUN)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status.

    Without arguments it is the command of this process, which it ends when it is interrupted.
    """
    if arguments is None:
        named = [name for name in sys.argv[1:2] if name in NAMES]
        processes.end_when_interrupted(" ".join(["ms2torch-roi", *named]), COULD_NOT_RUN)
    parser = _Parser(prog="ms2torch-roi", description="MindSpore's and torchvision's RoIAlign, interchangeable.")
    parser.add_argument("--version", action="version", version=f"ms2torch-roi {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    for name in NAMES:
        module = f"{name}_" if keyword.iskeyword(name) else name
        command = importlib.import_module(f".commands.{module}", __package__)
        subparser = subparsers.add_parser(
            name, help=command.HELP, description=command.DESCRIPTION, epilog=command.EPILOG
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    options.command_line = shlex.join(["ms2torch-roi", *map(remote.without_password, given)])
    try:
        status: int = options.run(options)
        return status
    except CouldNotRunError as error:
        _say(f"ms2torch-roi {options.command}: cannot run: {error}")
    except KeyboardInterrupt:
        _say(f"ms2torch-roi {options.command}: interrupted")
    except BrokenPipeError:
        # Whoever read the output is gone. Python would complain once more when it flushes what is left at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception:  # a fault of this program, which must not look like a difference
        traceback.print_exc()
    return COULD_NOT_RUN


def _say(line: str) -> None:
    """Print one line on what went wrong, whatever the names in it are made of."""
    print(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "\ufffd", line), file=sys.stderr)
