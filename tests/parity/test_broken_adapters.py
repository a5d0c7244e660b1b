"""The check can fail: each mistake that a port may make is caught by the cases made for it."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
import torchvision
from helpers import EDGE_CASES

import ms2torch_roi
from ms2torch_roi import encodings, engine, params, rules, sampling
from ms2torch_roi.parity import cases, edges, operators, verdicts
from ms2torch_roi.torch import cpu

pytestmark = pytest.mark.needs_mindspore


def _results(direction, random_case):
    every = [*cases.documented_cases(), *EDGE_CASES, *(random_case(0, number) for number in range(60))]
    return [(case, operators.outcome(operators.original, case)) for case in every if case.direction == direction]


@pytest.fixture(scope="module")
def mindspore_results():
    return _results("to-torch", cases.random_case)


@pytest.fixture(scope="module")
def torchvision_results():
    return _results("to-mindspore", cases.random_torchvision_case)


def failed_categories(results, port=operators.port):
    judged = [verdicts.judge(case, expected, operators.outcome(port, case)) for case, expected in results]
    return {verdict.category for verdict in judged if not verdict.passed}


@pytest.mark.parametrize("port", [operators.port, operators.round_trip])
def test_the_real_ports_fail_nowhere(mindspore_results, torchvision_results, port):
    for results in (mindspore_results, torchvision_results):
        assert failed_categories([result for result in results if not result[0].raises], port) == set()


def _on_torchvision(aligned, extra):
    """A port by hand: torchvision with these two choices, on boxes it does not crash on."""

    def port(case):
        rois = torch.from_numpy(case.rois)
        rois = torch.where(rois.isfinite().all(1, keepdim=True) & (rois.abs() < 1e4).all(1, keepdim=True), rois, 0)
        rois = torch.cat((rois[:, :3], rois[:, 3:] + extra(case)), 1)
        pooled = (case.pooled_height, case.pooled_width)
        features = torch.from_numpy(case.features)
        arguments = (pooled, case.spatial_scale, case.sample_num, aligned(case))
        return torchvision.ops.roi_align(features, rois, *arguments).numpy()

    return port


def _in_float32(case):
    features, rois = case.features.astype(np.float32), case.rois.astype(np.float32)
    return operators.port(dataclasses.replace(case, features=features, rois=rois)).astype(case.features.dtype)


PORTS = {
    "aligned for roi_end_mode, as the official table suggests": (
        _on_torchvision(lambda case: bool(case.roi_end_mode), lambda case: 0),
        {"documented example", "edge: boxes", "random: float32, mode 1, fixed"},
    ),
    "unchanged boxes, not aligned": (
        _on_torchvision(lambda case: False, lambda case: 0),
        {"documented example", "edge: boxes", "random: float32, mode 1, fixed"},
    ),
    "x2 + 1, aligned": (
        _on_torchvision(lambda case: bool(case.roi_end_mode), lambda case: case.roi_end_mode),
        {"documented example", "edge: boxes", "random: float32, mode 1, fixed"},
    ),
    "x2 + 1, not aligned: right but for boxes below one cell, grids and indices": (
        _on_torchvision(lambda case: False, lambda case: case.roi_end_mode),
        {"documented example", "edge: boxes", "edge: grids", "edge: indices", "random: float32, mode 1, fixed"},
    ),
    "float16 computed in float32 to be safe": (
        _in_float32,
        {"edge: boxes", "random: float16, mode 0, fixed", "random: float16, mode 1, fixed"},
    ),
}


@pytest.mark.parametrize(("port", "caught_by"), PORTS.values(), ids=PORTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_ports_by_hand_are_caught(mindspore_results, port, caught_by):
    finite = [
        (case, expected)
        for case, expected in mindspore_results
        if case.category not in ("edge: scales", "edge: errors", "edge: not finite")
    ]
    assert caught_by <= failed_categories(finite, port)


@pytest.fixture(params=["torchvision", "numba", "numpy"])
def road(request, monkeypatch):
    """What the port to torch runs small calls on: torchvision's operator, the engine, or the engine without Numba."""
    if request.param != "torchvision":
        monkeypatch.setattr(cpu, "_is_worth_the_engine", lambda *_: True)
    if request.param == "numpy":
        monkeypatch.setattr(engine, "_compiled", lambda: None)


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

    monkeypatch.setattr(params, "check_index", lambda *_: None)
    monkeypatch.setattr(rules, "place", functools.partial(place, rules.place))
    assert "edge: errors" in failed_categories(mindspore_results)
    assert "edge: errors" in failed_categories(torchvision_results)


def _everything_aligned(encoding):
    def torchvision_calls(feature_boxes, zero, pooled_height, pooled_width, sample_num):
        calls, rest = encoding(feature_boxes, zero, pooled_height, pooled_width, sample_num)
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
    "enlarged boxes of two cells": ("_enlarged_end", _two_cells_after, "boxes"),
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


def on_other_samples(change):
    """Return an engine's function, given other samples than were placed."""
    return lambda function, values, samples, *rest: function(values, change(samples), *rest)


