"""Gradients of RoIAlign and roi_align on MindSpore: torchvision's, in PyNative mode and graph mode."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from features_and_boxes import BOXES, FEATURES, in_torchvision
from helpers import assert_same_bits, run_python
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ms2torch_roi.parity import cases, operators

pytestmark = pytest.mark.needs_mindspore


def gradient_in_torch(features, rois, arguments, weights):
    leaf = torch.from_numpy(features.copy()).requires_grad_()
    torchvision.ops.roi_align(leaf, torch.from_numpy(rois), *arguments).backward(torch.from_numpy(weights))
    return leaf.grad.numpy()


def gradients(ms, ours, features, rois, arguments, weights):
    weights = ms.Tensor(weights)

    def loss(features, rois):
        return (ours.roi_align(features, rois, *arguments) * weights).sum()

    of_features, of_rois = ms.grad(loss, (0, 1))(ms.Tensor(features), ms.Tensor(rois))
    return of_features.asnumpy(), of_rois.asnumpy()


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
@example(6819)  # where torchvision's float16 gradient is a third of what it should be
def test_gradient_has_the_bits_of_torchvisions_on_random_cases(seed):
    from ms2torch_roi import mindspore as ours

    ms = operators.import_mindspore()
    case = cases.random_torchvision_case(seed, 0)
    rois = case.rois[~case.undefined]
    arguments = tuple(case.arguments.values())
    shape = (len(rois), case.features.shape[1], *case.output_size)
    weights = np.random.default_rng(seed).standard_normal(shape).astype(case.dtype)
    expected = gradient_in_torch(case.features, rois, arguments, weights)
    actual, of_rois = gradients(ms, ours, case.features, rois, arguments, weights)
    assert not of_rois.any()
    assert_same_bits(actual, expected)


# In graph mode MindSpore's operator adds up products of up to a few hundred weights, in an order of its own.
GRADIENT_BOUND = {"float32": 5e-6, "float16": 0.05}


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.usefixtures("graph_mode")
def test_gradient_is_torchvisions_in_graph_mode(ms, ours, dtype, aligned):
    features, rois = FEATURES.astype(dtype), np.concatenate((BOXES, np.zeros((1, 5)))).astype(dtype)
    weights = np.random.default_rng(1).standard_normal((5, 3, 3, 4)).astype(dtype)
    expected = gradient_in_torch(features, rois, ((3, 4), 0.5, 2, aligned), weights)
    actual, of_rois = gradients(ms, ours, features, rois, ((3, 4), 0.5, 2, aligned), weights)
    assert not of_rois.any()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=GRADIENT_BOUND[dtype] * np.abs(expected).max())


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [2, -1])
def test_gradient_is_the_finite_difference(ms, ours, sampling_ratio, aligned):
    # The operator is linear in the features: a difference over a step of any size is its derivative, up to rounding.
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((4, 3, 3, 4)).astype(np.float32)
    arguments = ((3, 4), 0.5, sampling_ratio, aligned)
    gradient, _ = gradients(ms, ours, FEATURES, BOXES, arguments, weights)

    def loss(features):
        pooled = ours.roi_align(ms.Tensor(features), ms.Tensor(BOXES), *arguments).asnumpy()
        return float((pooled.astype(np.float64) * weights).sum())

    for _ in range(10):
        step = rng.standard_normal(FEATURES.shape).astype(np.float32)
        difference = loss(FEATURES + step) - loss(FEATURES)
        assert difference == pytest.approx(float((gradient.astype(np.float64) * step).sum()), rel=0, abs=1e-4)


def test_gradient_is_not_the_one_of_mindspores_mode_0(ms, ours):
    """FACTS: MindSpore's own backward of mode 0, which computes the forward here, is off by 1 and more."""
    weights = np.ones((4, 3, 3, 4), np.float32)
    actual, _ = gradients(ms, ours, FEATURES, BOXES, ((3, 4), 0.5, 2, False), weights)
    operator = ms.ops.ROIAlign(3, 4, 0.5, 2, 0)
    naive = ms.grad(lambda features: operator(features, ms.Tensor(BOXES)).sum())(ms.Tensor(FEATURES)).asnumpy()
    assert np.abs(naive - actual).max() > 0.1


def test_the_gradient_does_not_depend_on_features_that_are_not_finite(ms, ours):
    features = FEATURES.copy()
    features[0, 0, 0, 0] = np.inf  # 0 times which samples outside add
    weights = np.random.default_rng(3).standard_normal((4, 3, 2, 2)).astype(np.float32)
    expected = gradient_in_torch(features, BOXES, (2, 0.5, 2, True), weights)
    actual, _ = gradients(ms, ours, features, BOXES, (2, 0.5, 2, True), weights)
    assert_same_bits(actual, expected)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("mode", ["PYNATIVE_MODE", "GRAPH_MODE"])
