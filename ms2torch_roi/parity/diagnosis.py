"""Explanations: when two results differ, which rule do the values follow instead of the one that was asked for?

Every rule that is known (``rules.py``) is tried on a few rows at once, those with the fewest deviations first, and what
fits there is confirmed on all values.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..rules import Samples
from .cases import Case, MindSporeCase
from .rules import Candidate, Rule, candidates_of, joined, pool, rules_by_name
from .verdicts import GRADIENT_BOUND, flushed, same_bits

NDArray = npt.NDArray[Any]

# Rows that differ, and rows that do not, on which rules are tried before they are confirmed on all.
_TRIED_DIFFERING, _TRIED_SAME = 4, 2

# Each rule takes a backward pass to try.
_MOST_DEVIATIONS_OF_GRADIENTS = 2

# Boxes with more samples than these along an axis of a bin are tried only if there is no other.
_FEW_SAMPLES = 8

# The rules that most of the tried rows follow are tried on every row, up to so many.
_MOST_PARTIAL = 4

# Rows that are pooled before a look at whether all are as they should be.
_ROWS_AT_ONCE = 16

# Rows that are named one by one.
_NAMED = 5


def explain(case: Case, expected: NDArray, actual: NDArray) -> str:
    """Say in a sentence or two why the results of a case differ.

    Args:
        case: the call.
        expected: what the original gave, on whatever device: (K, C, pooled_height, pooled_width).
        actual: what the port gave.

    Returns:
        The known rule that the values of either side follow, bit for bit (or to within rounding, if it computes in
        float32); otherwise that none fits, and how large the differences are. ``""`` if nothing differs.

    >>> from ms2torch_roi.parity import cases, operators
    >>> case = cases.documented_cases()[1]
    >>> wrong = operators.reference(cases.documented_cases()[0])
    >>> print(explain(case, operators.reference(case), wrong))
    The port's values match roi_end_mode=1 computed with small boxes enlarged to one cell: aligned=False on boxes that
    end at x2 + 1 and y2 + 1 does the same.
    """
    if expected.shape != actual.shape:
        sides = ((case.original, expected), ("The port", actual))
        return " ".join(filter(None, (_explain_shape(case, *side) for side in sides)))
    if expected.dtype != actual.dtype:
        return f"The port returned {actual.dtype} where {case.original} returned {expected.dtype}."
    undefined = case.undefined
    different = ~same_bits(flushed(expected), flushed(actual))
    sentences = []
    if actual[undefined].any():
        rows = np.flatnonzero(undefined & actual.any((1, 2, 3)))
        sentences.append(f"The port must give 0 for rows {case.undefined_reason}, and does not in {_listed(rows)}.")
    elif different.any() and not different[~undefined].any():
        rows = np.flatnonzero(different.any((1, 2, 3)))
        sentences.append(f"Only {_listed(rows)} differ, {case.undefined_reason}: their values mean nothing.")
    different[undefined] = False
    if different.any():
        with np.errstate(all="ignore"):  # overflow and NaN are part of the rules
            sentences.append(_explain_values(case, expected, actual, different))
    return " ".join(sentences)


def explain_gradient(case: Case, output_gradient: NDArray, expected: NDArray, actual: NDArray) -> str:
    """Say in a sentence or two why the gradients for the features of a case differ.

    Args:
        case: the call.
        output_gradient: what came into the backward pass: (K, C, pooled_height, pooled_width).
        expected: what the original's backward pass gave: (N, C, H, W).
        actual: what the port's gave.

    Returns:
        The known rule that the gradient of either side is of, to within ``verdicts.GRADIENT_BOUND``; otherwise that
        none fits, and how large the difference is.

    >>> from ms2torch_roi.parity import cases, operators
    >>> case = cases.documented_cases()[0]
    >>> ones = np.ones_like(operators.reference(case))
    >>> of_port, as_mindspore = operators.gradient(case, ones), operators.gradient(case, ones, backward_roi_end_mode=1)
    >>> print(explain_gradient(case, ones, expected=as_mindspore, actual=of_port))
    MindSpore's gradient matches that of roi_end_mode=1, not the roi_end_mode=0 asked for. In MindSpore the gradient of
    roi_end_mode=0 is that of roi_end_mode=1: ROIAlign(..., backward_roi_end_mode=1) trains as MindSpore does.
    """
    if expected.shape != actual.shape:
        return f"The gradient of the port has shape {actual.shape}; the features have {case.features.shape}."
    _, other = rules_by_name(case).values()
    candidates = [one for one in candidates_of(case) if one.deviations <= _MOST_DEVIATIONS_OF_GRADIENTS]
    candidates[1:] = sorted(candidates[1:], key=lambda one: one.rule != other)
    channel = int((~same_bits(expected, actual)).sum((0, 2, 3)).argmax())
    sentences = []
    with np.errstate(all="ignore"):
        for whose, gradient in (("The port's", actual), (f"{case.original}'s", expected)):
            if not gradient.any():
                continue  # many a rule has boxes outside the image
            fits = functools.partial(_has_gradient, case, output_gradient, gradient, channel)
            found = next((candidate for candidate in candidates if fits(candidate.rule)), candidates[0])
            if found.deviations:
                sentences.append(f"{whose} gradient matches that of {found.description}.")
                if isinstance(case, MindSporeCase) and (case.roi_end_mode, found.rule) == (0, other):
                    sentences.append(
                        "In MindSpore the gradient of roi_end_mode=0 is that of roi_end_mode=1:"
                        " ROIAlign(..., backward_roi_end_mode=1) trains as MindSpore does."
                    )
        if sentences:
            return " ".join(sentences)
        different = ~same_bits(expected, actual)
        return _extent(case, expected, actual, different, "gradient", _largest(expected))


def _explain_values(case: Case, expected: NDArray, actual: NDArray, different: NDArray) -> str:
    """Explain ``different`` values of rows that the original defines."""
    trial = _try(case, *_to_try(case, expected, actual, different))
    largest = _largest(case.features)
    sentences = []
    for whose, values, others in (("the port's", actual, expected), (f"{case.original}'s", expected, actual)):
        # Zeros prove little: many a rule has boxes outside the image. Where the other side is NaN, they do.
        telling = (different & ((values != 0) | np.isnan(others))).any((1, 2, 3))
        side = _Side(case, whose, values, different.any((1, 2, 3)), telling, largest)
        if sentence := _follows(side, trial):
            sentences.append(sentence[0].upper() + sentence[1:])
            if values is expected:
                sentences.append(f"That is not the rule of {case.original} on a CPU.")
    if sentences:
        return " ".join(sentences)
    return _extent(case, expected, actual, different, "feature", largest)


class _Side(NamedTuple):
    """The values of one side, with (K,) bool: the rows that differ, and those where that can tell rules apart."""

    case: Case
    whose: str
    values: NDArray
    different: NDArray
    telling: NDArray
    largest_feature: float


class _Trial(NamedTuple):
    """What some rows pool to in one channel by each candidate: (candidates, rows, 1, pooled_height, pooled_width)."""

    candidates: list[Candidate]
    rows: NDArray
    channel: slice
    values: NDArray


def _follows(side: _Side, trial: _Trial) -> str:
    """Return a sentence on the rule that the values of one side follow instead of the one asked for, or ""."""
    case, whose, values, _, telling, largest = side
    if not telling.any():
        return ""
    defined = ~case.undefined
    candidates, on_tried = trial.candidates, values[trial.rows, trial.channel]
    matches = _close(trial.values, on_tried).all((2, 3, 4))
    if matches[0].all():
        return ""
    refuted = set[bytes]()
    for match, (rule, _, description) in zip(matches[1:], candidates[1:], strict=True):
        if not match.all() or (key := rule.key(case)) in refuted:
            continue
        confirmed = functools.partial(_matching, case, rule, defined, values, stop=True)
        if all(confirmed(channels=some)[defined].all() for some in (trial.channel, slice(None))):
            return f"{whose} values match {description}."
        refuted.add(key)

    if sentence := _follow_partly(side, trial, matches):
        return sentence

    bounds = np.asarray([_rounding(case, candidate.rule.dtype, largest) for candidate in candidates])
    close = _close(trial.values, on_tried, bounds.reshape(-1, 1, 1, 1, 1)).all((1, 2, 3, 4))
    if close[0]:
        return ""
    for index in np.flatnonzero(close):
        rule, _, description = candidates[index]
        if rule.dtype == "float16":
            continue  # what rounding does in float16 is so large that rules would fit by chance
        if _matching(case, rule, defined, values, bounds[index], stop=True)[defined].all():
            return f"to within rounding, {whose} values match {description}."
    return ""


def _follow_partly(side: _Side, trial: _Trial, matches: NDArray) -> str:
    """Return a sentence on the rule that most of the rows follow that are not by the rule asked for, or ""."""
    case, whose, values, different, telling, _ = side
    candidates, rows, channel, tried = trial
    hits = matches & (~matches[0] & different[rows] & telling[rows])
    wrong = different & ~_matching(case, candidates[0].rule, different, values, channels=channel)
    most, best, seen = 0, candidates[0], set[bytes]()
    for index in np.argsort(-hits.sum(1), kind="stable"):
        key = tried[index][hits[index]].tobytes()
        if not hits[index].any() or len(seen) == _MOST_PARTIAL:
            break
        if key in seen:
            continue
        seen.add(key)
        found = _matching(case, candidates[index].rule, wrong, values, channels=channel) & telling
        if found.sum() > most:
            most, best, matching = found.sum(), candidates[index], found
    if not most or 2 * most < wrong.sum():
        return ""
    matching = _matching(case, best.rule, matching, values)
    if 2 * matching.sum() < wrong.sum():
        return ""
    of, every = int(matching.sum()), int(different.sum())
    rows_in_words = f"{of} of the {every} rows" if of < every else f"all {every} rows" if every > 1 else "the only row"
    return f"in {rows_in_words} that differ{'s' * (every == 1)}, {whose} values match {best.description}."


def _to_try(case: Case, expected: NDArray, actual: NDArray, different: NDArray) -> tuple[NDArray, slice]:
    """Return a few rows to try rules on, first those that differ, and the channel with the most differences.

    Boxes with few samples are quick, and those with many values that differ, or are not 0, tell rules apart. NaN on one
    side does not tell how a box was moved.
    """
    asked, _ = rules_by_name(case).values()
    slow = ~np.isfinite(case.rois).all(1) | (np.abs(asked.samples(case).grid).max(1) > _FEW_SAMPLES)
    differing = different.sum((1, 2, 3))
    numbers = (different & np.isfinite(expected) & np.isfinite(actual)).sum((1, 2, 3))
    same = ~different.any((1, 2, 3)) & ~case.undefined
    rows: list[int] = []
    for which, values, count in (
        (numbers > 0, numbers, _TRIED_DIFFERING),
        (differing > 0, differing, _TRIED_DIFFERING // 2),
        (same, (expected != 0).sum((1, 2, 3)), _TRIED_SAME),
    ):
        order = np.lexsort((-values, slow))
        rows += [row for row in order[which[order]] if row not in rows][:count]
    channel = int(different.sum((0, 2, 3)).argmax())
    return np.asarray(rows), slice(channel, channel + 1)


def _try(case: Case, rows: NDArray, channel: slice) -> _Trial:
    """Try every candidate on some rows of one channel."""
    candidates = candidates_of(case)
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
    return _Trial(candidates, rows, channel, values)


def _matching(
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
    matching = rows.copy()
    features, values = case.features[:, channels], values[:, channels]
    numbers = np.flatnonzero(rows)
    for some in np.split(numbers, range(_ROWS_AT_ONCE, len(numbers), _ROWS_AT_ONCE)):
        matching[some] = _close(rule.pool(case, features, some), values[some], bound).all((1, 2, 3))
        if stop and not matching[some].all():
            break
    return matching


def _has_gradient(case: Case, output_gradient: NDArray, gradient: NDArray, first_channel: int, rule: Rule) -> bool:
    """Tell whether this is the gradient for the features by a rule, and find out in one channel if it is not."""
    bound = max(GRADIENT_BOUND[case.dtype.name], GRADIENT_BOUND["float32"]) * _largest(gradient)
    for channels in (slice(first_channel, first_channel + 1), slice(None)):
        of_rule = rule.gradient(replace(case, features=case.features[:, channels]), output_gradient[:, channels])
        if not _close(of_rule, gradient[:, channels], bound).all():
            return False
    return True


def _close(left: NDArray, right: NDArray, bound: Any = 0.0) -> NDArray:
    """Compare elementwise: the same bits, or numbers at most ``bound`` apart."""
    close = same_bits(flushed(left), flushed(right))
    if np.any(bound):
        close |= np.abs(left.astype(np.float64) - right.astype(np.float64)) <= bound
    return close


def _largest(values: NDArray) -> float:
    """Return the largest finite magnitude."""
    return float(np.abs(np.where(np.isfinite(values), values, 0)).max(initial=0))


def _rounding(case: Case, dtype: str, largest: float) -> float:
    """Return by how much values may differ that are computed in this dtype, but not in the same order."""
    of_positions = 2 * (1 + max(case.features.shape[2:])) * np.finfo(dtype).eps
    return float((of_positions + np.finfo(case.features.dtype).eps) * largest)


def _explain_shape(case: Case, who: str, result: NDArray) -> str:
    """Explain an output of another shape than it must have."""
    if result.shape == case.output_shape:
        return ""
    got, pooled = result.shape[2:], case.pooled
    sentence = f"{who} returned the shape {result.shape} instead of {case.output_shape}."
    if len(got) == 2 and got != pooled and "".join(map(str, got)) == "".join(map(str, pooled)):
        height, width = pooled
        sentence += (
            f" MindSpore's PyNative mode has taken an ROIAlign of {got[0]} x {got[1]} bins for the one of {height} x"
            f" {width}: it tells them apart by '{height}{width}', both numbers without a space."
            f" op.add_prim_attr('arguments', '{height}x{width}') keeps them apart."
        )
    return sentence


def _extent(case: Case, expected: NDArray, actual: NDArray, different: NDArray, of_what: str, largest: float) -> str:
    """Say that no rule fits, and what the differences are like."""
    sentences = ["None of the known rules fits."]
    finite = different & np.isfinite(expected) & np.isfinite(actual)
    count = int(different.sum())
    if not actual[different].any():
        sentences.append("All that differs is 0 in the port.")
    elif count > finite.sum():
        sentences.append(f"{count - finite.sum()} of the {count} differences are between a number and NaN or infinity.")
    rows = np.flatnonzero(different.any((1, 2, 3)))
    if of_what == "feature" and not np.isfinite(case.rois[rows]).all(1).any():
        sentences.append("All rows that differ have boxes that are not finite.")
    if finite.any():
        most = float(np.abs(expected[finite].astype(np.float64) - actual[finite].astype(np.float64)).max())
        share = f", {most / largest:.2g} of the largest {of_what}" if largest else ""
        sentences.append(f"The largest difference is {most:.3g}{share}.")
        # It would not spare most values of a row.
        many = of_what == "feature" and 10 * count >= different[rows].size and count == finite.sum()
        if many and most <= _rounding(case, case.dtype.name, largest):
            sentences.append("Another device, or sums in another order, may round like that.")
    return " ".join(sentences)


def _listed(rows: NDArray) -> str:
    """Name rows in a sentence."""
    named = [str(row) for row in rows[:_NAMED]]
    if len(rows) > _NAMED:
        named.append(f"{len(rows) - _NAMED} more")
    return f"row{'s' if len(rows) > 1 else ''} {joined(named)}"
