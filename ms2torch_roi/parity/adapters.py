"""A user's own port in place of ours: found by its name, called as its signature wants, in a process that may die."""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import processes
from .case import Case, MindSporeCase, TorchvisionCase
from .recording.calls import ERRORS

NDArray = npt.NDArray[Any]
Arrays = Literal["torch", "mindspore", "numpy"]

# Seconds that importing an adapter may take, and what it imports: frameworks take some on a busy machine.
_IMPORT_SECONDS = 120.0

# How other libraries call what torchvision calls so; detectron2 calls nothing otherwise.
_OF_MMCV = {"output_size": "out_size", "sampling_ratio": "sample_num"}


class AdapterError(Exception):
    """What is wrong with an adapter, or with the process that it ran in."""


@dataclass(frozen=True)
class Adapter:
    """A port by the name of what computes it.

    Attributes:
        name: ``"package.module:name"``, where the name may have dots. It is a function of features, rois and the
            arguments of an operator, or what makes such a function of its arguments: a class or a factory. The names
            of its parameters say which operator is meant: MindSpore's, ``pooled_height``, or torchvision's,
            ``output_size``, which detectron2 and mmcv have too.
        arrays: what it takes and returns; None for torch tensors, or MindSpore's if it is a MindSpore cell.
        timeout: seconds that a call may take.
    """

    name: str
    arrays: Arrays | None = None
    timeout: float = 60.0

    def load(self) -> Any:
        """Import it.

        Raises:
            AdapterError: there is no such thing.
        """
        module, _, attributes = self.name.partition(":")
        if not module or not attributes:
            raise AdapterError(f"an adapter is package.module:name, got {self.name!r}")
        if os.getcwd() not in sys.path:  # noqa: PTH109  (where a user's own module is, as for python -m)
            sys.path.insert(0, os.getcwd())  # noqa: PTH109
        try:
            found: Any = importlib.import_module(module)
            for attribute in attributes.split("."):
                found = getattr(found, attribute)
        except (Exception, SystemExit) as error:
            raise AdapterError(f"{self.name} cannot be imported: {type(error).__name__}: {error}") from error
        if not callable(found):
            raise AdapterError(f"{self.name} is a {type(found).__name__}, which cannot be called")
        return found

    @property
    def kind(self) -> type[Case]:
        """The calls that it takes: of MindSpore's operator or of torchvision's. It is imported in its own process.

        Raises:
            AdapterError: neither, by the names of its parameters, or it cannot be imported.
        """
        return _sandbox(self).kind

    def call(self, case: Case) -> NDArray:
        """Run a case on it, in this process."""
        return _call(self.name, self.load(), case, self.arrays)


def call(adapter: str | Callable[..., Any], case: Case) -> NDArray:
    """Run a case on an adapter, or on one of a name, in this process."""
    return Adapter(adapter).call(case) if isinstance(adapter, str) else _call(repr(adapter), adapter, case, None)


def _kind(name: str, adapter: Any) -> type[Case]:
    parameters = _parameters(adapter)
    if "pooled_height" in parameters:
        return MindSporeCase
    if {"output_size", "out_size"} & parameters:
        return TorchvisionCase
    raise AdapterError(
        f"{name} has the parameters {', '.join(sorted(parameters)) or 'of nothing'}: with pooled_height it would be"
        " called as MindSpore's operator, with output_size as torchvision's"
    )


def _parameters(adapter: Any) -> set[str]:
    """Return the names of the parameters that are to be given, or can be."""
    try:
        return set(inspect.signature(adapter).parameters)
    except (TypeError, ValueError) as error:
        raise AdapterError(f"nothing is known of the parameters of {adapter!r}: {error}") from error


def _call(name: str, adapter: Any, case: Case, arrays: Arrays | None) -> NDArray:
    parameters = _parameters(adapter)
    arguments = dict(case.arguments)
    for ours, theirs in _OF_MMCV.items():
        if ours in arguments and ours not in parameters and theirs in parameters:
            arguments[theirs] = arguments.pop(ours)
    if case.arguments.get("aligned") is False and "aligned" not in parameters:
        arguments.pop("aligned")
    features, rois = (_to(array, arrays or _arrays_of(adapter)) for array in (case.features, case.rois))
    inputs = list(inspect.signature(adapter).parameters)[:2]
    if inspect.isclass(adapter) or not _takes_inputs(inputs):
        output = adapter(**arguments)(features, rois)
    else:
        output = adapter(features, rois, **arguments)
    return _to_numpy(name, output)


def _takes_inputs(first_parameters: list[str]) -> bool:
    """Tell a function of features and rois from what makes one."""
    return not {"pooled_height", "output_size", "out_size"} & set(first_parameters)


def _arrays_of(adapter: Any) -> Arrays:
    ms = sys.modules.get("mindspore")
    if ms is not None and inspect.isclass(adapter) and issubclass(adapter, (ms.nn.Cell, ms.ops.Primitive)):
        return "mindspore"
    return "torch"


