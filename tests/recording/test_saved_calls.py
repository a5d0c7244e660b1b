"""save_call makes of arrays of any library the file that record would have made, and refuses what is no call."""

import numpy as np
import pytest
import torch
from helpers import assert_same_bits
from recordings import FEATURES, MS_FEATURES, MS_ROIS, ROIS, pool

import ms2torch_roi
from ms2torch_roi.parity.recording import calls, record

RECORDED = {"output_size": (3, 2), "spatial_scale": 0.25, "sampling_ratio": 2}
OUTPUT = np.zeros((2, 3, 4, 4), np.float32)
MINDSPORE = {"pooled_height": 4, "pooled_width": 4, "spatial_scale": 0.25}


def assert_same_call(actual, expected):
    assert type(actual.case) is type(expected.case)
    assert actual.case.arguments == expected.case.arguments
    assert actual.device == expected.device
    for name in ("features", "rois"):
        assert_same_bits(getattr(actual.case, name), getattr(expected.case, name))
    for name in ("output", "output_gradient", "features_gradient"):
        assert_same_bits(getattr(actual, name), getattr(expected, name))


def test_a_saved_call_of_torchvision_is_the_recorded_one(tmp_path):
    features = FEATURES.clone().requires_grad_()
    with record(tmp_path / "recorded", gradients=True) as recording:
        output = pool(features)
        output.sum().backward()
    gradients = {"output_gradient": torch.ones_like(output), "features_gradient": features.grad}
    versions = {"torchvision": "0.1"}
    ms2torch_roi.save_call(
        tmp_path / "new" / "1.npz", features, ROIS, output, **gradients, versions=versions, **RECORDED
    )
    saved = calls.read(tmp_path / "new" / "1.npz")
    assert_same_call(saved, calls.read(recording.paths[0]))
    assert saved.versions == versions


@pytest.mark.needs_mindspore
def test_a_saved_call_of_mindspore_is_the_recorded_one(tmp_path, ms):
    rois = np.vstack((MS_ROIS, np.array([[0, 0, 3, 0, 9]], np.float32)))  # whose last row is never written
    features = ms.Tensor(MS_FEATURES)
    operator = ms.ops.ROIAlign(4, 4, 0.25)
    with record(tmp_path / "recorded", gradients=True) as recording:
        gradient = ms.grad(lambda features: operator(features, ms.Tensor(rois)).sum())(features)
    recorded = calls.read(recording.paths[0])
    output = recorded.output.copy()
    output[-1] = 7  # what was in memory
    gradients = {"output_gradient": np.ones_like(output), "features_gradient": gradient}
    ms2torch_roi.save_call(tmp_path / "1.npz", features, ms.Tensor(rois), output, **gradients, **MINDSPORE)
    assert_same_call(calls.read(tmp_path / "1.npz"), recorded)


def test_boxes_may_be_a_list_for_each_image(tmp_path):
    boxes = [ROIS[:1, 1:], ROIS[1:, 1:]]
    ms2torch_roi.save_call(tmp_path / "1.npz", FEATURES, boxes, pool(), **RECORDED)
    assert_same_bits(calls.read(tmp_path / "1.npz").case.rois, ROIS.numpy())


def test_the_output_has_the_dtype_of_the_features_whatever_the_rois_have(tmp_path):
    output = OUTPUT.astype(np.float16)
    ms2torch_roi.save_call(tmp_path / "1.npz", MS_FEATURES.astype(np.float16), MS_ROIS, output, **MINDSPORE)
    assert calls.read(tmp_path / "1.npz").output.dtype == np.float16


def test_modes_of_ascend_are_those_of_its_calls(tmp_path):
    call = {**MINDSPORE, "roi_end_mode": 2}
    ms2torch_roi.save_call(tmp_path / "1.npz", MS_FEATURES, MS_ROIS, OUTPUT, device="Ascend", **call)
    read = calls.read(tmp_path / "1.npz")
    assert (read.device, read.case.roi_end_mode) == ("Ascend", 2)
    with pytest.raises(ValueError, match="roi_end_mode must be 0 or 1, got 2"):
        ms2torch_roi.save_call(tmp_path / "2.npz", MS_FEATURES, MS_ROIS, OUTPUT, **call)


WRONG = {
    "an output of other bins": ({"output": OUTPUT[..., :3]}, ValueError,
                                r"output has shape \(2, 3, 4, 3\), but this call has \(2, 3, 4, 4\)"),
    "an output of another dtype": ({"output": OUTPUT.astype("f2")}, TypeError,
                                   "output is float16, but features are float32"),
    "no output": ({"output": None}, TypeError, "output must be a tensor .* got NoneType"),
    "rois of float64": ({"rois": MS_ROIS.astype("f8")}, TypeError,
                        "rois must be .* float16 or float32, got ndarray of float64"),
    "rois without an index": ({"rois": MS_ROIS[:, 1:]}, ValueError, r"rois must have shape \(K, 5\)"),
    "a list of features": ({"features": [1.0]}, TypeError, "features must be a tensor of torch or MindSpore"),
    "one gradient": ({"output_gradient": OUTPUT}, TypeError, "give output_gradient and features_gradient, or neither"),
    "a gradient of another shape": (
        {"output_gradient": OUTPUT, "features_gradient": OUTPUT}, ValueError, "features_gradient has shape"
    ),
    "too few arguments": ({"spatial_scale": ...}, TypeError, "mindspore.ops.ROIAlign needs spatial_scale too"),
    "arguments of both": ({"aligned": True}, TypeError, "the arguments are mixed, pooled_height, .* and aligned of"),
    "a rule": ({"rule": "gpu"}, TypeError, "there is no argument rule; ms2torch-roi identify finds it"),
    "another name": ({"path": "call.npy"}, ValueError, "the name of a recorded call ends in .npz, got call.npy"),
    "no path": ({"path": 3}, TypeError, r"path must be a path, got 3 \(int\)"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_call_is_refused_and_nothing_is_written(tmp_path, changes, error, message):
    path = tmp_path / "folder" / "1.npz"
    call = {"path": path, "features": MS_FEATURES, "rois": MS_ROIS, "output": OUTPUT, **MINDSPORE, **changes}
    with pytest.raises(error, match=message):
        ms2torch_roi.save_call(**{name: value for name, value in call.items() if value is not ...})
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"device": None}, TypeError),
        ({"device": "CPU\n"}, ValueError),
        ({"versions": "2.3"}, TypeError),
        ({"versions": {"mindspore": "2.3\n"}}, ValueError),
        ({"versions": {"mind\x1bspore": "2.3"}}, ValueError),
        ({"versions": {"mindspore": (2, 3)}}, TypeError),
    ],
)
def test_a_device_or_versions_that_are_no_printable_texts_are_refused(tmp_path, given, error):
    (name,) = given
    with pytest.raises(error, match=f"save_call: {name} must be"):
        ms2torch_roi.save_call(tmp_path / "1.npz", FEATURES, ROIS, pool(), **given, **RECORDED)
    assert not list(tmp_path.iterdir())
