"""RoIAlign on MindSpore as detectron2 and mmcv call it, and what code written for the other framework calls on ours."""

import numpy as np
import pytest
import torch
from features_and_boxes import BOXES, FEATURES, in_torchvision
from helpers import assert_same_bits

from ms2torch_roi import ROIAlign

SAMPLING = [((3, 4), 0.5, 2), (2, 0.25, 0)]


@pytest.fixture(scope="module")
def detectron2(ms):
    from ms2torch_roi.compat import detectron2

    return detectron2


@pytest.fixture(scope="module")
def mmcv(ms):
    from ms2torch_roi.compat import mmcv

    return mmcv


def call(ms, cell, features=FEATURES, rois=BOXES):
    return cell(ms.Tensor(features), ms.Tensor(rois)).asnumpy()


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("sampling", SAMPLING)
def test_detectron2_is_torchvision_and_aligned_by_default(ms, detectron2, sampling):
    assert_same_bits(call(ms, detectron2.ROIAlign(*sampling)), in_torchvision(FEATURES, BOXES, *sampling, True))
    not_aligned = detectron2.ROIAlign(*sampling, aligned=False)
    assert_same_bits(call(ms, not_aligned), in_torchvision(FEATURES, BOXES, *sampling, False))


@pytest.mark.needs_mindspore
def test_detectron2_casts_boxes_to_the_dtype_of_the_features(ms, detectron2, ours):
    features = FEATURES.astype(np.float16)
    expected = in_torchvision(features, BOXES.astype(np.float16), (3, 4), 0.3, 2, True)
    assert_same_bits(call(ms, detectron2.ROIAlign((3, 4), 0.3, 2), features), expected)
    in_float32 = call(ms, ours.RoIAlign((3, 4), 0.3, 2, True), features)
    assert (in_float32 != expected).any()


@pytest.mark.needs_mindspore
@pytest.mark.usefixtures("graph_mode")
def test_detectron2_in_graph_mode(ms, detectron2):
    features, rois = FEATURES.astype(np.float16), BOXES
    expected = in_torchvision(features, rois.astype(np.float16), (3, 4), 0.5, 2, False)
    assert_same_bits(call(ms, detectron2.ROIAlign((3, 4), 0.5, 2, False), features, rois), expected)


@pytest.mark.needs_mindspore
def test_arrays_of_numpy_are_taken(detectron2):
    assert_same_bits(detectron2.ROIAlign(2, 0.5, 2)(FEATURES, BOXES), in_torchvision(FEATURES, BOXES, 2, 0.5, 2, True))


@pytest.mark.needs_mindspore
@pytest.mark.parametrize(
    ("arguments", "named", "in_torchvisions_order"),
    [
        (((3, 4),), {}, ((3, 4), 1.0, 0, True)),
        ((2, 0.5, 2, "avg", False), {}, (2, 0.5, 2, False)),
        ((2, 0.5), {"use_torchvision": True}, (2, 0.5, 0, True)),
        ((), {"out_size": 2, "sample_num": 2, "spatial_scale": 0.25}, (2, 0.25, 2, True)),
    ],
)
def test_mmcv(ms, mmcv, arguments, named, in_torchvisions_order):
    output = call(ms, mmcv.RoIAlign(*arguments, **named))
    assert_same_bits(output, in_torchvision(FEATURES, BOXES, *in_torchvisions_order))


@pytest.mark.needs_mindspore
@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        ({"output_size": 2, "pool_mode": "max"}, NotImplementedError, 'pool_mode="max" is not computed here'),
        ({"output_size": 2, "pool_mode": "sum"}, AssertionError, "pool_mode must be .* got 'sum'"),
        ({"output_size": 2, "out_size": 2}, AssertionError, "out_size is the former name of output_size"),
        ({"output_size": 2, "sampling_ratio": 2, "sample_num": 2}, AssertionError, "sample_num is the former name"),
        ({}, TypeError, "output_size is missing"),
        ({"output_size": 0}, RuntimeError, "pooled height and width must be at least 1"),
    ],
)
def test_arguments_are_refused(mmcv, named, error, message):
    with pytest.raises(error, match=message):
        mmcv.RoIAlign(**named)


@pytest.mark.needs_mindspore
def test_cells_are_written_as_in_the_original(detectron2, mmcv):
    assert repr(detectron2.ROIAlign(7, 0.25, 0)) == (
        "ROIAlign(output_size=7, spatial_scale=0.25, sampling_ratio=0, aligned=True)"
    )
    assert repr(mmcv.RoIAlign(7)) == (
        "RoIAlign(output_size=7, spatial_scale=1.0, sampling_ratio=0, pool_mode=avg, aligned=True,"
        " use_torchvision=False)"
    )


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("graph", [False, True])
def test_cells_have_forward(ms, ours, detectron2, graph):
    class Head(ms.nn.Cell):
        def __init__(self, pool):
            super().__init__()
            self.pool = pool

        def construct(self, features, rois):
            return self.pool.forward(features, rois)

    expected = in_torchvision(FEATURES, BOXES, 2, 0.5, 2, False)
    ms.set_context(mode=ms.GRAPH_MODE if graph else ms.PYNATIVE_MODE)
    try:
        for pool in (ours.RoIAlign(2, 0.5, 2), detectron2.ROIAlign(2, 0.5, 2, aligned=False)):
            assert_same_bits(pool.forward(ms.Tensor(FEATURES), ms.Tensor(BOXES)).asnumpy(), expected)
            assert_same_bits(call(ms, Head(pool)), expected)
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


def test_what_is_chained_to_mindspores_operator_leaves_the_module_as_it_is():
    op = ROIAlign(2, 3, 0.5)
    assert op.set_device("CPU").add_prim_attr("primitive_target", "CPU").recompute() is op
    assert op(torch.from_numpy(FEATURES), torch.from_numpy(BOXES)).shape == (4, 3, 2, 3)


def test_a_shard_strategy_says_what_torch_has_instead():
    with pytest.raises(NotImplementedError, match="call the module with DTensors"):
        ROIAlign(2, 3, 0.5).shard(((1, 1, 1, 1), (2, 1)))