def _to(array: NDArray, arrays: Arrays) -> Any:
    if arrays == "numpy":
        return array.copy()
    if arrays == "mindspore":
        import mindspore

        return mindspore.Tensor(array)
    import torch

    return torch.from_numpy(array.copy())


def _to_numpy(name: str, output: Any) -> NDArray:
    for method in ("detach", "cpu"):
        if hasattr(output, method):
            output = getattr(output, method)()
    if isinstance(output, np.ma.MaskedArray):
        raise AdapterError(f"{name} returned a masked array, of which some values may mean nothing")
    array = output.asnumpy() if hasattr(output, "asnumpy") else np.asarray(output)
    if array.dtype.kind != "f":
        raise AdapterError(f"{name} returned {type(output).__name__}, not an array of numbers")
    return np.array(array)


@dataclass
class Sandbox:
    """A process that runs an adapter, and is started again when it has died or was too slow."""

    adapter: Adapter
    _process: BaseProcess | None = None
    _connection: Connection | None = field(default=None, repr=False)
    _kind: type[Case] | None = None

    @property
    def kind(self) -> type[Case]:
        """The calls that the adapter takes.

        Raises:
            AdapterError: it cannot be imported, or takes neither kind.
        """
        if self._kind is None:
            self._started()
        assert self._kind is not None
        return self._kind

    def outcome(self, case: Case) -> NDArray | Exception:
        """Run a case, and return the result, or the error that it, or the process, ended in."""
        connection = self._started()
        try:
            connection.send(case)
            found: NDArray | Exception = self._answer(connection, self.adapter.timeout)
            return found
        except OSError:  # it has died since its last answer
            return self._ended()

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = self._connection = None

    def _started(self) -> Connection:
        """Return the connection to the process, which has imported the adapter.

        Raises:
            AdapterError: it cannot be imported.
        """
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(self.adapter, theirs), daemon=True)
            self._process.start()
            theirs.close()
            found = self._answer(self._connection, max(_IMPORT_SECONDS, self.adapter.timeout), " to be imported")
            if isinstance(found, Exception):
                self.close()
                raise found
            self._kind = found
        return self._connection

    def _answer(self, connection: Connection, timeout: float, to: str = "") -> Any:
        """Wait for what the process sends, and return it, or an error if it dies or takes too long."""
        try:
            if connection.poll(timeout):
                return connection.recv()
        except (EOFError, OSError):
            return self._ended(to)
        self.close()
        return AdapterError(f"{self.adapter.name} took more than {timeout:g} s{to} and was stopped")

    def _ended(self, to: str = "") -> AdapterError:
        assert self._process is not None
        self._process.join(5)
        status = self._process.exitcode
        self.close()
        how = "ended" if status is None or status >= 0 else f"was killed by {signal.Signals(-status).name}"
        return AdapterError(f"the process of {self.adapter.name} {how}{to and ' while it was imported'}")


def _serve(adapter: Adapter, connection: Connection) -> None:
    """Import an adapter, send the calls that it takes or what is wrong, and then answer each case that comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=processes.end_with_parent, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what an adapter prints is not what a check prints
    try:
        found = adapter.load()
        kind = _kind(adapter.name, found)
    except AdapterError as error:
        connection.send(error)
        return
    connection.send(kind)
    while True:
        try:
            case = connection.recv()
        except EOFError:
            return
        try:
            result: NDArray | Exception = _call(adapter.name, found, case, adapter.arrays)
        except (Exception, SystemExit) as error:
            result = _portable(error)
        connection.send(result)


def _portable(error: BaseException) -> Exception:
    """Return an error of a type that every process knows."""
    for kind in (AdapterError, *ERRORS, ImportError):
        if isinstance(error, kind):
            return kind(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")


def is_lost(problem: str) -> bool:
    """Tell whether the problem of a verdict is that of a process that died or was too slow, which takes long again."""
    return "AdapterError: " in problem


_sandboxes: dict[Adapter, Sandbox] = {}


def _sandbox(adapter: Adapter) -> Sandbox:
    return _sandboxes.setdefault(adapter, Sandbox(adapter))


def run(adapter: Adapter, case: Case) -> NDArray:
    """Run a case on an adapter in the process that is kept for it, as ``operators.port`` runs it on the port.

    Rows that the original does not define are 0. Where it must end in an error, any error will do.

    Raises:
        AdapterError: the process died, or was too slow.
        Exception: what the adapter raised.
    """
    outcome = _sandbox(adapter).outcome(case)
    if isinstance(outcome, Exception):
        if case.raises is not None and not isinstance(outcome, AdapterError):
            raise case.raises(str(outcome))
        raise outcome
    if outcome.shape[:1] == case.rois.shape[:1]:
        outcome[case.undefined] = 0
    return outcome
