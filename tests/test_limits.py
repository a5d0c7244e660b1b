"""Calls that would take hours or all memory are refused at once, by an estimate; what the frameworks do is not."""

import time

import numpy as np
import pytest
import torch
from helpers import assert_same_bits
from torchvision.ops import roi_align

import ms2torch_roi
from ms2torch_roi import ROIAlign, params, reference
from ms2torch_roi.parity import cases
from ms2torch_roi.parity.recording import calls

FEATURES = np.random.default_rng(0).standard_normal((2, 3, 11, 14)).astype(np.float32)
ROIS = np.array([[0, 1, 1, 9, 9], [1, 2, 3, 9, 7]], np.float32)
HUGE = np.array([[0, 1, 1, 9, 9], [1, -3e7, -3e7, 3e7, 3e7]], np.float32)

# Pooled size, samples, rois: by the arguments alone, and by the boxes.
ARGUMENTS = {
    "bins along one axis": ((2**31 - 1, 1), 1, ROIS),
    "bins": ((23000, 23000), 2, ROIS),
    "adaptive bins": ((2**31 - 1, 1), 0, ROIS),
    "samples": ((7, 7), 5000, ROIS),
    "samples of many bins": ((100, 100), 100_000, ROIS),
    "samples beyond a double": ((1, 1), 10**400, ROIS),
}
BOXES = {
    "an adaptive grid": ((7, 7), 0, HUGE),
    "an adaptive grid along one axis": ((7, 7), 0, np.array([[0, -3e8, 1, 3e8, 9]], np.float32)),
    "adaptive grids of many boxes": ((100, 100), 0, np.tile(HUGE / np.float32(6), (1000, 1)) // 1),
    "adaptive grids of boxes that are large for torchvision": (
        (2, 2), 0, np.tile(np.array([[0, 0, 0, 1400, 1400]], np.float32), (20000, 1))
    ),
    "boxes": ((7, 7), 1100, np.tile(ROIS, (500, 1))),
}  # fmt: skip
BOXES["adaptive grids of many boxes"][2][:, 0] = 0
MESSAGE = (
    r"would take about .* minutes and .* GiB: samples x channels are .*, and one box has .*; allowed are 12 minutes"
)


@pytest.fixture(autouse=True)
def at_once():
    start = time.perf_counter()
    yield
    assert time.perf_counter() - start < 60  # on a busy machine


@pytest.mark.parametrize(
    ("pooled", "samples", "rois"), [*ARGUMENTS.values(), *BOXES.values()], ids=[*ARGUMENTS, *BOXES]
)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_torch_refuses(pooled, samples, rois, requires_grad):
    features = torch.from_numpy(FEATURES.copy()).requires_grad_(requires_grad)
    with pytest.raises(RuntimeError, match=MESSAGE):
        ROIAlign(*pooled, 1.0, samples)(features, torch.from_numpy(rois))


@pytest.mark.parametrize(
    ("pooled", "samples", "rois"), [*ARGUMENTS.values(), *BOXES.values()], ids=[*ARGUMENTS, *BOXES]
)
def test_the_reference_refuses(pooled, samples, rois):
    with pytest.raises(RuntimeError, match=MESSAGE):
        reference.ms_roi_align(FEATURES, rois, *pooled, 1.0, samples)
    with pytest.raises(RuntimeError, match=MESSAGE):
        reference.tv_roi_align(FEATURES, rois, pooled, 1.0, samples)


@pytest.mark.needs_mindspore
@pytest.mark.parametrize(
    ("pooled", "samples", "rois"), [*ARGUMENTS.values(), *BOXES.values()], ids=[*ARGUMENTS, *BOXES]
)
@pytest.mark.parametrize("aligned", [False, True])
def test_the_way_back_refuses(ms, pooled, samples, rois, aligned):
    with pytest.raises(RuntimeError, match=MESSAGE):
        ms2torch_roi.roi_align(ms.Tensor(FEATURES), ms.Tensor(rois), pooled, 1.0, samples, aligned)


@pytest.mark.needs_mindspore
@pytest.mark.usefixtures("graph_mode")
@pytest.mark.parametrize(
    ("pooled", "samples", "rois"),
    [ARGUMENTS["bins"], ARGUMENTS["samples"], BOXES["boxes"]],
    ids=["bins", "samples", "boxes"],
)
def test_graph_mode_refuses(ms, ours, pooled, samples, rois):
    pool_on_mindspore = ours.roi_align

    @ms.jit
    def pool(features, boxes):
        return pool_on_mindspore(features, boxes, pooled, 1.0, samples)

    with pytest.raises(RuntimeError, match=MESSAGE):
        pool(ms.Tensor(FEATURES), ms.Tensor(rois)).asnumpy()


def test_a_program_that_is_traced_refuses_arguments():
    for pooled, samples, _ in ARGUMENTS.values():
        with pytest.raises(RuntimeError, match=MESSAGE):
            ROIAlign(*pooled, 1.0, samples)


def test_the_boxes_of_the_backward_mode_count_if_there_is_a_gradient():
    features, rois = torch.from_numpy(FEATURES.copy()).requires_grad_(), torch.ones(1, 5)
    op = ROIAlign(1, 1, 1e9, 0, 0, backward_roi_end_mode=1)  # a box of one cell, or of a billion
    with pytest.raises(RuntimeError, match=MESSAGE):
        op(features, rois)
    with torch.no_grad():
        op(features, rois)


@pytest.mark.parametrize("name", ["mindspore.ops.ROIAlign", "torchvision.ops.roi_align"])
@pytest.mark.parametrize(("pooled", "samples"), [((7, 7), 5000), ((23000, 23000), 2)])
def test_a_recorded_call_with_such_arguments_is_refused_before_it_is_computed(
    tmp_path, monkeypatch, name, pooled, samples
):
    common = {"name": "", "category": "", "source": "", "features": FEATURES, "rois": ROIS, "spatial_scale": 1.0}
    if name == "mindspore.ops.ROIAlign":
        case = cases.MindSporeCase(
            **common, pooled_height=pooled[0], pooled_width=pooled[1], sample_num=samples, roi_end_mode=1
        )
    else:
        case = cases.TorchvisionCase(**common, output_size=pooled, sampling_ratio=samples, aligned=True)
    path = tmp_path / "1.npz"
    calls.write(path, calls.Call(case=case, output=np.zeros((2, 3, 1, 1), np.float32)))
    with pytest.raises(ValueError, match=MESSAGE):
        calls.read(path)


def test_rows_that_pool_to_0_whatever_their_box_do_not_count():
    rois = np.array([[0, 0, -1e9, 0, 1e9], [0, 1, 1, 9, 9]], np.float32)
    assert not ROIAlign(2, 2, 1.0, 0)(torch.from_numpy(FEATURES), torch.from_numpy(rois))[0].any()
    rois = np.array([[0, np.nan, -1e9, 0, 1e9], [0, 1, 1, 9, 9]], np.float32)
    assert not reference.tv_roi_align(FEATURES, rois, 2, 1.0, 0)[0].any()


def test_samples_outside_the_image_do_not_count():
    # MindSpore would visit 10**12 samples of each of these boxes.
    rois = np.array([[0, -5e5, -5e5, 5e5, 5e5], [1, -4e5, -5e5, 5e5, 4e5]], np.float32)
    features = torch.from_numpy(FEATURES.copy()).requires_grad_()
    output = ROIAlign(7, 7, 1.0, 0)(features, torch.from_numpy(rois))
    output.sum().backward()
    assert output.any()
    assert_same_bits(reference.ms_roi_align(FEATURES, rois, 7, 7, 1.0, 0), output.detach().numpy())


def test_a_grid_of_a_thousand_samples_along_each_axis_of_a_bin_is_torchvisions():
    rois = torch.from_numpy(ROIS)
    features = torch.from_numpy(FEATURES)
    expected = roi_align(features, rois, 2, 1.0, 1000)
    assert_same_bits(ROIAlign(2, 2, 1.0, 1000, 0)(features, rois).numpy(), expected.numpy())


# Speeds on two cores, in samples of a channel a second: the best of each kernel for features of so many channels. In a
# minute they do sixty times as many.
SPEEDS = {
    "MindSpore, 1 channel": (1, 0.08e9),
    "MindSpore, 64 channels": (64, 0.08e9),
    "torchvision, 1 channel": (1, 0.05e9),
    "torchvision, 4 channels": (4, 0.16e9),
    "torchvision, 64 channels": (64, 0.6e9),
    "torchvision, 256 channels": (256, 0.6e9),
}


@pytest.mark.parametrize(("channels", "speed"), SPEEDS.values(), ids=SPEEDS)
def test_what_the_frameworks_do_in_a_minute_is_allowed(channels, speed):
    values = 60 * speed
    bins, samples = (7, 7), 32
    rois = int(values / (49 * 32 * 32 * channels))
    params.check_sizes("ROIAlign", (1, channels, 50, 76), (rois, 5), *bins, samples)
    # Not far above, nothing is.
    with pytest.raises(RuntimeError, match=MESSAGE):
        params.check_sizes("ROIAlign", (1, channels, 50, 76), (rois * 20, 5), *bins, samples)


@pytest.mark.parametrize(
    ("pooled", "samples"), [((4096, 4096), 2), ((7, 7), 1000), ((1, 1), 8000), ((14, 14), 500), ((2**26, 1), 1)]
)
def test_so_many_samples_of_a_box_are_allowed(pooled, samples):
    params.check_sizes("ROIAlign", (1, 3, 50, 76), (2, 5), *pooled, samples)


def test_as_many_values_as_32_bits_count_are_allowed_with_as_many_samples_as_are_in_use():
    rois = 170_000  # of 256 channels and 7 x 7 bins
    for samples in (0, 1, 2, 4):
        params.check_sizes("ROIAlign", (1, 256, 50, 76), (rois, 5), 7, 7, samples)
