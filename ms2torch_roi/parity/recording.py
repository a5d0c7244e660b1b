"""``record``: write the calls that a model makes of either operator to files, to be replayed elsewhere."""

from __future__ import annotations

import functools
import importlib
import json
import operator
import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import __version__, params
from . import calls
from .calls import Call
from .cases import Case, MindSporeCase, TorchvisionCase

NDArray = npt.NDArray[Any]

_OPERATORS = {"mindspore": "mindspore.ops.ROIAlign", "torchvision": "torchvision.ops.roi_align"}
_MINDSPORE_ARGUMENTS = ("pooled_height", "pooled_width", "spatial_scale", "sample_num", "roi_end_mode")
_TORCHVISION_INPUTS = ("input", "rois", "spatial_scale", "pooled_height", "pooled_width", "sampling_ratio", "aligned")

# Integers are recorded for the errors that they end in.
_DTYPES = ("float16", "float32", "float64", "int32", "int64")

# More than a file has in it beside its arrays and the message of an error.
_OVERHEAD = 8192  # bytes


class Recording:
    """A recording, as ``with record(...) as recording`` gives it.

    Attributes:
        directory: where the files are.
        calls: how many calls have been seen, those included that ``every`` and the limits left out.
        paths: the files that have been written, in the order in which the calls ended.
    """

    def __init__(
        self, directory: Path, gradients: bool, max_calls: int | None, max_bytes: int | None, every: int
    ) -> None:
        self.directory = directory
        self.calls = 0
        self.paths: list[Path] = []
        self._gradients = gradients
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        self._every = every
        self._start = ""
        self._number = 0  # of the last file
        self._bytes = 0  # of all files, with those being written, and gradients that may come
        self._full = False
        self._warnings: set[str] = set()

    def _counted(self) -> bool:
        """Count a call, and tell whether it is to be recorded. Called with the lock held."""
        self.calls += 1
        return (self.calls - 1) % self._every == 0 and not self._full

    def _write(self, call: Call, to_come: int = 0) -> Path | None:
        """Write a call to a file, whose path is returned, unless a limit is reached; ``to_come`` more bytes may follow.

        Raises:
            OSError: it cannot be written; the error names the file.
        """
        arrays = (call.case.features, call.case.rois, call.output)
        size = sum(array.nbytes for array in arrays if array is not None)
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
            self._warn(f"{reached[0]} is reached: later calls are not recorded in {self.directory}")
            return None
        _to_disk(path, call)
        with _lock:
            self._bytes += path.stat().st_size + to_come - size
            self.paths.append(path)
        return path

    def _warn(self, message: str) -> None:
        """Warn, if this recording has not said so before."""
        with _lock:
            is_new = message not in self._warnings
            self._warnings.add(message)
        if is_new:
            warnings.warn(f"ms2torch_roi.record: {message}", stacklevel=2)


