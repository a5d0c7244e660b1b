"""Verdicts: are two results the same bits, and if not, how do they differ?"""

from __future__ import annotations

import functools
import math
import numbers
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import remote
from .case import Case

NDArray = npt.NDArray[Any]


# What two gradients may differ by, of the largest gradient: they are sums, and a framework on several threads adds them
# up in an order that changes from call to call. float16 sums are rounded to float16 after each addition.
GRADIENT_BOUND = {"float16": 0.05, "float32": 2e-5, "float64": 1e-12}

# The category of a recorded call that cannot be read.
UNREADABLE = "unreadable"

# The problem of a case that ended the process that ran it, and the next one.
LOST = "it ended the process that ran it, twice"

# Cells along each axis of a heat map.
MAX_HEAT_MAP = 64


@dataclass(frozen=True)
class Tolerance:
    """What may differ: values by ``atol + rtol * abs(expected)``, and ``max_differing`` values of a case by more.

    By default nothing may: on a CPU the ports have the bits of the original.
    """

    atol: float = 0.0
    rtol: float = 0.0
    max_differing: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("atol", numbers.Real), ("rtol", numbers.Real), ("max_differing", numbers.Integral)):
            value: Any = getattr(self, name)
            if not isinstance(value, kind):
                raise TypeError(f"{name} must be {'an int' if kind is numbers.Integral else 'a number'}, got {value!r}")
            if not 0 <= getattr(self, name) <= (math.inf if kind is numbers.Integral else sys.float_info.max):
                raise ValueError(f"{name} must be 0 or more, got {value!r}")

    def __str__(self) -> str:
        """Say what is allowed, for reports."""
        allowed = {"atol": self.atol, "rtol": self.rtol, "max_differing": self.max_differing}
        return ", ".join(f"{name} {value:g}" for name, value in allowed.items() if value) or "none"


EXACT = Tolerance()


@dataclass(frozen=True)
class Verdict:
    """What came out of one case.

    ``number`` is its place in the run. ``values`` were compared, ``differing`` of them differ by more than the
    tolerance, which allows for ``allowed`` of those; ``largest_difference`` is infinity where one side is NaN or
    infinite and the other is not. ``left_out`` counts the rows that were not compared, by reason. ``first`` describes
    the first value that differs, and ``heat_map`` has the largest difference in each bin (of a gradient: in each cell)
    over all rows and channels, to three digits. ``raised`` is the error that both ended in, as they must.
    ``problem`` says why nothing could be compared. ``explanation`` names
    the rule that the values follow, where one is known. ``reproduction`` is Python that runs a case that failed again.
    ``call`` has the arguments, and ``seconds`` are what it took.
    """

    case: str
    direction: str
    category: str
    number: int = 0
    values: int = 0
    differing: int = 0
    allowed: int = 0
    largest_difference: float = 0.0
    left_out: dict[str, int] = field(default_factory=dict)
    first: str = ""
    heat_map: list[list[float]] = field(default_factory=list)
    raised: str = ""
    problem: str = ""
    explanation: str = ""
    reproduction: str = ""
    call: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def passed(self) -> bool:
        """Tell whether no more values differ than may."""
        return self.differing <= self.allowed and not self.problem

    @property
    def is_skipped(self) -> bool:
        """Tell whether all there was to compare was left out."""
        return bool(self.left_out) and not self.values and not self.problem


def same_bits(left: NDArray, right: NDArray) -> NDArray:
    """Compare elementwise for equality, where NaN equals NaN and 0 equals -0."""
    equal: NDArray = (left == right) | (np.isnan(left) & np.isnan(right))
    return equal


def distance(left: NDArray, right: NDArray) -> NDArray:
    """Return how far values are apart, elementwise: infinitely, if only one of them is a number."""
    with np.errstate(all="ignore"):
        apart = np.abs(left.astype(np.float64) - right.astype(np.float64))
    apart = np.where(np.isnan(apart), np.inf, apart)
    if left.dtype.kind in "iu" and right.dtype.kind in "iu":  # which float64 may not tell apart
        apart = np.maximum(apart, 1)
    return np.where(same_bits(left, right), 0, apart)


