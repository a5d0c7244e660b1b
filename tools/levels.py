"""Find the thresholds of every formula in ``ms2torch_roi/levels.py`` by search in the frameworks, and verify them.

``python tools/levels.py`` compares each formula, as its framework computes it here, with its thresholds, on every float
around each of them and on random ones of any size, and ends with status 1 if one is on another level. With ``--write``
it writes the thresholds that it finds here to that file instead.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ms2torch_roi import levels
from ms2torch_roi.levels import LevelFormula

MODULE = Path(levels.__file__)
START, END = "    # <thresholds>\n", "    # </thresholds>\n"

# Floats on either side of a threshold, and random ones of any size.
AROUND, RANDOM = 256, 10_000


def formulas() -> Iterator[tuple[str, LevelFormula]]:
    """Yield the formulas that have a name there."""
    for name, value in vars(levels).items():
        if isinstance(value, LevelFormula):
            yield name, value


def table() -> str:
    """Return the thresholds found here, as the source of the module has them."""
    lines = []
    for name, formula in formulas():
        lines.append(f"    {name}: (\n")
        for rounding in (0, 1):
            found = (levels.search(formula, level, rounding) for level in levels.LEVELS)
            lines.append(f'        "{" ".join(_hex(value) for value in found)}",\n')
        lines.append("    ),\n")
    return "".join(lines)


def _hex(value: float) -> str:
    digits, exponent = value.hex().split("p")
    return f"{digits.rstrip('0')}p{exponent}"


def faults(formula: LevelFormula, around: int = AROUND, random: int = RANDOM) -> int:
    """Return how many floats are on another level by the formula, as its framework computes it, than by thresholds."""
    lowest, count = levels.LEVELS.start - 1, len(levels.LEVELS) + 1
    both = np.array(levels.thresholds(formula, lowest, count), np.float32)
    bits = both.view(np.int32).ravel()[:, None] + np.arange(-around, around)
    anywhere = np.random.default_rng(0).integers(0, np.float32(np.inf).view(np.int32), random)
    values = np.unique(np.concatenate((bits.ravel(), anywhere)).astype(np.int32)).view(np.float32)
    framework = importlib.import_module(f"ms2torch_roi.{formula.framework}.formula")
    different = 0
    for found, of_rounding in zip(framework.level(formula, values), both, strict=True):
        by_thresholds = lowest + (values[:, None] >= of_rounding).sum(1)
        different += int((found.clip(lowest, lowest + count - 1) != by_thresholds).sum())
    return different


def main() -> int:
    """Verify the thresholds, or write them; return the exit status."""
    parser = argparse.ArgumentParser(description="Verify the thresholds of levels in the frameworks installed here.")
    parser.add_argument("--write", action="store_true", help="write those found here to ms2torch_roi/levels.py")
    if parser.parse_args().write:
        before, start, rest = MODULE.read_text().partition(START)
        _, end, after = rest.partition(END)
        MODULE.write_text(before + start + table() + end + after)
        return 0
    different = {name: faults(formula) for name, formula in formulas()}
    for name, count in different.items():
        print(f"{name}: {count or 'no'} floats are on another level")
    return int(any(different.values()))


if __name__ == "__main__":
    sys.exit(main())
