"""RoIAlign and roi_align on MindSpore in graph mode: torchvision's bits, and the exceptions."""

import subprocess
import sys

import numpy as np
import pytest
from features_and_boxes import BOXES, FEATURES, in_torchvision
from helpers import TORCHVISION_EDGE_CASES, assert_same_bits

from ms2torch_roi import encodings, reference, rules
from ms2torch_roi.parity import edges, operators
from ms2torch_roi.parity.verdicts import same_bits

pytestmark = pytest.mark.needs_mindspore


def fixed_without_the_exceptions_of_graph_mode(case):
    """Tell whether graph mode promises the bits of a case: see MAPPING.md, in graph mode."""
    first_pixels = case.features[:, :, 0, 0]
    return (
        case.sampling_ratio > 0
        and case.raises is None
        and len(case.rois)
        and np.isfinite(first_pixels).all()
        and max(case.features.shape[2:]) <= 2048
    )


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.usefixtures("graph_mode")
def test_graph_mode_has_the_bits_of_torchvision_on_every_fixed_edge(ms, ours, aligned):
    """One graph for each arrangement of shapes: the edges of a kind go through it one after another."""
    count, cells = 0, {}
    for case in TORCHVISION_EDGE_CASES:
        if (
            case.aligned == aligned
            and case.category in GRAPH_EDGES
            and fixed_without_the_exceptions_of_graph_mode(case)
        ):
            cell = cells.setdefault(repr(case.arguments), ours.RoIAlign(**case.arguments))
            output = cell(ms.Tensor(case.features), ms.Tensor(case.rois)).asnumpy()
            expected = operators.torchvision(case)
            if aligned and case.dtype == np.float16:  # ends of boxes below one cell can lose their last digits
                np.testing.assert_allclose(output, expected, rtol=0, atol=2e-3 * np.abs(case.features).max())
            else:
                assert_same_bits(output, expected)
            count += 1
    assert count > 25


GRAPH_EDGES = {"edge: boxes", "edge: border", "edge: unwritten rows", "edge: indices"}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.usefixtures("graph_mode")
def test_graph_mode_has_the_bits_of_torchvision_on_random_boxes(ms, ours, dtype, aligned):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2, 4, 30, 40)).astype(dtype)
    cell = ours.RoIAlign((3, 5), 0.25, 2, aligned)
    values = different = 0
    largest = 0.0
    for _ in range(20):  # of one shape, and so one graph
        rois = _random_boxes(rng, 300, 40, 30, 0.25, aligned).astype(dtype)
        expected = reference.tv_roi_align(features, rois, (3, 5), 0.25, 2, aligned)
        output = cell(ms.Tensor(features), ms.Tensor(rois)).asnumpy()
        unequal = ~same_bits(output, expected)
        values, different = values + unequal.size, different + int(unequal.sum())
        largest = max(largest, float(np.abs(output - expected).max()))
    if dtype == np.float16 and aligned:
        # Ends of boxes below one cell can lose their last bit; see encodings.mindspore_scale.
        assert different <= values / 10_000
        assert largest <= 2e-3 * np.abs(features).max()
    else:
        assert different == 0


def _random_boxes(rng, count, width, height, scale, aligned):
    lengths = np.array((width, height))
    centre = rng.uniform(-0.1, 1.1, (count, 2)) * lengths
    size = rng.uniform(-0.2, 1, (count, 2)) * rng.choice((0.02, 1, 4, 40), (count, 1))
    cells = np.concatenate((centre - size / 2, centre + size / 2), axis=1) + aligned / 2
    return np.concatenate((rng.integers(0, 2, (count, 1)), cells / scale), axis=1)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_one_jitted_function_takes_any_number_of_boxes(ms, ours, dtype, aligned):
    @ms.jit
    def pool(features, rois):
        return ours.roi_align(features, rois, (3, 4), 0.5, 2, aligned)

    features = FEATURES.astype(dtype)
    for count in (4, 1, 0, 3):
        rois = BOXES[:count].astype(dtype)
        output = pool(ms.Tensor(features), ms.Tensor(rois)).asnumpy()
        assert_same_bits(output, in_torchvision(features, rois, (3, 4), 0.5, 2, aligned))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(2, 3, 11, 14), (None, None, None, None)])