def largest(values: NDArray) -> float:
    """Return the largest finite magnitude."""
    return float(np.abs(np.where(np.isfinite(values), values, 0)).max(initial=0))


def judge(
    case: Case,
    expected: NDArray | Exception,
    actual: NDArray | Exception,
    category: str | None = None,
    tolerance: Tolerance = EXACT,
) -> Verdict:
    """Compare what the original gave for a case with what the port gave, over the rows that the original defines."""
    verdict = functools.partial(Verdict, case.name, case.direction, category or case.category, call=case.call)
    if case.raises is not None or isinstance(expected, Exception) or isinstance(actual, Exception):
        problem = _judge_errors(case, expected, actual)
        return verdict(problem=problem, raised="" if problem else type(expected).__name__)
    if problem := _judge_types(expected, actual):
        return verdict(problem=problem)
    if case.printed is not None and not same_bits(expected, case.printed).all():
        problem = f"expected the documentation's {case.printed.tolist()}, {case.original} gave {expected.tolist()}"
        return verdict(problem=problem)

    undefined = case.undefined
    if actual[undefined].any():
        return verdict(problem=f"the port gave other values than 0 for rows {case.undefined_reason}")
    rows = np.flatnonzero(~undefined)

    def describe(at: Sequence[int]) -> str:
        row = rows[at[0]]
        return f"rois row {row} ({', '.join(map(str, case.rois[row]))}), channel {at[1]}, bin ({at[2]}, {at[3]})"

    return verdict(
        **compare_values(flushed(expected[rows]), flushed(actual[rows]), tolerance, describe),
        left_out={case.undefined_reason: int(undefined.sum())} if undefined.any() else {},
    )


def judge_gradient(
    case: Case,
    expected: NDArray | Exception,
    actual: NDArray | Exception,
    category: str,
    tolerance: Tolerance = EXACT,
    bound: float | None = None,
) -> Verdict:
    """Compare two gradients for the features of a case.

    Differences up to ``bound``, a share of the largest gradient, count as none; it is ``GRADIENT_BOUND`` if None.
    """
    verdict = functools.partial(Verdict, case.name, case.direction, category, call=case.call)
    for who, gradient in ((case.original, expected), ("the port", actual)):
        if isinstance(gradient, Exception):
            return verdict(problem=f"the gradient of {who} raised {type(gradient).__name__}: {gradient}")
    assert isinstance(expected, np.ndarray)
    assert isinstance(actual, np.ndarray)
    if problem := _judge_types(expected, actual):
        return verdict(problem=f"gradient: {problem}")
    share = GRADIENT_BOUND[case.dtype.name] if bound is None else bound

    def describe(at: Sequence[int]) -> str:
        return f"gradient for image {at[0]}, channel {at[1]}, cell ({at[2]}, {at[3]})"

    return verdict(
        **compare_values(
            flushed(expected), flushed(actual), tolerance, describe, of_no_account=share * largest(expected)
        )
    )


def cause(verdict: Verdict) -> str:
    """Return what a case that failed has in common with others that failed for the same reason, in a few words."""
    if verdict.category == UNREADABLE:
        return "It cannot be read"
    if verdict.problem:
        return verdict.problem.splitlines()[0].partition(":")[0]
    follows = re.search(
        r"(the )?\w+'s (values|gradient) (match|are closest|is closest).*", verdict.explanation, re.IGNORECASE
    )
    sentence = re.split(r"\.(?: |$)", follows[0] if follows else verdict.explanation)[0]
    return sentence[:1].upper() + sentence[1:] or "Not explained"


def describe(verdict: Verdict) -> list[str]:
    """Return what a person needs to know of a case that failed, in lines."""
    if verdict.problem:
        lines = [verdict.problem]
    else:
        differ = f"{verdict.differing:,} of {verdict.values:,} values differ"
        allowed = f" ({verdict.allowed:,} may)" if verdict.allowed else ""
        lines = [f"{differ}{allowed}, by {verdict.largest_difference:.6g} at most", verdict.first]
    if verdict.call:
        lines.append(verdict.call)
    if verdict.explanation:
        lines.append(verdict.explanation)
    if verdict.reproduction:
        lines.append(f"To see it again:\n\n{verdict.reproduction}\n")
    return lines


