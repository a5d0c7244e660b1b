"""Each mistake that may be made in a rule, or in its calls of the other library, is caught by the cases made for it."""

import dataclasses
import functools

import numpy as np
import pytest
from broken import failed_categories

from ms2torch_roi import encodings, rules
from ms2torch_roi.parity import operators
from ms2torch_roi.torch import cpu

pytestmark = pytest.mark.needs_mindspore


def wrong_rules(library, wanted=lambda rule: True, **fields):
    """Return how to make the rules of a library wrong: those wanted get other values of some fields."""

    def patch(monkeypatch):
        changed = [dataclasses.replace(rule, **fields) if wanted(rule) else rule for rule in getattr(rules, library)]
        monkeypatch.setattr(rules, library, changed)
        if library == "MINDSPORE":
            for mode, rule in enumerate(changed):
                monkeypatch.setitem(rules.NAMED, f"cpu, mode {mode}", rule)

    return patch


def enlarges(rule):
    return rule.smallest is not None


# How the rules of MindSpore are wrong, and the category that must catch it.
RULES = {
    "1 added to the start too": ({"start": 1}, "edge: boxes"),
    "the 1 missing at the end": ({"end": 0}, "edge: boxes"),
    "the 1 scaled apart": ({"scales_end_apart": True}, "edge: scales"),
    "boxes moved by half a cell": ({"moved": (0.5,)}, "edge: boxes"),
    "boxes moved by half a cell and back, which rounds": ({"moved": (-0.5, 0.5)}, "edge: boxes"),
    "small boxes enlarged in mode 1 too": ({"smallest": 1}, "edge: boxes"),
    "small boxes enlarged in neither mode": ({"smallest": None}, "edge: boxes"),
    "sizes that are NaN left": ({"enlarges_nan": False}, "edge: not finite"),
    "a truncated index": ({"index": "trunc"}, "edge: indices"),
    "ceil for floor": ({"grid": "ceil"}, "edge: grids"),
    "a count of at least 1": ({"smallest_count": 1}, "edge: grids"),
    "a sample on the border outside": ({"border": "[-1, n)"}, "edge: border"),
    "torchvision's border": ({"rounds_lengths": False}, "edge: border"),
    "samples outside that add the first pixel": ({"outside_adds_0": True}, "edge: inputs"),
    "inverted boxes refused": ({"refuses_negative_grids": True}, "edge: grids"),
    "rows near 0 pooled": ({"skips": "not finite"}, "edge: unwritten rows"),
    "float32 for float16": ({"dtype": "float32"}, "edge: boxes"),
}