@pytest.mark.usefixtures("graph_mode")
def test_one_graph_takes_any_number_of_boxes_if_told(ms, ours, dtype, shape):
    class Head(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.pool = ours.RoIAlign((3, 4), 0.5, 2, aligned=True)

        def construct(self, features, rois):
            return self.pool(features, rois) * 2

    head = Head()
    head.set_inputs(
        ms.Tensor(shape=shape, dtype=getattr(ms, dtype)), ms.Tensor(shape=[None, 5], dtype=getattr(ms, dtype))
    )
    features = FEATURES.astype(dtype)
    for count in (4, 1, 0, 3):
        rois = BOXES[:count].astype(dtype)
        output = head(ms.Tensor(features), ms.Tensor(rois)).asnumpy()
        assert_same_bits(output, 2 * in_torchvision(features, rois, (3, 4), 0.5, 2, True))


@pytest.mark.usefixtures("graph_mode")
def test_the_first_pixel_is_not_added_in_graph_mode(ms, ours):
    case = edges.edge_case("torchvision: nan in cell (0, 0) of the features, float32")
    expected = operators.torchvision(case)
    output = ours.RoIAlign(**case.arguments)(ms.Tensor(case.features), ms.Tensor(case.rois)).asnumpy()
    different = ~same_bits(output, expected)
    assert different.any()
    assert np.isnan(expected[different]).all()
    assert (output[different] == 0).all() or np.isfinite(output[different]).all()


@pytest.mark.usefixtures("graph_mode")
def test_coordinates_of_2_to_the_75_cells_pool_to_0_in_graph_mode(ms, ours):
    for exponent, same in ((74, True), (76, False)):
        rois = np.array([[0, -(2.0**exponent), -1, 2.0**exponent, 9]], np.float32)
        expected = in_torchvision(FEATURES, rois, 1, 1.0, 1, True)
        assert expected.any()
        output = ours.RoIAlign(1, 1.0, 1, aligned=True)(ms.Tensor(FEATURES), ms.Tensor(rois)).asnumpy()
        assert same_bits(output, expected).all() == same
        assert same or not output.any()


def test_mode_1_encodes_every_aligned_float32_box_of_moderate_size():
    rng = np.random.default_rng(5)
    rois = _random_boxes(rng, 100_000, 200, 300, 0.25, True).astype(np.float32)
    rois[::7, 1:] *= 1e6
    rois[::11, 1:3] = 2  # the feature coordinate 0
    corners, _ = rules.feature_boxes(np, rules.TORCHVISION[True], rois, 0.25)
    assert encodings.mindspore_has_mode_1(np, corners, encodings.mindspore_scale("float32", 300, 200)).all()


def test_mode_1_encodes_nearly_every_aligned_float16_box():
    rng = np.random.default_rng(6)
    rois = _random_boxes(rng, 100_000, 76, 50, 0.25, True).astype(np.float16)
    corners, _ = rules.feature_boxes(np, rules.TORCHVISION[True], rois, 0.25)
    lost = ~encodings.mindspore_has_mode_1(np, corners, encodings.mindspore_scale("float16", 50, 76))
    assert 0 < lost.mean() < 0.01


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_mode_1_loses_no_box_of_an_fpn(stride, dtype):
    """Boxes of a size for their level, clipped to an image of 1333 x 800 pixels."""
    rng = np.random.default_rng(7)
    size = rng.uniform(0.5, 2, (20_000, 1)) * stride * 14 * np.exp(rng.uniform(-0.7, 0.7, (20_000, 1)) * (1, -1))
    centre = rng.uniform(0, 1, (20_000, 2)) * (1333, 800)
    corners = np.clip(np.concatenate((centre - size / 2, centre + size / 2), axis=1), 0, (1333, 800, 1333, 800))
    rois = np.concatenate((np.zeros((20_000, 1)), corners), axis=1).astype(dtype)
    cells, _ = rules.feature_boxes(np, rules.TORCHVISION[True], rois, 1 / stride)
    height, width = -(-800 // stride), -(-1333 // stride)
    assert encodings.mindspore_has_mode_1(np, cells, encodings.mindspore_scale(dtype, height, width)).all()


@pytest.mark.parametrize("exponent", range(-12, 2))
@pytest.mark.usefixtures("graph_mode")
def test_no_row_goes_unwritten_in_graph_mode(ms, ours, exponent):
    """From 0 to a power of two: one of them is the scale of mode 1, which takes it to x1 = x2 = 0."""
    rois = np.array([[0, 0.5, 3, 0.5 + 2.0**exponent, 9]] * 40, np.float16)
    features = (FEATURES + 5).astype(np.float16)
    expected = in_torchvision(features, rois, 2, 1.0, 2, True)
    output = ours.RoIAlign(2, 1.0, 2, aligned=True)(ms.Tensor(features), ms.Tensor(rois)).asnumpy()
    np.testing.assert_allclose(output, expected, rtol=0, atol=2e-3 * np.abs(features).max())


@pytest.mark.usefixtures("graph_mode")
def test_graph_mode_has_the_border_of_mindspore_in_float16(ms, ours):
    case = edges.edge_case("torchvision: a height that float16 rounds up, float16")
    expected = operators.torchvision(case)
    output = ours.RoIAlign(**case.arguments)(ms.Tensor(case.features), ms.Tensor(case.rois)).asnumpy()
    different = (output != expected).reshape(len(case.rois), -1).any(1)
    assert different.tolist() == [False, False, True, True]


@pytest.mark.usefixtures("graph_mode")
def test_the_function_called_outside_a_graph_has_every_bit_in_graph_mode_too(ms, ours):
    for sampling_ratio in (2, 0):  # adaptive grids of these boxes are square and oblong, the latter sampled in NumPy
        output = ours.roi_align(ms.Tensor(FEATURES), ms.Tensor(BOXES), (3, 4), 0.5, sampling_ratio, True)
        assert_same_bits(output.asnumpy(), in_torchvision(FEATURES, BOXES, (3, 4), 0.5, sampling_ratio, True))


@pytest.mark.parametrize("scale", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.usefixtures("graph_mode")
def test_any_scale_is_as_in_pynative_mode(ms, ours, scale, aligned, dtype):
    features, boxes = FEATURES.astype(dtype), BOXES.astype(dtype)
    output = ours.RoIAlign((2, 3), scale, 2, aligned)(ms.Tensor(features), ms.Tensor(boxes)).asnumpy()
    assert_same_bits(output, reference.tv_roi_align(features, boxes, (2, 3), scale, 2, aligned))


# In a process of its own: MindSpore (2.10) aborts at its end after an error in what was traced.
TRACED = """
import os, sys
import mindspore as ms, numpy as np
from ms2torch_roi import MultiScaleRoIAlign, RoIAlign, ROIAlign, roi_align

cell, module = RoIAlign(2, 1.0, 2), ROIAlign(2, 2, 1.0)

def function(features, boxes):
    return roi_align(features, boxes, 2, 1.0, 2)
def adaptive(features, boxes):
    return roi_align(features, [boxes[:, 1:]], 2)
def in_cell(features, boxes):
    return cell(features, boxes)
def in_torch(features, boxes):
    return module(features, boxes)
def one_level(features, boxes):
    return MultiScaleRoIAlign(["a"], 2, 2)({"a": features}, [boxes[:, 1:]], [(9, 9)])
def two_levels(features, boxes):
    return MultiScaleRoIAlign(["a", "b"], 2, 2)({"a": features, "b": features}, [boxes[:, 1:]], [(9, 9)])

features, boxes = ms.ops.ones((1, 1, 9, 9)), ms.Tensor([[0, 1, 1, 5, 5.0]])
for call in (function, adaptive, in_cell, in_torch, one_level, two_levels):
    try:
        print(ms.jit(call, capture_mode="trace")(features, boxes).shape)
    except Exception as error:
        print(type(error).__name__, error)
    print((call(features, boxes).asnumpy() == 1).all())
sys.stdout.flush()
os._exit(0)
"""


def test_tracing_is_refused_rather_than_kept_as_a_constant(tmp_path):
    script = tmp_path / "traced.py"  # MindSpore reads the lines that it traces, and of all callers
    script.write_text(TRACED)
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    lines = result.stdout.splitlines()
    names = ["roi_align"] * 3 + ["ROIAlign"] + ["MultiScaleRoIAlign"] * 2
    for name, line, outside_of_graphs in zip(names, lines[::2], lines[1::2], strict=True):
        why = 'mindspore.jit(capture_mode="trace") would keep the output of a first call for all calls'
        assert line.startswith(f"RuntimeError {name}: {why}")
        assert ('capture_mode="ast"' in line) == (name != "ROIAlign")
        assert outside_of_graphs == "True"
