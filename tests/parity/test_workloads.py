"""Calls as large as models make them: the bits of the original, forward and backward, in both directions."""

import numpy as np
import pytest
from helpers import assert_same_bits

from ms2torch_roi.parity import cases, operators

pytestmark = pytest.mark.needs_mindspore

# Its samples enter the image along the bins, so that the first of them are outside.
ENTERING = (0, -400.128662109375, 896.8827514648438, 61.48917770385742, 348.4419860839844)
STRIDE = 32


def rows_of_no_call(rng, image):
    """490 boxes below one cell so near to 0 that no call of torchvision has them, and the one that enters."""
    start = rng.uniform((0, 0), (1e-5, 28), (490, 2))
    end = start + rng.uniform(0, 0.9, (490, 2))
    boxes = np.concatenate((start * STRIDE, end * STRIDE - 1), 1)
    boxes = np.concatenate((boxes, [ENTERING[1:]]))
    return np.concatenate((np.full((491, 1), image), boxes), 1).astype(np.float32)


def entering_row_of_mindspore():
    rng = np.random.default_rng(0)
    return cases.MindSporeCase(
        name="a box that enters the image, the last of 491", category="", source="",
        features=rng.standard_normal((1, 115, 28, 13)).astype(np.float32), rois=rows_of_no_call(rng, 0),
        pooled_height=14, pooled_width=4, spatial_scale=1 / STRIDE, sample_num=3, roi_end_mode=1,
    )  # fmt: skip


def entering_row_of_torchvision():
    rng = np.random.default_rng(0)
    rois = rows_of_no_call(rng, 1) + np.array((0, 0, 0, 1, 1), np.float32)
    features = rng.standard_normal((2, 115, 28, 13)).astype(np.float32)
    features[0, 0, 0, 0] = np.nan  # then MindSpore's operator has no call for any row
    return cases.TorchvisionCase(
        name="a box that enters the image, the last of 491", category="", source="",
        features=features, rois=rois, output_size=(14, 4), spatial_scale=1 / STRIDE, sampling_ratio=3, aligned=True,
    )  # fmt: skip


@pytest.mark.parametrize("make", [entering_row_of_mindspore, entering_row_of_torchvision])
@pytest.mark.parametrize("port", [operators.port, operators.reference])
def test_a_box_that_enters_the_image_among_490_others(make, port):
    case = make()
    expected = operators.original(case)
    assert expected[490].any()
    assert_same_bits(port(case), expected)
