"""RoIAlign and roi_align under mindspore.vmap: the bits of one call after another."""

import numpy as np
import pytest
from helpers import assert_same_bits

pytestmark = pytest.mark.needs_mindspore

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((3, 2, 2, 8, 9)).astype(np.float32)
BOXES = np.concatenate((RNG.integers(0, 2, (3, 4, 1)), RNG.uniform(-2, 9, (3, 4, 4))), 2).astype(np.float32)


def along(array, axis):
    """Return the array with what is mapped over on this axis, or one of it if that is None, and one for each call."""
    if axis is None:
        return array[0], [array[0]] * len(array)
    return np.ascontiguousarray(np.moveaxis(array, 0, axis)), array


@pytest.mark.parametrize(
    ("in_axes", "aligned", "dtype"),
    [
        ((0, 0), False, "float32"),
        ((0, None), True, "float16"),
        ((None, 0), False, "float32"),
        ((1, 2), True, "float32"),
    ],
)
def test_each_call_has_its_bits(ms, ours, in_axes, aligned, dtype):
    cell = ours.RoIAlign((2, 3), 1.0, 2, aligned)
    inputs, calls = zip(*map(along, (FEATURES.astype(dtype), BOXES.astype(dtype)), in_axes), strict=True)
    output = ms.vmap(cell, in_axes)(*map(ms.Tensor, inputs)).asnumpy()
    expected = [cell(*map(ms.Tensor, call)).asnumpy() for call in zip(*calls, strict=True)]
    assert_same_bits(output, np.stack(expected))


@pytest.mark.parametrize("in_axes", [(0, (0, 0)), (0, None)])
def test_lists_of_boxes(ms, ours, in_axes):
    cell = ours.RoIAlign((2, 3), 1.0, 2)
    listed = [ms.Tensor(BOXES[..., 1:]), ms.Tensor(BOXES[:, :2, 1:])]
    calls = [[part[n] for part in listed] for n in range(3)]
    if in_axes[1] is None:
        listed = calls[0]
        calls = [listed] * 3
    output = ms.vmap(cell, in_axes)(ms.Tensor(FEATURES), tuple(listed)).asnumpy()
    expected = [cell(ms.Tensor(features), call).asnumpy() for features, call in zip(FEATURES, calls, strict=True)]
    assert_same_bits(output, np.stack(expected))


@pytest.mark.parametrize("in_axes", [(0, 0), (0, None)])
def test_the_gradient_of_each_call(ms, ours, in_axes):
    cell = ours.RoIAlign((2, 3), 1.0, 2)

    def loss(features, rois):
        return (cell(features, rois) ** 2).sum()

    gradient = ms.grad(loss)
    inputs, calls = zip(*map(along, (FEATURES, BOXES), in_axes), strict=True)
    actual = ms.vmap(gradient, in_axes)(*map(ms.Tensor, inputs)).asnumpy()
    expected = np.stack([gradient(*map(ms.Tensor, call)).asnumpy() for call in zip(*calls, strict=True)])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


def test_a_gradient_from_outside_is_refused_by_mindspore(ms, ours):
    cell = ours.RoIAlign((2, 3), 1.0, 2)

    def loss(features, rois):
        return ms.vmap(cell, (0, 0))(features, rois).sum()

    with pytest.raises(TypeError, match="params of function 'bprop'"):
        ms.grad(loss)(ms.Tensor(FEATURES), ms.Tensor(BOXES))


def test_adaptive_grids_have_the_bits_of_a_loop(ms, ours):
    cell = ours.RoIAlign((2, 3), 1.0, -1)
    output = ms.vmap(cell, (0, 0))(ms.Tensor(FEATURES), ms.Tensor(BOXES)).asnumpy()
    calls = zip(FEATURES, BOXES, strict=True)
    assert_same_bits(output, np.stack([cell(*map(ms.Tensor, call)).asnumpy() for call in calls]))
