"""One call that is recorded: the operator runs, and what went in and came out goes to the recordings."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import __version__, params
from ..case import Case, MindSporeCase
from . import calls
from .calls import Call
from .session import Recording, writing

NDArray = npt.NDArray[Any]

# Integers are recorded for the errors that they end in.
DTYPES = ("float16", "float32", "float64", "int32", "int64")


class UnrecordableError(Exception):
    """A call that no file can hold; the message says why."""


def record_call(
    recordings: Sequence[Recording],
    call: Call,
    operator: Callable[[], Any],
    read: Callable[[Any], NDArray],
    gradients: Gradients | None,
) -> Any:
    """Run the operator, record what comes of it, and return its output.

    ``call`` is all that was known before, and ``gradients`` where its gradients will go, if there will be any.
    """
    case = call.case
    try:
        output = operator()
        array = read(output)  # MindSpore raises its errors when a result is read
        _check_shapes(case)
    except UnrecordableError as error:
        refuse(recordings, error)
        return output
    except Exception as error:
        if type(error) not in calls.ERRORS:
            refuse(recordings, f"it raised {type(error).__name__}")
            raise
        failed = replace(call, case=replace(case, raises=type(error)), error_message=str(error))
        for recording in recordings:
            recording._write(failed)
        raise
    unwritten = unwritten_rows(call)
    call = replace(call, output=cleared(array, unwritten))
    for recording in recordings:
        if gradients is None or not recording._gradients:
            recording._write(call)
        elif path := recording._write(call, gradients=True):
            gradients.files.append((recording, path))
            gradients.unwritten = unwritten
    return output


def unwritten_rows(call: Call) -> NDArray | None:
    """Return a mask of the rows that MindSpore has not written, unless it runs where other rules may hold."""
    return call.case.unwritten if isinstance(call.case, MindSporeCase) and call.device in ("CPU", "GPU") else None


def cleared(array: NDArray, unwritten: NDArray | None) -> NDArray:
    """Return the array with 0 in place of what MindSpore has left in the rows that it has not written."""
    if unwritten is not None and unwritten.any():
        array = array.copy()
        array[unwritten] = 0
    return array


def _check_shapes(case: Case) -> None:
    try:
        params.check_shapes("ROIAlign", case.features.shape, case.rois.shape)
    except ValueError as error:  # MindSpore reads features of three dimensions out of bounds
        raise UnrecordableError(str(error)) from error


def refuse(recordings: Sequence[Recording], why: object, what: str = "call") -> None:
    """Warn, once in each recording, that something was not recorded."""
    for recording in recordings:
        recording._warn(f"a {what} was not recorded: {why}")


def wants_gradients(recordings: Sequence[Recording]) -> bool:
    """Tell whether one of them records gradients."""
    return any(recording._gradients for recording in recordings)


class Gradients:
    """What comes into the backward pass of one call, and goes out of it, on its way to the files of the call."""

    def __init__(self, read: Callable[[Any], NDArray]) -> None:
        self.files: list[tuple[Recording, Path]] = []
        self.unwritten: NDArray | None = None
        self._read = read
        self._of_output: NDArray | None = None

    def of_output(self, gradient: Any) -> None:
        try:
            self._of_output = cleared(self._read(gradient).copy(), self.unwritten)
        except UnrecordableError as error:
            self._of_output = None
            self._refuse(error)

    def of_features(self, gradient: Any) -> None:
        if self._of_output is None:
            return
        try:
            array = self._read(gradient)
        except UnrecordableError as error:
            self._refuse(error)
            return
        for recording, path in self.files:
            gradients = (recording.kept(of_channels) for of_channels in (self._of_output, array))
            of_output, of_features = map(np.ascontiguousarray, gradients)
            with writing(path):
                calls.add_gradients(path, of_output, of_features)

    def _refuse(self, error: UnrecordableError) -> None:
        refuse([recording for recording, _ in self.files], error, "gradient")


def versions(*packages: str) -> Mapping[str, str]:
    """Return the versions of these imported packages, and of what all calls are recorded with."""
    found = {package: str(sys.modules[package].__version__) for package in packages}
    return {**found, "ms2torch_roi": __version__, "numpy": np.__version__, "python": platform.python_version()}