def test_configurations_that_mindspores_cache_takes_for_each_other(ms, ours, mode, aligned):
    """Forward and backward, in one process; see tests/test_facts.py for what MindSpore does in PyNative mode."""
    for pooled in ((3, 31), (33, 1), (1, 12), (11, 2)):
        arguments = (pooled, 0.5, 2, aligned)
        weights = np.random.default_rng(4).standard_normal((4, 3, *pooled)).astype(np.float32)
        expected = gradient_in_torch(FEATURES, BOXES, arguments, weights)
        ms.set_context(mode=getattr(ms, mode))
        try:
            output = ours.RoIAlign(*arguments)(ms.Tensor(FEATURES), ms.Tensor(BOXES)).asnumpy()
            actual, _ = gradients(ms, ours, FEATURES, BOXES, arguments, weights)
        finally:
            ms.set_context(mode=ms.PYNATIVE_MODE)
        assert_same_bits(output, in_torchvision(FEATURES, BOXES, *arguments))
        bound = 0 if mode == "PYNATIVE_MODE" else GRADIENT_BOUND["float32"]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=bound * np.abs(expected).max())


@pytest.mark.parametrize("aligned", [False, True])
def test_float16_boxes_far_larger_than_the_features_have_a_gradient_in_pynative_mode_only(ms, ours, aligned):
    features, rois = FEATURES.astype(np.float16), np.array([[0, -3e3, -3e3, 3e3, 3e3]], np.float16)
    arguments, weights = (1, 1.0, 1, aligned), np.ones((1, 3, 1, 1), np.float16)
    expected = gradient_in_torch(features, rois, arguments, weights)
    assert expected.any()
    actual, _ = gradients(ms, ours, features, rois, arguments, weights)
    assert_same_bits(actual, expected)
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        actual, _ = gradients(ms, ours, features, rois, arguments, weights)
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    assert not actual.any()


OBLONG = np.array([[0, 1, 1, 2, 9]], np.float32)  # its adaptive grid is not as wide as high


@pytest.mark.parametrize("sampling_ratio", [2, -1])
def test_a_second_derivative_is_refused(ms, ours, sampling_ratio):
    def loss(features):
        return (ours.roi_align(features, ms.Tensor(OBLONG), 2, 1.0, sampling_ratio, True) ** 2).sum()

    def penalty(features):
        return (ms.grad(loss)(features) ** 2).sum()

    with pytest.raises(RuntimeError, match=r"no second derivative|bprop not defined"):
        ms.grad(penalty)(ms.Tensor(FEATURES)).asnumpy()


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_stays_in_the_cells_of_its_bin(ms, ours, value):
    weights = np.random.default_rng(8).standard_normal((1, 3, 2, 2)).astype(np.float32)
    weights[0, 0, 0, 0] = value
    expected = gradient_in_torch(FEATURES, OBLONG, (2, 1.0, -1, True), weights)
    actual, _ = gradients(ms, ours, FEATURES, OBLONG, (2, 1.0, -1, True), weights)
    assert 0 < (~np.isfinite(expected)).sum() < 20
    assert_same_bits(actual, expected)


# Training for a while, with boxes that change; prints by how many KiB each step has made the process larger.
STEPS = """
import gc, os, sys
import numpy as np
from ms2torch_roi.parity import operators
ms = operators.import_mindspore()
from ms2torch_roi import roi_align

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

dtype, sampling_ratio, aligned, first = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True", float(sys.argv[4])
rng = np.random.default_rng(0)
features = rng.standard_normal((1, 2, 20, 20)).astype(dtype)
features[0, 0, 0, 0] = first
weight = ms.Parameter(ms.Tensor(np.ones((1, 2, 1, 1), dtype)), name="weight")
features = ms.Tensor(features)

def loss(features, boxes):
    return roi_align(features * weight, boxes, (3, 3), 1.0, sampling_ratio, aligned).sum()

train = ms.value_and_grad(loss, None, [weight])

def steps(count):
    for _ in range(count):
        start = rng.uniform(0, 10, (48, 2))
        boxes = np.concatenate((np.zeros((48, 1)), start, start + rng.uniform(0.2, 9, (48, 2))), axis=1)
        train(features, ms.Tensor(boxes.astype(dtype)))
    gc.collect()

steps(40)
before = resident()
steps(150)
print((resident() - before) / 2**10 / 150)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not say how large a process is")
@pytest.mark.parametrize(
    ("dtype", "sampling_ratio", "aligned", "first"),
    [("float32", -1, False, 0.0), ("float32", -1, True, 0.0), ("float16", 2, True, 0.0), ("float32", 2, False, np.nan)],
    ids=["adaptive", "adaptive, aligned", "float16, aligned", "a first pixel that is NaN"],
)
def test_a_step_of_training_keeps_nothing(dtype, sampling_ratio, aligned, first):
    result = run_python(STEPS, dtype, str(sampling_ratio), str(aligned), str(first))
    assert result.returncode == 0, result.stderr
    # MindSpore's own operator alone keeps 4 to 6 KiB a step, and 40 more if it keeps an operator for a constant.
    assert float(result.stdout.splitlines()[-1]) < 20
