"""Gradients of ROIAlign on torch against those of MindSpore, bit for bit."""

import itertools

import numpy as np
import pytest
import torch
from helpers import MINDSPORE_EDGE_CASES, assert_same_bits

from ms2torch_roi import ROIAlign
from ms2torch_roi.parity import cases, operators

pytestmark = pytest.mark.needs_mindspore

_numbers = itertools.count()


def gradient_in_mindspore(case, weights):
    """Run the operator that mindspore.grad runs for ROIAlign, in the dtype that it runs it in."""
    ms = operators.import_mindspore()
    from mindspore.ops.operations._grad_ops import ROIAlignGrad

    operator = ROIAlignGrad(case.pooled_height, case.pooled_width, case.spatial_scale, case.sample_num)
    # MindSpore tries out numbers of threads in successive calls of an operator, and with threads the order in which it
    # adds changes from call to call. The first call of a new operator takes one thread.
    operator.add_prim_attr("arguments", f"number {next(_numbers)} of test_gradients")
    gradient, rois = (ms.Tensor(array.astype(case.dtype)) for array in (weights, case.rois))
    return operator(gradient, rois, case.features.shape).asnumpy().astype(case.features.dtype)


def gradient_in_torch(case, weights, backward_roi_end_mode=1):
    features = torch.from_numpy(case.features).requires_grad_()
    op = ROIAlign(**case.arguments, backward_roi_end_mode=backward_roi_end_mode)
    op(features, torch.from_numpy(case.rois)).backward(torch.from_numpy(weights))
    return features.grad.numpy()


def weights_of(case):
    shape = (len(case.rois), case.features.shape[1], case.pooled_height, case.pooled_width)
    return np.random.default_rng(0).standard_normal(shape).astype(case.features.dtype)


def assert_mindspores_gradient(case):
    weights = weights_of(case)
    assert_same_bits(gradient_in_torch(case, weights), gradient_in_mindspore(case, weights))


@pytest.mark.parametrize("number", range(150))
def test_random_case(number):
    assert_mindspores_gradient(cases.random_case(5, number))


@pytest.mark.parametrize(
    "case",
    [case for case in MINDSPORE_EDGE_CASES if case.raises is None and len(case.rois)],
    ids=lambda case: case.name,
)
def test_edge(case):
    assert_mindspores_gradient(case)


def test_mode_1_needs_no_argument_for_it():
    case = next(case for case in map(cases.random_case, itertools.repeat(5), range(99)) if case.roi_end_mode == 1)
    weights = weights_of(case)
    assert_same_bits(gradient_in_torch(case, weights, None), gradient_in_torch(case, weights, 1))


def test_another_order_has_other_bits():
    case = next(case for case in map(cases.random_case, itertools.repeat(5), range(99)) if case.dtype == np.float16)
    weights = weights_of(case)
    halves = [weights.copy(), weights.copy()]
    halves[0][::2] = halves[1][1::2] = 0
    assert (sum(gradient_in_torch(case, half) for half in halves) != gradient_in_mindspore(case, weights)).any()
