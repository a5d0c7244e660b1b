"""What MindSpore's tensors must be to be pooled, and the dtype that they are pooled in."""

from __future__ import annotations

import functools
import sys
from types import FrameType
from typing import Any

import mindspore as ms
from mindspore import ops


def refuse_tracing(operator: str, alternative: str = "") -> None:
    """Raise RuntimeError while ``mindspore.jit`` traces: what Python makes of a tensor's values stays a constant there.

    It would be the output of all calls, with a gradient of 0.
    """
    jit_context = getattr(ms.ops.primitive, "jit_context", None)  # which not every MindSpore has
    # It is left behind by what raises while it is traced, so this also looks for who traces.
    frame: FrameType | None = sys._getframe() if jit_context is not None and jit_context() else None
    while frame is not None:
        if frame.f_globals.get("__name__", "").endswith(".jit_trace"):
            raise RuntimeError(
                f'{operator}: mindspore.jit(capture_mode="trace") would keep the output of a first call for all calls,'
                f" with a gradient of 0; call it outside mindspore.jit in PyNative mode{alternative}"
            )
        frame = frame.f_back


refuse_tracing_of_cells = functools.partial(refuse_tracing, alternative=', or with capture_mode="ast", the default')


def check(input: Any, boxes: Any) -> None:
    """Raise unless the inputs are tensors that MindSpore's operator takes; their shapes are looked at elsewhere."""
    if not isinstance(input, ms.Tensor):
        raise TypeError(
            f"roi_align: input must be MindSpore's tensor, or in PyNative mode torch's or NumPy's, got {type(input)}"
        )
    if input.dtype not in (ms.float16, ms.float32):
        raise TypeError(f"roi_align: MindSpore's operator takes float16 and float32, got input {input.dtype}")
    for part in boxes if isinstance(boxes, (list, tuple)) else (boxes,):
        if not isinstance(part, ms.Tensor):
            raise AssertionError(
                f"roi_align: boxes must be a tensor like input, or a list of such tensors, got {type(part)}"
            )
        if part.dtype not in (ms.float16, ms.float32):
            raise TypeError(f"roi_align: MindSpore's operator takes float16 and float32, got boxes {part.dtype}")


def in_one_dtype(input: ms.Tensor, boxes: Any) -> tuple[ms.Tensor, Any]:
    """Return both in the dtype to compute in: float16 if all are, and float32 otherwise, as in MindSpore's operator.

    torchvision refuses two dtypes, except under autocast. MindSpore's mixed precision leaves no mark by which such a
    call could be told from others, neither in graph mode nor of ``to_float`` of other cells.
    """
    dtype = input.dtype
    for part in boxes if isinstance(boxes, (list, tuple)) else (boxes,):
        if part.dtype != dtype:
            dtype = ms.float32
    if isinstance(boxes, (list, tuple)):
        return cast(input, dtype), [cast(part, dtype) for part in boxes]
    return cast(input, dtype), cast(boxes, dtype)


def cast(tensor: ms.Tensor, dtype: Any) -> ms.Tensor:
    """Cast a tensor that has another dtype."""
    return tensor if tensor.dtype == dtype else ops.cast(tensor, dtype)


def as_operator_sees(tensor: ms.Tensor) -> ms.Tensor:
    """Cast a tensor in PyNative mode as MindSpore would for its operator, in the cell that is being called.

    There the inputs of each operator are cast that runs in a cell with ``to_float``, or in a cell called by one.
    """
    dtype = ops.stop_gradient(_one(tensor.dtype)).dtype
    return cast(tensor, dtype)


@functools.cache
def _one(dtype: Any) -> ms.Tensor:
    return ms.Tensor(1, dtype)
