"""Search the calls of the probe: few, and yet any two hypotheses on what a device computes differ in three of them.

``python tools/probes.py`` writes them to ``ms2torch_roi/parity/scripts/inputs.py``. Boxes are drawn in quarters of a
cell, and those are kept whose values are the same numbers in float16, float32 and float64, by every hypothesis: all
arithmetic on them is exact, so that the order in which a device does it makes no difference. Of those, boxes are chosen
one by one, each time the one that tells most apart: as long as there are, among those on which the last digit of a
coordinate makes no difference either, and then among all, whose samples may lie on the border.

Hypotheses on outputs are told apart, and those on gradients; and, for the device that follows none of them, each named
rule from what differs from it in one field.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ms2torch_roi import engine, rules
from ms2torch_roi.parity import identification
from ms2torch_roi.parity.case import MindSporeCase
from ms2torch_roi.parity.identification import Hypothesis
from ms2torch_roi.parity.rules import in_dtype
from ms2torch_roi.parity.scripts import files, inputs
from ms2torch_roi.rules import Samples

INPUTS = Path(inputs.__file__)

NDArray = npt.NDArray[Any]
Arguments = tuple[int, int, float, int, int]

# In how many calls a pair is to differ, and by how much: of features up to 8, and of gradients of some units for each
# bin. That is far more than a device is off.
CALLS_OF_A_PAIR = 3
MARGIN = 1.0

# The calls: pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode. A device compiles kernels for each.
SETTINGS: tuple[Arguments, ...] = tuple(
    (*grid, mode)
    for mode in (0, 1)
    for grid in ((2, 2, 1.0, 2), (1, 2, 0.25, 1), (2, 1, 0.5, 4), (1, 1, 1.0, 0), (2, 2, 0.5, 0), (1, 2, 0.25, 0))
)
# Those drawn for each call. It has no more of them than features have channels, so that the gradient of each box is in
# a channel of its own.
BOXES_OF_A_CALL = 2000
SIZES = ((-8, 0), (0, 5), (5, 40))  # in quarters of a cell

# The first box of each call, in cells, if it is exact: one on which all rules agree that move no box.
ORDINARY = (1.5, 1.5, 5.5, 5.5)

# A last digit, in cells.
DIGIT = 2**-8

# What a rule may have instead.
FIELDS: dict[str, tuple[Any, ...]] = {
    "start": (0, 1),
    "end": (0, 1),
    "moved": ((), (0.5,)),
    "smallest": (None, 0, 1),
    "index": ("round", "trunc", "floor", "ceil"),
    "grid": ("floor", "ceil"),
    "smallest_count": (None, 1),
    "border": ("[-1, n]", "[-1, n)", "(-1, n)", "[0, n)"),
    "skips": (None, "near 0"),
}


class Pair(NamedTuple):
    """Two hypotheses on the output, or on the gradient."""

    of: Literal["output", "gradient"]
    first: Hypothesis
    second: Hypothesis


@functools.cache
def pairs() -> tuple[Pair, ...]:
    """Return what is to be told apart."""
    tried = identification.hypotheses()
    found = [Pair("output", *two) for two in itertools.combinations(tried, 2)]
    named = [hypothesis for hypothesis in tried if hypothesis.is_named]
    gradients = {
        rule: f"{name}, {mode}" for name, of_modes in rules.GRADIENTS.items() for mode, rule in enumerate(of_modes)
    }
    as_outputs = [Hypothesis(name, (rule,) * 2) for rule, name in gradients.items()]
    found += [Pair("gradient", *two) for two in itertools.combinations(as_outputs, 2)]
    for hypothesis, mode, (field, values) in itertools.product(named, (0, 1), FIELDS.items()):
        for value in values:
            outputs = list(hypothesis.outputs)
            outputs[mode] = replace(outputs[mode], **{field: value})
            if outputs[mode] != hypothesis.outputs[mode]:
                found.append(
                    Pair("output", hypothesis, Hypothesis(f"{field}={value!r} in mode {mode}", tuple(outputs)))
                )
    return tuple(found)


def main() -> None:
    """Search, and write what was found."""
    drawn = [boxes_of(arguments, seed) for seed, arguments in enumerate(SETTINGS)]
    text, _, _ = INPUTS.read_text(encoding="utf-8").partition("CALLS: ")
    lines = ["CALLS: tuple[tuple[tuple[Any, ...], tuple[tuple[float, ...], ...]], ...] = ("]
    for arguments, boxes, rows in zip(SETTINGS, drawn, choose(drawn), strict=True):
        rois = (", ".join(f"{number:g}" for number in roi) for roi in boxes.rois[rows])
        lines += ["    (", f"        {arguments},", "        (", *(f"            ({roi})," for roi in rois)]
        lines += ["        ),", "    ),"]
    INPUTS.write_text(text + "\n".join([*lines, ")", ""]), encoding="utf-8")


class Boxes(NamedTuple):
    """Boxes that a setting can be called with.

    Attributes:
        rois: (K, 5).
        tells: (K, pairs) bool, which pairs differ in each box.
        fragile: (K,) bool, whether the last digit of a coordinate matters.
    """

    rois: NDArray
    tells: NDArray
    fragile: NDArray


def choose(calls: Sequence[Boxes]) -> list[list[int]]:
    """Return some boxes of each call, few, by which each pair differs in enough calls, or in all that it can."""
    possible = np.array([boxes.tells.any(0) for boxes in calls])
    wanted = np.minimum(possible.sum(0), CALLS_OF_A_PAIR)
    chosen = [[0] for _ in calls]
    told = np.array([boxes.tells[0] for boxes in calls])
    for allow_fragile in (False, True):
        while (missing := told.sum(0) < wanted).any():
            gains = [
                (boxes.tells & missing & ~told[number]).sum(1) * (~boxes.fragile | allow_fragile)
                if len(chosen[number]) < inputs.CHANNELS
                else np.zeros(1)
                for number, boxes in enumerate(calls)
            ]
            number = int(np.argmax([of_call.max() for of_call in gains]))
            row = int(gains[number].argmax())
            if not gains[number][row]:
                break
            chosen[number].append(row)
            told[number] |= calls[number].tells[row]
    return chosen


def boxes_of(arguments: Arguments, seed: int) -> Boxes:
    """Draw boxes for a setting, and keep those on which all arithmetic is exact."""
    rois = _drawn(arguments, np.random.default_rng(seed))
    inexact, fragile = np.zeros((2, len(rois)), bool)
    for hypothesis in identification.hypotheses():
        values = output(hypothesis, case_of(arguments, rois, "float64")).values
        for dtype in ("float16", "float32"):
            inexact |= _distance(output(hypothesis, case_of(arguments, rois, dtype)).values, values) > 0
        for start, end in itertools.product((-DIGIT, DIGIT), repeat=2):
            moved = rois + np.array((0, start, start, end, end)) / arguments[2]
            of_moved = output(hypothesis, case_of(arguments, moved, "float64")).values
            fragile |= _distance(values, of_moved) > MARGIN / 2
    rois, fragile = rois[~inexact], fragile[~inexact]
    tells = np.array([differ(pair, case_of(arguments, rois, "float64")) for pair in pairs()]).T
    # An index that is not whole tells many apart, and little about what matters: so each pair counts again without.
    tells = np.concatenate((tells, tells & (rois[:, :1] % 1 == 0)), 1)
    return Boxes(rois, tells, fragile)


def _drawn(arguments: Arguments, rng: np.random.Generator) -> NDArray:
    """Return boxes of all kinds: inverted, below one cell and larger; inside, outside and across the border."""
    _, _, scale, _, mode = arguments
    shape = (BOXES_OF_A_CALL, 2)
    size = np.choose(rng.integers(3, size=shape), [rng.integers(*limits, shape) for limits in SIZES])
    start = rng.integers(-12, 34, shape)
    corners = np.concatenate((start, start + size), 1) / 4 / scale - np.array((0, 0, mode, mode))
    corners[:20, ::2] = 0  # which MindSpore's own rule skips
    index = rng.choice((0, 0, 0, 1, 1, 0.25, 0.5, 0.75), (len(corners), 1))
    ordinary = np.array((0, *ORDINARY)) / (1, *[scale] * 4) - np.array((0, 0, 0, mode, mode))
    return np.concatenate((ordinary[None], np.concatenate((index, corners), 1)))


def case_of(arguments: Arguments, rois: NDArray, dtype: str) -> MindSporeCase:
    """Return a call of the probe."""
    return MindSporeCase(
        name="",
        category="",
        source="",
        features=inputs.features(dtype),
        rois=rois.astype(dtype),
        **dict[str, Any](zip(files.ARGUMENTS, arguments, strict=True)),
    )


def differ(pair: Pair, case: MindSporeCase) -> NDArray:
    """Return (K,) bool: in which boxes of a call both of a pair say something, and by far not the same."""
    compute = output if pair.of == "output" else gradient
    first, second = compute(pair.first, case), compute(pair.second, case)
    return first.is_said & second.is_said & (_distance(first.values, second.values) > MARGIN)


class Computed(NamedTuple):
    """What a hypothesis says of K boxes: (K, ...) values; and (K,) bool, whether it says anything."""

    values: NDArray
    is_said: NDArray


def output(hypothesis: Hypothesis, case: MindSporeCase) -> Computed:
    """Return what comes of a call, (K, C, pooled_height, pooled_width)."""
    samples, is_said = _placed(hypothesis, case)
    values = np.empty(case.output_shape, samples.start.dtype)
    engine.pool(case.features.astype(values.dtype), samples, values)
    return Computed(values, is_said)


def gradient(hypothesis: Hypothesis, case: MindSporeCase) -> Computed:
    """Return the gradient for the features from each box alone, of one channel: (K, N, H, W)."""
    samples, is_said = _placed(hypothesis, case)
    images, _, height, width = case.features.shape
    boxes = np.arange(len(case.rois))
    of_output = inputs.output_gradient(len(boxes), *case.pooled, samples.start.dtype.name).sum(1, keepdims=True)
    of_boxes = np.empty((len(boxes), 1, height, width), samples.start.dtype)
    is_pooled = samples.image >= 0
    engine.gradient(of_output, samples._replace(image=np.where(is_pooled, boxes, -1)), of_boxes)
    values = np.zeros((len(boxes), images, height, width), of_boxes.dtype)
    values[boxes, samples.image] = of_boxes[:, 0]
    return Computed(values, is_said)


def _placed(hypothesis: Hypothesis, case: MindSporeCase) -> tuple[Samples, NDArray]:
    """Return the samples of a call, and (K,) bool, whether the hypothesis says that they are these."""
    rule = in_dtype(hypothesis.outputs[case.roi_end_mode], case.dtype.name)
    with np.errstate(all="ignore"):
        samples = rule.samples(case)
    is_said = np.full(len(case.rois), not (hypothesis.fixed_only and case.sample_num <= 0))
    if rule.skips is None:
        is_said &= samples.divisor > 0
    elif hypothesis.is_named:  # on a CPU such a row holds anything
        is_said &= ~rules.near_0(np, case.rois)
    if hypothesis.sticky is not None:
        first = samples.start + samples.bin_size / np.maximum(samples.grid, 1) / 2
        last = samples.start + samples.bin_size * np.array(case.pooled[::-1]) - (first - samples.start)
        low, high = samples.border.T
        before = first < low
        if hypothesis.sticky == "row":
            ends = before[:, 0]
        else:
            ends = before.any(1)
            is_said &= ends | ((first <= high) & (last >= low) & (last <= high)).all(1)
        samples = samples._replace(image=np.where(ends, -1, samples.image))
    return samples, is_said


def _distance(first: NDArray, second: NDArray) -> NDArray:
    """Return (K,) how far values are apart at most: infinitely, if one of them is no number."""
    axes = tuple(range(1, first.ndim))
    with np.errstate(invalid="ignore"):
        distance = np.abs(first.astype(np.float64) - second.astype(np.float64))
    distance[np.isnan(first) != np.isnan(second)] = np.inf
    largest: NDArray = np.nan_to_num(distance, nan=0, posinf=np.inf).max(axes)
    return largest


if __name__ == "__main__":
    main()
