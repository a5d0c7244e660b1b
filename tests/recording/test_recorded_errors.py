"""A call that raises is recorded and raises; what cannot be recorded is mentioned."""

import warnings

import numpy as np
import pytest
from recordings import FEATURES, MS_FEATURES, MS_ROIS, OPERATOR, ROIS, pool, read

from ms2torch_roi.parity.recording import record


def test_an_error_is_recorded_and_raised(tmp_path):
    with record(tmp_path) as recording, pytest.raises(RuntimeError) as caught:
        pool(FEATURES.int(), ROIS.int())
    (call,) = read(recording)
    assert call.case.raises is RuntimeError
    assert str(call.result) == str(caught.value)
    assert call.output is None


@pytest.mark.needs_mindspore
def test_an_error_is_recorded_and_raised_in_mindspore(tmp_path, ms):
    features = ms.Tensor(MS_FEATURES)
    with record(tmp_path) as recording:
        with pytest.raises(RuntimeError, match="image_index 7 must be a number in"):
            ms.ops.ROIAlign(4, 4, 0.25)(features, ms.Tensor([[7, 1.0, 1, 9, 9]]))
        with pytest.raises(TypeError):
            ms.ops.ROIAlign(4, 4, 0.25)(features.astype(ms.int32), ms.Tensor(MS_ROIS))
    late, early = read(recording)
    assert late.case.raises is RuntimeError
    assert "image_index 7" in str(late.result)
    assert early.case.raises is TypeError
    assert early.case.features.dtype == np.int32


@pytest.mark.needs_mindspore
def test_an_earlier_error_is_not_taken_for_the_call_s(tmp_path, ms):
    operator = ms.ops.ROIAlign(4, 4, 0.25)
    with record(tmp_path / "empty", every=2) as recording:
        operator(ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS))
        left_to_raise = operator(ms.Tensor(MS_FEATURES), ms.Tensor([[7, 1.0, 1, 9, 9]]))  # not recorded, so not read
        with pytest.raises(RuntimeError, match="image_index 7"):
            operator(ms.Tensor(MS_FEATURES) + 1, ms.Tensor(MS_ROIS))
    assert [call.case.raises for call in read(recording)] == [None]
    del left_to_raise


def test_tensors_that_cannot_be_recorded_pass_and_are_mentioned_once(tmp_path):
    features = FEATURES.to("meta")
    with warnings.catch_warnings(record=True) as caught, record(tmp_path) as recording:
        warnings.simplefilter("always")
        for _ in range(2):
            assert pool(features, ROIS.to("meta")).shape == (3, 3, 3, 2)
            with pytest.raises(RuntimeError, match="BFloat16"):
                pool(FEATURES.bfloat16(), ROIS.bfloat16())
            with pytest.raises(RuntimeError):
                OPERATOR(FEATURES, ROIS)
    assert [str(warning.message) for warning in caught] == [
        "ms2torch_roi.record: a call was not recorded: a tensor is torch.float32, torch.strided, on meta",
        "ms2torch_roi.record: a call was not recorded: a tensor is torch.bfloat16, torch.strided, on cpu",
        "ms2torch_roi.record: a call was not recorded: torchvision's operator takes input, rois, spatial_scale,"
        " pooled_height, pooled_width, sampling_ratio, aligned, and got others",
    ]
    assert (recording.calls, read(recording)) == (6, [])


@pytest.mark.needs_mindspore
def test_tensors_that_cannot_be_recorded_pass_in_mindspore(tmp_path, ms):
    operator = ms.ops.ROIAlign(4, 4, 0.25)
    features, rois = (ms.Tensor(array).astype(ms.bfloat16) for array in (MS_FEATURES, MS_ROIS))
    with record(tmp_path) as recording:
        with pytest.warns(UserWarning, match="not recorded: a tensor is BFloat16"), pytest.raises(TypeError):
            operator(features, rois)
        with pytest.warns(UserWarning, match=r"takes two tensors, got \(ndarray, Tensor\)"), pytest.raises(TypeError):
            operator(MS_FEATURES, rois)
    assert (recording.calls, read(recording)) == (2, [])
