import numpy as np
import pytest
import torch

from ms2torch_roi import boxes
from ms2torch_roi.parity import cases

DTYPES = [np.float16, np.float32, np.float64]


def test_mode_1_counts_the_last_pixel_in():
    rois = np.array([[0, 4, 6, 11, 9]], np.float32)
    assert boxes.mindspore_boxes(np, rois, 0.5, 1)[0].tolist() == [[0, 2, 3, 6, 5]]
    assert boxes.mindspore_boxes(np, rois, 0.5, 1)[1].tolist() == [[4, 2]]


def test_mode_0_ends_at_x2_and_enlarges_to_one_cell():
    rois = np.array([[0, 4, 6, 11, 7]], np.float32)
    assert boxes.mindspore_boxes(np, rois, 0.5, 0)[0].tolist() == [[0, 2, 3, 5.5, 3.5]]
    assert boxes.mindspore_boxes(np, rois, 0.5, 0)[1].tolist() == [[3.5, 1]]


@pytest.mark.parametrize("end", [-5, -np.inf, np.nan])
def test_mode_0_enlarges_a_box_without_an_end_behind_its_start_to_one_cell(end):
    rois = np.array([[0, 4, 6, end, 7]], np.float32)
    feature_boxes = boxes.mindspore_boxes(np, rois, 0.5, 0)
    assert feature_boxes[0].tolist() == [[0, 2, 3, 2, 3.5]]
    assert feature_boxes[1].tolist() == [[1, 1]]
    assert boxes.is_finite(np, *feature_boxes).all()


def test_torchvision_moves_aligned_boxes_by_half_a_cell_and_enlarges_the_others():
    rois = np.array([[1.9, 4, 6, 11, 7]], np.float32)
    assert boxes.torchvision_boxes(np, rois, 0.5, True)[0].tolist() == [[1, 1.5, 2.5, 5, 3]]
    assert boxes.torchvision_boxes(np, rois, 0.5, True)[1].tolist() == [[3.5, 0.5]]
    assert boxes.torchvision_boxes(np, rois, 0.5, False)[1].tolist() == [[3.5, 1]]


def test_scale_is_rounded_to_the_dtype_of_the_boxes():
    rois = np.array([[0, 1001, 0, 1001, 0]], np.float16)
    start = boxes.mindspore_boxes(np, rois, 0.1, 0)[0][0, 1]
    assert start == np.float16(1001) * np.float16(0.1)
    assert start != np.float16(1001 * 0.1)


def test_scale_is_rounded_to_float32_before_float16():
    scale = 1 + 2**-11 + 2**-40  # of which float32 keeps a tie, and float16 then 1
    rois = np.array([[0, 1001, 0, 1001, 0]], np.float16)
    assert np.float16(scale) > 1
    assert boxes.mindspore_boxes(np, rois, scale, 0)[0][0, 1] == 1001
    assert boxes.torchvision_boxes(np, rois, scale, False)[0][0, 1] == 1001
    assert boxes.mindspore_boxes(np, rois.astype(np.float64), scale, 0)[0][0, 1] == 1001 * scale


def _random_rois(dtype):
    with np.errstate(over="ignore"):
        return np.concatenate([cases.random_case(1, number).rois for number in range(40)]).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", [0, 1])
def test_mindspore_rule_is_the_same_bits_in_torch(dtype, mode):
    rois = _random_rois(dtype)
    with np.errstate(all="ignore"):
        expected = boxes.mindspore_boxes(np, rois, 0.3, mode)
    actual = boxes.mindspore_boxes(torch, torch.from_numpy(rois), 0.3, mode)
    for in_torch, in_numpy in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(in_torch.numpy(), in_numpy)
    unwritten = boxes.mindspore_unwritten(torch, torch.from_numpy(rois))
    np.testing.assert_array_equal(unwritten.numpy(), boxes.mindspore_unwritten(np, rois))
    assert 0 < unwritten.sum() < len(rois)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("aligned", [False, True])
def test_torchvision_rule_is_the_same_bits_in_torch(dtype, aligned):
    rois = _random_rois(dtype)
    with np.errstate(all="ignore"):
        expected = boxes.torchvision_boxes(np, rois, 0.3, aligned)
    actual = boxes.torchvision_boxes(torch, torch.from_numpy(rois), 0.3, aligned)
    for in_torch, in_numpy in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(in_torch.numpy(), in_numpy)


