"""The commands of ``ms2torch-roi``, one file each."""

from __future__ import annotations


class CouldNotRunError(Exception):
    """The command could not run, for a reason that the user can mend."""
