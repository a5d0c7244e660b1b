"""Constructor arguments: refused as MindSpore refuses them, which is asked where it is installed."""

import re

import numpy as np
import pytest
from helpers import assert_same_bits

from ms2torch_roi import ROIAlign, params, reference
from ms2torch_roi.parity import operators

REFUSED = [
    ((2.0, 2, 0.5), TypeError, r"pooled_height must be of type int, got 2.0 \(float\)"),
    ((True, 2, 0.5), TypeError, r"pooled_height must be of type int, got True \(bool\)"),
    ((2, np.int64(2), 0.5), TypeError, r"pooled_width must be of type int, got .*2.* \(int64\)"),
    ((2, "2", 0.5), TypeError, r"pooled_width must be of type int, got '2' \(str\)"),
    ((2, 2, 1), TypeError, r"spatial_scale must be of type float, got 1 \(int\)"),
    ((2, 2, np.float32(0.5)), TypeError, r"spatial_scale must be of type float, got .*0.5.* \(float32\)"),
    ((2, 2, True), TypeError, r"spatial_scale must be of type float, got True \(bool\)"),
    ((2, 2, 0.5, 2.0), TypeError, r"sample_num must be of type int, got 2.0 \(float\)"),
    ((2, 2, 0.5, True), TypeError, r"sample_num must be of type int, got True \(bool\)"),
    ((2, 2, 0.5, 2, True), TypeError, r"roi_end_mode must be of type int, got True \(bool\)"),
    ((2, 2, 0.5, 2, 1.0), TypeError, r"roi_end_mode must be of type int, got 1.0 \(float\)"),
    ((2, 2, 0.5, 2, 2), ValueError, r"roi_end_mode must be 0 or 1, got 2"),
    ((2, 2, 0.5, 2, -1), ValueError, r"roi_end_mode must be 0 or 1, got -1"),
    # torchvision's call, and detectron2's.
    (((7, 7), 0.25, 0), TypeError, r"pooled_height must be of type int, got \(7, 7\) \(tuple\)\. .*RoIAlign\(output_"),
    (([7, 7], 0.25, 0, True), TypeError, r"pooled_height must .* got \[7, 7\] \(list\)\. .*RoIAlign\(output_size"),
    ((7, 0.25, 0), TypeError, r"pooled_width must be of type int, got 0.25 \(float\)\. .*RoIAlign\(output_size"),
]
# MindSpore takes these, and fails when it is called.
REFUSED_IN_CALL = [
    ((0, 2, 0.5), RuntimeError, "pooled height and width must be at least 1, got 0 and 2"),
    ((2, -1, 0.5), RuntimeError, "pooled height and width must be at least 1, got 2 and -1"),
    ((2**31, 2, 0.5), RuntimeError, r"would take about .* minutes and .* GiB: .* allowed are 12 minutes, and 4 GiB"),
    ((2, 2, 0.5, 2**31), RuntimeError, r"would take about .* minutes and .* GiB: .* allowed are 12 minutes, and 4 GiB"),
]
ACCEPTED = [
    (2, 3, 0.5),
    (2, 3, np.float64(0.5)),
    (2, 3, 0.5, -7),
    (2, 3, 0.0),
    (2, 3, -0.5),
    (2, 3, float("inf")),
    (2, 3, float("nan")),
]
FEATURES = np.random.default_rng(0).standard_normal((2, 3, 11, 14)).astype(np.float32)
ROIS = np.array([[1, 2, 3, 17, 14], [0, 6, 6, 7.2, 6.8]], np.float32)


def _id(value):
    return repr(value) if isinstance(value, tuple) else None


@pytest.mark.parametrize(("arguments", "error", "match"), REFUSED + REFUSED_IN_CALL, ids=_id)
def test_arguments_are_refused_at_construction(arguments, error, match):
    with pytest.raises(error, match=match):
        ROIAlign(*arguments)
    with pytest.raises(error, match=match):
        reference.ms_roi_align(FEATURES, ROIS, *arguments)


@pytest.mark.needs_mindspore
@pytest.mark.parametrize(("arguments", "error"), [row[:2] for row in REFUSED], ids=_id)
def test_mindspore_refuses_them_at_construction_with_the_same_type(arguments, error):
    ms = operators.import_mindspore()
    with pytest.raises(error):
        ms.ops.ROIAlign(*arguments)


