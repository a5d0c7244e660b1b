"""Which calls of MindSpore's operator stand for a call of torchvision: no framework is needed for this."""

import numpy as np

from ms2torch_roi import boxes

CELLS = np.array([[0, 2, 3, 9, 7], [1, 4.3, 0.1, 4.9, 0.4], [0, 0, 0, 0, 0]], np.float32)


def calls(rois, aligned, sampling_ratio=2, dtype=np.float32):
    rois = np.asarray(rois, dtype)
    scale = boxes.mindspore_scale(rois.dtype.name, 50, 76)
    with np.errstate(all="ignore"):
        feature_boxes = boxes.torchvision_boxes(np, rois, 1.0, aligned)
        return boxes.mindspore_calls(feature_boxes, aligned, 1, 1, sampling_ratio, scale)


def test_unaligned_boxes_are_one_call_in_mode_0():
    (call,), sampled = calls(CELLS, aligned=False)
    assert (call.rows, call.roi_end_mode, call.sample_num, sampled.size) == (None, 0, 2, 0)
    np.testing.assert_array_equal(call.rois[0], CELLS[0])
    np.testing.assert_array_equal(call.rois[1:, :3], CELLS[1:, :3])
    # Still below one cell, so that MindSpore enlarges them, and not near 0, where it would not write them.
    assert ((call.rois[1:, 3:] - call.rois[1:, 1:3]) < 1).all()
    assert not boxes.mindspore_unwritten(np, call.rois).any()


def test_aligned_boxes_are_one_call_in_mode_1():
    rois = np.concatenate((CELLS, [[0, 3, 3, 0.5, 0.5], [0, 0.5, 0.5, 0.5, 0.5]]))
    (call,), sampled = calls(rois, aligned=True)
    assert (call.rows, call.roi_end_mode, call.sample_num, sampled.size) == (None, 1, 2, 0)
    scale = np.float32(2.0**-52)
    expected, _ = boxes.torchvision_boxes(np, rois.astype(np.float32), 1.0, True)
    np.testing.assert_array_equal(call.rois[:, 1:3] * scale, expected[:, 1:3])
    np.testing.assert_array_equal((call.rois[:, 3:] + 1) * scale, expected[:, 3:])
    assert (call.rois[3:, 3:] == -1).all()
    assert not boxes.mindspore_unwritten(np, call.rois).any()


def test_aligned_float16_boxes_that_mode_1_cannot_have_take_mode_0_if_large():
    lossy = -0.5 + 2.0**-12 + 0.5  # an end of -0.49976, one bit from -0.5
    rois = [[0, 3, 3, 9, 9], [0, -2, -2, lossy, 3], [0, -0.25, -2, lossy, 3]]
    assert boxes.mindspore_scale("float16", 50, 76) == 2.0**-3
    (first, second), sampled = calls(rois, aligned=True, dtype=np.float16)
    assert (first.rows, first.roi_end_mode) == (None, 1)
    assert (second.rows.tolist(), second.roi_end_mode) == ([1], 0)
    assert sampled.tolist() == [2]


def test_adaptive_grids_are_one_call_each_where_square():
    rois = [[0, 1, 1, 3, 3], [0, 1, 1, 3, 5], [0, 2, 2, 4, 4], [0, 5, 5, 10, 10], [0, 3, 3, 1, 1], [0, 3, 3, 3, 5]]
    found, sampled = calls(rois, aligned=True, sampling_ratio=0)
    assert [(call.rows.tolist(), call.sample_num) for call in found] == [([0, 2], 2), ([3], 5)]
    assert sampled.tolist() == [1]  # the last two have no samples, and pool to 0


def test_boxes_that_are_not_finite_are_in_no_call():
    rois = [[0, np.nan, 1, 3, 3], [0, 1, 1, np.inf, 5], [0, -np.inf, 2, 4, 4]]
    for aligned in (False, True):
        found, sampled = calls(rois, aligned=aligned)
        assert not found
        assert sampled.size == 0


def test_the_gradient_of_enlarged_boxes_has_their_size():
    (call,), _ = calls([[0, 3, 4, 3.25, 4.5]], aligned=False)
    scale = np.float32(2.0**-52)
    start, end = call.gradient_rois[:, 1:3] * scale, (call.gradient_rois[:, 3:] + 1) * scale
    assert (end - start).tolist() == [[1, 1]]
