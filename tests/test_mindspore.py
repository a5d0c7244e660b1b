"""RoIAlign and roi_align on MindSpore: torchvision's call, in PyNative mode, graph mode and mindspore.jit."""

import inspect
import re

import numpy as np
import pytest
import torchvision
from features_and_boxes import BOXES, FEATURES, in_torchvision
from helpers import assert_same_bits

pytestmark = pytest.mark.needs_mindspore


def test_names_order_and_defaults_are_torchvisions(ours):
    theirs = torchvision.ops
    for their, our in (
        (theirs.roi_align, ours.roi_align),
        (theirs.RoIAlign.__init__, ours.RoIAlign.__init__),
        (theirs.RoIAlign.forward, ours.RoIAlign.construct),  # what calling a module, and a cell, calls
    ):
        expected, actual = (inspect.signature(function).parameters.values() for function in (their, our))
        assert [(p.name, p.kind, p.default) for p in actual] == [(p.name, p.kind, p.default) for p in expected]


@pytest.mark.parametrize("mode", ["PYNATIVE_MODE", "GRAPH_MODE"])
def test_arguments_of_a_call_by_name(ms, ours, request, mode):
    if mode == "GRAPH_MODE":
        request.getfixturevalue("graph_mode")
    features, rois = ms.Tensor(FEATURES), ms.Tensor(BOXES)
    listed = [ms.Tensor(BOXES[:, 1:]), ms.Tensor(BOXES[:0, 1:])]
    cell = ours.RoIAlign((3, 4), 0.5, 2)

    class Head(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.pool = cell

        def construct(self, features, rois):
            return self.pool(features, rois=rois)

    expected = in_torchvision(FEATURES, BOXES, (3, 4), 0.5, 2)
    for output in (cell(features, rois=rois), cell(rois=rois, input=features), Head()(features, rois)):
        assert_same_bits(output.asnumpy(), expected)
    of_one_image = in_torchvision(FEATURES, [BOXES[:, 1:], BOXES[:0, 1:]], (3, 4), 0.5, 2)
    assert_same_bits(cell(features, rois=listed).asnumpy(), of_one_image)


def test_attributes_and_repr_are_torchvisions(ours):
    for arguments in ((7, 0.25, 2), ((7, 5), 1, -1, True)):
        cell, module = ours.RoIAlign(*arguments), torchvision.ops.RoIAlign(*arguments)
        assert repr(cell) == repr(module)
        for name in ("output_size", "spatial_scale", "sampling_ratio", "aligned"):
            assert getattr(cell, name) == getattr(module, name)


def test_defaults_in_a_call(ms, ours):
    output = ours.roi_align(ms.Tensor(FEATURES), ms.Tensor(BOXES), 3)
    assert_same_bits(output.asnumpy(), in_torchvision(FEATURES, BOXES, 3))


LISTS = {
    "a box for each image": [BOXES[:1, 1:], BOXES[1:2, 1:]],
    "none for the first": [BOXES[:0, 1:], BOXES[1:, 1:]],
    "none for the last": [BOXES[:, 1:], BOXES[:0, 1:]],
    "none at all": [BOXES[:0, 1:], BOXES[:0, 1:]],
    "a shorter list": [BOXES[:, 1:]],
}


@pytest.mark.parametrize("listed", LISTS.values(), ids=LISTS)
def test_a_list_or_tuple_of_boxes_for_each_image(ms, ours, listed):
    expected = in_torchvision(FEATURES, listed, (3, 4), 0.5, 2)
    for container in (list, tuple):
        output = ours.RoIAlign((3, 4), 0.5, 2)(ms.Tensor(FEATURES), container(ms.Tensor(part) for part in listed))
        assert_same_bits(output.asnumpy(), expected)


@pytest.mark.parametrize("listed", LISTS.values(), ids=LISTS)
@pytest.mark.usefixtures("graph_mode")
def test_a_list_of_boxes_in_graph_mode(ms, ours, listed):
    expected = in_torchvision(FEATURES, listed, (3, 4), 0.5, 2)
    output = ours.RoIAlign((3, 4), 0.5, 2)(ms.Tensor(FEATURES), [ms.Tensor(part) for part in listed])
    assert_same_bits(output.asnumpy(), expected)


def test_constructor_refuses_what_torchvision_refuses_in_a_call(ours):
    for arguments, match in (((2.5, 0.5, 2), "output_size"), ((2, "1", 2), "spatial_scale"), ((0, 1, 2), "at least 1")):
        with pytest.raises(RuntimeError, match=match):
            ours.RoIAlign(*arguments)


# What is wrong with the call, its error, a part of the message, and whether torchvision raises the same type.
REFUSED = {
    "boxes of 4 columns": (FEATURES, BOXES[:, 1:], AssertionError, "boxes must have shape (K, 5)", True),
    "boxes of 3 dimensions": (FEATURES, BOXES[None], AssertionError, "got (1, 4, 5)", True),
    "boxes of 1 dimension": (FEATURES, BOXES[0], AssertionError, "boxes must have shape (K, 5)", False),
    "a list of 5 columns": (FEATURES, [BOXES], AssertionError, "boxes[0] must have shape (L, 4)", True),
    "an empty list": (FEATURES, [], ValueError, "boxes must hold the boxes of at least one image", True),
    "a list that is too long": (FEATURES, [BOXES[:, 1:]] * 3, RuntimeError, "image index 2.0 is out of range", True),
    "features of 3 dimensions": (FEATURES[0], BOXES, RuntimeError, "input must have 4 dimensions", True),
    "features of 5 dimensions": (FEATURES[None], BOXES, RuntimeError, "input must have 4 dimensions", False),
    "features without a height": (FEATURES[:, :, :0], BOXES, RuntimeError, "at least 1 cell high and wide", False),
    "a bad index": (FEATURES, BOXES + np.float32([1, 0, 0, 0, 0]), RuntimeError, "boxes row 1: image index 2.0", True),
    "float64": (FEATURES.astype(np.float64), BOXES.astype(np.float64), TypeError, "takes float16 and float32", False),
    "integers": (FEATURES.astype(np.int32), BOXES.astype(np.int32), TypeError, "got input Int32", False),
}


@pytest.mark.parametrize(("features", "rois", "error", "message", "same"), REFUSED.values(), ids=REFUSED)
def test_calls_are_refused(ms, ours, features, rois, error, message, same):
    if same:
        with pytest.raises(error):
            in_torchvision(features, rois, 2, 0.5, 2)
    tensors = [ms.Tensor(part) for part in rois] if isinstance(rois, list) else ms.Tensor(rois)
    with pytest.raises(error, match=re.escape(message)):
        ours.roi_align(ms.Tensor(features), tensors, 2, 0.5, 2)


def test_bfloat16_is_refused(ms, ours):
    features, rois = (ms.Tensor(array).astype(ms.bfloat16) for array in (FEATURES, BOXES))
    with pytest.raises(TypeError, match="MindSpore's operator takes float16 and float32, got input BFloat16"):
        ours.roi_align(features, rois, 2)


def test_what_is_no_array_is_refused(ms, ours):
    with pytest.raises(TypeError, match=r"input must be MindSpore's tensor, or .*, got <class 'list'>"):
        ours.roi_align(FEATURES.tolist(), ms.Tensor(BOXES), 2)
    for rois in (BOXES.tolist(), [BOXES[:, 1:].tolist()], None):
        with pytest.raises(AssertionError, match=r"boxes must be a tensor like input, or a list of such tensors, got"):
            ours.roi_align(ms.Tensor(FEATURES), rois, 2)


@pytest.mark.parametrize(
    "name",
    ["boxes of 4 columns", "a list of 5 columns", "features of 3 dimensions", "float64"],
)
@pytest.mark.usefixtures("graph_mode")
def test_calls_are_refused_in_graph_mode_with_the_same_type(ms, ours, name):
    features, rois, error, message, _ = REFUSED[name]
    tensors = [ms.Tensor(part) for part in rois] if isinstance(rois, list) else ms.Tensor(rois)
    with pytest.raises(error, match=re.escape(message)):
        ours.RoIAlign(2, 0.5, 2)(ms.Tensor(features), tensors)


@pytest.mark.parametrize("index", [2, -1, -0.5, np.nan, np.inf])
@pytest.mark.usefixtures("graph_mode")
def test_a_bad_index_is_an_error_in_graph_mode(ms, ours, index):
    rois = BOXES.copy()
    rois[2, 0] = index
    with pytest.raises(RuntimeError, match=r"image_index -1 must be a number in \[0,1\]"):
        ours.RoIAlign(2, 0.5, 2)(ms.Tensor(FEATURES), ms.Tensor(rois)).asnumpy()


def test_nothing_that_torchvision_crashes_on_has_a_value(ms, ours):
    rois = np.array([[0, np.nan, 2, 6, 6], [0, 2, 2, np.inf, 6], [0, -3e38, 2, 3e38, 6], [0, 2, 2, 6, 6]], np.float32)
    for sampling_ratio in (2, -1):
        for aligned in (False, True):
            output = ours.roi_align(ms.Tensor(FEATURES), ms.Tensor(rois), 2, 1.0, sampling_ratio, aligned).asnumpy()
            assert not output[:3].any()
            assert_same_bits(output[3:], in_torchvision(FEATURES, rois[3:], 2, 1.0, sampling_ratio, aligned))


def test_a_cell_around_it_is_saved_and_loaded_without_it(ms, ours, tmp_path):
    class Head(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.convolution = ms.nn.Conv2d(3, 2, 3)
            self.pool = ours.RoIAlign(2, 0.5, 2, aligned=True)

        def construct(self, features, rois):
            return self.pool(self.convolution(features), rois)

    head, other = Head().set_train(), Head().set_train(False)
    assert head.pool.training
    assert [parameter.name for parameter in head.get_parameters()] == ["convolution.weight"]
    ms.save_checkpoint(head, str(tmp_path / "head.ckpt"))
    loaded = ms.load_checkpoint(str(tmp_path / "head.ckpt"), other)
    assert set(loaded) == {"convolution.weight"}
    inputs = ms.Tensor(FEATURES), ms.Tensor(BOXES)
    before = head(*inputs).asnumpy()  # it has pooled once: the operators it made for that are no part of it
    assert_same_bits(other(*inputs).asnumpy(), before)
    assert [parameter.name for parameter in head.get_parameters()] == ["convolution.weight"]