@pytest.mark.needs_mindspore
@pytest.mark.parametrize(("arguments", "error"), [row[:2] for row in REFUSED_IN_CALL], ids=_id)
def test_mindspore_refuses_them_when_called_with_the_same_type(arguments, error):
    ms = operators.import_mindspore()
    operator = ms.ops.ROIAlign(*arguments)
    with pytest.raises(error):
        operator(ms.Tensor(FEATURES), ms.Tensor(ROIS)).asnumpy()


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("arguments", ACCEPTED, ids=_id)
def test_what_mindspore_accepts_is_accepted(arguments):
    import torch

    ms = operators.import_mindspore()
    operator = ms.ops.ROIAlign(*arguments)
    operator.add_prim_attr("arguments", repr(arguments))
    expected = operator(ms.Tensor(FEATURES), ms.Tensor(ROIS)).asnumpy()
    assert_same_bits(ROIAlign(*arguments)(torch.from_numpy(FEATURES), torch.from_numpy(ROIS)).numpy(), expected)


def test_defaults_are_mindspores():
    assert_same_bits(
        reference.ms_roi_align(FEATURES, ROIS, 2, 2, 0.5), reference.ms_roi_align(FEATURES, ROIS, 2, 2, 0.5, 2, 1)
    )
    op = ROIAlign(2, 2, 0.5)
    assert (op.sample_num, op.roi_end_mode) == (2, 1)


@pytest.mark.needs_mindspore
def test_mindspores_defaults_are_those():
    ms = operators.import_mindspore()
    op = ms.ops.ROIAlign(2, 2, 0.5)
    assert (op.sample_num, op.roi_end_mode) == (2, 1)


NUMBERS = [
    (3, (3, 3)),
    ((2, 3), (2, 3)),
    ([2, 3], (2, 3)),
    (np.int64(3), (3, 3)),
    (np.array([2, 3]), (2, 3)),
]


@pytest.mark.parametrize(("output_size", "pooled"), NUMBERS, ids=_id)
def test_output_sizes_that_torchvision_takes(output_size, pooled):
    import torch
    import torchvision

    features, rois = torch.from_numpy(FEATURES), torch.from_numpy(ROIS)
    assert torchvision.ops.roi_align(features, rois, output_size, 0.5, 2).shape[2:] == pooled
    assert params.torchvision_arguments(output_size, np.float32(0.5), np.int32(2), 1) == (pooled, 0.5, 2, True)


REFUSED_BY_TORCHVISION = [
    (("ab", 0.5, 2, False), "output_size must be an int or a pair of ints, got 'ab' (str)"),
    ((2.0, 0.5, 2, False), "output_size must be an int or a pair of ints, got 2.0 (float)"),
    (((2, 2.5), 0.5, 2, False), "output_size must be an int or a pair of ints, got (2, 2.5) (tuple)"),
    ((None, 0.5, 2, False), "output_size must be an int or a pair of ints, got None (NoneType)"),
    ((2, "1", 2, False), "spatial_scale must be a number, got '1' (str)"),
    ((2, None, 2, False), "spatial_scale must be a number, got None (NoneType)"),
    ((2, 0.5, 2.0, False), "sampling_ratio must be an int, got 2.0 (float)"),
    ((7, 7, 0.25, 2), "sampling_ratio must be an int, got 0.25 (float). MindSpore's call is ROIAlign(pooled_height,"),
    ((2, 0.5, 2, "yes"), "aligned must be a bool, got 'yes' (str)"),
    (((-1, 2), 0.5, 2, False), "pooled height and width must be at least 1, got -1 and 2"),
    (
        (2, 0.5, 40000, False),
        "roi_align: 2 x 2 bins of 40000 x 40000 samples would take about 9.6 minutes and 3.8e+02 GiB",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED_BY_TORCHVISION, ids=_id)
def test_torchvisions_arguments_are_refused_with_its_type(arguments, message):
    import torch
    import torchvision

    with pytest.raises(RuntimeError):
        torchvision.ops.roi_align(torch.from_numpy(FEATURES), torch.from_numpy(ROIS), *arguments)
    with pytest.raises(RuntimeError, match=re.escape(message)):
        params.torchvision_arguments(*arguments)


@pytest.mark.parametrize("output_size", [0, (2, 0), (2, 2, 2), (2,)])
def test_output_sizes_that_torchvision_takes_for_something_else_are_refused(output_size):
    with pytest.raises(RuntimeError, match=r"output_size must be|must be at least 1"):
        params.torchvision_arguments(output_size, 0.5, 2, False)


def test_a_list_of_boxes_for_each_image_is_told_what_to_do():
    with pytest.raises(TypeError, match=r"rois must be a numpy.ndarray, got list: concatenate to \(K, 5\).* RoIAlign"):
        reference.ms_roi_align(FEATURES, [ROIS[:, 1:]], 2, 2, 0.5)
