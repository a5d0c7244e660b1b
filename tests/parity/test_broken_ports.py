"""Ports that people write by hand are caught by the cases made for their mistakes, and the real ones are not."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision
from broken import failed_categories

from ms2torch_roi.parity import cases, operators

pytestmark = pytest.mark.needs_mindspore


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


def finite(results):
    """Leave out what such a port crashes on."""
    left_out = ("edge: scales", "edge: errors", "edge: not finite")
    return [(case, expected) for case, expected in results if case.category not in left_out]


@pytest.mark.parametrize(("port", "caught_by"), PORTS.values(), ids=PORTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_ports_by_hand_are_caught(mindspore_results, port, caught_by):
    assert caught_by <= failed_categories(finite(mindspore_results), port)


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
    assert caught_by <= failed_categories(finite(torchvision_results), port)
