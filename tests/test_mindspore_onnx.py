"""RoIAlign on MindSpore, exported to ONNX by MindSpore and run by ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
from features_and_boxes import BOXES, in_torchvision
from helpers import assert_same_bits

pytestmark = pytest.mark.needs_mindspore

FEATURES = np.random.default_rng(0).standard_normal((2, 3, 30, 40)).astype(np.float32)
NOT_FINITE = np.array(
    [[0, np.nan, 2, 6, 6], [1, 2, 2, np.inf, 6], [0, -3e38, 2, 3e38, 6], [1, 1, 1, 2, np.nan]], np.float32
)


@pytest.fixture
def session(ms, tmp_path):
    """Export a cell for inputs of the shapes of these, and return a function that runs it."""

    def export(cell, *inputs):
        ms.export(cell, *map(ms.Tensor, inputs), file_name=str(tmp_path / "exported"), file_format="ONNX")
        return run(tmp_path / "exported.onnx")

    return export


def run(path):
    session = onnxruntime.InferenceSession(str(path))
    names = [value.name for value in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0]


def boxes_of_any_kind(rng, count=300):
    """Of any size: large, over every edge, inverted, and of less than a cell, at the edges most of all."""
    corners = rng.uniform(-20, 100, (count, 4)) * rng.choice((1, 1, 1e3), (count, 1))
    start = rng.uniform(-4, 84, (count, 2)).round(1)
    small = np.concatenate((start, start + rng.uniform(-1, 3, (count, 2))), 1)
    at_the_edges = np.concatenate((small[:, :2] % 3 - 2, small[:, 2:] % 3 - 1), 1)
    rois = np.concatenate((corners, small, at_the_edges, np.zeros((2, 4))))
    return np.concatenate((rng.integers(0, 2, (len(rois), 1)), rois), 1).astype(np.float32)


@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_boxes_that_are_not_aligned_have_the_bits_of_torchvision(ours, session, sampling_ratio):
    rois, arguments = boxes_of_any_kind(np.random.default_rng(sampling_ratio)), ((3, 4), 0.5, sampling_ratio)
    output = session(ours.RoIAlign(*arguments), FEATURES, rois)(FEATURES, rois)
    assert_same_bits(output, in_torchvision(FEATURES, rois, *arguments))


@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_aligned_boxes_have_them_but_for_the_last_digits_near_the_first_pixels(ours, session, sampling_ratio):
    rois, arguments = boxes_of_any_kind(np.random.default_rng(sampling_ratio)), ((3, 4), 0.5, sampling_ratio, True)
    output = session(ours.RoIAlign(*arguments), FEATURES, rois)(FEATURES, rois)
    expected = in_torchvision(FEATURES, rois, *arguments)
    # A sample at c > 0 is asked for as c - 0.5 and half a cell more, which below 0.25 can cost c its last digits.
    np.testing.assert_allclose(output, expected, rtol=0, atol=2**-22 * np.abs(FEATURES).max())
    near = ((rois[:, 1:3] < 2) & (rois[:, 3:] > 0)).any(1) | (rois[:, 3:] < rois[:, 1:3]).any(1)
    assert_same_bits(output[~near], expected[~near])
    assert (output != expected).sum() < output.size / 100


def test_mindspores_own_export_of_mode_1_enlarges_small_boxes(ms, session):
    """Which is why the port does not call it."""

    class Model(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.pool = ms.ops.ROIAlign(3, 4, 0.25, 2, 1)

        def construct(self, features, rois):
            return self.pool(features, rois)

    rois = np.array([[0, 9, 7, 40, 33], [1, 9, 9, 10, 11]], np.float32)
    expected = Model()(ms.Tensor(FEATURES), ms.Tensor(rois)).asnumpy()
    output = session(Model(), FEATURES, rois)(FEATURES, rois)
    assert_same_bits(output[:1], expected[:1])
    assert np.abs(output[1] - expected[1]).max() > 0.1


@pytest.mark.parametrize("aligned", [False, True])
def test_float16_is_computed_in_float32(ours, session, aligned):
    """On boxes in feature cells of float16, most of whose samples move by little."""
    rois = boxes_of_any_kind(np.random.default_rng(0))
    rois = rois[np.abs(rois).max(1) < 100].astype(np.float16)
    features = FEATURES.astype(np.float16)
    output = session(ours.RoIAlign((3, 4), 0.5, 2, aligned), features, rois)(features, rois)
    difference = np.abs(output - in_torchvision(features, rois, (3, 4), 0.5, 2, aligned))
    assert output.dtype == np.float16
    assert np.mean(difference > 0.02) < 0.02
    assert np.mean(difference > 0) > 0.1


@pytest.mark.parametrize("aligned", [False, True])
def test_boxes_that_are_not_finite_pool_to_0(ours, session, aligned):
    rois = np.concatenate((NOT_FINITE, BOXES))
    output = session(ours.RoIAlign(2, 0.5, 2, aligned), FEATURES, rois)(FEATURES, rois)
    assert not output[: len(NOT_FINITE)].any()
    np.testing.assert_allclose(
        output[len(NOT_FINITE) :], in_torchvision(FEATURES, BOXES, 2, 0.5, 2, aligned), atol=1e-6
    )


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("index", [2, -1, np.nan])
def test_an_index_out_of_range_is_an_error(ours, session, aligned, index):
    pool = session(ours.RoIAlign(2, 0.5, 2, aligned), FEATURES, BOXES)
    rois = BOXES.copy()
    rois[2, 0] = index
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="batch_ind"):
        pool(FEATURES, rois)


@pytest.mark.parametrize("aligned", [False, True])
def test_any_number_of_boxes_if_told(ms, ours, tmp_path, aligned):
    export = getattr(getattr(ms, "onnx", None), "export", None)
    if export is None:
        pytest.skip("this MindSpore exports fixed shapes only")
    path, names = tmp_path / "exported.onnx", ["input", "boxes"]
    inputs = ms.Tensor(FEATURES), ms.Tensor(BOXES)
    cell = ours.RoIAlign(2, 0.5, 2, aligned)
    export(cell, *inputs, file_name=str(path), input_names=names, dynamic_axes={"boxes": {0: "K"}})
    pool = run(path)
    for count in (1, 3, 4):
        expected = in_torchvision(FEATURES, BOXES[:count], 2, 0.5, 2, aligned)
        np.testing.assert_allclose(pool(FEATURES, BOXES[:count]), expected, rtol=0, atol=1e-6)


def test_a_list_of_boxes_is_exported_in_a_model(ms, ours, session):
    class Model(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.pool = ours.RoIAlign((3, 4), 0.5, 2)

        def construct(self, features, first, second):
            return self.pool(features * 2, [first, second])

    boxes = BOXES[:1, 1:], BOXES[1:, 1:]
    output = session(Model(), FEATURES, *boxes)(FEATURES, *boxes)
    assert_same_bits(output, in_torchvision(FEATURES * 2, list(boxes), (3, 4), 0.5, 2))


def test_the_cell_itself_is_as_before(ms, ours, session):
    """Exporting compiles it in another way for boxes that are aligned."""
    cell, inputs = ours.RoIAlign((3, 4), 0.5, 2, aligned=True), (ms.Tensor(FEATURES), ms.Tensor(BOXES))
    expected = in_torchvision(FEATURES, BOXES, (3, 4), 0.5, 2, True)
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        assert_same_bits(cell(*inputs).asnumpy(), expected)
        session(cell, FEATURES, BOXES)
        assert_same_bits(cell(*inputs).asnumpy(), expected)
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


def test_adaptive_grids_are_refused(ours, session):
    with pytest.raises(RuntimeError, match="adaptive grid"):
        session(ours.RoIAlign(2, 0.5, -1), FEATURES, BOXES)