def _judge_types(expected: NDArray, actual: NDArray) -> str:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return f"expected {expected.dtype} {expected.shape}, got {actual.dtype} {actual.shape}"
    return ""


def differing(expected: NDArray, apart: NDArray, tolerance: Tolerance) -> NDArray:
    """Tell which values differ by more than the tolerance, elementwise; what is not finite is within none."""
    with np.errstate(invalid="ignore", over="ignore"):
        allowed = tolerance.atol + tolerance.rtol * np.abs(expected.astype(np.float64))
        different: NDArray = (apart > 0) & ~(np.isfinite(apart) & (apart <= allowed))
    return different


def compare_values(
    expected: NDArray,
    actual: NDArray,
    tolerance: Tolerance,
    describe: Callable[[Sequence[int]], str],
    of_no_account: float = 0.0,
) -> dict[str, Any]:
    """Return what a Verdict says of two arrays of one shape; the heat map is of (rows, channels, height, width)."""
    apart = distance(expected, actual)
    apart[apart <= of_no_account] = 0
    different = differing(expected, apart, tolerance)
    first = ""
    if different.any():
        at = [int(i) for i in np.unravel_index(different.argmax(), different.shape)]
        first = f"{describe(at)}: expected {expected[tuple(at)]}, got {actual[tuple(at)]}"
    return {
        "values": expected.size,
        "differing": int(different.sum()),
        "allowed": tolerance.max_differing,
        "largest_difference": float(apart.max(initial=0)),
        "first": first,
        "heat_map": _heat_map(apart.max((0, 1))) if different.any() and expected.ndim == 4 else [],
    }


def _heat_map(apart: NDArray) -> list[list[float]]:
    """Return the largest differences to three digits: of cells, or of blocks where there are too many cells."""
    for axis, length in enumerate(apart.shape):
        apart = np.maximum.reduceat(apart, range(0, length, -(-length // MAX_HEAT_MAP)), axis)
    return [[float(f"{value:.3g}") for value in row] for row in apart]


def flushed(values: NDArray) -> NDArray:
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
    """Return a few lines of Python that run a case again.

    Args:
        case: which.
        original: the name of an operator of ``operators.py``.
        port: likewise, or another function of a case, in Python.
    """
    port = f"operators.{port}" if port.isidentifier() else port
    return (
        f"{_case_again(case)}"
        f"expected = operators.outcome(operators.{original}, case)\n"
        f"actual = operators.outcome({port}, case)\n"
        "print(verdicts.judge(case, expected, actual))"
    )


def reproduction_of_gradient(case: Case, device: str = "cpu") -> str:
    """Return a few lines of Python that compute the gradients of a case again."""
    on_device = "" if device == "cpu" else f", device={device!r}"
    return (
        f"{_case_again(case)}"
        "output_gradient = operators.some_output_gradient(case)\n"
        "expected = operators.original_gradient(case, output_gradient)\n"
        f"actual = operators.gradient(case, output_gradient, backward_roi_end_mode=1{on_device})\n"
        "print(verdicts.judge_gradient(case, expected, actual, 'gradient', bound=0.0))"
    )


def _case_again(case: Case) -> str:
    return (
        "import numpy as np\n"
        "from ms2torch_roi.parity import adapters, cases, edges, operators, verdicts\n"
        f"case = {case.source}\n"
        f"# {case.call}\n"
    )


def reproduction_of_recorded(path: Path, settings: str) -> str:
    """Return a few lines of Python that replay a recorded call; ``settings`` are the other arguments of the replay."""
    return (
        "from pathlib import Path\n"
        "from ms2torch_roi.parity import adapters, campaign, remote, verdicts\n"
        f"files = ({remote.expression(path)},)\n"
        f"print(campaign.Replay({', '.join(filter(None, ('files', settings)))}).verdicts(0))"
    )
