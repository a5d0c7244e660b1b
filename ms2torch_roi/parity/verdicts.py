"""Verdicts: are two results the same bits, and if not, how do they differ?"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .cases import Case

NDArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Verdict:
    """What came out of one case.

    ``values`` were compared, ``differing`` of them differ, by ``largest_difference`` at most (infinity where one side
    is NaN or infinite and the other is not). ``left_out`` counts the rows that were not compared, by reason.
    ``first`` describes the first value that differs. ``problem`` says why nothing could be compared.
    ``reproduction`` is Python that runs a case that failed again.
    """

    case: str
    direction: str
    category: str
    values: int = 0
    differing: int = 0
    largest_difference: float = 0.0
    left_out: dict[str, int] = field(default_factory=dict)
    first: str = ""
    problem: str = ""
    reproduction: str = ""

    @property
    def passed(self) -> bool:
        """Tell whether every value compared is the same."""
        return not self.differing and not self.problem


def same_bits(left: NDArray, right: NDArray) -> NDArray:
    """Compare elementwise for equality, where NaN equals NaN and 0 equals -0."""
    equal: NDArray = (left == right) | (np.isnan(left) & np.isnan(right))
    return equal


def judge(
    case: Case, expected: NDArray | Exception, actual: NDArray | Exception, category: str | None = None
) -> Verdict:
    """Compare what the original gave for a case with what the port gave, over the rows that the original defines."""
    verdict = functools.partial(Verdict, case.name, case.direction, category or case.category)
    if case.raises is not None or isinstance(expected, Exception) or isinstance(actual, Exception):
        return verdict(problem=_judge_errors(case, expected, actual))
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        problem = f"expected {expected.dtype} {expected.shape}, got {actual.dtype} {actual.shape}"
        return verdict(problem=problem)
    if case.printed is not None and not same_bits(expected, case.printed).all():
        problem = f"expected the documentation's {case.printed.tolist()}, {case.original} gave {expected.tolist()}"
        return verdict(problem=problem)

    undefined = case.undefined
    if actual[undefined].any():
        return verdict(problem=f"the port gave other values than 0 for rows {case.undefined_reason}")
    rows = np.flatnonzero(~undefined)
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
    return verdict(
        values=expected.size,
        differing=int(different.sum()),
        largest_difference=largest,
        left_out={case.undefined_reason: int(undefined.sum())} if undefined.any() else {},
        first=first,
    )


def _flushed(values: NDArray) -> NDArray:
    """Replace subnormal float32 numbers, below 1.18e-38, by 0.

    MindSpore's kernel keeps them in some calls and flushes them to 0 in others, by the threads it happens to run on
    (the first few calls of a process keep them): neither is more its result than the other.
    """
    if values.dtype != np.float32:
        return values
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.float32(0), values)


def _judge_errors(case: Case, expected: Any, actual: Any) -> str:
    """Return what is wrong where an error was wanted, or came."""
    for who, result in ((case.original, expected), ("the port", actual)):
        got = f"raised {type(result).__name__}: {result}" if isinstance(result, Exception) else "raised nothing"
        if case.raises is None and isinstance(result, Exception):
            return f"{who} {got}"
        if case.raises is not None and type(result) is not case.raises:
            return f"{who} should raise {case.raises.__name__}, but {got}"
    return ""


def reproduction(case: Case, original: str, port: str) -> str:
    """Return a few lines of Python that run a case again on two operators of ``operators.py``."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in case.arguments.items())
    return (
        "from ms2torch_roi.parity import cases, edges, operators, verdicts\n"
        f"case = {case.source}\n"
        f"# {case.operator}({arguments})\n"
        f"# features {case.features.dtype} {case.features.shape}, rois {case.rois.dtype} {case.rois.shape}\n"
        f"expected = operators.outcome(operators.{original}, case)\n"
        f"actual = operators.outcome(operators.{port}, case)\n"
        "print(verdicts.judge(case, expected, actual))"
    )