def test_adaptive_grids_round_down_in_mindspore_and_up_in_torchvision():
    size = np.array([[9.5, 8.0], [2.9, -1.0]], np.float32)
    assert boxes.mindspore_grid(size, 4, 3, 0).tolist() == [[3, 2], [0, -1]]
    assert boxes.torchvision_grid(size, 4, 3, 0).tolist() == [[4, 2], [1, 0]]


def test_grids_that_no_integer_holds_take_no_sample():
    size = np.array([[np.nan, np.inf], [-np.inf, 1e30]], np.float32)
    assert boxes.mindspore_grid(size, 1, 1, 0).tolist() == [[-1, -1], [-1, -1]]


def test_empty_average_is_nan_in_mindspore_and_0_in_torchvision():
    grid = np.array([[0, 3], [2, 3]])
    assert boxes.mindspore_count(grid, np.dtype(np.float32)).tolist() == [0, 6]
    assert boxes.torchvision_count(grid, np.dtype(np.float32)).tolist() == [1, 6]


@pytest.mark.parametrize(
    ("length", "mindspore", "torchvision"),
    [(11, 11, 11), (2049, 2048, 2048), (2051, 2052, 2050), (70000, np.inf, 65504)],
)
def test_float16_borders_of_tall_features(length, mindspore, torchvision):
    with np.errstate(over="ignore"):
        assert boxes.mindspore_border(length, np.dtype(np.float16)) == mindspore
        assert boxes.torchvision_border(length, np.dtype(np.float16)) == torchvision
    assert boxes.rounds_alike(np.dtype(np.float16), length) == (length <= 2048)


def _calls(rows, mode, sample_num=2, dtype=np.float32):
    rois = np.insert(np.asarray(rows, dtype), 0, 0, axis=1)
    with np.errstate(all="ignore"):
        feature_boxes = boxes.mindspore_boxes(np, rois, 1.0, mode)
        return boxes.torchvision_calls(feature_boxes, boxes.mindspore_unwritten(np, rois), 2, 2, sample_num)


def test_mode_0_is_one_call_whatever_the_boxes():
    calls, sampled = _calls([[1, 1, 9, 9], [3, 3, 3.2, 3.1], [9, 9, 1, 1], [0, 0, 0, 0], [np.nan, 1, 2, 3]], mode=0)
    assert [(call.rows.tolist(), call.sampling_ratio, call.aligned) for call in calls] == [([0, 1, 2], 2, False)]
    assert sampled.size == 0  # so the last two rows pool to 0


def test_mode_1_is_one_call_if_no_box_is_below_one_cell():
    calls, sampled = _calls([[1, 1, 9, 9], [3.1, 3.3, 7, 7]], mode=1)
    assert [(call.rows.tolist(), call.aligned) for call in calls] == [([0, 1], False)]
    assert sampled.size == 0


def test_small_boxes_of_mode_1_are_aligned_where_half_a_cell_more_is_exact_and_sampled_otherwise():
    exact, inexact = [5.25, 6.5, 4.75, 6.0], [0.1, 6.5, -0.5, 6.0]
    assert np.float32(0.1) + np.float32(0.5) - np.float32(0.5) != np.float32(0.1)
    calls, sampled = _calls([[1, 1, 9, 9], exact, inexact], mode=1)
    assert [call.aligned for call in calls] == [False, True]
    assert calls[1].rows.tolist() == [1]
    assert calls[1].boxes.tolist() == [[0, 5.75, 7, 6.25, 7.5]]
    assert sampled.tolist() == [2]


def test_adaptive_grids_are_one_fixed_call_each_where_square_and_sampled_otherwise():
    square_2, square_3, oblong, empty = [1, 1, 5, 5], [1, 1, 7, 7.9], [1, 1, 5, 7], [1, 1, 2, 9]
    calls, sampled = _calls([square_2, oblong, square_3, square_2, empty, [0, 0, 0, 0]], mode=0, sample_num=0)
    assert [(call.rows.tolist(), call.sampling_ratio) for call in calls] == [([0, 3], 2), ([2], 3)]
    assert sampled.tolist() == [1, 4]
