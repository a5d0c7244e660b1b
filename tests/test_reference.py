import numpy as np
import pytest
import torch
import torchvision
from helpers import MINDSPORE_EDGE_CASES, TORCHVISION_EDGE_CASES, assert_same_bits, examples
from hypothesis import given
from hypothesis import strategies as st

from ms2torch_roi import reference, rules, sampling
from ms2torch_roi.parity import cases, operators, verdicts

FEATURES = np.ones((2, 3, 11, 14), np.float32)
ROIS = np.array([[0, 2, 3, 7, 9]], np.float32)


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("case", MINDSPORE_EDGE_CASES, ids=lambda case: case.name)
def test_ms_roi_align_is_mindspore_on_every_edge(case):
    verdict = verdicts.judge(
        case, operators.outcome(operators.mindspore, case), operators.outcome(operators.reference, case)
    )
    assert verdict.passed, verdict


@pytest.mark.needs_mindspore
@examples(150)
@given(seed=st.integers(0, 2**32 - 1))
def test_ms_roi_align_is_mindspore_on_random_cases(seed):
    case = cases.random_case(seed, 0)
    verdict = verdicts.judge(case, operators.mindspore(case), operators.reference(case))
    assert verdict.passed, verdict


@pytest.mark.parametrize("case", TORCHVISION_EDGE_CASES, ids=lambda case: case.name)
def test_tv_roi_align_is_torchvision_on_every_edge(case):
    verdict = verdicts.judge(
        case, operators.outcome(operators.torchvision, case), operators.outcome(operators.reference, case)
    )
    assert verdict.passed, verdict


def _in_torchvision(features, rois, *arguments):
    return torchvision.ops.roi_align(torch.from_numpy(features), torch.from_numpy(rois), *arguments).numpy()


@examples(300)
@given(
    seed=st.integers(0, 2**32 - 1), aligned=st.booleans(), dtype=st.sampled_from((np.float16, np.float32, np.float64))
)
def test_tv_roi_align_is_torchvision_on_random_cases(seed, aligned, dtype):
    case = cases.random_case(seed, 0)
    # torchvision crashes on boxes that are not finite, and refuses adaptive grids of inverted ones.
    with np.errstate(invalid="ignore"):
        rois = case.rois[(np.abs(case.rois) < 1e3).all(1)].astype(dtype)
    if case.sample_num <= 0:
        rois = rois[(rois[:, 3:] >= rois[:, 1:3]).all(1)]
    features = case.features.astype(dtype)
    arguments = ((case.pooled_height, case.pooled_width), case.spatial_scale, case.sample_num, aligned)
    assert_same_bits(reference.tv_roi_align(features, rois, *arguments), _in_torchvision(features, rois, *arguments))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("aligned", [False, True])
def test_tv_roi_align_adds_0_times_the_first_pixel_outside(value, aligned):
    features = np.random.default_rng(0).standard_normal((2, 3, 11, 14)).astype(np.float32)
    features[0, :, 0, 0] = value
    rois = np.array([[0, -9, -9, 9, 9], [0, 2, 2, 9, 9], [1, -9, -9, 9, 9], [0, 40, 40, 50, 50]], np.float32)
    expected = _in_torchvision(features, rois, (2, 2), 1.0, 2, aligned)
    assert np.isnan(expected[3]).all()
    assert_same_bits(reference.tv_roi_align(features, rois, (2, 2), 1.0, 2, aligned), expected)


def test_tv_roi_align_in_float16_ends_a_tall_image_where_torchvision_does():
    features = np.random.default_rng(0).standard_normal((1, 1, 2051, 2)).astype(np.float16)
    rois = np.array([[0, 0, y - 1, 1, y + 1] for y in (2046, 2048, 2050, 2052, 2054)], np.float16)
    arguments = (1, 1.0, 1, False)
    assert_same_bits(reference.tv_roi_align(features, rois, *arguments), _in_torchvision(features, rois, *arguments))


def test_tv_roi_align_takes_a_list_of_boxes_for_each_image():
    boxes = [np.array([[1, 2, 7, 9], [0, 0, 3, 3]], np.float32), np.zeros((0, 4), np.float32)]
    features = np.random.default_rng(0).standard_normal((2, 3, 11, 14)).astype(np.float32)
    expected = torchvision.ops.roi_align(torch.from_numpy(features), [torch.from_numpy(b) for b in boxes], 2, 1.0, 2)
    assert_same_bits(reference.tv_roi_align(features, boxes, 2, 1.0, 2), expected.numpy())


