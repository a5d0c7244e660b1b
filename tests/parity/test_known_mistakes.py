"""Each known mistake is named, on random cases and by the real frameworks."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from explained import has_fractional_index, mode, random_case

from ms2torch_roi import rules
from ms2torch_roi.parity import cases, diagnosis, operators, verdicts
from ms2torch_roi.torch import cpu

with_mindspore = pytest.mark.needs_mindspore


@functools.cache
def result(original, make, number):
    return getattr(operators, original)(random_case(make, number))


def sentences(port, wanted, original="reference", make=cases.random_case, count=3):
    """Explain the first random cases for which a port gives other values."""
    found = []
    for number in range(300):
        case = random_case(make, number)
        if len(found) == count or not len(case.rois) or not wanted(case):
            continue
        actual = operators.outcome(port, case)
        if isinstance(actual, Exception):  # torchvision refuses some adaptive grids
            continue
        expected = result(original, make, number)
        if verdicts.judge(case, expected, actual).differing:
            found.append((case, expected, actual))
    assert len(found) == count
    return [diagnosis.explain(*difference) for difference in found]


def on_torchvision(aligned, extra, shifted=lambda rois, case: (rois, case.spatial_scale)):
    """A port by hand: torchvision with these choices."""

    def port(case):
        rois, features = torch.from_numpy(case.rois), torch.from_numpy(case.features)
        dtype = torch.promote_types(rois.dtype, features.dtype)
        rois = rois.to(dtype)
        rois, scale = shifted(torch.cat((rois[:, :3], rois[:, 3:] + extra), 1), case)
        output = torchvision.ops.roi_align(features.to(dtype), rois, case.pooled, scale, case.samples, aligned)
        return output.to(features.dtype).numpy()

    return port


def in_cells_and_half_of_one(rois, case):
    cells = rois[:, 1:] * torch.tensor(case.spatial_scale).to(rois.dtype) + 0.5
    return torch.cat((rois[:, :1], cells), 1), 1.0


def in_dtype(dtype):
    def port(case):
        typed = replace(case, features=case.features.astype(dtype), rois=case.rois.astype(dtype))
        return operators.port(typed).astype(case.features.dtype)

    return port


def in_the_other_mode(case):
    return operators.port(replace(case, roi_end_mode=1 - case.roi_end_mode))


def adaptive(case):
    return case.samples <= 0 and not has_fractional_index(case)


# The port, the cases that it is wrong for, and what is said of all of them.
BY_HAND = {
    "naive": (
        on_torchvision(True, 0), mode(1),
        "The port's values match roi_end_mode=1 computed with aligned=True (boxes moved by half a cell) and without the"
        " 1 added to x2 and y2: aligned for roi_end_mode, as MindSpore's documentation suggests.",
    ),
    "naive, adaptive": (
        on_torchvision(True, 0), lambda case: adaptive(case) and case.roi_end_mode == 1,
        "The port's values match roi_end_mode=1 computed with aligned=True (boxes moved by half a cell), without the 1"
        " added to x2 and y2 and with torchvision's adaptive grids (rounded up, 0 where empty): aligned for"
        " roi_end_mode, as MindSpore's documentation suggests.",
    ),
    "unchanged boxes, not aligned": (
        on_torchvision(False, 0), mode(1),
        "The port's values match roi_end_mode=0, not the roi_end_mode=1 asked for: aligned=False on unchanged boxes"
        " does the same.",
    ),
    "x2 + 1, aligned": (
        on_torchvision(True, 1), mode(1),
        "The port's values match roi_end_mode=1 computed with aligned=True (boxes moved by half a cell).",
    ),
    "x2 + 1, not aligned": (
        on_torchvision(False, 1), mode(1),
        "The port's values match roi_end_mode=1 computed with small boxes enlarged to one cell: aligned=False on boxes"
        " that end at x2 + 1 and y2 + 1 does the same.",
    ),
    "half a cell there and back": (
        on_torchvision(True, 1, in_cells_and_half_of_one), lambda case: mode(1)(case) and case.dtype == np.float32,
        "The port's values match roi_end_mode=1 computed with half a cell added to boxes and taken off again (which"
        " rounds them).",
    ),
    "aligned in mode 0": (
        on_torchvision(True, 0), mode(0),
        "The port's values match roi_end_mode=0 computed with aligned=True (boxes moved by half a cell) and without"
        " enlarging small boxes to one cell.",
    ),
    "float16 in float32": (
        in_dtype(np.float32), lambda case: mode(1)(case) and case.dtype == np.float16,
        "The port's values match roi_end_mode=1 computed in float32 instead of float16.",
    ),
    "mixed dtypes in float16": (
        in_dtype(np.float16), lambda case: mode(1)(case) and case.features.dtype != case.rois.dtype,
        "The port's values match roi_end_mode=1 computed in float16 instead of float32.",
    ),
    "mode 1 for mode 0": (
        in_the_other_mode, lambda case: mode(0)(case) and (case.rois[:, 3] < case.rois[:, 1]).any(),
        "The port's values match roi_end_mode=1, not the roi_end_mode=0 asked for.",
    ),
    "a truncated index": (
        on_torchvision(False, 0), lambda case: case.roi_end_mode == 0 and case.sample_num > 0,
        "The port's values match roi_end_mode=0 computed with the image index truncated instead of rounded.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("port", "wanted", "sentence"), BY_HAND.values(), ids=BY_HAND)
@pytest.mark.parametrize("original", ["reference", pytest.param("original", marks=with_mindspore)])
def test_a_port_by_hand_is_told_its_rule(original, port, wanted, sentence):
    assert set(sentences(port, wanted, original)) == {sentence}


# What of MindSpore's rule is wrong in the port to torch, for which cases, and what is said of all of them.
MISTAKES = {
    "the 1 is missing": (
        {"end": 0}, mode(1),
        "The port's values match roi_end_mode=1 computed without the 1 added to x2 and y2.",
    ),
    "1 added to the start": (
        {"start": 1}, mode(1),
        "The port's values match roi_end_mode=1 computed with 1 added to x1 and y1.",
    ),
    "sizes of at least 0": (
        {"smallest": 0}, lambda case: mode(1)(case) and (case.rois[:, 3:] + 2 < case.rois[:, 1:3]).any(),
        "The port's values match roi_end_mode=1 computed with negative sizes raised to 0: as"
        " rule='ascend-static' does within the image.",
    ),
    "sizes of at least 1": (
        {"smallest": 1}, mode(1),
        "The port's values match roi_end_mode=1 computed with small boxes enlarged to one cell: aligned=False on boxes"
        " that end at x2 + 1 and y2 + 1 does the same.",
    ),
    "a count of at least 1": (
        {"smallest_count": 1}, lambda case: adaptive(case) and case.roi_end_mode == 1,
        "The port's values match roi_end_mode=1 computed with 0 instead of NaN for empty adaptive grids.",
    ),
}  # fmt: skip


def wrong_in(monkeypatch, fields):
    """Return the port to torch with a mistake in the rule, which is there only as long as the port runs."""

    def port(case):
        with monkeypatch.context() as patch:
            for mode, rule in enumerate(rules.MINDSPORE):
                patch.setitem(rules.NAMED, f"cpu, mode {mode}", replace(rule, **fields))
            patch.setattr(cpu, "_is_worth_the_engine", lambda *_: True)
            return operators.port(case)

    return port


@pytest.mark.parametrize(("fields", "wanted", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_port_is_named(monkeypatch, fields, wanted, sentence):
    assert set(sentences(wrong_in(monkeypatch, fields), wanted)) == {sentence}


def test_ceil_for_floor_is_named(monkeypatch):
    """With NaN for an empty grid or without: the samples of a box tell."""
    port = wrong_in(monkeypatch, {"grid": "ceil"})
    for sentence in sentences(port, lambda case: adaptive(case) and case.roi_end_mode == 1):
        assert "with adaptive grids rounded up (ceil instead of floor)" in sentence


def on_mindspore(case):
    """The existing port back: MindSpore's operator with roi_end_mode for aligned."""
    common = {name: getattr(case, name) for name in ("name", "category", "source", "features", "rois", "spatial_scale")}
    height, width = case.output_size
    sizes = {"pooled_height": height, "pooled_width": width, "sample_num": case.sampling_ratio}
    of_mindspore = cases.MindSporeCase(**common, **sizes, roi_end_mode=int(case.aligned))
    output = operators.mindspore(of_mindspore)
    output[of_mindspore.undefined] = 0
    return output


