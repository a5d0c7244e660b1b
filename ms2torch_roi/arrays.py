"""The arrays that both ports take beside the tensors of their own framework, and the ways to NumPy and back.

Nothing is copied where the frameworks can share memory. A framework is looked up among the modules that are imported
already: one whose tensors did not show up is never imported.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]


def to_numpy(value: Any, operator: str) -> NDArray | None:
    """Return a NumPy array of this array's values, in its memory where possible, or None if ``value`` is no array.

    Raises:
        RuntimeError: a torch tensor on another device than the CPU, or a MindSpore tensor that is traced.
        TypeError: a torch tensor of a dtype that NumPy lacks.
    """
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        # The frameworks take neither negative strides, nor such as are no multiple of an item, nor foreign byte orders.
        if any(stride < 0 or stride % value.itemsize for stride in value.strides):
            value = value.copy()
        array: NDArray = value.astype(value.dtype.newbyteorder("="), copy=False)
        return array
    if _is_tensor(value, "mindspore"):
        importlib.import_module(".mindspore.tensors", __package__).refuse_tracing(operator)
        array = value.asnumpy()
    elif _is_tensor(value, "torch"):
        if value.device.type != "cpu":
            raise RuntimeError(
                f"{operator}: a torch tensor is on {value.device}, but MindSpore takes them from the CPU"
            )
        try:
            array = value.detach().resolve_neg().numpy()
        except TypeError:
            raise TypeError(f"{operator}: MindSpore's operator takes float16 and float32, got {value.dtype}") from None
    else:
        return None
    return array


def from_numpy(array: NDArray, like: Any, operator: str) -> Any:
    """Return an array of the kind of ``like``, in the memory of ``array``; another framework has computed it.

    Raises:
        RuntimeError: ``like`` is a torch tensor that requires a gradient. If it is a MindSpore tensor, computing a
            gradient raises it.
    """
    if _is_tensor(like, "mindspore"):
        return importlib.import_module(".mindspore.cells", __package__).without_gradient(array, like, operator)
    if _is_tensor(like, "torch"):
        torch = sys.modules["torch"]
        if like.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(f"{operator}: MindSpore cannot give the gradient of a torch tensor; detach() it first")
        return torch.from_numpy(array)
    return array


def _is_tensor(value: Any, framework: str) -> bool:
    module = sys.modules.get(framework)
    return module is not None and isinstance(value, getattr(module, "Tensor", ()))