def test_tv_roi_align_of_both_sizes_negative_is_0():
    rois = np.array([[0, 6, 6, 2, 2]], np.float32)
    expected = _in_torchvision(FEATURES, rois, 2, 1.0, -1, True)
    assert not expected.any()
    assert_same_bits(reference.tv_roi_align(FEATURES, rois, 2, 1.0, -1, True), expected)


@pytest.mark.parametrize("box", [[6, 2, 2, 6], [0, 0, 1e8, 1e8]])
def test_tv_roi_align_refuses_the_adaptive_grids_that_torchvision_refuses(box):
    rois = np.array([[0, *box]], np.float32)
    with pytest.raises(RuntimeError, match=r"too large|larger than"):
        _in_torchvision(FEATURES, rois, 2, 1.0, -1, True)
    with pytest.raises(RuntimeError, match="row 0"):
        reference.tv_roi_align(FEATURES, rois, 2, 1.0, -1, True)


@pytest.mark.parametrize("index", [-0.5, -1, 2, np.nan, np.inf])
def test_tv_roi_align_refuses_the_indices_that_torchvision_refuses(index):
    rois = np.array([[0, 2, 2, 6, 6], [index, 2, 2, 6, 6]], np.float32)
    with pytest.raises(RuntimeError, match="batch index"):
        _in_torchvision(FEATURES, rois, 2, 1.0, 2, True)
    with pytest.raises(RuntimeError, match=r"boxes row 1: image index .* allowed is \[0, 1\]"):
        reference.tv_roi_align(FEATURES, rois, 2, 1.0, 2, True)


def test_tv_roi_align_pools_boxes_that_are_not_finite_to_0():
    rois = np.array([[0, np.nan, 2, 6, 6], [0, 2, 2, np.inf, 6], [0, -3e38, 2, 3e38, 6]], np.float32)
    for sampling_ratio in (2, -1):
        for aligned in (False, True):
            assert not reference.tv_roi_align(FEATURES, rois, 2, 1.0, sampling_ratio, aligned).any()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((FEATURES.tolist(), ROIS), TypeError, "features must be a numpy.ndarray, got list"),
        ((FEATURES.astype(np.int32), ROIS), TypeError, "features must be float16, float32 or float64, got int32"),
        ((FEATURES.astype(np.float64), ROIS), TypeError, "float64 does not mix, got features float64 and rois float32"),
        ((FEATURES[0], ROIS), ValueError, r"features must have 4 dimensions \(N, C, H, W\), got shape \(3, 11, 14\)"),
        ((FEATURES, ROIS[:, 1:]), ValueError, r"rois must have shape \(K, 5\)"),
    ],
)
def test_ms_roi_align_errors(arguments, error, match):
    with pytest.raises(error, match=match):
        reference.ms_roi_align(*arguments, 2, 2, 0.5)


def test_tv_roi_align_refuses_mixed_dtypes():
    with pytest.raises(RuntimeError, match="same dtype, got float32 and float16"):
        reference.tv_roi_align(FEATURES, ROIS.astype(np.float16), 2, 0.5, 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("sampling_ratio", [2, 0])
@pytest.mark.parametrize("aligned", [False, True])
def test_the_gradient_of_the_definition_is_torchvisions(dtype, sampling_ratio, aligned):
    rng = np.random.default_rng(0)
    rois = np.array([[0, 2, 3, 17, 14], [1, 4.5, 0.1, 9.3, 21.7], [1, -3, 5, 25, 9], [0, 6, 6, 6.2, 6.1]], dtype)
    leaf = torch.from_numpy(rng.standard_normal((2, 3, 11, 14)).astype(dtype)).requires_grad_()
    output = torchvision.ops.roi_align(leaf, torch.from_numpy(rois), (3, 4), 0.5, sampling_ratio, aligned)
    gradient = rng.standard_normal(output.shape).astype(dtype)
    output.backward(torch.from_numpy(gradient))
    samples = rules.place(rules.TORCHVISION[aligned], rois, 0.5, (3, 4), sampling_ratio, (11, 14))
    assert_same_bits(sampling.gradient(gradient, samples, leaf.shape), leaf.grad.numpy())