def is_aligned(case):
    return case.aligned and case.sampling_ratio > 0 and not has_fractional_index(case)


@with_mindspore
def test_roi_end_mode_for_aligned_is_named():
    found = sentences(on_mindspore, is_aligned, "original", cases.random_torchvision_case)
    for sentence in found:  # the rows that MindSpore does not write follow no rule
        assert sentence.endswith(
            "he port's values match aligned=True computed without moving boxes by half a cell and with 1 added to x2"
            " and y2: that is roi_end_mode=1, which is not aligned=True."
        )


@with_mindspore
def test_floor_for_ceil_is_named():
    def wanted(case):
        return not case.aligned and adaptive(case) and (case.rois[:, 3:] > case.rois[:, 1:3]).all()

    found = sentences(on_mindspore, wanted, "original", cases.random_torchvision_case)
    for sentence in found:
        assert sentence in (
            "The port's values match aligned=False computed with adaptive grids rounded down (floor instead of ceil).",
            "The port's values match aligned=False computed with MindSpore's adaptive grids (rounded down, NaN where"
            " empty).",
        )


@pytest.mark.parametrize("aligned", [False, True])
def test_the_other_aligned_is_named(aligned):
    def other(case):
        return operators.torchvision(replace(case, aligned=not case.aligned))

    def wanted(case):
        small = (case.rois[:, 3:] - case.rois[:, 1:3]) * case.spatial_scale < 0.5
        return case.aligned == aligned and case.sampling_ratio > 0 and small.any()

    found = sentences(other, wanted, "torchvision", cases.random_torchvision_case)
    assert set(found) == {f"The port's values match aligned={not aligned}, not the aligned={aligned} asked for."}
