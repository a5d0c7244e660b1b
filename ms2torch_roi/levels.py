"""Which level of a feature pyramid a box belongs to, as each framework decides it, by comparing with thresholds.

Detectors pool a box on the level ``floor(level + log2(size / scale))``. The frameworks' ``log2``, ``log`` and ``sqrt``
round differently, so the same formula picks another level for some boxes, and then every value of them is another. But
each formula is monotone in a number that all frameworks compute alike, such as the area of the box: one threshold a
level, found by search in the framework itself (``tools/levels.py``), decides exactly as the formula does.

A framework that rounds in two ways has two thresholds, and between them, a few floats apart, a box has either level:

- MindSpore's ``log2`` and ``log`` round differently in blocks of four values and more, and in the one to three that
  remain of each thread's part of an array. So the level depends on where in the array the box stands.
- torch's ``sqrt`` is rounded exactly, or not, by the processor.

:func:`assign` decides as blocks do, and as an exact ``sqrt`` does; :func:`ambiguous` names the boxes that may have the
other level.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = Any  # an array of the namespace ``xp``
NDArray = npt.NDArray[Any]

# The levels, as formulas number them, that have a threshold below them; nothing tells boxes below the first apart.
LEVELS = range(1, 7)


@dataclass(frozen=True, kw_only=True)
class LevelFormula:
    """A formula of real code: ``floor(level + log2(size / scale + inside) + outside)``, in float32.

    Attributes:
        framework: the one whose CPU computes it. In MindSpore a box whose size is NaN, such as an inverted one, is on
            the lowest level; in torch it is on none, and pools to 0.
        size: of a box of width w and height h: ``sqrt(w * h)`` ("area"), ``sqrt((w + 1) * (h + 1))`` ("pixels"), or
            ``sqrt(w + 1) * sqrt(h + 1)`` ("sides", in MindSpore only).
        scale: the size, in image pixels, at which ``level`` begins.
        level: the number of that level: 0 where levels are counted from the finest, or 4 for the one of stride 16.
        inside: what is added before the logarithm, in turn.
        outside: what is added after it.
        logarithm: "log2", or ``log(x) / log(2)`` with as many twos as boxes ("log / logs") or with one ("log / log").
    """

    framework: Literal["mindspore", "torch"]
    size: Literal["area", "pixels", "sides"] = "area"
    scale: float = 56.0
    level: int = 0
    inside: tuple[float, ...] = (1e-6,)
    outside: tuple[float, ...] = ()
    logarithm: Literal["log2", "log / logs", "log / log"] = "log2"

    def of_scale(self, scale: float) -> LevelFormula:
        """Return the formula with another scale."""
        return replace(self, scale=float(scale))


# FasterRCNN, MaskRCNN, CascadeRCNN and others of MindSpore's model zoo.
MODEL_ZOO = LevelFormula(framework="mindspore", size="sides", logarithm="log / logs")
# QueryInst on MindSpore.
QUERYINST = LevelFormula(framework="mindspore", size="sides")
# mmdet from 2.0 on, and as ported to MindSpore.
MMDET = LevelFormula(framework="torch")
MMDET_ON_MINDSPORE = replace(MMDET, framework="mindspore")
# mmdet before 2.0.
MMDET_1 = LevelFormula(framework="torch", size="pixels")
MMDET_1_ON_MINDSPORE = replace(MMDET_1, framework="mindspore")
# The RCNNs of mindspore-lab.
MINDSPORE_LAB = LevelFormula(framework="mindspore", inside=(1e-6, 1e-4), logarithm="log / log")
# torchvision's MultiScaleRoIAlign.
TORCHVISION = LevelFormula(framework="torch", scale=224.0, level=4, inside=(), outside=(1e-6,))
TORCHVISION_ON_MINDSPORE = replace(TORCHVISION, framework="mindspore")
# detectron2's ROIPooler, and as mindocr has it for LayoutLMv3.
DETECTRON2 = LevelFormula(framework="torch", scale=224.0, level=4, inside=(1e-8,))
DETECTRON2_ON_MINDSPORE = replace(DETECTRON2, framework="mindspore")

# The smallest quantity on each level of LEVELS, as ``assign`` decides, and where another is possible: as
# tools/levels.py found them with MindSpore 2.10.0 and torch 2.15.0 on an x86-64 with AVX-512.
_THRESHOLDS: dict[LevelFormula, tuple[str, str]] = {
    # <thresholds>
    MODEL_ZOO: (
        "0x1.bfffeep+6 0x1.bffff6p+7 0x1.bffffap+8 0x1.bffffap+9 0x1.bffff8p+10 0x1.bffffcp+11",
        "0x1.bffff2p+6 0x1.bffffap+7 0x1.bffffap+8 0x1.bffffcp+9 0x1.bffffcp+10 0x1.bffffap+11",
    ),
    QUERYINST: (
        "0x1.bffff8p+6 0x1.c00002p+7 0x1.c0000ap+8 0x1.c0001p+9 0x1.c0001cp+10 0x1.c00018p+11",
        "0x1.bffff2p+6 0x1.bffffap+7 0x1.bffffap+8 0x1.bffffcp+9 0x1.bffffcp+10 0x1.bffffap+11",
    ),
    MMDET: (
        "0x1.87ffe6p+13 0x1.87fff4p+15 0x1.87fff4p+17 0x1.87fff8p+19 0x1.87fff4p+21 0x1.87fff8p+23",
        "0x1.87ffe6p+13 0x1.87fff4p+15 0x1.87fff4p+17 0x1.87fff8p+19 0x1.87fff4p+21 0x1.87fff8p+23",
    ),
    MMDET_ON_MINDSPORE: (
        "0x1.87fff2p+13 0x1.880002p+15 0x1.88001p+17 0x1.88001cp+19 0x1.88003p+21 0x1.88002ap+23",
        "0x1.87ffe6p+13 0x1.87fff4p+15 0x1.87fff4p+17 0x1.87fff8p+19 0x1.87fff8p+21 0x1.87fff4p+23",
    ),
    MMDET_1: (
        "0x1.87ffe6p+13 0x1.87fff4p+15 0x1.87fff4p+17 0x1.87fff8p+19 0x1.87fff4p+21 0x1.87fff8p+23",
        "0x1.87ffe6p+13 0x1.87fff4p+15 0x1.87fff4p+17 0x1.87fff8p+19 0x1.87fff4p+21 0x1.87fff8p+23",
    ),
    MMDET_1_ON_MINDSPORE: (
        "0x1.87fff2p+13 0x1.880002p+15 0x1.88001p+17 0x1.88001cp+19 0x1.88003p+21 0x1.88002ap+23",
        "0x1.87ffe6p+13 0x1.87fff4p+15 0x1.87fff4p+17 0x1.87fff8p+19 0x1.87fff8p+21 0x1.87fff4p+23",
    ),
    MINDSPORE_LAB: (
        "0x1.87f5e8p+13 0x1.87fafep+15 0x1.87fd9p+17 0x1.87feep+19 0x1.87ff8cp+21 0x1.87ffd8p+23",
        "0x1.87f5dep+13 0x1.87fafp+15 0x1.87fd74p+17 0x1.87feb6p+19 0x1.87ff5ap+21 0x1.87ffa8p+23",
    ),
    TORCHVISION: (
        "0x1.87ffdcp+9 0x1.87ffdcp+11 0x1.87ffd8p+13 0x1.87ffdcp+15 0x1.87ffd6p+17 0x1.87ffd6p+19",
        "0x1.87ffdcp+9 0x1.87ffdcp+11 0x1.87ffd8p+13 0x1.87ffdcp+15 0x1.87ffd4p+17 0x1.87ffd4p+19",
    ),
    TORCHVISION_ON_MINDSPORE: (
        "0x1.87ffbap+9 0x1.87ffc4p+11 0x1.87ffc8p+13 0x1.87ffd8p+15 0x1.87ffdcp+17 0x1.87ffe6p+19",
        "0x1.87ffd6p+9 0x1.87ffd8p+11 0x1.87ffd8p+13 0x1.87ffdcp+15 0x1.87ffd6p+17 0x1.87ffd6p+19",
    ),
    DETECTRON2: (
        "0x1.87fff8p+9 0x1.87fff8p+11 0x1.87fff8p+13 0x1.87fffcp+15 0x1.87fff4p+17 0x1.87fff4p+19",
        "0x1.87fff8p+9 0x1.87fff8p+11 0x1.87fff8p+13 0x1.87fffcp+15 0x1.87fff4p+17 0x1.87fff4p+19",
    ),
    DETECTRON2_ON_MINDSPORE: (
        "0x1.87ffd8p+9 0x1.87ffe6p+11 0x1.87fff2p+13 0x1.87fff8p+15 0x1.87fff8p+17 0x1.88000ap+19",
        "0x1.87fff4p+9 0x1.87fff8p+11 0x1.87fff8p+13 0x1.87fffcp+15 0x1.87fff4p+17 0x1.87fff8p+19",
    ),
    # </thresholds>
}


def quantity(xp: Any, formula: LevelFormula, boxes: Array) -> Array:
    """Return the (K,) float32 that decides the level of (K, 4) boxes, or of (K, 5) with an image index in front.

    It is the square of the size, or for "sides" the size, whose factors are rounded exactly, as MindSpore does.
    """
    corners = xp.asarray(boxes, dtype=xp.float32)[:, -4:]
    width, height = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
    if formula.size == "area":
        return width * height
    width, height = width + 1, height + 1
    if formula.size == "pixels":
        return width * height
    return _exact_sqrt(xp, width) * _exact_sqrt(xp, height)


def _exact_sqrt(xp: Any, side: Array) -> Array:
    # Of more than twice the digits, rounded: not every sqrt of float32 is exact.
    return xp.asarray(xp.sqrt(xp.asarray(side, dtype=xp.float64)), dtype=xp.float32)


def assign(xp: Any, formula: LevelFormula, boxes: Array, count: int, lowest: int = 0) -> Array:
    """Return the (K,) level of each box, as an index into ``count`` levels, by comparisons and sums alone.

    Args:
        xp: NumPy, or what calls the same functions by the same names.
        formula: which decides.
        boxes: (K, 4) or (K, 5), in image pixels; decided in float32, whatever their dtype.
        count: of levels; larger boxes are on the last.
        lowest: what ``formula`` calls the first of them; smaller boxes are on it.

    Returns:
        ints from 0 to ``count - 1``; -1 for a box that is on no level, and pools to 0.
    """
    decided, _ = thresholds(formula, lowest, count)
    return reached(quantity(xp, formula, boxes), decided, formula.framework == "torch")


def reached(value: Array, thresholds: Sequence[float], needs_size: bool) -> Array:
    """Return how many thresholds each quantity has reached; -1 for NaN and below 0, if a box ``needs_size``."""
    level = -1 + (value >= 0) if needs_size else 0 * (value >= 0)  # a comparison with NaN is False
    for threshold in thresholds:
        level = level + (value >= threshold)
    return level


def ambiguous(formula: LevelFormula, boxes: NDArray, count: int, lowest: int = 0) -> NDArray:
    """Return the rows of boxes whose level may be the one that :func:`assign` gives, or the next one up or down.

    Args:
        formula: which decides.
        boxes: (K, 4) or (K, 5), a NumPy array, in image pixels.
        count: of levels.
        lowest: what ``formula`` calls the first of them.

    >>> import numpy as np
    >>> from ms2torch_roi import levels
    >>> boxes = np.array([[0, 0, 112, 112], [0, 0, 112, 111.99992]], np.float32)
    >>> levels.ambiguous(levels.MMDET_ON_MINDSPORE, boxes, count=4)
    array([1])
    """
    with np.errstate(all="ignore"):  # overflow and NaN are part of the formula
        value = quantity(np, formula, np.asarray(boxes))
        both = np.array(thresholds(formula, lowest, count), np.float32)[..., None]
        is_reached = value >= both
    rows: NDArray = np.flatnonzero((is_reached[0] != is_reached[1]).any(0))
    return rows


def thresholds(formula: LevelFormula, lowest: int, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the smallest quantity on each level but the first, as :func:`assign` decides, and the other one.

    Those of a formula that is not known here are searched in its framework.

    Raises:
        ImportError: the framework of such a formula is not installed.
        ValueError: "sides" in torch.
    """
    if formula.size == "sides" and formula.framework == "torch":
        raise ValueError("levels: 'sides' is a size of MindSpore's; torch's sqrt of a side depends on the processor")
    wanted = range(lowest + 1, lowest + count)
    known, factor = _as_known(formula)
    if known is None or not set(wanted) <= set(LEVELS):
        return _search_all(formula, wanted)
    decided, other = ([float.fromhex(number) * factor for number in row.split()] for row in _THRESHOLDS[known])
    first = wanted.start - LEVELS.start
    return tuple(decided[first:][: count - 1]), tuple(other[first:][: count - 1])


