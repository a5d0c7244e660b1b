"""The formulas of ``levels.py`` as MindSpore computes them on a CPU, to find their thresholds."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt
from mindspore import ops

from ..levels import LevelFormula

NDArray = npt.NDArray[Any]

# Every thread's part of so many values is made of blocks of four and more, and an array of three has none.
_BLOCKS, _REST = 64, 3


def level(formula: LevelFormula, quantity: NDArray) -> tuple[NDArray, NDArray]:
    """Return the levels of what ``levels.quantity`` gives, as MindSpore rounds in blocks and in what remains."""
    count = len(quantity)
    values = np.resize(np.asarray(quantity, np.float32), -(-count // _BLOCKS) * _BLOCKS)
    rests = [_of_quantity(formula, part) for part in np.split(values, range(_REST, len(values), _REST))]
    return _of_quantity(formula, values)[:count], np.concatenate(rests)[:count]


def _of_quantity(formula: LevelFormula, quantity: NDArray) -> NDArray:
    size = ms.Tensor(quantity)
    if formula.size != "sides":
        size = ops.sqrt(size)
    value = size / formula.scale
    for epsilon in formula.inside:
        value = value + epsilon
    if formula.logarithm == "log2":
        value = ops.log2(value)
    else:
        twos = ops.full_like(value, 2) if formula.logarithm == "log / logs" else ms.Tensor(2, value.dtype)
        value = ops.log(value) / ops.log(twos)
    value = formula.level + value
    for epsilon in formula.outside:
        value = value + epsilon
    levels: NDArray = ops.floor(value).asnumpy()
    return levels
