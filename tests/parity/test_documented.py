"""The example of MindSpore's page "Differences with torchvision.ops.roi_align", as the page has it."""

import numpy as np
import pytest
import torch
import torchvision
from helpers import assert_same_bits

import ms2torch_roi
from ms2torch_roi import ROIAlign, reference
from ms2torch_roi.parity import cases, operators, verdicts

pooled_height, pooled_width, spatial_scale, sample_num = 3, 3, 0.25, 2
features = np.array([[[[1.0, 2.0], [3.0, 4.0]]]]).astype(np.float32)
rois = np.array([[0, 0.2, 0.3, 0.2, 0.3]]).astype(np.float32)

PRINTED_BY_TORCH = """\
tensor([[[[1.7000, 2.0333, 2.3667],
          [2.3667, 2.7000, 3.0333],
          [3.0333, 3.3667, 3.7000]]]])"""
PRINTED_BY_MINDSPORE = """\
[[[[1.7       2.0333333 2.3666668]
   [2.3666668 2.7       3.0333335]
   [3.0333333 3.3666668 3.7      ]]]]"""


def test_torchvision_prints_what_the_page_prints():
    output = torchvision.ops.roi_align(
        torch.from_numpy(features), torch.from_numpy(rois), (pooled_height, pooled_width), spatial_scale, sample_num, 0
    )
    assert repr(output) == PRINTED_BY_TORCH


@pytest.mark.needs_mindspore
def test_mindspore_prints_what_the_page_prints():
    ms = operators.import_mindspore()
    roi_align = ms.ops.ROIAlign(pooled_height, pooled_width, spatial_scale, sample_num, 0)
    output = roi_align(ms.Tensor(features), ms.Tensor(rois))
    assert str(output.asnumpy()) == PRINTED_BY_MINDSPORE


def test_the_port_prints_what_the_page_prints():
    roi_align = ROIAlign(pooled_height, pooled_width, spatial_scale, sample_num, 0)
    output = roi_align(torch.from_numpy(features), torch.from_numpy(rois))
    assert repr(output) == PRINTED_BY_TORCH
    assert str(output.numpy()) == PRINTED_BY_MINDSPORE


@pytest.mark.needs_mindspore
def test_the_port_back_prints_what_the_page_prints():
    ms = operators.import_mindspore()
    output = ms2torch_roi.roi_align(
        ms.Tensor(features), ms.Tensor(rois), (pooled_height, pooled_width), spatial_scale, sample_num, aligned=False
    )
    assert str(output.asnumpy()) == PRINTED_BY_MINDSPORE


def test_the_reference_prints_what_the_page_prints():
    output = reference.ms_roi_align(features, rois, pooled_height, pooled_width, spatial_scale, sample_num, 0)
    assert str(output) == PRINTED_BY_MINDSPORE
    output = reference.tv_roi_align(features, rois, (pooled_height, pooled_width), spatial_scale, sample_num, False)
    assert str(output) == PRINTED_BY_MINDSPORE


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("case", cases.documented_cases(), ids=lambda case: case.name)
def test_the_check_runs_the_same_example(case):
    np.testing.assert_array_equal(case.features, features)
    np.testing.assert_array_equal(case.rois, rois)
    if case.direction == "to-torch":
        assert tuple(case.arguments.values())[:4] == (pooled_height, pooled_width, spatial_scale, sample_num)
    else:
        assert tuple(case.arguments.values())[:3] == ((pooled_height, pooled_width), spatial_scale, sample_num)
    verdict = verdicts.judge(case, operators.original(case), operators.port(case))
    assert verdict.passed, verdict
    assert verdict.values == 9


def test_the_modes_differ_on_the_example():
    outputs = [operators.reference(case) for case in cases.documented_cases()]
    assert (outputs[0] != outputs[1]).any()
    assert (outputs[2] != outputs[3]).any()
    assert_same_bits(outputs[0], outputs[2])