def _as_known(formula: LevelFormula) -> tuple[LevelFormula | None, float]:
    """Return a formula with thresholds that are known, and the power of two that makes them those of this one."""
    for known in _THRESHOLDS:
        if replace(known, scale=formula.scale) == formula:
            fraction, exponent = math.frexp(formula.scale / known.scale)
            if fraction == 0.5:
                return known, 2.0 ** ((exponent - 1) * (1 if known.size == "sides" else 2))
    return None, 1.0


@functools.cache
def _search_all(formula: LevelFormula, levels: range) -> tuple[tuple[float, ...], tuple[float, ...]]:
    decided, other = (tuple(search(formula, level, rounding) for level in levels) for rounding in (0, 1))
    return decided, other


def search(formula: LevelFormula, level: int, rounding: int) -> float:
    """Return the smallest float32 that is on a level, or on one above, of a formula as its framework computes it.

    Args:
        formula: which decides.
        level: as the formula numbers levels.
        rounding: 0 for the one that :func:`assign` decides by, 1 for the other.
    """
    framework = _framework(formula)
    below, reached = 0, int(np.float32(np.inf).view(np.int32)) - 1  # bits of floats, which are in their order
    while reached - below > 1:
        bits = np.unique(np.linspace(below, reached, 64).astype(np.int32))
        is_reached = framework.level(formula, bits.view(np.float32))[rounding] >= level
        first = max(int(is_reached.argmax()), 1)
        below, reached = int(bits[first - 1]), int(bits[first])
    return float(np.int32(reached).view(np.float32))


def _framework(formula: LevelFormula) -> ModuleType:
    """Return the module that computes a formula in its framework."""
    try:
        return importlib.import_module(f".{formula.framework}.formula", __package__)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the thresholds of {formula} are not known here, and to find them {error.name} must be installed"
        ) from error
