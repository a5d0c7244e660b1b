"""Explanations: when two results differ, which rule do the values follow instead of the one that was asked for?

The rules that ports and devices are known to follow are a few independent choices: what is added to a box, how it is
moved, the smallest size, the rounding of an adaptive grid, the dtype of the computation. Every combination is tried on
a few rows at once, those with the fewest deviations first, and what fits there is confirmed on all values.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import boxes as _boxes
from .. import sampling
from .cases import Case, MindSporeCase
from .verdicts import GRADIENT_BOUND, flushed, same_bits

NDArray = npt.NDArray[Any]

# Rows that differ, and rows that do not, on which rules are tried before they are confirmed on all.
_TRIED_DIFFERING, _TRIED_SAME = 4, 2

# A rule further from the one asked for fits by chance rather than by mistake.
_MOST_DEVIATIONS = 4
_MOST_DEVIATIONS_OF_GRADIENTS = 2  # each takes a backward pass to try

# Boxes with more samples than these along an axis of a bin are tried only if there is no other.
_FEW_SAMPLES = 8

# The rules that most of the tried rows follow are tried on every row, up to so many.
_MOST_PARTIAL = 4

# Rows that are named one by one.
_NAMED = 5

_NOT, _HALF_A_CELL, _THERE_AND_BACK = "not", "by half a cell", "half a cell there and back"


@dataclass(frozen=True)
class _Rule:
    """How rois become values, in the order in which sentences speak of it.

    ``end`` and ``start`` are added to x2, y2 and to x1, y1, in image pixels; ``smallest`` is the size in cells that
    smaller boxes are enlarged to; the last five are what is done as in one library or the other.
    """

    moved: str
    end: int
    start: int
    smallest: int | None
    dtype: str
    grid: str
    count: str
    index: str
    border: str
    outside: str


# What is said of a rule that has this value where the rule asked for has another.
_PHRASES: dict[tuple[str, Any], str] = {
    ("moved", _NOT): "without moving boxes by half a cell",
    ("moved", _HALF_A_CELL): "with aligned=True (boxes moved by half a cell)",
    ("moved", _THERE_AND_BACK): "with half a cell added to boxes and taken off again (which rounds them)",
    ("end", 0): "without the 1 added to x2 and y2",
    ("end", 1): "with 1 added to x2 and y2",
    ("start", 1): "with 1 added to x1 and y1",
    ("smallest", None): "without enlarging small boxes to one cell",
    ("smallest", 0): "with negative sizes raised to 0",
    ("smallest", 1): "with small boxes enlarged to one cell",
    ("dtype", "float16"): "in float16 instead of float32",
    ("dtype", "float32"): "in float32 instead of float16",
    ("grid", "MindSpore"): "with adaptive grids rounded down (floor instead of ceil)",
    ("grid", "torchvision"): "with adaptive grids rounded up (ceil instead of floor)",
    ("count", "MindSpore"): "with NaN instead of 0 for empty adaptive grids",
    ("count", "torchvision"): "with 0 instead of NaN for empty adaptive grids",
    ("index", "MindSpore"): "with the image index rounded instead of truncated",
    ("index", "torchvision"): "with the image index truncated instead of rounded",
    ("border", "MindSpore"): "with MindSpore's border (the height and width rounded to float16)",
    ("border", "torchvision"): "with torchvision's border (the height and width not rounded to float16)",
    ("outside", "MindSpore"): "with samples outside the image that add nothing",
    ("outside", "torchvision"): "with samples outside the image that add 0 times its first pixel",
}
_PHRASES_OF_BOTH = {
    "MindSpore": "with MindSpore's adaptive grids (rounded down, NaN where empty)",
    "torchvision": "with torchvision's adaptive grids (rounded up, 0 where empty)",
}

# Rules that people know by another name: what was asked for, what of the rule must be so, and the name.
_KNOWN: tuple[tuple[str, dict[str, Any], str], ...] = (
    (
        "roi_end_mode=1",
        {"moved": _HALF_A_CELL, "end": 0, "start": 0, "smallest": None},
        "aligned for roi_end_mode, as MindSpore's documentation suggests",
    ),
    (
        "roi_end_mode=1",
        {"moved": _NOT, "end": 0, "start": 0, "smallest": 1},
        "aligned=False on unchanged boxes does the same",
    ),
    (
        "roi_end_mode=1",
        {"moved": _NOT, "end": 1, "start": 0, "smallest": 1},
        "aligned=False on boxes that end at x2 + 1 and y2 + 1 does the same",
    ),
    ("roi_end_mode=1", {"moved": _NOT, "end": 1, "start": 1}, "as the newest published kernel for Ascend does"),
    (
        "roi_end_mode=1",
        {"moved": _NOT, "end": 1, "start": 0, "smallest": 0},
        "as the older published kernels for Ascend do",
    ),
    (
        "aligned=True",
        {"moved": _NOT, "end": 1, "start": 0, "smallest": None},
        "that is roi_end_mode=1, which is not aligned=True",
    ),
)


class _Candidate(NamedTuple):
    rule: _Rule
    deviations: int
    description: str


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
    _, other = _rules_by_name(case).values()
    candidates = [one for one in _candidates_of(case) if one.deviations <= _MOST_DEVIATIONS_OF_GRADIENTS]
    candidates[1:] = sorted(candidates[1:], key=lambda one: one.rule != other)
    sentences = []
    with np.errstate(all="ignore"):
        for whose, gradient in (("The port's", actual), (f"{case.original}'s", expected)):
            if not gradient.any():
                continue  # many a rule has boxes outside the image
            fits = functools.partial(_has_gradient, case, output_gradient, gradient)
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
        largest = np.abs(np.where(np.isfinite(expected), expected, 0)).max(initial=0)
        return _extent(case, expected, actual, different, "gradient", float(largest))


def _candidates_of(case: Case) -> list[_Candidate]:
    return _candidates(tuple(_rules_by_name(case).items()), _options(case))


def _rules_by_name(case: Case) -> dict[str, _Rule]:
    """Return the rule that was asked for, and then that of the other mode, or of the other value of ``aligned``."""
    library = case.original
    rest = (str(case.dtype), library, library, library, library, library)
    if isinstance(case, MindSporeCase):
        modes = (case.roi_end_mode, 1 - case.roi_end_mode)
        return {f"roi_end_mode={mode}": _Rule(_NOT, mode, 0, None if mode else 1, *rest) for mode in modes}
    choices = (case.arguments["aligned"], not case.arguments["aligned"])
    return {
        f"aligned={aligned}": _Rule(_HALF_A_CELL if aligned else _NOT, 0, 0, None if aligned else 1, *rest)
        for aligned in choices
    }


def _options(case: Case) -> tuple[tuple[Any, ...], ...]:
    """Return the values that each field of a rule may have, if it makes a difference in this case."""
    asked = next(iter(_rules_by_name(case).values()))
    libraries = ("MindSpore", "torchvision")
    dtypes = {case.features.dtype.name, case.rois.dtype.name}
    if "float16" in dtypes:
        dtypes.add("float32")
    index = case.rois[:, 0]
    relevant: dict[str, Any] = {
        "moved": (_NOT, _HALF_A_CELL) if asked.moved == _HALF_A_CELL else (_NOT, _HALF_A_CELL, _THERE_AND_BACK),
        "end": (0, 1),
        "start": (0, 1),
        "smallest": (None, 0, 1),
        "dtype": sorted(dtypes),
        "grid": libraries if case.samples <= 0 else (),
        "count": libraries if case.samples <= 0 else (),
        "index": libraries if (index != np.trunc(index)).any() else (),
        "border": () if _boxes.rounds_alike(case.dtype, *case.features.shape[2:]) else libraries,
        "outside": () if np.isfinite(case.features[:, :, 0, 0]).all() else libraries,
    }
    return tuple(tuple(values) or (getattr(asked, name),) for name, values in relevant.items())


@functools.lru_cache(maxsize=64)
def _candidates(names: tuple[tuple[str, _Rule], ...], options: tuple[tuple[Any, ...], ...]) -> list[_Candidate]:
    """Return the rules to try, those with the fewest deviations first: the first is the one that was asked for."""
    (asked_name, asked), (other_name, other) = names
    found = []
    for values in itertools.product(*options):
        rule = _Rule(*values)
        phrases, name = _deviations(asked, rule), asked_name
        deviations = len(phrases)
        from_other = _deviations(other, rule)
        if len(from_other) + 1 < deviations:
            phrases, name = from_other, f"{other_name}, not the {asked_name} asked for"
            deviations = len(from_other) + 1
        if deviations > _MOST_DEVIATIONS:
            continue
        description = name
        if phrases:
            description += f"{',' if name != asked_name else ''} computed {_joined(phrases)}"
        for label, values_of_known, known in _KNOWN:
            if label == asked_name and all(getattr(rule, field) == value for field, value in values_of_known.items()):
                description += f": {known}" * (rule != asked)
        changed = sum(getattr(rule, field.name) != getattr(asked, field.name) for field in fields(_Rule))
        found.append((changed, _Candidate(rule, deviations, description)))
    return [candidate for _, candidate in sorted(found, key=lambda entry: (entry[1].deviations, entry[0]))]


def _deviations(asked: _Rule, rule: _Rule) -> list[str]:
    """Return a phrase for each choice that a rule makes otherwise."""
    names = [field.name for field in fields(_Rule) if getattr(rule, field.name) != getattr(asked, field.name)]
    phrases = [_PHRASES[name, getattr(rule, name)] for name in names]
    if "grid" in names and "count" in names:
        at = names.index("grid")
        phrases[at : at + 2] = [_PHRASES_OF_BOTH[rule.grid]]
    return phrases


def _explain_values(case: Case, expected: NDArray, actual: NDArray, different: NDArray) -> str:
    """Explain ``different`` values of rows that the original defines."""
    candidates = _candidates_of(case)
    rows, channel = _to_try(case, expected, actual, different)
    tried = _tried(case, [candidate.rule for candidate in candidates], rows, channel)
    largest = float(np.abs(np.where(np.isfinite(case.features), case.features, 0)).max(initial=0))
    sentences = []
    for whose, values, others in (("the port's", actual, expected), (f"{case.original}'s", expected, actual)):
        # Zeros prove little: many a rule has boxes outside the image. Where the other side is NaN, they do.
        telling = (different & ((values != 0) | np.isnan(others))).any((1, 2, 3))
        side = _Side(case, whose, values, different.any((1, 2, 3)), telling, largest)
        if sentence := _follows(side, candidates, tried, rows, channel):
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


def _follows(side: _Side, candidates: list[_Candidate], tried: NDArray, rows: NDArray, channel: int) -> str:
    """Return a sentence on the rule that the values of one side follow instead of the one asked for, or ""."""
    case, whose, values, _, telling, largest = side
    if not telling.any():
        return ""
    defined = ~case.undefined
    on_tried, one_channel = values[rows, channel], slice(channel, channel + 1)
    matches = _close(tried, on_tried).all((2, 3))
    if matches[0].all():
        return ""
    refuted = set[bytes]()
    for match, (rule, _, description) in zip(matches[1:], candidates[1:], strict=True):
        if not match.all() or (key := _key(case, rule)) in refuted:
            continue
        confirmed = functools.partial(_matching, case, rule, defined, values, stop=True)
        if all(confirmed(channels=some)[defined].all() for some in (one_channel, slice(None))):
            return f"{whose} values match {description}."
        refuted.add(key)

    if sentence := _follow_partly(side, candidates, matches, tried, rows, channel):
        return sentence

    bounds = np.asarray([_rounding(case, candidate.rule.dtype, largest) for candidate in candidates])
    close = _close(tried, on_tried, bounds[:, None, None, None]).all((1, 2, 3))
    if close[0]:
        return ""
    for index in np.flatnonzero(close):
        rule, _, description = candidates[index]
        if rule.dtype == "float16":
            continue  # what rounding does in float16 is so large that rules would fit by chance
        if _matching(case, rule, defined, values, bounds[index], stop=True)[defined].all():
            return f"to within rounding, {whose} values match {description}."
    return ""


def _follow_partly(
    side: _Side, candidates: list[_Candidate], matches: NDArray, tried: NDArray, rows: NDArray, channel: int
) -> str:
    """Return a sentence on the rule that most of the rows follow that are not by the rule asked for, or ""."""
    case, whose, values, different, telling, _ = side
    hits = matches & (~matches[0] & different[rows] & telling[rows])
    asked = _matching(case, candidates[0].rule, different, values, channels=slice(channel, channel + 1))
    wrong = different & ~asked
    most, best, seen = 0, candidates[0], set[bytes]()
    for index in np.argsort(-hits.sum(1), kind="stable"):
        key = tried[index][hits[index]].tobytes()
        if not hits[index].any() or len(seen) == _MOST_PARTIAL:
            break
        if key in seen:
            continue
        seen.add(key)
        found = _matching(case, candidates[index].rule, wrong, values, channels=slice(channel, channel + 1)) & telling
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


def _to_try(case: Case, expected: NDArray, actual: NDArray, different: NDArray) -> tuple[NDArray, int]:
    """Return a few rows to try rules on, first those that differ, and the channel with the most differences.

    Boxes with few samples are quick, and those with many values that differ, or are not 0, tell rules apart. NaN on one
    side does not tell how a box was moved.
    """
    asked = next(iter(_rules_by_name(case).values()))
    _, _, grid, _ = _samples(case, asked, np.arange(len(case.rois)))
    slow = ~np.isfinite(case.rois).all(1) | (np.abs(grid).max(1) > _FEW_SAMPLES)
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
    return np.asarray(rows), int(different.sum((0, 2, 3)).argmax())


def _tried(case: Case, rules: Sequence[_Rule], rows: NDArray, channel: int) -> NDArray:
    """Return what some rows pool to in one channel by each rule: (rules, rows, pooled_height, pooled_width)."""
    values = np.zeros((len(rules), len(rows), *case.pooled), case.features.dtype)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for number, rule in enumerate(rules):
        groups.setdefault((rule.dtype, rule.border, rule.outside), []).append(number)
    features = case.features[:, channel : channel + 1]
    for numbers in groups.values():
        parts = [_samples(case, rules[number], rows) for number in numbers]
        boxes, size, grid, count = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        # Most rules are the same for most boxes, and each sampling is done once.
        lines = np.concatenate((boxes[:, :3], size, grid, count[:, None]), axis=1, dtype=np.float64)
        keys = lines.view(f"V{lines.strides[0]}").ravel()
        _, first, again = np.unique(keys, return_index=True, return_inverse=True)
        pools = np.zeros((len(first), *case.pooled), case.features.dtype)
        samples = (boxes[first], size[first], grid[first], count[first])
        for part, pool in _pool(case, features, rules[numbers[0]], samples, np.arange(len(first))):
            pools[part] = pool[:, 0]
        values[numbers] = pools[again].reshape(len(numbers), len(rows), *case.pooled)
    return values


def _matching(
    case: Case,
    rule: _Rule,
    rows: NDArray,
    values: NDArray,
    bound: float = 0.0,
    channels: slice = slice(None),
    *,
    stop: bool = False,
) -> NDArray:
    """Return (K,) bool: those of the ``rows`` (K,) whose values are those of a rule; after one that is not, stop."""
    matching = np.zeros(len(rows), bool)
    samples = _samples(case, rule, np.arange(len(rows)))
    numbers = np.flatnonzero(rows)
    quick_first = numbers[np.argsort(samples[2][numbers].max(1), kind="stable")]
    for part, pool in _pool(case, case.features[:, channels], rule, samples, quick_first):
        matching[part] = _close(pool, values[part, channels], bound).all((1, 2, 3))
        if stop and not matching[part].all():
            break
    return matching


_Samples = tuple[NDArray, NDArray, NDArray, NDArray]


def _samples(case: Case, rule: _Rule, rows: NDArray) -> _Samples:
    """Return where a rule samples some rows: their feature boxes, sizes, (R, 2) grids and (R,) divisors."""
    dtype = np.dtype(rule.dtype)
    added = np.asarray((0, rule.start, rule.start, rule.end, rule.end), dtype)
    rois, scale = case.rois[rows].astype(dtype) + added, case.arguments["spatial_scale"]
    moved, _ = _boxes.torchvision_boxes(np, rois, scale, aligned=rule.moved == _HALF_A_CELL)
    index = moved[:, :1] if rule.index == "torchvision" else _boxes.mindspore_boxes(np, rois, scale, 0)[0][:, :1]
    corners = moved[:, 1:]
    if rule.moved == _THERE_AND_BACK:
        corners = corners + dtype.type(0.5) - dtype.type(0.5)
    size = corners[:, 2:] - corners[:, :2]
    if rule.smallest is not None:
        smallest = dtype.type(rule.smallest)
        size = np.where(~(size > smallest) if case.original == "MindSpore" else size < smallest, smallest, size)
    rounding = np.floor if rule.grid == "MindSpore" else np.ceil
    grid = _boxes.sampling_grid(rounding, size, *case.pooled, case.samples)
    grid = np.where(grid > sampling.MAX_GRID, -1, grid)
    count = (_boxes.mindspore_count if rule.count == "MindSpore" else _boxes.torchvision_count)(grid, dtype)
    return np.concatenate((index, corners), 1), size, grid, count


def _key(case: Case, rule: _Rule) -> bytes:
    """Return what is the same for rules that give the same values."""
    boxes, *rest = _samples(case, rule, np.flatnonzero(~case.undefined))
    samples = b"".join(array.tobytes() for array in (boxes[:, :3], *rest))
    return samples + f"{rule.dtype} {rule.border} {rule.outside}".encode()


def _pool(
    case: Case, features: NDArray, rule: _Rule, samples: _Samples, rows: NDArray
) -> Iterator[tuple[NDArray, NDArray]]:
    """Pool some of the ``samples``, and yield rows of them and their values, in the dtype of the features."""
    boxes, size, grid, count = samples
    blocks = sampling.pool(
        features.astype(rule.dtype, copy=False),
        (boxes, size),
        rows,
        case.pooled,
        grid,
        count,
        _border(case, rule),
        sampling.NUMPY,
        outside_adds_0=rule.outside == "torchvision",
    )
    for part, values in blocks:
        yield part, values.astype(features.dtype, copy=False)


def _has_gradient(case: Case, output_gradient: NDArray, gradient: NDArray, rule: _Rule) -> bool:
    """Tell whether this is the gradient for the features by a rule."""
    boxes, size, grid, count = _samples(case, rule, np.arange(len(case.rois)))
    rows = np.flatnonzero(~case.undefined & (grid > 0).all(1))
    of_rule = sampling.gradient_of_pool(
        output_gradient[rows], gradient.shape, (boxes, size), rows, case.pooled, grid, count, _border(case, rule)
    )
    largest = np.abs(np.where(np.isfinite(gradient), gradient, 0)).max(initial=0)
    bound = max(GRADIENT_BOUND[case.dtype.name], GRADIENT_BOUND["float32"]) * float(largest)
    return bool(_close(of_rule, gradient, bound).all())


def _border(case: Case, rule: _Rule) -> list[float]:
    border = _boxes.mindspore_border if rule.border == "MindSpore" else _boxes.torchvision_border
    return [border(length, np.dtype(rule.dtype)) for length in case.features.shape[2:]]


def _close(left: NDArray, right: NDArray, bound: Any = 0.0) -> NDArray:
    """Compare elementwise: the same bits, or numbers at most ``bound`` apart."""
    close = same_bits(flushed(left), flushed(right))
    if np.any(bound):
        close |= np.abs(left.astype(np.float64) - right.astype(np.float64)) <= bound
    return close


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
    return f"row{'s' if len(rows) > 1 else ''} {_joined(named)}"


def _joined(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
