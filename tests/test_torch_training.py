"""ROIAlign as a part of models that torch trains: gradients, autocast, checkpoints, function transforms."""

import copy

import numpy as np
import pytest
import torch
from helpers import Head, assert_same_bits
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from ms2torch_roi import ROIAlign

IMAGES = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 20, 30)).astype(np.float32))
# Of many cells, of less than one, over the edge, and padding.
ROIS = torch.tensor([[0, 9, 7, 40, 33], [1, 20.3, 5, 20.5, 5.2], [1, -8, 30, 50, 60], [0, 0, 0, 0, 0]])


def gradient(op, features=IMAGES, rois=ROIS):
    features = features.clone().requires_grad_()
    output = op(features, rois)
    output.backward(torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape))
    return features.grad


def gradients_of(head, run):
    head.zero_grad()
    run(head).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in head.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("backward_mode", [0, 1])
def test_the_gradient_is_that_of_the_backward_mode_and_the_output_is_not(mode, backward_mode, dtype):
    features, rois = IMAGES.to(dtype), ROIS.to(dtype)
    op = ROIAlign(3, 2, 0.25, 2, mode, backward_roi_end_mode=backward_mode)
    assert_same_bits(op(features, rois).numpy(), ROIAlign(3, 2, 0.25, 2, mode)(features, rois).numpy())
    expected = gradient(ROIAlign(3, 2, 0.25, 2, backward_mode), features, rois)
    assert_same_bits(gradient(op, features, rois).numpy(), expected.numpy())
    other = gradient(ROIAlign(3, 2, 0.25, 2, 1 - backward_mode), features, rois)
    assert (expected - other).abs().max() > 0.1


def test_forward_mode_differentiation_is_refused_rather_than_lost():
    op = ROIAlign(3, 2, 0.25)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        op(forward_ad.make_dual(IMAGES, torch.ones_like(IMAGES)), ROIS)


def test_backward_mode_is_shown_where_it_is_given():
    assert "backward" not in repr(ROIAlign(3, 2, 0.25))
    op = ROIAlign(3, 2, 0.25, 2, 0, backward_roi_end_mode=1)
    assert repr(op).endswith("roi_end_mode=0, backward_roi_end_mode=1)")
    assert (op.roi_end_mode, op.backward_roi_end_mode, copy.deepcopy(op).backward_roi_end_mode) == (0, 1, 1)


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [(2, ValueError, "must be None, 0 or 1, got 2"), (True, TypeError, r"must be of type int, got True \(bool\)")],
)
def test_backward_mode_is_validated(value, error, match):
    with pytest.raises(error, match=f"backward_roi_end_mode {match}"):
        ROIAlign(3, 2, 0.25, backward_roi_end_mode=value)


@pytest.mark.parametrize("sample_num", [2, 0])
def test_second_order_is_refused(sample_num):
    features = IMAGES.clone().requires_grad_()
    output = ROIAlign(3, 2, 0.25, sample_num)(features, ROIS[:1])
    (first,) = torch.autograd.grad(output.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()


def test_a_gradient_can_be_computed_again():
    features = IMAGES.clone().requires_grad_()
    loss = ROIAlign(3, 2, 0.25)(features, ROIS).square().sum()
    once, again = (torch.autograd.grad(loss, features, retain_graph=True)[0] for _ in range(2))
    assert_same_bits(again.numpy(), once.numpy())


def test_rois_may_be_written_to_before_the_gradient_and_come_from_inference_mode():
    with torch.inference_mode():
        rois = ROIS.clone()

    def pool_and_spoil(features, rois):
        output = ROIAlign(3, 2, 0.25)(features, rois)
        rois.zero_()
        return output

    expected = gradient(ROIAlign(3, 2, 0.25), IMAGES, rois)
    assert_same_bits(gradient(pool_and_spoil, IMAGES, ROIS.clone()).numpy(), expected.numpy())


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(use_reentrant):
    head = Head()
    images = IMAGES.clone().requires_grad_()  # without which the reentrant kind has no gradient
    expected = gradients_of(head, lambda head: head(images, ROIS))
    actual = gradients_of(head, lambda head: checkpoint(head, images, ROIS, use_reentrant=use_reentrant))
    for name, value in expected.items():
        assert_same_bits(actual[name].numpy(), value.numpy())


def test_functional_call():
    head = Head()
    parameters = {name: value.detach() * 2 for name, value in head.named_parameters()}
    other = Head()
    other.load_state_dict(parameters)
    actual = torch.func.functional_call(head, parameters, (IMAGES, ROIS))
    assert_same_bits(actual.detach().numpy(), other(IMAGES, ROIS).detach().numpy())


# Autocast.


def test_autocast_trains_in_bfloat16_and_pools_in_float32():
    head = Head()
    expected = gradients_of(head, lambda head: head(IMAGES, ROIS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = head.convolution(IMAGES)
        pooled = head.pool(features, ROIS)
        actual = gradients_of(head, lambda head: head(IMAGES, ROIS))
    assert features.dtype == pooled.dtype == torch.bfloat16
    assert_same_bits(
        pooled.float().detach().numpy(), head.pool(features.float(), ROIS).bfloat16().float().detach().numpy()
    )
    for name, value in expected.items():  # bfloat16 has 8 bits, and rounds in every layer
        torch.testing.assert_close(actual[name], value, rtol=0, atol=0.05 * value.abs().max().item())


@pytest.mark.parametrize("sample_num", [2, 0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_autocast_changes_no_bit(dtype, sample_num):
    op, features, rois = ROIAlign(3, 2, 0.25, sample_num), IMAGES.to(dtype), ROIS.to(dtype)
    expected, expected_gradient = op(features, rois), gradient(op, features, rois)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, actual_gradient = op(features, rois), gradient(op, features, rois)
    assert_same_bits(output.numpy(), expected.numpy())
    assert_same_bits(actual_gradient.numpy(), expected_gradient.numpy())
