"""The check can fail: each mistake that a port may make is caught by the cases made for it."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision
from helpers import EDGE_CASES

from ms2torch_roi import boxes, params, sampling
from ms2torch_roi.parity import cases, operators, verdicts

pytestmark = pytest.mark.mindspore


@pytest.fixture(scope="module")
def mindspore_results():
    every = [*cases.documented_cases(), *EDGE_CASES, *(cases.random_case(0, number) for number in range(60))]
    return [(case, operators.outcome(operators.mindspore, case)) for case in every]


def failed_categories(mindspore_results, adapter=operators.port):
    judged = [verdicts.judge(case, expected, operators.outcome(adapter, case)) for case, expected in mindspore_results]
    return {verdict.category for verdict in judged if not verdict.passed}


def test_the_real_adapter_fails_nowhere(mindspore_results):
    assert failed_categories(mindspore_results) == set()


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
    def torchvision_calls(feature_boxes, zero, *arguments):
        calls, sampled = encoding(feature_boxes, zero, *arguments)
        if calls and calls[0].rows is None:
            shifted = feature_boxes[0][sampled] + np.asarray((0, 0.5, 0.5, 0.5, 0.5), feature_boxes[0].dtype)
            calls.append(boxes.TorchvisionCall(sampled, shifted, calls[0].sampling_ratio, aligned=True))
            sampled = sampled[:0]
        return calls, sampled

    return torchvision_calls


def _clamped(encoding):
    def torchvision_calls(feature_boxes, *arguments):
        return encoding((feature_boxes[0], np.maximum(feature_boxes[1], 1)), *arguments)

    return torchvision_calls


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
        sampling, "_pool", lambda pool: lambda *a, **_: pool(*a, outside_adds_0=True), "edge: inputs",
    ),
    "no check of the index": (params, "check_index", lambda _: lambda *_, **__: None, "edge: errors"),
}  # fmt: skip


@pytest.mark.parametrize(("module", "name", "mistake", "caught_by"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes_in_the_adapter_are_caught(monkeypatch, mindspore_results, module, name, mistake, caught_by):
    monkeypatch.setattr(module, name, mistake(getattr(module, name)))
    assert caught_by in failed_categories(mindspore_results)


def test_a_first_pixel_that_is_not_finite_must_not_reach_torchvision(monkeypatch, mindspore_results):
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda tensor: torch.ones(tensor.shape, dtype=torch.bool))
    assert failed_categories(mindspore_results) == {"edge: inputs"}
