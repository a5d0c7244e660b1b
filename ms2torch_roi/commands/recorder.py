"""``ms2torch-roi recorder``."""

from __future__ import annotations

import argparse

from . import arguments

HELP = "write a script that records the calls of a model where this package is not installed"
DESCRIPTION = (
    "Write a script that needs nothing but NumPy and MindSpore, from MindSpore 1.5 and Python 3.7 on."
    " 'python recorder.py train.py' runs a program in PyNative mode and records its calls of mindspore.ops.ROIAlign, as"
    " ms2torch_roi.record does."
)
EPILOG = arguments.STATUSES_OF_SCRIPTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    arguments.add_script_option(parser, "recorder.py")


def run(options: argparse.Namespace) -> int:
    """Run it, and return the exit status."""
    return arguments.write_script(options, "recorder")
