"""``ms2torch-roi probe``."""

from __future__ import annotations

import argparse

from . import arguments

HELP = "write a script that asks a device what its ROIAlign computes"
DESCRIPTION = (
    "Write a script that needs nothing but NumPy and MindSpore, from MindSpore 1.5 and Python 3.7 on. On a machine with"
    " the device, 'python probe.py' calls mindspore.ops.ROIAlign on inputs that tell all known rules apart, and writes"
    " a small file for ms2torch-roi identify."
)
EPILOG = arguments.STATUSES_OF_SCRIPTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    arguments.add_script_option(parser, "probe.py")


def run(options: argparse.Namespace) -> int:
    """Run it, and return the exit status."""
    return arguments.write_script(options, "probe")
