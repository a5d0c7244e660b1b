"""Verdicts: are two results the same bits, and if not, how do they differ?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .cases import Case

NDArray = npt.NDArray[Any]

UNWRITTEN = "never written by MindSpore (|x1| and |x2| < 0.001)"


@dataclass(frozen=True)
class Verdict:
    """What came out of one case.

    ``values`` were compared, ``differing`` of them differ, by ``largest_difference`` at most (infinity where one side
    is NaN or infinite and the other is not). ``left_out`` counts the rows that were not compared, by reason.
    ``first`` describes the first value that differs. ``problem`` says why nothing could be compared.
    """

    case: str
    category: str
    values: int = 0
    differing: int = 0
    largest_difference: float = 0.0
    left_out: dict[str, int] = field(default_factory=dict)
    first: str = ""
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Tell whether every value compared is the same."""
        return not self.differing and not self.problem


def same_bits(left: NDArray, right: NDArray) -> NDArray:
    """Compare elementwise for equality, where NaN equals NaN and 0 equals -0."""
    equal: NDArray = (left == right) | (np.isnan(left) & np.isnan(right))
    return equal


def judge(case: Case, expected: NDArray | Exception, actual: NDArray | Exception) -> Verdict:
    """Compare what MindSpore gave for a case with what the adapter gave, over the rows that MindSpore defines."""
    if case.raises is not None or isinstance(expected, Exception) or isinstance(actual, Exception):
        return Verdict(case.name, case.category, problem=_judge_errors(case.raises, expected, actual))
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        problem = f"expected {expected.dtype} {expected.shape}, got {actual.dtype} {actual.shape}"
        return Verdict(case.name, case.category, problem=problem)
    if case.printed is not None and not same_bits(expected, case.printed).all():
        problem = f"expected the documentation's {case.printed.tolist()}, MindSpore gave {expected.tolist()}"
        return Verdict(case.name, case.category, problem=problem)

    unwritten = _unwritten(case)
    rows = np.flatnonzero(~unwritten)
    expected, actual = _flushed(expected[rows]), _flushed(actual[rows])
    different = ~same_bits(expected, actual)
    first = ""
    largest = 0.0
    if different.any():
        at = np.unravel_index(different.argmax(), different.shape)
        first = (
            f"rois row {rows[at[0]]} {case.rois[rows[at[0]]].tolist()}, channel {at[1]}, bin ({at[2]}, {at[3]}):"
            f" expected {expected[at]!r}, got {actual[at]!r}"
        )
        with np.errstate(invalid="ignore"):
            distance = np.abs(expected[different].astype(np.float64) - actual[different].astype(np.float64))
        largest = float(np.nan_to_num(distance, nan=np.inf).max())
    return Verdict(
        case.name,
        case.category,
        values=expected.size,
        differing=int(different.sum()),
        largest_difference=largest,
        left_out={UNWRITTEN: int(unwritten.sum())} if unwritten.any() else {},
        first=first,
    )


def _unwritten(case: Case) -> NDArray:
    """Return (K,) bool: the rows that MindSpore never writes.

    The adapter has this rule too. It is stated again here, or a fault in it would leave out the rows that show it.
    """
    x1, x2 = np.abs(case.rois[:, [1, 3]].astype(case.dtype)).T
    threshold = case.dtype.type(0.001)
    unwritten: NDArray = (x1 < threshold) & (x2 < threshold)
    return unwritten


def _flushed(values: NDArray) -> NDArray:
    """Replace subnormal float32 numbers, below 1.18e-38, by 0.

    MindSpore's kernel keeps them in some calls and flushes them to 0 in others, by the threads it happens to run on
    (the first few calls of a process keep them): neither is more its result than the other.
    """
    if values.dtype != np.float32:
        return values
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.float32(0), values)


def _judge_errors(raises: type[Exception] | None, expected: Any, actual: Any) -> str:
    """Return what is wrong where an error was wanted, or came."""
    for who, result in (("MindSpore", expected), ("the adapter", actual)):
        got = f"raised {type(result).__name__}: {result}" if isinstance(result, Exception) else "raised nothing"
        if raises is None and isinstance(result, Exception):
            return f"{who} {got}"
        if raises is not None and type(result) is not raises:
            return f"{who} should raise {raises.__name__}, but {got}"
    return ""


def reproduction(case: Case, *, with_mindspore: bool) -> str:
    """Return a few lines of Python that run a case again and show the two results."""
    oracle = "mindspore" if with_mindspore else "reference"
    names = ("pooled_height", "pooled_width", "spatial_scale", "sample_num", "roi_end_mode")
    arguments = ", ".join(f"{name}={value!r}" for name, value in zip(names, case.arguments, strict=True))
    return (
        "from ms2torch_roi.parity import cases, edges, operators, verdicts\n"
        f"case = {case.source}\n"
        f"# ROIAlign({arguments})\n"
        f"# features {case.features.dtype} {case.features.shape}, rois {case.rois.dtype} {case.rois.shape}\n"
        f"expected = operators.outcome(operators.{oracle}, case)\n"
        "actual = operators.outcome(operators.adapter, case)\n"
        "print(verdicts.judge(case, expected, actual))"
    )
