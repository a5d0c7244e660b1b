import numpy as np
import pytest
import torch

from ms2torch_roi import rules
from ms2torch_roi.parity import cases

DTYPES = [np.float16, np.float32, np.float64]


def test_mode_1_counts_the_last_pixel_in():
    rois = np.array([[0, 4, 6, 11, 9]], np.float32)
    assert rules.feature_boxes(np, rules.MINDSPORE[1], rois, 0.5)[0].tolist() == [[0, 2, 3, 6, 5]]
    assert rules.feature_boxes(np, rules.MINDSPORE[1], rois, 0.5)[1].tolist() == [[4, 2]]


def test_mode_0_ends_at_x2_and_enlarges_to_one_cell():
    rois = np.array([[0, 4, 6, 11, 7]], np.float32)
    assert rules.feature_boxes(np, rules.MINDSPORE[0], rois, 0.5)[0].tolist() == [[0, 2, 3, 5.5, 3.5]]
    assert rules.feature_boxes(np, rules.MINDSPORE[0], rois, 0.5)[1].tolist() == [[3.5, 1]]


@pytest.mark.parametrize("end", [-5, -np.inf, np.nan])
def test_mode_0_enlarges_a_box_without_an_end_behind_its_start_to_one_cell(end):
    rois = np.array([[0, 4, 6, end, 7]], np.float32)
    feature_boxes = rules.feature_boxes(np, rules.MINDSPORE[0], rois, 0.5)
    assert feature_boxes[1].tolist() == [[1, 1]]
    assert rules.is_finite(np, *feature_boxes).all()


def test_torchvision_moves_aligned_boxes_by_half_a_cell_and_enlarges_the_others():
    rois = np.array([[1.9, 4, 6, 11, 7]], np.float32)
    assert rules.feature_boxes(np, rules.TORCHVISION[True], rois, 0.5)[0].tolist() == [[1, 1.5, 2.5, 5, 3]]
    assert rules.feature_boxes(np, rules.TORCHVISION[True], rois, 0.5)[1].tolist() == [[3.5, 0.5]]
    assert rules.feature_boxes(np, rules.TORCHVISION[False], rois, 0.5)[1].tolist() == [[3.5, 1]]


def test_scale_is_rounded_to_the_dtype_of_the_boxes():
    rois = np.array([[0, 1001, 0, 1001, 0]], np.float16)
    start = rules.feature_boxes(np, rules.MINDSPORE[0], rois, 0.1)[0][0, 1]
    assert start == np.float16(1001) * np.float16(0.1)
    assert start != np.float16(1001 * 0.1)


def test_scale_is_rounded_to_float32_before_float16():
    scale = 1 + 2**-11 + 2**-40  # of which float32 keeps a tie, and float16 then 1
    rois = np.array([[0, 1001, 0, 1001, 0]], np.float16)
    assert np.float16(scale) > 1
    assert rules.feature_boxes(np, rules.MINDSPORE[0], rois, scale)[0][0, 1] == 1001
    assert rules.feature_boxes(np, rules.TORCHVISION[False], rois, scale)[0][0, 1] == 1001
    assert rules.feature_boxes(np, rules.MINDSPORE[0], rois.astype(np.float64), scale)[0][0, 1] == 1001 * scale


def _random_rois(dtype):
    with np.errstate(over="ignore"):
        return np.concatenate([cases.random_case(1, number).rois for number in range(40)]).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", [0, 1])
def test_mindspore_rule_is_the_same_bits_in_torch(dtype, mode):
    rois = _random_rois(dtype)
    with np.errstate(all="ignore"):
        expected = rules.feature_boxes(np, rules.MINDSPORE[mode], rois, 0.3)
    actual = rules.feature_boxes(torch, rules.MINDSPORE[mode], torch.from_numpy(rois), 0.3)
    for in_torch, in_numpy in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(in_torch.numpy(), in_numpy)
    unwritten = rules.near_0(torch, torch.from_numpy(rois))
    np.testing.assert_array_equal(unwritten.numpy(), rules.near_0(np, rois))
    assert 0 < unwritten.sum() < len(rois)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("aligned", [False, True])
def test_torchvision_rule_is_the_same_bits_in_torch(dtype, aligned):
    rois = _random_rois(dtype)
    with np.errstate(all="ignore"):
        expected = rules.feature_boxes(np, rules.TORCHVISION[aligned], rois, 0.3)
    actual = rules.feature_boxes(torch, rules.TORCHVISION[aligned], torch.from_numpy(rois), 0.3)
    for in_torch, in_numpy in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(in_torch.numpy(), in_numpy)


def test_adaptive_grids_round_down_in_mindspore_and_up_in_torchvision():
    size = np.array([[9.5, 8.0], [2.9, -1.0]], np.float32)
    assert rules.sampling_grid(rules.MINDSPORE[0], size, (4, 3), 0).tolist() == [[3, 2], [0, -1]]
    assert rules.sampling_grid(rules.TORCHVISION[0], size, (4, 3), 0).tolist() == [[4, 2], [1, 0]]


def test_grids_that_no_integer_holds_take_no_sample():
    size = np.array([[np.nan, np.inf], [-np.inf, 1e30]], np.float32)
    assert rules.sampling_grid(rules.MINDSPORE[0], size, (1, 1), 0).tolist() == [[-1, -1], [-1, -1]]


def test_empty_average_is_nan_in_mindspore_and_0_in_torchvision():
    grid = np.array([[0, 3], [2, 3]])
    assert rules.divisors(rules.MINDSPORE[0], grid, np.dtype(np.float32)).tolist() == [0, 6]
    assert rules.divisors(rules.TORCHVISION[0], grid, np.dtype(np.float32)).tolist() == [1, 6]


@pytest.mark.parametrize(
    ("length", "mindspore", "torchvision"),
    [(11, 11, 11), (2049, 2048, 2048), (2051, 2052, 2050), (70000, np.inf, 65504)],
)
def test_float16_borders_of_tall_features(length, mindspore, torchvision):
    with np.errstate(over="ignore"):
        assert rules.coordinates_inside(rules.MINDSPORE[0], length, np.dtype(np.float16)) == (-1, mindspore)
        assert rules.coordinates_inside(rules.TORCHVISION[0], length, np.dtype(np.float16)) == (-1, torchvision)
    assert rules.rounds_alike(np.dtype(np.float16), length) == (length <= 2048)