def _in_float64(pool, features, samples, output, *threads):
    wide = samples._replace(**{name: getattr(samples, name).astype(np.float64) for name in FLOATS})
    output[:] = sampling.pool(features.astype(np.float64), wide, output.shape[2:])


def _gradient_in_float64(gradient, of_output, samples, of_features, *threads):
    wide = samples._replace(**{name: getattr(samples, name).astype(np.float64) for name in FLOATS})
    of_features[:] = sampling.gradient(of_output.astype(np.float64), wide, of_features.shape)


def _last_row_first(gradient, of_output, samples, of_features, *threads):
    gradient(of_output[::-1], samples.of_rows(slice(None, None, -1)), of_features, *threads)


FLOATS = ("start", "bin_size", "divisor", "border")

# How the engine is wrong, forward, and the category that must catch it in both directions.
ENGINE = {
    "width for height in a grid": (
        on_other_samples(lambda samples: samples._replace(grid=samples.grid[:, ::-1])), "edge: grids",
    ),
    "width for height in a border": (
        on_other_samples(lambda samples: samples._replace(border=samples.border[::-1])), "edge: border",
    ),
    "the first image only": (
        on_other_samples(lambda samples: samples._replace(image=np.minimum(samples.image, 0))), "edge: indices",
    ),
    "sums in float64": (_in_float64, "edge: boxes"),
}  # fmt: skip


@pytest.mark.parametrize(("mistake", "caught_by"), ENGINE.values(), ids=ENGINE)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes_in_the_engine_are_caught(monkeypatch, mindspore_results, torchvision_results, mistake, caught_by):
    monkeypatch.setattr(cpu, "_is_worth_the_engine", lambda *_: True)
    monkeypatch.setattr(engine, "pool", functools.partial(mistake, engine.pool))
    assert caught_by in failed_categories(mindspore_results)
    assert caught_by in failed_categories(torchvision_results)


def test_rows_pooled_that_have_no_result_are_caught(monkeypatch, mindspore_results):
    mistake = on_other_samples(lambda samples: samples._replace(image=np.maximum(samples.image, 0)))
    monkeypatch.setattr(cpu, "_is_worth_the_engine", lambda *_: True)
    monkeypatch.setattr(engine, "pool", functools.partial(mistake, engine.pool))
    assert "edge: unwritten rows" in failed_categories(mindspore_results)


def test_the_first_samples_along_a_bin_instead_of_those_inside_are_caught(
    monkeypatch, mindspore_results, torchvision_results
):
    inside_image = sampling.inside_image
    monkeypatch.setattr(sampling, "inside_image", lambda *of: np.sort(inside_image(*of), axis=1)[:, ::-1])
    monkeypatch.setattr(cpu, "_is_worth_the_engine", lambda *_: True)
    monkeypatch.setattr(engine, "_compiled", lambda: None)
    assert "edge: batches" in failed_categories(mindspore_results)
    assert "edge: batches" in failed_categories(torchvision_results)


def _gradient_results(results):
    found = []
    for case, _ in results:
        if case.raises is None and len(case.rois):
            given = operators.some_output_gradient(case)
            found.append((case, given, operators.original_gradient(case, given)))
    return found


@pytest.fixture(scope="module")
def mindspore_gradients(mindspore_results):
    return _gradient_results(mindspore_results)


@pytest.fixture(scope="module")
def torchvision_gradients(torchvision_results):
    return _gradient_results(torchvision_results)


def categories_of_failed_gradients(results):
    judged = [
        verdicts.judge_gradient(case, expected, operators.gradient(case, given, 1), case.category, bound=0.0)
        for case, given, expected in results
    ]
    return {verdict.category for verdict in judged if not verdict.passed}


@pytest.mark.usefixtures("road")
def test_the_gradient_of_the_port_to_torch_fails_nowhere(mindspore_gradients):
    assert categories_of_failed_gradients(mindspore_gradients) == set()


def test_the_gradient_of_the_port_to_mindspore_fails_nowhere(torchvision_gradients):
    assert categories_of_failed_gradients(torchvision_gradients) == set()


# How the engine is wrong, backward, and the category that must catch it in both directions.
GRADIENTS = {
    "width for height in a grid": (ENGINE["width for height in a grid"][0], "edge: grids"),
    "width for height in a border": (ENGINE["width for height in a border"][0], "edge: border"),
    "the first image only": (ENGINE["the first image only"][0], "edge: indices"),
    "sums in float64": (_gradient_in_float64, "edge: boxes"),
    "the last row first": (_last_row_first, "edge: boxes"),
}


