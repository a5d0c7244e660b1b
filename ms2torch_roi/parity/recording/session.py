"""The recordings under way: which there are, what limits they have, and their files."""

from __future__ import annotations

import errno
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy.typing as npt

from .. import remote
from . import calls
from .calls import Call, FeaturesElsewhere

NDArray = npt.NDArray[Any]

# More than a file has in it beside its arrays and the message of an error.
_OVERHEAD = 8192  # bytes

# The digest of features, their shape and dtype.
_Known = tuple[str, tuple[int, ...], str]


class Recording:
    """A recording, as ``with record(...) as recording`` gives it.

    Attributes:
        directory: where the files are.
        calls: how many calls have been seen, those included that ``every`` and the limits left out.
        paths: the files that have been written, in the order in which the calls ended.
    """

    def __init__(
        self,
        directory: Path,
        gradients: bool,
        max_calls: int | None,
        max_bytes: int | None,
        every: int,
        channels: int | None,
    ) -> None:
        self.directory = directory
        self.calls = 0
        self.paths: list[Path] = []
        self._gradients = gradients
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        self._every = every
        self._channels = channels
        self._start = ""
        self._number = 0  # of the last file
        self._bytes = 0  # of all files, with those being written, and gradients that may come
        self._features: dict[_Known, str] = {}  # the files that have them
        self._full = False
        self._warnings: set[str] = set()

    def _counted(self) -> bool:
        """Count a call, and tell whether it is to be recorded. Called with the lock held."""
        self.calls += 1
        return (self.calls - 1) % self._every == 0 and not self._full

    def kept(self, array: NDArray) -> NDArray:
        """Return the channels of features, of an output or of a gradient that are recorded."""
        return array[:, : self._channels] if array.ndim > 1 else array

    def _write(self, call: Call, *, gradients: bool = False) -> Path | None:
        """Write a call to a file, whose path is returned, unless a limit is reached; its ``gradients`` may follow.

        Raises:
            OSError: it cannot be written; the error names the file.
        """
        features, output = self.kept(call.case.features), None if call.output is None else self.kept(call.output)
        call = replace(call, case=replace(call.case, features=features), output=output)
        of_channels = features.nbytes + (0 if output is None else output.nbytes)
        to_come = of_channels if gradients else 0
        known = self._known(features)
        features_in = self._features_in(known)
        size = of_channels - (0 if features_in is None else features.nbytes) + call.case.rois.nbytes
        size += 4 * len(json.dumps(call.error_message)) + _OVERHEAD + to_come
        with _lock:
            limits = (
                ("max_calls", self._max_calls, self._number + 1),
                ("max_bytes", self._max_bytes, self._bytes + size),
            )
            reached = [f"{name}={limit}" for name, limit, wanted in limits if limit is not None and wanted > limit]
            if reached:
                self._full = True
            else:
                self._number += 1
                self._bytes += size
                path = self.directory / f"{self._start}-{os.getpid()}-{self._number:06}{calls.SUFFIX}"
        if reached:
            self._warn(f"{reached[0]} is reached: later calls are not recorded in {remote.name(self.directory)}")
            return None
        with writing(path):
            written = calls.write(path, call, features_in)
        with _lock:
            self._bytes += written + to_come - size
            self.paths.append(path)
            if known is not None and features_in is None:
                self._features[known] = path.name
        return path

    def _known(self, features: NDArray) -> _Known | None:
        """Return what features are known by, unless they are too small to be worth a look in another file."""
        if features.nbytes <= _OVERHEAD:
            return None
        return calls.sha256(features), features.shape, features.dtype.name

    def _features_in(self, known: _Known | None) -> FeaturesElsewhere | None:
        """Return the file of an earlier call of the same features, as those that several heads pool."""
        file = None if known is None else self._features.get(known)
        if known is None or file is None:
            return None
        with writing(self.directory / file):
            return FeaturesElsewhere(file, known[0]) if (self.directory / file).exists() else None

    def _warn(self, message: str) -> None:
        """Warn, if this recording has not said so before."""
        with _lock:
            is_new = message not in self._warnings
            self._warnings.add(message)
        if is_new:
            warnings.warn(f"ms2torch_roi.record: {message}", stacklevel=2)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of an OSError that a call could not be recorded, and name its file."""
    try:
        with remote.errors(path):
            yield
    except OSError as error:
        message = f"a call could not be recorded: {error.strerror or error}; the calls before it are whole"
        raise OSError(error.errno or errno.EIO, message, remote.name(path)) from error


# What follows is shared by all threads, and by all recordings, which may overlap in any way.
_lock = threading.Lock()
_active: list[Recording] = []
_restore: dict[str, Callable[[], None]] = {}
_last_start = datetime.min.replace(tzinfo=timezone.utc)


def enter(recording: Recording, patches: Mapping[str, Callable[[], Callable[[], None]]]) -> None:
    """Start a recording, with the patches, by framework, that show the calls; each returns what undoes it."""
    with _lock:
        recording._start = _new_start()
        for name, patch in patches.items():
            if name not in _restore:
                _restore[name] = patch()
        _active.append(recording)


def leave(recording: Recording) -> None:
    """End a recording, and with the last one the patches."""
    with _lock:
        _active.remove(recording)
        if not _active:
            for restore in _restore.values():
                restore()
            _restore.clear()


def due() -> list[Recording]:
    """Count a call in every recording, and return those that it is to be recorded in."""
    with _lock:
        return [recording for recording in _active if recording._counted()]


def _new_start() -> str:
    """Return a time that no other recording of this process has started at."""
    global _last_start
    _last_start = max(datetime.now(timezone.utc), _last_start + timedelta(microseconds=1))
    return _last_start.strftime("%Y%m%dT%H%M%S.%fZ")


def _after_fork() -> None:
    # A process may get the number of one that has ended, so that alone does not make names unique.
    for recording in _active:
        recording._start = _new_start()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork)
