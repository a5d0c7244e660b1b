"""Explanations: when two results differ, which rule do the values follow instead of the one that was asked for?

Every rule that is known (``rules.py``) is tried on a few rows at once, those with the fewest deviations first, and what
fits there is confirmed on all values.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import trials
from .case import Case, MindSporeCase
from .rules import Candidate, Rule, candidates_of, joined, rules_by_name
from .trials import Trial
from .verdicts import GRADIENT_BOUND, distance, flushed, largest, same_bits

NDArray = npt.NDArray[Any]

# Each rule takes a backward pass to try.
_MOST_DEVIATIONS_OF_GRADIENTS = 2

# The rules that most of the tried rows follow are tried on every row, up to so many.
_MOST_PARTIAL = 4

# The closest rule is told from others on so many times the rows.
_TIMES_MORE = 8

# Of fewer values that differ, none is closest: some rule is near to any value by chance. Of 100 random outputs of one
# value, 12 were near to one, of two values 1 or 2, of four and more none.
_FEWEST_FOR_CLOSEST = 8

NONE_FITS = "None of the known rules fits."

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
    sentences = []
    if expected.dtype != actual.dtype:
        sentences.append(f"The port returned {actual.dtype} where {case.original} returned {expected.dtype}.")
        if actual.dtype.kind != "f" or same_bits(expected.astype(actual.dtype), actual).all():
            return sentences[0]
        actual = actual.astype(expected.dtype)
    undefined = case.undefined
    different = ~same_bits(flushed(expected), flushed(actual))
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
    by = functools.cache(functools.partial(_gradient, case, output_gradient))
    channel = (int((~same_bits(expected, actual)).sum((0, 2, 3)).argmax()),)  # which tells rules apart
    sentences = []
    with np.errstate(all="ignore"):
        for whose, gradient in (("The port's", actual), (f"{case.original}'s", expected)):
            if not gradient.any():
                continue  # many a rule has boxes outside the image
            bound = max(GRADIENT_BOUND[case.dtype.name], GRADIENT_BOUND["float32"]) * largest(gradient)
            found = next(
                (
                    candidate
                    for candidate in candidates
                    if trials.close(by(candidate.rule, channel), gradient[:, channel], bound).all()
                    and trials.close(by(candidate.rule), gradient, bound).all()
                ),
                candidates[0],
            )
            if found.deviations:
                sentences.append(f"{whose} gradient matches that of {found.description}.")
                if isinstance(case, MindSporeCase) and (case.roi_end_mode, found.rule) == (0, other):
                    sentences.append(
                        "In MindSpore the gradient of roi_end_mode=0 is that of roi_end_mode=1:"
                        " ROIAlign(..., backward_roi_end_mode=1) trains as MindSpore does."
                    )
        different = ~same_bits(expected, actual)
        if not sentences and different.sum() >= _FEWEST_FOR_CLOSEST:
            sides = ((f"{case.original}'s", expected), ("The port's", actual))
            near = (_closest_gradient(by, channel, candidates, *side) for side in sides)
            sentences = [sentence for sentence in near if sentence]
            sentences[:0] = [NONE_FITS] * bool(sentences)
        if sentences:
            return " ".join(sentences)
        return _extent(case, expected, actual, different, "gradient", largest(expected))


def _explain_values(case: Case, expected: NDArray, actual: NDArray, different: NDArray) -> str:
    """Explain ``different`` values of rows that the original defines."""
    trial = trials.run(case, candidates_of(case), *trials.to_try(case, expected, actual, different))
    most = largest(case.features)
    sides = []
    for whose, values, others in (("the port's", actual, expected), (f"{case.original}'s", expected, actual)):
        # Zeros prove little: many a rule has boxes outside the image. Where the other side is NaN, they do.
        telling = (different & ((values != 0) | np.isnan(others))).any((1, 2, 3))
        sides.append(_Side(case, whose, values, different.any((1, 2, 3)), telling, most))
    sentences = []
    for side in sides:
        if sentence := _follows(side, trial):
            sentences.append(sentence[0].upper() + sentence[1:])
            if side.values is expected:
                sentences.append(f"That is not the rule of {case.original} on a CPU.")
    if not sentences and different.sum() >= _FEWEST_FOR_CLOSEST:
        more = trials.to_try(case, expected, actual, different, _TIMES_MORE)
        sentences = [sentence for side in sides if (sentence := _closest(side, trial, *more))]
        sentences[:0] = [NONE_FITS] * bool(sentences)
    return " ".join(sentences) or _extent(case, expected, actual, different, "feature", most)


def _closest(side: _Side, trial: Trial, rows: NDArray, channel: slice) -> str:
    """Return a sentence on the rule that the values of one side are near to, tried on more rows, or ""."""
    case, whose, values, _, telling, most = side
    near = trials.near(trials.errors(trial.values, values[trial.rows, trial.channel], most))
    if not telling.any() or not near.any():
        return ""
    candidates = [trial.candidates[0], *itertools.compress(trial.candidates, near)]
    tried = trials.run(case, candidates, rows, channel).values
    asked, best = candidates[0], candidates[trials.nearest(trials.errors(tried, values[rows, channel], most))]
    defined = np.flatnonzero(~case.undefined)
    pools = np.stack([one.rule.pool(case, case.features, defined) for one in (asked, best)])
    if not trials.near(trials.errors(pools, values[defined], most))[1]:
        return ""
    return _nearest(f"{whose[0].upper()}{whose[1:]} values are", best.description, distance(pools[1], values[defined]))


def _nearest(whose: str, description: str, left: NDArray) -> str:
    """Say which rule is the closest, and what it leaves unexplained."""
    numbers = left[np.isfinite(left)]
    share = 100 * np.count_nonzero(left) / left.size
    sentence = f"{whose} closest to {description}. What is left differs by at most {numbers.max(initial=0):.2g}"
    sentence += f" in {f'{share:.0f}' if share >= 1 else 'less than 1'} % of the values"
    others = left.size - numbers.size
    return f"{sentence}, and in {others:,} a number is NaN or infinity." if others else f"{sentence}."


class _Side(NamedTuple):
    """The values of one side, with (K,) bool: the rows that differ, and those where that can tell rules apart."""

    case: Case
    whose: str
    values: NDArray
    different: NDArray
    telling: NDArray
    largest_feature: float


def _follows(side: _Side, trial: Trial) -> str:
    """Return a sentence on the rule that the values of one side follow instead of the one asked for, or ""."""
    case, whose, values, _, telling, most = side
    if not telling.any():
        return ""
    defined = ~case.undefined
    candidates, on_tried = trial.candidates, values[trial.rows, trial.channel]
    matches = trials.close(trial.values, on_tried).all((2, 3, 4))
    if matches[0].all():
        return ""
    refuted = set[bytes]()
    for match, (rule, _, description) in zip(matches[1:], candidates[1:], strict=True):
        if not match.all() or (key := rule.key(case)) in refuted:
            continue
        confirmed = functools.partial(trials.matching, case, rule, defined, values, stop=True)
        if all(confirmed(channels=some)[defined].all() for some in (trial.channel, slice(None))):
            return f"{whose} values match {description}."
        refuted.add(key)

    if sentence := _follow_partly(side, trial, matches):
        return sentence

    bounds = np.asarray([_rounding(case, candidate.rule.dtype, most) for candidate in candidates])
    close = trials.close(trial.values, on_tried, bounds.reshape(-1, 1, 1, 1, 1)).all((1, 2, 3, 4))
    if close[0]:
        return ""
    for index in np.flatnonzero(close):
        rule, _, description = candidates[index]
        if rule.dtype == "float16":
            continue  # what rounding does in float16 is so large that rules would fit by chance
        if trials.matching(case, rule, defined, values, bounds[index], stop=True)[defined].all():
            return f"to within rounding, {whose} values match {description}."
    return ""


def _follow_partly(side: _Side, trial: Trial, matches: NDArray) -> str:
    """Return a sentence on the rule that most of the rows follow that are not by the rule asked for, or ""."""
    case, whose, values, different, telling, _ = side
    candidates, rows, channel, tried = trial
    hits = matches & (~matches[0] & different[rows] & telling[rows])
    wrong = different & ~trials.matching(case, candidates[0].rule, different, values, channels=channel)
    most, best, seen = 0, candidates[0], set[bytes]()
    for index in np.argsort(-hits.sum(1), kind="stable"):
        key = tried[index][hits[index]].tobytes()
        if not hits[index].any() or len(seen) == _MOST_PARTIAL:
            break
        if key in seen:
            continue
        seen.add(key)
        found = trials.matching(case, candidates[index].rule, wrong, values, channels=channel) & telling
        if found.sum() > most:
            most, best, matching = found.sum(), candidates[index], found
    if not most or 2 * most < wrong.sum():
        return ""
    matching = trials.matching(case, best.rule, matching, values)
    if 2 * matching.sum() < wrong.sum():
        return ""
    of, every = int(matching.sum()), int(different.sum())
    rows_in_words = f"{of} of the {every} rows" if of < every else f"all {every} rows" if every > 1 else "the only row"
    return f"in {rows_in_words} that differ{'s' * (every == 1)}, {whose} values match {best.description}."


def _closest_gradient(
    by: Callable[..., NDArray], channel: tuple[int], candidates: list[Candidate], whose: str, gradient: NDArray
) -> str:
    """Return a sentence on the rule that a gradient is near to that of, or ""."""
    most, tried = largest(gradient), np.stack([by(candidate.rule, channel) for candidate in candidates])
    asked, best = candidates[0], candidates[trials.nearest(trials.errors(tried, gradient[:, channel], most))]
    of_rules = np.stack([by(some.rule) for some in (asked, best)])
    if not trials.near(trials.errors(of_rules, gradient, most))[1]:
        return ""
    return _nearest(f"{whose} gradient is", f"that of {best.description}", distance(of_rules[1], gradient))


def _gradient(case: Case, output_gradient: NDArray, rule: Rule, channels: tuple[int, ...] | None = None) -> NDArray:
    """Return the gradient for some channels of the features by a rule, or for all."""
    some = slice(None) if channels is None else channels
    return rule.gradient(replace(case, features=case.features[:, some]), output_gradient[:, some])


def _rounding(case: Case, dtype: str, most: float) -> float:
    """Return by how much values may differ that are computed in this dtype, but not in the same order."""
    of_positions = 2 * (1 + max(case.features.shape[2:])) * np.finfo(dtype).eps
    return float((of_positions + np.finfo(case.features.dtype).eps) * most)


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


def _extent(case: Case, expected: NDArray, actual: NDArray, different: NDArray, of_what: str, scale: float) -> str:
    """Say that no rule fits, and what the differences are like."""
    sentences = [NONE_FITS]
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
        share = f", {most / scale:.2g} of the largest {of_what}" if scale else ""
        sentences.append(f"The largest difference is {most:.3g}{share}.")
        # It would not spare most values of a row.
        many = of_what == "feature" and 10 * count >= different[rows].size and count == finite.sum()
        if many and most <= _rounding(case, case.dtype.name, scale):
            sentences.append("Another device, or sums in another order, may round like that.")
    return " ".join(sentences)


def _listed(rows: NDArray) -> str:
    """Name rows in a sentence."""
    named = [str(row) for row in rows[:_NAMED]]
    if len(rows) > _NAMED:
        named.append(f"{len(rows) - _NAMED} more")
    return f"row{'s' if len(rows) > 1 else ''} {joined(named)}"