@pytest.mark.parametrize(("mistake", "caught_by"), GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes_in_the_gradient_of_the_engine_are_caught(
    monkeypatch, mindspore_gradients, torchvision_gradients, mistake, caught_by
):
    monkeypatch.setattr(cpu, "_is_worth_the_engine", lambda *_: True)
    monkeypatch.setattr(engine, "gradient", functools.partial(mistake, engine.gradient))
    assert caught_by in categories_of_failed_gradients(mindspore_gradients)
    assert caught_by in categories_of_failed_gradients(torchvision_gradients)


# How the kernel that torch.ops.ms2torch_roi calls on a CPU is wrong, and the categories that must catch it.
OPERATOR = {
    "height for width": (lambda h, w, scale, samples, mode: (w, h, scale, samples, mode), "edge: boxes"),
    "the scale left out": (lambda h, w, scale, samples, mode: (h, w, 1.0, samples, mode), "edge: boxes"),
    "a fixed grid": (lambda h, w, scale, samples, mode: (h, w, scale, 2, mode), "edge: grids"),
    "the other mode": (lambda h, w, scale, samples, mode: (h, w, scale, samples, 1 - mode), "edge: boxes"),
}


@pytest.mark.parametrize(("mistake", "caught_by"), OPERATOR.values(), ids=OPERATOR)
def test_mistakes_in_the_operator_are_caught(monkeypatch, mindspore_results, mistake, caught_by):
    pool = cpu.pool
    monkeypatch.setattr(cpu, "pool", lambda features, rois, *given: pool(features, rois, *mistake(*given)))
    assert caught_by in failed_categories(mindspore_results)


def _on_mindspore(mode):
    """A port by hand: MindSpore's operator in this mode, on boxes as they are."""

    def port(case):
        arguments = {
            "pooled_height": case.output_size[0],
            "pooled_width": case.output_size[1],
            "spatial_scale": case.spatial_scale,
            "sample_num": case.sampling_ratio,
            "roi_end_mode": mode(case),
        }
        common = {name: getattr(case, name) for name in ("name", "category", "source", "features", "rois")}
        return operators.mindspore(cases.MindSporeCase(**common, **arguments))

    return port


BY_HAND = {
    "roi_end_mode for aligned, as the existing port does": (
        _on_mindspore(lambda case: int(case.aligned)),
        {"documented example", "edge: boxes", "edge: unwritten rows", "random: float32, aligned, fixed"},
    ),
    "mode 0 for everything": (
        _on_mindspore(lambda case: 0),
        {"documented example", "edge: boxes", "edge: grids", "random: float32, unaligned, adaptive"},
    ),
}


@pytest.mark.parametrize(("port", "caught_by"), BY_HAND.values(), ids=BY_HAND)
def test_ports_back_by_hand_are_caught(torchvision_results, port, caught_by):
    finite = [
        (case, expected)
        for case, expected in torchvision_results
        if case.category not in ("edge: scales", "edge: errors", "edge: not finite")
    ]
    assert caught_by <= failed_categories(finite, port)


# Of each MindSpore's compiler makes a graph, where the port calls its operator.
GRAPHS = [
    edges.edge_case(f"torchvision: boxes of several cells, {aligned}, {dtype}")
    for aligned in ("not aligned", "aligned")
    for dtype in ("float32", "float16")
]


def failed_in_graphs():
    ms = operators.import_mindspore()
    failed = set()
    for case in GRAPHS:
        cell = ms2torch_roi.RoIAlign(**case.arguments)
        given = operators.some_output_gradient(case)
        features, rois, weights = map(ms.Tensor, (case.features, case.rois, given))

        @ms.jit
        def port(features, rois):
            return cell(features, rois)  # noqa: B023

        def loss(features):
            return (port(features, rois) * weights).sum()  # noqa: B023

        forward = verdicts.judge(case, operators.original(case), port(features, rois).asnumpy())
        of_features = operators.original_gradient(case, given)
        backward = verdicts.judge_gradient(case, of_features, ms.grad(loss)(features).asnumpy(), "")
        failed |= {name for name, verdict in (("forward", forward), ("backward", backward)) if not verdict.passed}
    return failed


def test_graphs_fail_nowhere():
    assert failed_in_graphs() == set()


def test_the_rule_of_the_other_aligned_in_graphs_is_caught(monkeypatch):
    monkeypatch.setattr(rules, "TORCHVISION", rules.TORCHVISION[::-1])
    assert failed_in_graphs() == {"forward", "backward"}


def _without_the_1(xp, boxes, size, scale):
    return xp.concatenate((boxes[:, :1], boxes[:, 1:] / scale), 1)


def test_rois_of_mode_1_that_do_not_end_a_pixel_earlier_in_graphs_are_caught(monkeypatch):
    monkeypatch.setattr(encodings, "mindspore_rois_of_mode_1", _without_the_1)
    monkeypatch.setattr(encodings, "mindspore_scale", lambda *_: 1.0)
    assert failed_in_graphs() == {"forward", "backward"}


def test_the_gradient_of_the_rois_of_mode_0_in_graphs_is_caught(monkeypatch):
    from ms2torch_roi.mindspore import graph

    def pool_all(input, boxes, size, pooled, sampling_ratio, roi_end_mode, scale):
        in_mode_1 = encodings.mindspore_rois_of_mode_1(graph.XP, boxes, size, scale)
        rois = in_mode_1 if roi_end_mode == 1 else encodings.boxes_to_enlarge(graph.XP, boxes, size)
        return graph.operator_of(pooled, sampling_ratio, roi_end_mode, scale)(input, rois, rois)

    monkeypatch.setattr(graph, "_pool_all", pool_all)
    assert failed_in_graphs() == {"backward"}
