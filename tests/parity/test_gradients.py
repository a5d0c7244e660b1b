"""Gradients of ROIAlign on torch against those of MindSpore, bit for bit."""

import itertools

import numpy as np
import pytest
import torch
from helpers import MINDSPORE_EDGE_CASES, assert_same_bits

from ms2torch_roi import ROIAlign
from ms2torch_roi.parity import cases, operators

pytestmark = pytest.mark.needs_mindspore


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
    assert_same_bits(gradient_in_torch(case, weights), operators.original_gradient(case, weights))


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
    assert (sum(gradient_in_torch(case, half) for half in halves) != operators.original_gradient(case, weights)).any()
