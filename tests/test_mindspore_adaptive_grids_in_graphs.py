"""Adaptive grids on MindSpore in graphs, which call back for them: torchvision's bits, its gradient and its errors."""

import numpy as np
import pytest
import torch
import torchvision
from features_and_boxes import BOXES, FEATURES, in_torchvision
from helpers import TORCHVISION_EDGE_CASES, assert_same_bits

from ms2torch_roi.parity import operators

pytestmark = pytest.mark.needs_mindspore

EDGES = [case for case in TORCHVISION_EDGE_CASES if case.sampling_ratio <= 0 and case.category == "edge: grids"]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.usefixtures("graph_mode")
def test_graph_mode_has_the_bits_of_torchvision_on_every_adaptive_edge(ms, ours, aligned):
    count = 0
    for case in EDGES:
        if case.aligned == aligned and case.raises is None and case.dtype == np.float32:
            output = ours.RoIAlign(**case.arguments)(ms.Tensor(case.features), ms.Tensor(case.rois)).asnumpy()
            rows = ~case.undefined
            assert_same_bits(output[rows], operators.torchvision(case)[rows])
            count += 1
    assert count > 3


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_one_jitted_function_takes_any_number_of_boxes(ms, ours, dtype):
    @ms.jit
    def pool(features, rois):
        return ours.roi_align(features, rois, (3, 4), 0.5, 0, True)

    features = FEATURES.astype(dtype)
    for count in (4, 1, 0, 3):
        rois = BOXES[:count].astype(dtype)
        output = pool(ms.Tensor(features), ms.Tensor(rois)).asnumpy()
        assert_same_bits(output, in_torchvision(features, rois, (3, 4), 0.5, 0, True))


@pytest.mark.usefixtures("graph_mode")
def test_a_list_of_boxes(ms, ours):
    boxes = [BOXES[:2, 1:], BOXES[2:, 1:]]
    output = ours.RoIAlign(2, 0.5, -1)(ms.Tensor(FEATURES), [ms.Tensor(part) for part in boxes]).asnumpy()
    assert_same_bits(output, in_torchvision(FEATURES, boxes, 2, 0.5, -1, False))


@pytest.mark.parametrize("aligned", [False, True])
def test_the_gradient_has_the_bits_of_torchvision(ms, ours, aligned):
    cells = [ours.RoIAlign(size, 0.5, 0, aligned) for size in ((3, 4), (2, 2))]
    weights = [np.random.default_rng(0).standard_normal((4, 3, *size)).astype(np.float32) for size in ((3, 4), (2, 2))]

    def loss(features, rois, first, second):
        return (cells[0](features, rois) * first).sum() + (cells[1](features, rois) * second).sum()

    gradient = ms.jit(ms.grad(loss))
    actual = gradient(ms.Tensor(FEATURES), ms.Tensor(BOXES), *map(ms.Tensor, weights)).asnumpy()
    of_calls = []
    for size, of_output in zip(((3, 4), (2, 2)), weights, strict=True):
        features = torch.from_numpy(FEATURES).requires_grad_()
        output = torchvision.ops.roi_align(features, torch.from_numpy(BOXES), size, 0.5, 0, aligned)
        output.backward(torch.from_numpy(of_output))
        of_calls.append(features.grad.numpy())
    assert_same_bits(actual, of_calls[0] + of_calls[1])


def test_it_trains_in_a_graph_as_in_pynative_mode(ms, ours):
    convolution = ms.nn.Conv2d(3, 3, 3, has_bias=True)
    pool = ours.RoIAlign((3, 4), 0.5, 0, True)

    def loss(features, rois):
        return (pool(convolution(features), rois) ** 2).sum()

    gradient = ms.grad(loss, None, convolution.trainable_params())
    inputs = ms.Tensor(FEATURES), ms.Tensor(BOXES)
    for of_graph, eager in zip(ms.jit(gradient)(*inputs), gradient(*inputs), strict=True):
        assert eager.asnumpy().any()
        np.testing.assert_allclose(of_graph.asnumpy(), eager.asnumpy(), rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("graph_mode")
def test_errors_are_those_of_pynative_mode(ms, ours):
    inverted, of_no_image = BOXES.copy(), BOXES.copy()
    inverted[1, 3] = -30
    of_no_image[2, 0] = 2
    cell = ours.RoIAlign(2, 0.5, 0)
    with pytest.raises(RuntimeError, match=r"boxes row 2: image index 2\.0 is out of range"):
        cell(ms.Tensor(FEATURES), ms.Tensor(of_no_image)).asnumpy()
    with pytest.raises(RuntimeError, match="the adaptive sampling grid of row 1 is negative"):
        ours.RoIAlign(2, 0.5, 0, aligned=True)(ms.Tensor(FEATURES), ms.Tensor(inverted)).asnumpy()


@pytest.mark.usefixtures("graph_mode")
def test_lengths_that_are_not_known_when_compiling_are_refused(ms, ours):
    class Head(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.pool = ours.RoIAlign(2, 0.5, 0)

        def construct(self, features, rois):
            return self.pool(features, rois)

    head = Head()
    head.set_inputs(ms.Tensor(shape=FEATURES.shape, dtype=ms.float32), ms.Tensor(shape=[None, 5], dtype=ms.float32))
    with pytest.raises(RuntimeError, match="sampling_ratio above 0, or leave out set_inputs, or call this outside"):
        head(ms.Tensor(FEATURES), ms.Tensor(BOXES))


def test_a_second_derivative_is_refused(ms, ours):
    def loss(features, rois):
        return (ours.roi_align(features, rois, 2, 0.5, 0) ** 2).sum()

    def of_gradient(features, rois):
        return (ms.grad(loss)(features, rois) ** 2).sum()

    second = ms.jit(ms.grad(of_gradient))
    with pytest.raises(RuntimeError, match="there is no second derivative"):
        second(ms.Tensor(FEATURES), ms.Tensor(BOXES))
