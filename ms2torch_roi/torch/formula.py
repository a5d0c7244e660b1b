"""The formulas of ``levels.py`` as torch computes them on a CPU, to find their thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..levels import LevelFormula

NDArray = npt.NDArray[Any]


def level(formula: LevelFormula, quantity: NDArray) -> tuple[NDArray, NDArray]:
    """Return the levels of what ``levels.quantity`` gives, with an exact ``sqrt`` and with torch's on this processor.

    That is MKL's, which does not round one in five values as it should on some processors, and one in a hundred on
    others.
    """
    values = torch.from_numpy(np.ascontiguousarray(quantity, np.float32))
    return _of_size(formula, values.double().sqrt().float()), _of_size(formula, values.sqrt())


def _of_size(formula: LevelFormula, size: torch.Tensor) -> NDArray:
    value = size / formula.scale
    for epsilon in formula.inside:
        value = value + epsilon
    if formula.logarithm == "log2":
        value = value.log2()
    else:
        twos = torch.full_like(value, 2) if formula.logarithm == "log / logs" else torch.tensor(2, dtype=value.dtype)
        value = value.log() / twos.log()
    value = formula.level + value
    for epsilon in formula.outside:
        value = value + epsilon
    levels: NDArray = value.floor().numpy()
    return levels
