"""``record``: write the calls that a model makes of either operator to files, to be replayed elsewhere.

There is a module for each framework, imported when its calls are recorded.
"""

from __future__ import annotations

import importlib
import operator
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ... import how_to_install
from .. import remote
from .session import Recording, enter, leave

__all__ = ["Recording", "record"]

_OPERATORS = {"mindspore": "mindspore.ops.ROIAlign", "torchvision": "torchvision.ops.roi_align"}

_OUT_OF_GRAPHS = (
    "Run a MindSpore model in PyNative mode: call mindspore.set_context(mode=mindspore.PYNATIVE_MODE) first, and set"
    " MS_JIT=0 in the environment, which turns mindspore.jit off. What must run as a graph, MindSpore itself can dump"
    " (MINDSPORE_DUMP_CONFIG), and ms2torch-roi import makes recorded calls of that. Recording needs MindSpore 2.7 or"
    " later on CPython 3.10 to 3.12; for older ones, ms2torch-roi recorder writes a script."
)


def record(
    directory: str | os.PathLike[str],
    *,
    gradients: bool = False,
    max_calls: int | None = None,
    max_bytes: int | None = None,
    every: int = 1,
    channels: int | None = None,
) -> AbstractContextManager[Recording]:
    """Record the calls of ``mindspore.ops.ROIAlign`` and ``torchvision.ops.roi_align`` that are made in a block.

    Each call is written to a file of its own when it returns, with its arguments, its inputs and its output, or the
    error that the operator raised, the versions and the device: if the process is killed, at most the call in flight is
    lost. ``ms2torch-roi replay`` compares the ports with such files, where the framework need not be installed.
    FORMAT.md, which is in the package, describes them.

    Every call of the process is seen, on any thread and of operators made before the block too, as the operator gets
    it: once, unless ``torch.utils.checkpoint`` with ``use_reentrant=True`` repeats it. A process forked in the block
    goes on recording, and one started anew does not. No file is overwritten by another call, so that recordings and
    processes can share a directory. The framework must be imported before the block; if none is, those installed are.

    Only calls that Python makes can be seen: none in MindSpore's graph mode or under ``mindspore.jit``, unless
    ``MS_JIT=0`` in the environment turns both off, none in TorchScript or in what ``torch.compile`` or ``torch.export``
    compiled, and none of quantised features or of deterministic algorithms on a GPU. Of MindSpore it needs 2.7 or
    later, which is there for CPython 3.10 to 3.12; ``ms2torch-roi recorder`` writes a script for older ones.

    Recording changes no bit of a model's outputs or gradients, but waits for each result, so that errors that MindSpore
    raises late are raised by the call. Rows that MindSpore never writes (``|x1|`` and ``|x2|`` below 0.001) are 0 in
    the file, in the gradient too; the model gets them as they are.

    Args:
        directory: where the files go, a folder or a URL that fsspec knows (``s3://bucket/calls``, with the extra
            ``remote``); it is made if it is not there.
        gradients: True to record also what the framework's backward pass brought for the output of each call, and what
            the operator's own gradient gave for its features. They are added to the file when they arrive, also after
            the block; of several backward passes through one call the last stays. MindSpore then hands the model a view
            of its output.
        max_calls: calls to record at most.
        max_bytes: bytes that the files may take at most, gradients to come included.
        every: record the first call and then every ``every``-th. Limits and sampling count for each process; a forked
            one goes on from where it was forked.
        channels: the channels of the features to record, from the first one on; None for all. They are pooled each on
            its own, so that 8 of 256 prove as much in a thirtieth of the bytes.

    Returns:
        A context manager, which gives a :class:`Recording`.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a limit or ``every`` is below 1.
        ImportError: on entering, neither framework is installed.
        RuntimeError: on entering, MindSpore is in graph mode, without ``MS_JIT=0``.
        OSError: the directory cannot be made, or in a call or a backward pass, a file cannot be written; those written
            before are whole.

    Warns:
        UserWarning: a limit was reached; a call cannot be recorded, such as one of bfloat16 tensors; or nothing was
            called in the block. Each is said once.

    >>> import tempfile, torch, torchvision
    >>> from ms2torch_roi.parity.recording import calls
    >>> features, rois = torch.ones(1, 3, 8, 8), torch.tensor([[0, 4.0, 4.0, 20.0, 28.0]])
    >>> with tempfile.TemporaryDirectory() as directory, record(directory, max_calls=100) as recording:
    ...     _ = torchvision.ops.roi_align(features, rois, output_size=(2, 2), spatial_scale=0.25)
    ...     call = calls.read(recording.paths[0])
    >>> call.case.arguments
    {'output_size': (2, 2), 'spatial_scale': 0.25, 'sampling_ratio': -1, 'aligned': False}
    >>> call.output.shape
    (1, 3, 2, 2)
    """
    if not remote.is_path(directory):
        raise TypeError(f"record: directory must be a path, got {directory!r} ({type(directory).__name__})")
    if not isinstance(gradients, bool):
        raise TypeError(f"record: gradients must be True or False, got {gradients!r} ({type(gradients).__name__})")
    return _recording(
        Recording(
            remote.path(directory).absolute(),  # which a model that changes the working directory does not move
            gradients,
            None if max_calls is None else _positive("max_calls", max_calls),
            None if max_bytes is None else _positive("max_bytes", max_bytes),
            _positive("every", every),
            None if channels is None else _positive("channels", channels),
        )
    )


def _positive(name: str, value: Any) -> int:
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"record: {name} must be an int, got {value!r} ({type(value).__name__})")
    if number < 1:
        raise ValueError(f"record: {name} must be at least 1, got {number}")
    return number


@contextmanager
def _recording(recording: Recording) -> Iterator[Recording]:
    modules = {name: importlib.import_module(f".{name}", __name__) for name in _frameworks()}
    if "mindspore" in modules and modules["mindspore"].runs_graphs():
        raise RuntimeError(
            "record: MindSpore is in graph mode, whose graphs do not call Python, so nothing could be recorded."
            f" {_OUT_OF_GRAPHS}"
        )
    remote.make_folder(recording.directory)
    enter(recording, {name: module.patch for name, module in modules.items()})
    try:
        yield recording
    finally:
        leave(recording)
    if not recording.calls:
        seen = " and ".join(_OPERATORS[name] for name in modules)
        recording._warn(
            f"nothing was recorded in {remote.name(recording.directory)}: in this process Python called no {seen} in"
            " the block. A model in MindSpore's graph mode, under mindspore.jit, or compiled by torch.compile makes no"
            " such calls, and a framework that is imported in the block is seen only if none was imported before."
            + (f" {_OUT_OF_GRAPHS}" if "mindspore" in modules else "")
        )


def _frameworks() -> list[str]:
    """Return those that are imported; if none is, import those that can be.

    Raises:
        ImportError: there is none.
    """
    if imported := [name for name in _OPERATORS if sys.modules.get(name) is not None]:
        return imported
    problems = {name: _problem_of_importing(name) for name in _OPERATORS}
    if found := [name for name, problem in problems.items() if problem is None]:
        return found
    raise ImportError(
        "record: neither torchvision nor MindSpore can be imported."
        f" For torchvision: {how_to_install('torch')}; for MindSpore: {how_to_install('mindspore')}"
    ) from problems["torchvision"]


def _problem_of_importing(name: str) -> Exception | None:
    try:
        importlib.import_module(name)
    except Exception as error:  # it may be installed and broken, in any way
        return error
    return None