def record(
    directory: str | os.PathLike[str],
    *,
    gradients: bool = False,
    max_calls: int | None = None,
    max_bytes: int | None = None,
    every: int = 1,
) -> AbstractContextManager[Recording]:
    """Record the calls of ``mindspore.ops.ROIAlign`` and ``torchvision.ops.roi_align`` that are made in a block.

    Each call is written to a file of its own when it returns, with its arguments, its inputs and its output, or the
    error that the operator raised, the versions and the device: if the process is killed, at most the call in flight is
    lost. ``ms2torch-roi replay`` compares the ports with such files, where the framework need not be installed. NumPy
    alone reads them; :mod:`ms2torch_roi.parity.calls` describes the format.

    Every call of the process is seen: on any thread, of operators made before the block too, through torchvision's
    ``RoIAlign`` and ``MultiScaleRoIAlign``, and those that the ports of this package make. A process forked in the
    block goes on recording, and one started anew does not. Files are named after the start of the recording (UTC), or
    of the fork, the process and a number, so that recordings and processes can share a directory: no file is ever
    overwritten by another call.

    Only calls that Python makes can be seen: none in MindSpore's graph mode, in functions under ``mindspore.jit``, in
    TorchScript, or in models that ``torch.compile`` or ``torch.export`` compiled, and none while torch traces. Nor is
    what torchvision computes with other code: quantised features, and deterministic algorithms on a GPU. The framework
    must be imported before the block; if none is, those installed are imported.

    Recording changes no bit of a model's outputs or gradients. It waits for each result, which on an accelerator, or in
    MindSpore, the model may not do, so errors that MindSpore raises late are raised by the call. What torchvision
    computes in float32 under ``torch.autocast`` is recorded in float32.

    Rows that MindSpore never writes (``|x1|`` and ``|x2|`` below 0.001) hold whatever was in memory before. They are 0
    in the file, and so are they in the gradient that came for them; the model gets them as they are.

    Args:
        directory: where the files go; it is made if it is not there.
        gradients: True to record also what the framework's backward pass brought for the output of each call, and what
            the operator's own gradient gave for its features. They are added to the file when they arrive, also after
            the block; of several backward passes through one call the last stays. MindSpore then hands the model a view
            of its output.
        max_calls: calls to record at most.
        max_bytes: bytes that the files may take at most, gradients to come included.
        every: record the first call and then every ``every``-th. Limits and sampling count for each process; a forked
            one goes on from where it was forked.

    Returns:
        A context manager, which gives a :class:`Recording`.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a limit or ``every`` is below 1.
        ImportError: on entering, neither framework is installed.
        RuntimeError: on entering, MindSpore is in graph mode.
        OSError: the directory cannot be made, or in a call or a backward pass, a file cannot be written.

    Warns:
        UserWarning: a limit was reached; a call cannot be recorded, such as one of bfloat16 tensors; or nothing was
            called in the block. Each is said once.

    >>> import tempfile, torch, torchvision
    >>> features, rois = torch.ones(1, 3, 8, 8), torch.tensor([[0, 4.0, 4.0, 20.0, 28.0]])
    >>> with tempfile.TemporaryDirectory() as directory, record(directory, max_calls=100) as recording:
    ...     _ = torchvision.ops.roi_align(features, rois, output_size=(2, 2), spatial_scale=0.25)
    ...     call = calls.read(recording.paths[0])
    >>> call.case.arguments
    {'output_size': (2, 2), 'spatial_scale': 0.25, 'sampling_ratio': -1, 'aligned': False}
    >>> call.output.shape
    (1, 3, 2, 2)
    """
    if not isinstance(directory, str | os.PathLike):
        raise TypeError(f"record: directory must be a path, got {directory!r} ({type(directory).__name__})")
    if not isinstance(gradients, bool):
        raise TypeError(f"record: gradients must be True or False, got {gradients!r} ({type(gradients).__name__})")
    return _recording(
        Recording(
            Path(directory).absolute(),  # which a model that changes the working directory does not move
            gradients,
            None if max_calls is None else _positive("max_calls", max_calls),
            None if max_bytes is None else _positive("max_bytes", max_bytes),
            _positive("every", every),
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
    frameworks = _frameworks()
    if "mindspore" in frameworks:
        ms = sys.modules["mindspore"]
        if ms.get_context("mode") == ms.GRAPH_MODE:
            raise RuntimeError(
                "record: MindSpore is in graph mode, whose graphs do not call Python, so nothing could be recorded."
                " Call mindspore.set_context(mode=mindspore.PYNATIVE_MODE) first, and do without mindspore.jit."
            )
    recording.directory.mkdir(parents=True, exist_ok=True)
    _enter(recording, frameworks)
    try:
        yield recording
    finally:
        _leave(recording)
    if not recording.calls:
        seen = " and ".join(_OPERATORS[name] for name in frameworks)
        recording._warn(
            f"nothing was recorded in {recording.directory}: in this process Python called no {seen} in the block."
            " A model in MindSpore's graph mode, under mindspore.jit, or compiled by torch.compile makes no such calls,"
            " and a framework that is imported in the block is seen only if none was imported before."
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
        " Install one with: pip install 'ms2torch-roi[torch]' or pip install 'ms2torch-roi[mindspore]'"
    ) from problems["torchvision"]


def _problem_of_importing(name: str) -> Exception | None:
    try:
        importlib.import_module(name)
    except Exception as error:  # it may be installed and broken, in any way
        return error
    return None


# What follows is shared by all threads, and by all recordings, which may overlap in any way.
_lock = threading.Lock()
_active: list[Recording] = []
_restore: dict[str, Callable[[], None]] = {}
_last_start = datetime.min.replace(tzinfo=timezone.utc)


def _enter(recording: Recording, frameworks: Sequence[str]) -> None:
    with _lock:
        recording._start = _new_start()
        for name in frameworks:
            if name not in _restore:
                _restore[name] = _patch_mindspore() if name == "mindspore" else _patch_torchvision()
        _active.append(recording)


def _leave(recording: Recording) -> None:
    with _lock:
        _active.remove(recording)
        if not _active:
            for restore in _restore.values():
                restore()
            _restore.clear()


def _due() -> list[Recording]:
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


class _UnrecordableError(Exception):
    """A call that no file can hold; the message says why."""


def _to_disk(path: Path, call: Call) -> None:
    try:
        calls.write(path, call)
    except OSError as error:
        message = f"a call could not be recorded: {error.strerror or error}"
        raise OSError(error.errno, message, str(path)) from error


def _run(
    recordings: Sequence[Recording],
    call: Call,
    run: Callable[[], Any],
    read: Callable[[Any], NDArray],
    gradients: _Gradients | None,
) -> Any:
    """Run the operator, record what comes of it, and return its output.

    ``call`` is all that was known before, and ``gradients`` where its gradients will go, if there will be any.
    """
    case = call.case
    try:
        output = run()
        array = read(output)  # MindSpore raises its errors when a result is read
        _check_shapes(case)
    except _UnrecordableError as error:
        _refuse(recordings, error)
        return output
    except Exception as error:
        if type(error) not in calls.ERRORS:
            _refuse(recordings, f"it raised {type(error).__name__}")
            raise
        failed = replace(call, case=replace(case, raises=type(error)), error_message=str(error))
        for recording in recordings:
            recording._write(failed)
        raise
    unwritten = _unwritten(call)
    call = replace(call, output=_cleared(array, unwritten))
    for recording in recordings:
        if gradients is None or not recording._gradients:
            recording._write(call)
        elif path := recording._write(call, to_come=case.features.nbytes + array.nbytes):
            gradients.files.append((recording, path))
            gradients.unwritten = unwritten
    return output


def _unwritten(call: Call) -> NDArray | None:
    """Return a mask of the rows that MindSpore has not written, unless it runs where other rules may hold."""
    return call.case.undefined if isinstance(call.case, MindSporeCase) and call.device in ("CPU", "GPU") else None


def _cleared(array: NDArray, unwritten: NDArray | None) -> NDArray:
    """Return the array with 0 in place of what MindSpore has left in the rows that it has not written."""
    if unwritten is not None and unwritten.any():
        array = array.copy()
        array[unwritten] = 0
    return array


def _check_shapes(case: Case) -> None:
    try:
        params.check_shapes("ROIAlign", case.features.shape, case.rois.shape)
    except ValueError as error:  # MindSpore reads features of three dimensions out of bounds
        raise _UnrecordableError(str(error)) from error


def _refuse(recordings: Sequence[Recording], why: object, what: str = "call") -> None:
    for recording in recordings:
        recording._warn(f"a {what} was not recorded: {why}")


class _Gradients:
    """What comes into the backward pass of one call, and goes out of it, on its way to the files of the call."""

    def __init__(self, read: Callable[[Any], NDArray]) -> None:
        self.files: list[tuple[Recording, Path]] = []
        self.unwritten: NDArray | None = None
        self._read = read
        self._of_output: NDArray | None = None

    def of_output(self, gradient: Any) -> None:
        try:
            self._of_output = _cleared(self._read(gradient).copy(), self.unwritten)
        except _UnrecordableError as error:
            self._of_output = None
            self._refuse(error)

    def of_features(self, gradient: Any) -> None:
        if self._of_output is None:
            return
        try:
            array = self._read(gradient)
        except _UnrecordableError as error:
            self._refuse(error)
            return
        for _, path in self.files:
            call = calls.read(path)
            _to_disk(path, replace(call, output_gradient=self._of_output, features_gradient=array))

    def _refuse(self, error: _UnrecordableError) -> None:
        _refuse([recording for recording, _ in self.files], error, "gradient")


def _versions(*packages: str) -> Mapping[str, str]:
    found = {package: str(sys.modules[package].__version__) for package in packages}
    return {**found, "ms2torch_roi": __version__, "numpy": np.__version__, "python": platform.python_version()}


# MindSpore.


def _patch_mindspore() -> Callable[[], None]:
    """Record the calls of all operators, also of those made before; return what undoes it."""
    kind = sys.modules["mindspore"].ops.ROIAlign
    original, is_own = kind.__call__, "__call__" in vars(kind)

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _call_mindspore(functools.partial(original, self), self, args, kwargs)

    def restore() -> None:
        if is_own:
            kind.__call__ = original
        else:
            del kind.__call__

    kind.__call__ = recorded
    return restore


def _call_mindspore(original: Callable[..., Any], primitive: Any, args: Any, kwargs: Any) -> Any:
    import mindspore as ms

    # While mindspore.jit traces, or runs what it has traced, there may be nothing to read.
    recordings = [] if ms.ops.primitive.jit_context() else _due()
    if not recordings:
        return original(*args, **kwargs)
    try:
        call = _mindspore_call(primitive, args, kwargs)
    except _UnrecordableError as error:
        _refuse(recordings, error)
        return original(*args, **kwargs)
    features, rois = args
    gradients = None
    if any(recording._gradients for recording in recordings):
        # The hooks are on tensors that nothing else uses, or they would see the gradients of other uses, or not see
        # what the model's own hooks make of a gradient.
        alias = features.view(features.shape)
        gradients = _Gradients(_read_mindspore)
        try:
            alias.register_hook(_hook(gradients.of_features))
        except RuntimeError:  # MindSpore takes no gradient here
            gradients = None
    if gradients is None:
        return _run(recordings, call, lambda: original(features, rois), _read_mindspore, None)
    output = _run(recordings, call, lambda: original(alias, rois), _read_mindspore, gradients)
    output.register_hook(_hook(gradients.of_output))
    return output.view(output.shape)


def _hook(see: Callable[[Any], None]) -> Callable[[Any], Any]:
    def hook(gradient: Any) -> Any:
        see(gradient)
        return gradient

    return hook


def _mindspore_call(primitive: Any, args: Any, kwargs: Any) -> Call:
    import mindspore as ms

    if kwargs or len(args) != 2 or not all(isinstance(arg, ms.Tensor) for arg in args):
        kinds = ", ".join([type(arg).__name__ for arg in args] + [f"{name}=" for name in kwargs])
        raise _UnrecordableError(f"mindspore.ops.ROIAlign takes two tensors, got ({kinds})")
    arguments = {name: getattr(primitive, name) for name in _MINDSPORE_ARGUMENTS}
    try:
        params.check_mindspore_arguments(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _UnrecordableError(str(error)) from error
    features, rois = (_read_mindspore(arg) for arg in args)  # this raises what earlier operators have left to raise
    return Call(
        case=MindSporeCase(name="", category="", source="", features=features, rois=rois, **arguments),
        output=None,
        versions=_versions("mindspore"),
        device=ms.get_context("device_target"),
    )


def _read_mindspore(tensor: Any) -> NDArray:
    if str(tensor.dtype).lower() not in _DTYPES:
        raise _UnrecordableError(f"a tensor is {tensor.dtype}")
    array: NDArray = tensor.asnumpy()
    return array


# torchvision. Each of its calls reaches one operator, by way of an attribute that is looked up every time.


def _patch_torchvision() -> Callable[[], None]:
    """Record the calls of the operator, under whatever names it is known; return what undoes it."""
    import torch

    packet: Any = torch.ops.torchvision.roi_align
    original = packet._op

    def restore() -> None:
        packet._op = original

    packet._op = _stand_in(original)
    return restore


@functools.cache
def _stand_in(original: Any) -> _StandIn:
    """Return the one that this operator has for good, as TorchScript knows operators by their id."""
    import torch

    stand_in = _StandIn(original)
    torch.jit._builtins._register_builtin(stand_in, "torchvision::roi_align")
    return stand_in


class _StandIn:
    """torchvision's operator, whose calls are recorded; for all else that torch does with it, it is the operator."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _call_torchvision(self._original, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __hash__(self) -> int:  # torch keeps tables of operators
        return hash(self._original)

    def __eq__(self, other: object) -> bool:
        return other is self or other == self._original


def _call_torchvision(original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    import torch
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    is_traced = (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or _get_current_dispatch_mode() is not None
    )
    recordings = [] if is_traced else _due()
    if not recordings:
        return original(*args, **kwargs)
    named = dict(zip(_TORCHVISION_INPUTS, args, strict=False)) | kwargs
    inputs: list[Any] = [named.get(name) for name in _TORCHVISION_INPUTS]
    features, rois, *arguments = inputs
    if len(args) + len(kwargs) != len(inputs) or not all(isinstance(value, torch.Tensor) for value in (features, rois)):
        _refuse(recordings, f"torchvision's operator takes {', '.join(_TORCHVISION_INPUTS)}, and got others")
        return original(*args, **kwargs)
    dtype, device_type, run = features.dtype, features.device.type, original
    if device_type in ("cpu", "cuda") and torch.is_autocast_enabled(device_type):
        # What the operator would do itself; done here, the call that is recorded is the one in float32.
        features, rois = (
            tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
            for tensor in (features, rois)
        )
        run = torch.autocast(device_type, enabled=False)(original)
    try:
        call = _torchvision_call(features, rois, arguments)
    except _UnrecordableError as error:
        _refuse(recordings, error)
        return original(*args, **kwargs)
    wanted = any(recording._gradients for recording in recordings)
    if not (wanted and features.requires_grad and torch.is_grad_enabled()):
        return _run(recordings, call, lambda: run(features, rois, *arguments), _read_torch, None).to(dtype)
    # The hook is on a tensor that nothing else uses, or it would see the gradients of other uses.
    alias = features.view_as(features)
    gradients = _Gradients(_read_torch)
    output = _run(recordings, call, lambda: run(alias, rois, *arguments), _read_torch, gradients)
    # Not hooks on tensors, which run before the model's own hooks, and so do not see what these make of a gradient.
    output.grad_fn.register_prehook(lambda of_output: gradients.of_output(of_output[0]))
    alias.grad_fn.register_prehook(lambda of_features: gradients.of_features(of_features[0]))
    return output.to(dtype)


def _torchvision_call(features: Any, rois: Any, arguments: Any) -> Call:
    import torch

    scale, height, width, ratio, aligned = arguments
    try:
        (height, width), scale, ratio, aligned = params.torchvision_arguments((height, width), scale, ratio, aligned)
    except RuntimeError as error:
        raise _UnrecordableError(str(error)) from error
    device = features.device
    return Call(
        case=TorchvisionCase(
            name="",
            category="",
            source="",
            features=_read_torch(features),
            rois=_read_torch(rois),
            output_size=(height, width),
            spatial_scale=scale,
            sampling_ratio=ratio,
            aligned=aligned,
        ),
        output=None,
        versions=_versions("torch", "torchvision"),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper(),
    )


def _read_torch(tensor: Any) -> NDArray:
    import torch

    if str(tensor.dtype).removeprefix("torch.") not in _DTYPES or tensor.layout != torch.strided or tensor.is_meta:
        raise _UnrecordableError(f"a tensor is {tensor.dtype}, {tensor.layout}, on {tensor.device}")
    on_cpu = tensor.detach().cpu().resolve_neg()  # this raises what the device has left to raise
    try:
        array: NDArray = on_cpu.numpy()
    except RuntimeError as error:  # tensors without values of their own, such as torch.func makes
        raise _UnrecordableError(str(error)) from error
    return array
