"""What the known rules (``rules.py``) give for a case: tried on a few rows at once, and confirmed on all."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..rules import Samples
from .case import Case
from .rules import Candidate, Rule, pool, rules_by_name
from .verdicts import distance, flushed, same_bits

NDArray = npt.NDArray[Any]

# Rows that differ, and rows that do not, on which rules are tried before they are confirmed on all.
_TRIED_DIFFERING, _TRIED_SAME = 4, 2

# Boxes with more samples than these along an axis of a bin are tried only if there is no other.
_FEW_SAMPLES = 8

# A rule is near if the error that it leaves is less than this much of the error of the rule that was asked for. Of
# random cases, the known mistakes left 0.00002 to 0.08 with noise of 1e-4 or rounded to float16; mistakes that are not
# known (other scales, samples, axes or bins, boxes moved otherwise, garbage) left 0.1 to 1, most of them 0.9.
_NEAR = 0.1

# Rules whose errors are within this factor are told apart by nothing but chance.
_AS_NEAR = 1.05

# Rows that are pooled before a look at whether all are as they should be.
_ROWS_AT_ONCE = 16


class Trial(NamedTuple):
    """What some rows pool to in one channel by each candidate: (candidates, rows, 1, pooled_height, pooled_width)."""

    candidates: list[Candidate]
    rows: NDArray
    channel: slice
    values: NDArray


def to_try(case: Case, expected: NDArray, actual: NDArray, different: NDArray, times: int = 1) -> tuple[NDArray, slice]:
    """Return a few rows to try rules on, first those that differ most, and the channel with the most differences.

    ``times`` that few, for what a few rows cannot tell apart.

    Boxes with few samples are quick, and those whose values differ by much, or are not 0, tell rules apart. NaN on one
    side does not tell how a box was moved.
    """
    asked, _ = rules_by_name(case).values()
    slow = ~np.isfinite(case.rois).all(1) | (np.abs(asked.samples(case).grid).max(1) > _FEW_SAMPLES)
    differing = different.sum((1, 2, 3))
    apart = distance(expected, actual)
    numbers = np.where(different & np.isfinite(apart), apart, 0).sum((1, 2, 3))
    same = ~different.any((1, 2, 3)) & ~case.undefined
    rows: list[int] = []
    for which, values, count in (
        (numbers > 0, numbers, _TRIED_DIFFERING),
        (differing > 0, differing, _TRIED_DIFFERING // 2),
        (same, (expected != 0).sum((1, 2, 3)), _TRIED_SAME),
    ):
        order = np.lexsort((-values, slow))
        rows += [row for row in order[which[order]] if row not in rows][: times * count]
    channel = int(different.sum((0, 2, 3)).argmax())
    return np.asarray(rows), slice(channel, channel + 1)


def run(case: Case, candidates: list[Candidate], rows: NDArray, channel: slice) -> Trial:
    """Try candidates on some rows of one channel."""
    values = np.zeros((len(candidates), len(rows), 1, *case.pooled), case.features.dtype)
    groups: dict[tuple[str, bytes, bool], list[tuple[int, Samples]]] = {}
    for number, candidate in enumerate(candidates):
        samples = candidate.rule.samples(case, rows)
        key = (candidate.rule.dtype, samples.border.tobytes(), samples.outside_adds_0)
        groups.setdefault(key, []).append((number, samples))
    for group in groups.values():
        numbers, parts = zip(*group, strict=True)
        of_rows = [np.concatenate(arrays) for arrays in [*zip(*parts, strict=True)][:-2]]
        # Most rules are the same for most boxes, and each sampling is done once.
        lines = np.concatenate([array.reshape(len(array), -1) for array in of_rows], axis=1, dtype=np.float64)
        keys = lines.view(f"V{lines.strides[0]}").ravel()
        _, first, again = np.unique(keys, return_index=True, return_inverse=True)
        pools = pool(
            Samples(*(array[first] for array in of_rows), *parts[0][-2:]), case.features[:, channel], case.pooled
        )
        values[list(numbers)] = pools[again].reshape(len(numbers), *values.shape[1:])
    return Trial(candidates, rows, channel, values)


def matching(
    case: Case,
    rule: Rule,
    rows: NDArray,
    values: NDArray,
    bound: float = 0.0,
    channels: slice = slice(None),
    *,
    stop: bool = False,
) -> NDArray:
    """Return (K,) bool: those of the ``rows`` (K,) whose values are those of a rule; after one that is not, stop."""
    found = rows.copy()
    features, values = case.features[:, channels], values[:, channels]
    numbers = np.flatnonzero(rows)
    for some in np.split(numbers, range(_ROWS_AT_ONCE, len(numbers), _ROWS_AT_ONCE)):
        found[some] = close(rule.pool(case, features, some), values[some], bound).all((1, 2, 3))
        if stop and not found[some].all():
            break
    return found


def close(left: NDArray, right: NDArray, bound: Any = 0.0) -> NDArray:
    """Compare elementwise: the same bits, or numbers at most ``bound`` apart."""
    close = same_bits(flushed(left), flushed(right))
    if np.any(bound):
        close |= distance(left, right) <= bound
    return close


def errors(tried: NDArray, values: NDArray, most: float) -> NDArray:
    """Return how far values are from what each candidate gives (candidates, ...): the root mean square.

    No value counts as further away than ``most``, which is what a number is away from NaN or infinity.
    """
    squares = np.square(np.minimum(distance(tried, values), most))
    found: NDArray = np.sqrt(squares.mean(axis=tuple(range(1, tried.ndim))))
    return found


def near(errors: NDArray) -> NDArray:
    """Return (candidates,) bool: those that values are near to, by the errors; they are not near to the first."""
    found: NDArray = errors < _NEAR * errors[0]
    return found


def nearest(errors: NDArray) -> int:
    """Return the candidate that values are nearest to: of those that are about as near, the one with least to it."""
    return int((errors <= _AS_NEAR * errors.min()).argmax())
