"""Record the ROIAlign calls of a MindSpore model: one file, for NumPy and MindSpore 1.5 or later, on any device.

Run a script of yours with it, as it is:

    python recorder.py --out calls train.py --its --own --arguments

or call it from your code:

    import recorder
    recorder.start("calls")

Each call of mindspore.ops.ROIAlign is written to a file of its own: its arguments, its inputs, and its output or error,
with the versions and the device. The outputs of the model stay as they are. Where ms2torch_roi is installed,
"ms2torch-roi identify calls/" then says which rule the device computed by, and "ms2torch-roi replay calls/" compares
the ports with it.

Only calls that Python makes are seen, as in PyNative mode: none in graph mode, or in functions under mindspore.jit or
ms_function. "ms2torch-roi recorder" has written this file.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import os
import runpy
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable

from .files import ARGUMENTS, ERRORS, save, write

_GRAPH_MODE = (
    "MindSpore is in graph mode, whose graphs do not call Python, so nothing can be recorded."
    " Call mindspore.context.set_context(mode=mindspore.context.PYNATIVE_MODE) first, and do without mindspore.jit."
)

_lock = threading.Lock()
_recording: _Recording | None = None


def start(directory: str, max_calls: int | None = None, channels: int | None = None) -> None:
    """Record all calls from now on, of operators made before too, until stop() or the end of the process.

    Args:
        directory: where the files go; it is made if it is not there.
        max_calls: calls to record at most, in each process.
        channels: channels to record of each call at most: the operator does the same with all.

    Raises:
        ImportError: MindSpore cannot be imported.
        OSError: the directory cannot be made, or written to.
        ValueError: a number is below 1.
    """
    global _recording
    from mindspore.ops import operations

    for name, number in (("max_calls", max_calls), ("channels", channels)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    stop()
    recording = _Recording(Path(directory).absolute(), max_calls, channels)
    kind = operations.ROIAlign
    if not hasattr(kind.__call__, "is_recorder"):
        kind.__call__ = _recorded(kind.__call__)
        atexit.register(stop)
    _recording = recording
    if _is_graph_mode():
        recording.say(_GRAPH_MODE)


def stop() -> None:
    """End the recording, if there is one, and say what came of it."""
    global _recording
    recording, _recording = _recording, None
    if recording is None:
        return
    if recording.files:
        recording.say(f"calls recorded in {recording.directory}: {recording.files}")
    else:
        recording.say(f"nothing was recorded. {_GRAPH_MODE if _is_graph_mode() else 'Python called no ROIAlign.'}")


class _Recording:
    """Where calls go, and how many have gone there."""

    def __init__(self, directory: Path, max_calls: int | None, channels: int | None) -> None:
        self.directory, self.max_calls, self.channels = directory, max_calls, channels
        self.files = 0
        self._start = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        self._said: set[str] = set()
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self._start}-{os.getpid()}.test"
        write(path, lambda file: None)
        path.unlink()

    def is_full(self) -> bool:
        return self.max_calls is not None and self.files >= self.max_calls

    def add(self, arguments: dict[str, Any], inputs: Any, output: Any, error: Exception | None) -> None:
        """Write a call to a file; what goes wrong is said, and does not disturb the model."""
        try:
            arrays = _arrays(inputs, output)
            for name in ("features", "output"):
                if name in arrays:
                    arrays[name] = arrays[name][:, : self.channels]
            with _lock:
                if self.is_full():
                    return
                self.files += 1
                path = self.directory / f"{self._start}-{os.getpid()}-{self.files:06}.npz"
            write(path, lambda file: save(file, arguments, arrays, error))
        except Exception as problem:
            self.say(f"a call was not recorded: {problem}")

    def say(self, what: str) -> None:
        """Say something once."""
        if what not in self._said:
            self._said.add(what)
            print(f"recorder: {what}", file=sys.stderr, flush=True)


def _is_graph_mode() -> bool:
    from mindspore import context

    return bool(context.get_context("mode") == context.GRAPH_MODE)


def _recorded(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return what is to stand for the ``__call__`` of the operator."""

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        recording = _recording
        are_tensors = len(args) == 2 and not kwargs and all(hasattr(arg, "asnumpy") for arg in args)
        if recording is None or recording.is_full() or not are_tensors or _is_traced():
            return original(self, *args, **kwargs)
        arguments = {name: getattr(self, name) for name in ARGUMENTS}
        try:
            output = original(self, *args)
            output.asnumpy()  # which raises what MindSpore has left to raise
        except Exception as error:
            if type(error).__name__ in ERRORS:
                recording.add(arguments, args, None, error)
            raise
        recording.add(arguments, args, output, None)
        return output

    call.is_recorder = True  # type: ignore[attr-defined]
    return call


def _is_traced() -> bool:
    """Tell whether mindspore.jit is looking on, in versions that call Python for it: there may be nothing to read."""
    from mindspore.ops import primitive

    return hasattr(primitive, "jit_context") and bool(primitive.jit_context())


def _arrays(inputs: Any, output: Any) -> dict[str, Any]:
    """Return the arrays of a call, the inputs as the operator got them, which mixed precision casts them for."""
    import mindspore

    tensors = dict(zip(("features", "rois"), inputs))
    if output is not None:
        tensors["output"] = output
    arrays = {name: tensor.asnumpy() for name, tensor in tensors.items()}
    if output is not None and len({array.dtype for array in arrays.values()}) > 1:
        for name in ("features", "rois"):
            one = mindspore.Tensor(1, tensors[name].dtype)
            cast = mindspore.ops.stop_gradient(one).asnumpy().dtype
            arrays[name] = arrays[name].astype(cast)
    return arrays


def main() -> int:
    """Run a script, and record its calls."""
    parser = argparse.ArgumentParser(description="Record the ROIAlign calls of a script that uses MindSpore.")
    parser.add_argument("--out", default="calls", metavar="DIR", help="where files go (default: %(default)s)")
    parser.add_argument("--max-calls", type=int, metavar="N", help="calls to record at most")
    parser.add_argument("--channels", type=int, metavar="N", help="channels to record of each call at most")
    parser.add_argument("script", help="the script to run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    options = parser.parse_args()
    if not Path(options.script).is_file():
        parser.error(f"there is no script {options.script}")
    try:
        start(options.out, options.max_calls, options.channels)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    sys.argv = [options.script, *options.arguments]
    sys.path[0] = str(Path(options.script).absolute().parent)
    runpy.run_path(options.script, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
