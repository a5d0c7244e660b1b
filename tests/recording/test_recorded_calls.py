"""Recording the calls of a model: all of them, and the gradient of each alone."""

import json

import numpy as np
import pytest
import torch
import torchvision
from helpers import assert_same_bits
from recordings import FEATURES, MADE_BEFORE, MS_FEATURES, MS_ROIS, OPERATOR, RNG, ROIS, pool, read
from torchvision.ops import roi_align
from torchvision.ops.roi_align import roi_align as roi_align_by_another_name

from ms2torch_roi.parity import operators
from ms2torch_roi.parity.recording import record

# What is recorded.


@pytest.mark.parametrize(
    "call",
    [
        lambda: roi_align(FEATURES, ROIS, (3, 2), 0.25, 2, True),
        lambda: roi_align_by_another_name(FEATURES, ROIS, (3, 2), 0.25, sampling_ratio=2, aligned=True),
        lambda: torchvision.ops.roi_align(input=FEATURES, boxes=ROIS, output_size=[3, 2], spatial_scale=0.25,
                                          sampling_ratio=2, aligned=True),
        lambda: MADE_BEFORE(FEATURES, ROIS),
        lambda: torchvision.ops.RoIAlign((3, 2), 0.25, 2, aligned=True)(FEATURES, ROIS),
        lambda: OPERATOR(FEATURES, ROIS, 0.25, 3, pooled_width=2, sampling_ratio=2, aligned=True),
        lambda: torch.ops.torchvision.roi_align(FEATURES, ROIS, 0.25, np.int64(3), 2, 2, True),
    ],
    ids=["function", "another name", "keywords", "made before", "made inside", "operator", "operator inside"],
)  # fmt: skip
def test_a_call_of_torchvision_is_recorded(tmp_path, call):
    with record(tmp_path) as recording:
        output = call()
        (recorded,) = read(recording)  # on disk as soon as the call returns
    assert recording.calls == 1
    assert recorded.case.operator == "RoIAlign"
    assert recorded.case.arguments == {
        "output_size": (3, 2), "spatial_scale": 0.25, "sampling_ratio": 2, "aligned": True
    }  # fmt: skip
    assert_same_bits(recorded.case.features, FEATURES.numpy())
    assert_same_bits(recorded.case.rois, ROIS.numpy())
    assert_same_bits(recorded.output, output.numpy())
    assert_same_bits(recorded.output, operators.torchvision(recorded.case))
    assert recorded.output_gradient is None
    assert recorded.features_gradient is None
    assert recorded.device == "CPU"
    assert recorded.versions["torch"] == torch.__version__
    assert recorded.versions["torchvision"] == torchvision.__version__
    assert set(recorded.versions) == {"torch", "torchvision", "numpy", "python", "ms2torch_roi"}


