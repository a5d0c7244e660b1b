"""The check can fail: each mistake that a port may make is caught by the cases made for it."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision
from helpers import EDGE_CASES

from ms2torch_roi import boxes, cpu, params, sampling
from ms2torch_roi.parity import cases, operators, verdicts

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


def _truncate_index(rule):
    def mindspore_boxes(xp, rois, *arguments):
        return rule(xp, np.concatenate((np.trunc(rois[:, :1]), rois[:, 1:]), axis=1), *arguments)

    return mindspore_boxes


def _without_rounding_up_at_half(rule):
    def mindspore_boxes(xp, rois, *arguments):
        return rule(xp, np.concatenate((rois[:, :1] - 7e-5, rois[:, 1:]), axis=1).astype(rois.dtype), *arguments)

    return mindspore_boxes


def _everything_aligned(encoding):
    def torchvision_calls(feature_boxes, zero, pooled_height, pooled_width, sample_num):
        calls, sampled = encoding(feature_boxes, zero, pooled_height, pooled_width, sample_num)
        if sample_num > 0:
            shifted = feature_boxes[0][sampled] + np.asarray((0, 0.5, 0.5, 0.5, 0.5), feature_boxes[0].dtype)
            calls.append(boxes.TorchvisionCall(sampled, shifted, sample_num, aligned=True))
            sampled = sampled[:0]
        return calls, sampled

    return torchvision_calls


def _clamped(encoding):
    def torchvision_calls(feature_boxes, *arguments):
        return encoding((feature_boxes[0], np.maximum(feature_boxes[1], 1)), *arguments)

    return torchvision_calls


def _first_samples(some_rows):
    """Take as many samples along a bin as any of the rows has inside, but the first."""

    def first_of_some_rows(samples, rows):
        found = some_rows(samples, rows)
        most = max(int(found.inside.any((0, 1)).sum()), 1)
        cells, weights, inside = (array[:, :, :most] for array in found[:3])
        return found._replace(cells=cells, weights=weights, inside=inside)

    return first_of_some_rows


# Where, what, by what, and the categories that must catch it.
MISTAKES = {
    "ceil for floor": (boxes, "mindspore_grid", lambda _: boxes.torchvision_grid, "edge: grids"),
    "a count of at least 1": (boxes, "mindspore_count", lambda _: boxes.torchvision_count, "edge: grids"),
    "torchvision's border": (boxes, "mindspore_border", lambda _: boxes.torchvision_border, "edge: border"),
    "torchvision wherever lengths round otherwise": (boxes, "rounds_alike", lambda _: lambda *_: True, "edge: border"),
    "a truncated index": (boxes, "mindspore_boxes", _truncate_index, "edge: indices"),
    "an index rounded half to even": (boxes, "mindspore_boxes", _without_rounding_up_at_half, "edge: indices"),
    "small boxes shifted inexactly": (boxes, "torchvision_calls", _everything_aligned, "edge: boxes"),
    "small boxes enlarged in mode 1": (boxes, "torchvision_calls", _clamped, "edge: boxes"),
    "every row never written": (
        boxes, "mindspore_unwritten", lambda _: lambda _, rois: np.ones(len(rois), bool), "edge: boxes",
    ),
    "samples outside that add the first pixel": (
        sampling, "pool", lambda pool: lambda *a, **_: pool(*a, outside_adds_0=True), "edge: inputs",
    ),
    "the first samples along a bin instead of those inside": (sampling, "_some_rows", _first_samples, "edge: batches"),
    "no check of the index": (params, "check_index", lambda _: lambda *_, **__: None, "edge: errors"),
}  # fmt: skip


@pytest.mark.parametrize(("module", "name", "mistake", "caught_by"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes_in_the_adapter_are_caught(monkeypatch, mindspore_results, module, name, mistake, caught_by):
    monkeypatch.setattr(module, name, mistake(getattr(module, name)))
    assert caught_by in failed_categories(mindspore_results)


def test_a_first_pixel_that_is_not_finite_must_not_reach_torchvision(monkeypatch, mindspore_results):
    monkeypatch.setattr(cpu, "_first_pixels_are_finite", lambda features: True)
    assert failed_categories(mindspore_results) == {"edge: inputs"}


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


# Where, what, by what, and the categories that must catch it.
MISTAKES_BACK = {
    "floor for ceil": (boxes, "torchvision_grid", lambda _: boxes.mindspore_grid, "edge: grids"),
    "mode 1 for every box": (
        boxes, "mindspore_has_mode_1", lambda _: lambda _, rois, __: np.ones(len(rois), bool), "edge: border",
    ),
    "enlarged boxes as they are": (
        boxes, "mindspore_rois_of_mode_0", lambda _: lambda _, rois, __: rois, "edge: unwritten rows",
    ),
    "MindSpore wherever lengths round otherwise": (boxes, "rounds_alike", lambda _: lambda *_: True, "edge: border"),
    "samples outside that add nothing": (
        sampling, "pool", lambda pool: lambda *a, **_: pool(*a, outside_adds_0=False), "edge: inputs",
    ),
    "the first samples along a bin instead of those inside": (sampling, "_some_rows", _first_samples, "edge: batches"),
    "no check of the index": (params, "check_index", lambda _: lambda *_, **__: None, "edge: errors"),
}  # fmt: skip


@pytest.mark.parametrize(("module", "name", "mistake", "caught_by"), MISTAKES_BACK.values(), ids=MISTAKES_BACK)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes_in_the_port_back_are_caught(monkeypatch, torchvision_results, module, name, mistake, caught_by):
    monkeypatch.setattr(module, name, mistake(getattr(module, name)))
    assert caught_by in failed_categories(torchvision_results)


def test_the_cache_of_mindspore_is_guarded_against(monkeypatch):
    from ms2torch_roi import mindspore

    ms = operators.import_mindspore()
    monkeypatch.setattr(mindspore, "_operator", mindspore._Operator)
    add = ms.ops.Primitive.add_prim_attr
    monkeypatch.setattr(
        ms.ops.Primitive, "add_prim_attr", lambda self, name, value: name == "arguments" or add(self, name, value)
    )
    bins = [
        case
        for case in EDGE_CASES
        if case.name in ("torchvision: 3 x 31 bins, float32", "torchvision: 33 x 1 bins, float32")
    ]
    shapes = [operators.port(case).shape[2:] for case in bins]
    if shapes == [(3, 31), (33, 1)]:
        pytest.skip("this MindSpore keeps the operators apart")
    assert shapes == [(3, 31), (3, 31)]
