"""Which calls of the other library's operator stand for a call: no framework is needed for this."""

import numpy as np

from ms2torch_roi import encodings, rules

CELLS = np.array([[0, 2, 3, 9, 7], [1, 4.3, 0.1, 4.9, 0.4], [0, 0, 0, 0, 0]], np.float32)


def _torchvision_calls(rows, mode, sample_num=2, dtype=np.float32):
    rois = np.insert(np.asarray(rows, dtype), 0, 0, axis=1)
    with np.errstate(all="ignore"):
        feature_boxes = rules.feature_boxes(np, rules.MINDSPORE[mode], rois, 1.0)
        return encodings.torchvision_calls(feature_boxes, rules.near_0(np, rois), 2, 2, sample_num)


def test_mode_0_is_one_call_whatever_the_boxes():
    calls, sampled = _torchvision_calls(
        [[1, 1, 9, 9], [3, 3, 3.2, 3.1], [9, 9, 1, 1], [0, 0, 0, 0], [np.nan, 1, 2, 3]], mode=0
    )
    assert [(call.rows.tolist(), call.sampling_ratio, call.aligned) for call in calls] == [([0, 1, 2], 2, False)]
    assert sampled.size == 0  # so the last two rows pool to 0


def test_mode_1_is_one_call_if_no_box_is_below_one_cell():
    calls, sampled = _torchvision_calls([[1, 1, 9, 9], [3.1, 3.3, 7, 7]], mode=1)
    assert [(call.rows.tolist(), call.aligned) for call in calls] == [([0, 1], False)]
    assert sampled.size == 0


def test_small_boxes_of_mode_1_are_aligned_where_half_a_cell_more_is_exact_and_sampled_otherwise():
    exact, inexact = [5.25, 6.5, 4.75, 6.0], [0.1, 6.5, -0.5, 6.0]
    assert np.float32(0.1) + np.float32(0.5) - np.float32(0.5) != np.float32(0.1)
    calls, sampled = _torchvision_calls([[1, 1, 9, 9], exact, inexact], mode=1)
    assert [call.aligned for call in calls] == [False, True]
    assert calls[1].rows.tolist() == [1]
    assert calls[1].boxes.tolist() == [[0, 5.75, 7, 6.25, 7.5]]
    assert sampled.tolist() == [2]


def test_adaptive_grids_are_one_fixed_call_each_where_square_and_sampled_otherwise():
    square_2, square_3, oblong, empty = [1, 1, 5, 5], [1, 1, 7, 7.9], [1, 1, 5, 7], [1, 1, 2, 9]
    calls, sampled = _torchvision_calls(
        [square_2, oblong, square_3, square_2, empty, [0, 0, 0, 0]], mode=0, sample_num=0
    )
    assert [(call.rows.tolist(), call.sampling_ratio) for call in calls] == [([0, 3], 2), ([2], 3)]
    assert sampled.tolist() == [1, 4]


def _mindspore_calls(rois, aligned, sampling_ratio=2, dtype=np.float32):
    rois = np.asarray(rois, dtype)
    scale = encodings.mindspore_scale(rois.dtype.name, 50, 76)
    with np.errstate(all="ignore"):
        feature_boxes = rules.feature_boxes(np, rules.TORCHVISION[aligned], rois, 1.0)
        return encodings.mindspore_calls(feature_boxes, aligned, 1, 1, sampling_ratio, scale)


def test_unaligned_boxes_are_one_call_in_mode_0():
    (call,), sampled = _mindspore_calls(CELLS, aligned=False)
    assert (call.rows.tolist(), call.roi_end_mode, call.sample_num, sampled.size) == ([0, 1, 2], 0, 2, 0)
    np.testing.assert_array_equal(call.rois[0], CELLS[0])
    np.testing.assert_array_equal(call.rois[1:, :3], CELLS[1:, :3])
    # Still below one cell, so that MindSpore enlarges them, and not near 0, where it would not write them.
    assert ((call.rois[1:, 3:] - call.rois[1:, 1:3]) < 1).all()
    assert not rules.near_0(np, call.rois).any()


def test_aligned_boxes_are_one_call_in_mode_1():
    rois = np.concatenate((CELLS, [[0, 3, 3, 0.5, 0.5], [0, 0.5, 0.5, 0.5, 0.5]]))
    (call,), sampled = _mindspore_calls(rois, aligned=True)
    assert (call.rows.tolist(), call.roi_end_mode, call.sample_num, sampled.size) == ([0, 1, 2, 3, 4], 1, 2, 0)
    scale = np.float32(2.0**-52)
    expected, _ = rules.feature_boxes(np, rules.TORCHVISION[True], rois.astype(np.float32), 1.0)
    np.testing.assert_array_equal(call.rois[:, 1:3] * scale, expected[:, 1:3])
    np.testing.assert_array_equal((call.rois[:, 3:] + 1) * scale, expected[:, 3:])
    assert (call.rois[3:, 3:] == -1).all()
    assert not rules.near_0(np, call.rois).any()


def test_aligned_float16_boxes_that_mode_1_cannot_have_take_mode_0_if_large():
    lossy = -0.5 + 2.0**-12 + 0.5  # an end of -0.49976, one bit from -0.5
    rois = [[0, 3, 3, 9, 9], [0, -2, -2, lossy, 3], [0, -0.25, -2, lossy, 3]]
    assert encodings.mindspore_scale("float16", 50, 76) == 2.0**-3
    (first, second), sampled = _mindspore_calls(rois, aligned=True, dtype=np.float16)
    assert (first.rows.tolist(), first.roi_end_mode) == ([0], 1)
    assert (second.rows.tolist(), second.roi_end_mode) == ([1], 0)
    assert sampled.tolist() == [2]


def test_adaptive_grids_are_one_call_each_where_square():
    rois = [[0, 1, 1, 3, 3], [0, 1, 1, 3, 5], [0, 2, 2, 4, 4], [0, 5, 5, 10, 10], [0, 3, 3, 1, 1], [0, 3, 3, 3, 5]]
    found, sampled = _mindspore_calls(rois, aligned=True, sampling_ratio=0)
    assert [(call.rows.tolist(), call.sample_num) for call in found] == [([0, 2], 2), ([3], 5)]
    assert sampled.tolist() == [1]  # the last two have no samples, and pool to 0


def test_boxes_that_are_not_finite_are_in_no_call():
    rois = [[0, np.nan, 1, 3, 3], [0, 1, 1, np.inf, 5], [0, -np.inf, 2, 4, 4]]
    for aligned in (False, True):
        found, sampled = _mindspore_calls(rois, aligned=aligned)
        assert not found
        assert sampled.size == 0


def test_the_gradient_of_enlarged_boxes_has_their_size():
    scale, rois = np.float32(2.0**-52), np.array([[0, 3, 4, 3.25, 4.5]], np.float32)
    feature_boxes = rules.feature_boxes(np, rules.TORCHVISION[False], rois, 1.0)
    in_mode_1 = encodings.mindspore_rois_of_mode_1(np, *feature_boxes, scale)  # whose gradient a graph takes
    start, end = in_mode_1[:, 1:3] * scale, (in_mode_1[:, 3:] + 1) * scale
    assert (end - start).tolist() == [[1, 1]]