def test_boxes_of_images_and_levels_are_recorded(tmp_path):
    boxes = [torch.tensor([[0.0, 0.0, 60.0, 60.0], [10.0, 10.0, 500.0, 400.0]]), torch.tensor([[1.0, 2.0, 30.0, 40.0]])]
    levels = {"fine": torch.randn(2, 3, 128, 160), "coarse": torch.randn(2, 3, 64, 80)}
    pooler = torchvision.ops.MultiScaleRoIAlign(["fine", "coarse"], 7, 2, canonical_scale=160)
    with record(tmp_path) as recording:
        output = pooler(levels, boxes, [(512, 640)] * 2)
        single = roi_align(levels["fine"], boxes, 7)
    fine, coarse, last = read(recording)
    assert_same_bits(fine.case.features, levels["fine"].numpy())
    assert_same_bits(coarse.case.features, levels["coarse"].numpy())
    assert (fine.case.spatial_scale, coarse.case.spatial_scale) == (0.25, 0.125)
    recorded = [row.tobytes() for call in (fine, coarse) for row in call.output]
    assert sorted(recorded) == sorted(row.tobytes() for row in output.numpy())
    assert last.case.rois.tolist() == [[0, 0, 0, 60, 60], [0, 10, 10, 500, 400], [1, 1, 2, 30, 40]]
    assert_same_bits(last.output, single.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_tensors_of_any_layout_and_dtype_are_recorded(tmp_path, dtype):
    features = FEATURES.to(dtype).contiguous(memory_format=torch.channels_last)[:, :, ::2]
    with record(tmp_path) as recording:
        output = pool(features, ROIS.to(dtype), ratio=0)
    (call,) = read(recording)
    assert_same_bits(call.case.features, features.numpy())
    assert_same_bits(call.output, output.numpy())


@pytest.mark.needs_mindspore
def test_calls_of_mindspore_are_recorded(tmp_path, ms):
    features, rois = ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS)
    before = ms.ops.ROIAlign(5, 4, 0.25, 3, 0)

    class Head(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.pool = before

        def construct(self, features, rois):
            return self.pool(features, rois)

    head = Head()
    with record(tmp_path) as recording:
        outputs = [head(features, rois), ms.ops.ROIAlign(6, 4, 0.25)(features.astype(ms.float16), rois)]
    first, second = read(recording)
    arguments = {"pooled_height": 5, "pooled_width": 4, "spatial_scale": 0.25, "sample_num": 3, "roi_end_mode": 0}
    assert first.case.arguments == arguments
    assert second.case.arguments == {**arguments, "pooled_height": 6, "sample_num": 2, "roi_end_mode": 1}
    assert_same_bits(first.case.features, MS_FEATURES)
    assert_same_bits(second.case.features, MS_FEATURES.astype(np.float16))
    for call, output in zip((first, second), outputs, strict=True):
        assert call.case.operator == "ROIAlign"
        assert_same_bits(call.case.rois, MS_ROIS)
        assert_same_bits(call.output, output.asnumpy())
        assert call.versions["mindspore"] == ms.__version__
        assert set(call.versions) == {"mindspore", "numpy", "python", "ms2torch_roi"}
        assert call.device == "CPU"


@pytest.mark.needs_mindspore
def test_rows_that_mindspore_never_writes_are_0_in_the_file(tmp_path, ms):
    rois = ms.Tensor(np.concatenate((MS_ROIS, np.zeros((2, 5), np.float32))))
    operator = ms.ops.ROIAlign(5, 2, 0.25)
    garbage = []

    def loss(features):
        output = operator(features, rois)
        garbage.append(output.asnumpy().copy())
        return (output * 3).sum()

    with record(tmp_path, gradients=True) as recording:
        ms.grad(loss)(ms.Tensor(MS_FEATURES))
    (call,) = read(recording)
    assert not call.output[2:].any()
    assert not call.output_gradient[2:].any()
    assert_same_bits(call.output[:2], garbage[0][:2])
    assert (call.output_gradient[:2] == 3).all()


def test_numpy_alone_reads_a_file_without_pickle(tmp_path):
    with record(tmp_path) as recording:
        pool()
    with np.load(recording.paths[0], allow_pickle=False) as file:
        assert set(file.files) == {"call", "features", "rois", "output"}
        assert json.loads(str(file["call"]))["operator"] == "torchvision.ops.roi_align"


# Gradients.


def gradient(case, output_gradient):
    features = torch.from_numpy(case.features).requires_grad_()
    output = roi_align(features, torch.from_numpy(case.rois), **case.arguments)
    return torch.autograd.grad(output, features, torch.from_numpy(output_gradient))[0].numpy()


def test_the_gradient_of_each_call_alone_is_recorded(tmp_path):
    features = FEATURES.clone().requires_grad_()
    weights = torch.randn(3, 3, 3, 2)
    with record(tmp_path, gradients=True) as recording:
        output, other = pool(features), pool(features, ratio=0)
        assert all(call.features_gradient is None for call in read(recording))
    output.register_hook(lambda gradient: 2 * gradient)
    # After the block; features and output are used more than once.
    ((output * weights).sum() + output.sum() + 5 * other.sum() + (features * features).sum()).backward()
    first, second = read(recording)
    assert_same_bits(first.output_gradient, 2 * (weights + 1).numpy())
    assert (second.output_gradient == 5).all()
    for call in (first, second):
        assert_same_bits(call.features_gradient, gradient(call.case, call.output_gradient))
    assert_same_bits(first.output, output.detach().numpy())


@pytest.mark.needs_mindspore
def test_the_gradient_of_each_call_alone_is_recorded_in_mindspore(tmp_path, ms):
    operator, rois = ms.ops.ROIAlign(4, 4, 0.25), ms.Tensor(MS_ROIS)
    weights = ms.Tensor(RNG.integers(-3, 4, (2, 3, 4, 4)).astype(np.float32))

    def model(features):
        output = operator(features, rois)
        return (output * weights).sum() + output.sum() + 5 * operator(features, rois).sum() + (features * 2).sum()

    with record(tmp_path, gradients=True) as recording:
        of_features = ms.grad(model)(ms.Tensor(MS_FEATURES)).asnumpy()
        operator(ms.Tensor(MS_FEATURES), rois)  # in no backward pass
        ms.grad(lambda features: (operator(ms.ops.stop_gradient(features), rois) * features[0, 0, 0, 0]).sum())(
            ms.Tensor(MS_FEATURES)
        )
    first, second, *others = read(recording)
    assert_same_bits(first.output_gradient, weights.asnumpy() + 1)
    assert (second.output_gradient == 5).all()
    for call in (first, second):
        alone = ms.grad(lambda features, call=call: (operator(features, rois) * ms.Tensor(call.output_gradient)).sum())
        assert_same_bits(call.features_gradient, alone(ms.Tensor(MS_FEATURES)).asnumpy())
    assert_same_bits(first.features_gradient + second.features_gradient + 2, of_features)
    assert [call.features_gradient for call in others] == [None, None]


def test_a_gradient_that_cannot_be_added_says_to_what(tmp_path):
    features = FEATURES.clone().requires_grad_()
    with record(tmp_path, gradients=True) as recording:
        output = pool(features)
    recording.paths[0].unlink()
    with pytest.raises(OSError, match=r"-000001\.npz"):
        output.sum().backward()