@pytest.mark.parametrize(("fields", "caught_by"), RULES.values(), ids=RULES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.usefixtures("road")
def test_mistakes_in_the_rules_of_mindspore_are_caught(monkeypatch, mindspore_results, fields, caught_by):
    wrong_rules("MINDSPORE", **fields)(monkeypatch)
    assert caught_by in failed_categories(mindspore_results)


# How the rules of torchvision are wrong, and the category that must catch it.
RULES_BACK = {
    "1 added to the start": ({"start": 1}, "edge: boxes"),
    "1 added to the end": ({"end": 1}, "edge: boxes"),
    "1 added to the end, and scaled apart": ({"end": 1, "scales_end_apart": True}, "edge: boxes"),
    "nothing moved by half a cell": ({"moved": ()}, "edge: boxes"),
    "all moved by half a cell": ({"moved": (0.5,)}, "edge: boxes"),
    "small boxes enlarged if aligned too": ({"smallest": 1}, "edge: boxes"),
    "small boxes never enlarged": ({"smallest": None}, "edge: boxes"),
    "sizes that are NaN enlarged": ({"enlarges_nan": True}, "edge: not finite"),
    "a rounded index": ({"index": "round"}, "edge: indices"),
    "floor for ceil": ({"grid": "floor"}, "edge: grids"),
    "NaN for an empty grid": ({"smallest_count": None}, "edge: grids"),
    "a sample on the border outside": ({"border": "(-1, n)"}, "edge: border"),
    "MindSpore's border": ({"rounds_lengths": True}, "edge: border"),
    "samples outside that add nothing": ({"outside_adds_0": False}, "edge: inputs"),
    "inverted boxes not refused": ({"refuses_negative_grids": False}, "edge: errors"),
    "rows near 0 skipped": ({"skips": "near 0"}, "edge: unwritten rows"),
}


@pytest.mark.parametrize(("fields", "caught_by"), RULES_BACK.values(), ids=RULES_BACK)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes_in_the_rules_of_torchvision_are_caught(monkeypatch, torchvision_results, fields, caught_by):
    wrong_rules("TORCHVISION", **fields)(monkeypatch)
    assert caught_by in failed_categories(torchvision_results)


@pytest.mark.parametrize("mistakes", [RULES, RULES_BACK])
def test_every_field_of_a_rule_has_a_mistake(mistakes):
    fields = {field.name for field in dataclasses.fields(rules.Rule)}
    if mistakes is RULES_BACK:
        fields.remove("dtype")  # which no rule of torchvision has
    assert {name for changed, _ in mistakes.values() for name in changed} == fields


def _without_rounding_up_at_half(whole_index):
    return lambda xp, rule, index: whole_index(xp, rule, (index - 7e-5).astype(index.dtype))


def test_an_index_of_mindspore_rounded_half_to_even_is_caught(monkeypatch, mindspore_results):
    monkeypatch.setattr(rules, "whole_index", _without_rounding_up_at_half(rules.whole_index))
    assert "edge: indices" in failed_categories(mindspore_results)


@pytest.mark.usefixtures("road")
def test_an_index_that_is_not_checked_is_caught(monkeypatch, mindspore_results, torchvision_results):
    def place(place, rule, rois, *arguments):  # so that the engines find an image nevertheless
        return place(rule, np.concatenate((0 * rois[:, :1], rois[:, 1:]), 1), *arguments)

    monkeypatch.setattr(rules, "check_index", lambda *_: None)
    monkeypatch.setattr(rules, "place", functools.partial(place, rules.place))
    assert "edge: errors" in failed_categories(mindspore_results)
    assert "edge: errors" in failed_categories(torchvision_results)


def _everything_aligned(encoding):
    def torchvision_calls(feature_boxes, skipped, pooled_height, pooled_width, sample_num):
        calls, rest = encoding(feature_boxes, skipped, pooled_height, pooled_width, sample_num)
        if sample_num > 0:
            shifted = feature_boxes[0][rest] + np.asarray((0, 0.5, 0.5, 0.5, 0.5), feature_boxes[0].dtype)
            calls.append(encodings.TorchvisionCall(rest, shifted, sample_num, aligned=True))
            rest = rest[:0]
        return calls, rest

    return torchvision_calls


def _clamped(encoding):
    def torchvision_calls(feature_boxes, *arguments):
        return encoding((feature_boxes[0], np.maximum(feature_boxes[1], 1)), *arguments)

    return torchvision_calls


def _two_cells_after(enlarged_end):
    return lambda xp, boxes, size, _: enlarged_end(xp, boxes, size, 2)


# What of the encodings is wrong, how, and the category of cases that must catch it.
ENCODINGS = {
    "small boxes shifted inexactly": ("torchvision_calls", _everything_aligned, "boxes"),
    "small boxes enlarged in mode 1": ("torchvision_calls", _clamped, "boxes"),
    "enlarged boxes of two cells": ("enlarged_end", _two_cells_after, "boxes"),
}


@pytest.mark.parametrize(("name", "mistake", "caught_by"), ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("port", [operators.port, operators.round_trip])
def test_mistakes_in_the_calls_of_torchvision_are_caught(
    monkeypatch, mindspore_results, name, mistake, caught_by, port
):
    monkeypatch.setattr(encodings, name, mistake(getattr(encodings, name)))
    assert f"edge: {caught_by}" in failed_categories(mindspore_results, port)


@pytest.mark.parametrize("port", [operators.port, operators.round_trip])
def test_a_call_of_torchvision_wherever_lengths_round_otherwise_is_caught(monkeypatch, mindspore_results, port):
    monkeypatch.setattr(rules, "rounds_alike", lambda *_: True)
    assert "edge: border" in failed_categories(mindspore_results, port)


def test_a_first_pixel_that_is_not_finite_must_not_reach_torchvision(monkeypatch, mindspore_results):
    monkeypatch.setattr(cpu, "_first_pixels_are_finite", lambda features: True)
    assert failed_categories(mindspore_results) == {"edge: inputs"}


# What of the encodings is wrong, how, and the category of cases that must catch it on a round trip.
ENCODINGS_BACK = {
    "mode 1 for every box": (
        "mindspore_has_mode_1", lambda _: lambda xp, boxes, scale: np.ones(len(boxes), bool), "edge: border",
    ),
    "enlarged boxes as they are": (
        "boxes_to_enlarge", lambda _: lambda xp, boxes, size: boxes, "edge: unwritten rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "mistake", "caught_by"), ENCODINGS_BACK.values(), ids=ENCODINGS_BACK)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes_in_the_calls_of_mindspore_are_caught(monkeypatch, torchvision_results, name, mistake, caught_by):
    monkeypatch.setattr(encodings, name, mistake(getattr(encodings, name)))
    assert failed_categories(torchvision_results) == set()  # the port itself calls no operator of MindSpore
    assert caught_by in failed_categories(torchvision_results, operators.round_trip)
