"""ROIAlign as one call of torchvision: the bits of eager mode, or within a bound of it.

torch.jit.trace takes no compiler, and so no time: it traces the very path that exporters do.
"""

import numpy as np
import pytest
import torch
from helpers import MINDSPORE_EDGE_CASES, assert_same_bits
from programs import FEATURES, traced

from ms2torch_roi import ROIAlign, rules
from ms2torch_roi.parity import cases, operators
from ms2torch_roi.parity.verdicts import same_bits

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning")

# In mode 1 a coordinate moves when 0.5 is added, and what is computed from it rounds otherwise: by this many roundings
# of the largest coordinate of the box, or of 1. A value changes by 4 times that at most, relative to the largest
# feature, as it lies between four cells; the rounding of the sum of samples is in it.
ROUNDINGS = 8
UNIT = {"float32": 2.0**-24, "float16": 2.0**-11}


def in_one_call(case, features):
    op = ROIAlign(**case.arguments)
    tensors = torch.from_numpy(features), torch.from_numpy(case.rois)
    return traced(op, *tensors)(*tensors).numpy()


def with_results(mode):
    """Yield cases of fixed grids on finite features, with what eager mode computes."""
    for case in MINDSPORE_EDGE_CASES + [cases.random_case(4, number) for number in range(250)]:
        expected = operators.outcome(operators.port, case)
        if (
            case.roi_end_mode == mode
            and case.sample_num > 0
            and case.features.dtype == case.rois.dtype
            and not isinstance(expected, Exception)
            and (np.abs(case.features) < 1e4).all()  # and so no overflow
            and rules.rounds_alike(case.dtype, *case.features.shape[2:])
        ):
            yield case, expected


def test_mode_0_has_the_bits_of_eager_mode():
    rows = 0
    for case, expected in with_results(mode=0):
        assert_same_bits(in_one_call(case, case.features), expected)
        rows += len(expected)
    assert rows > 2000


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mode_1_is_within_the_bound_of_eager_mode_but_for_samples_on_the_border():
    rows = different = 0
    across = {}
    for case, expected in with_results(mode=1):
        # Pooled ones tell how many of the samples are inside the image.
        ones = np.ones_like(case.features)
        inside = ROIAlign(**case.arguments)(torch.from_numpy(ones), torch.from_numpy(case.rois)).numpy()
        moved = (np.abs(in_one_call(case, ones) - inside) > 0.01).any((1, 2, 3))
        if moved.any():
            across[case.name] = int(moved.sum())

        cells, _ = rules.feature_boxes(np, rules.MINDSPORE[1], case.rois, case.spatial_scale)
        finite = np.isfinite(cells).all(1)
        largest = np.abs(np.where(finite[:, None], cells[:, 1:], 0)).max(1, initial=1).astype(np.float64)
        bound = (
            4 * ROUNDINGS * UNIT[case.dtype.name] * largest * np.abs(case.features).max(initial=0).astype(np.float64)
        )
        actual = in_one_call(case, case.features)
        actual[case.crashes] = 0  # as in the outcome of a port
        same = same_bits(actual, expected).all((1, 2, 3))
        error = np.abs(actual.astype(np.float64) - expected).max((1, 2, 3), initial=0)
        assert (same | moved | (error <= bound)).all(), case.name
        rows += len(same)
        different += (~same).sum()
    assert rows > 2000
    assert 0.01 < different / rows < 0.2
    # The edges that were made for it, where a box below one cell has its end on the border.
    assert set(across) <= {
        f"small boxes with a sample on the {side}, {d}" for side in ("height", "width") for d in UNIT
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_boxes_within_the_image_lose_no_sample(dtype):
    rng = np.random.default_rng(5)
    for height, width in ((1, 64), (16, 17), (33, 128), (50, 76)):
        # Boxes in the image at a stride of 4, their last pixel counted in, many of them tiny and at its very end.
        last = np.array((4 * width, 4 * height)) - 1
        start = last * np.clip(rng.uniform(0.01, 1.2, (2000, 2)), None, 1)
        end = np.minimum(start + 10 ** rng.uniform(-6, 2.5, (2000, 2)), last)
        rois = np.hstack((np.zeros((2000, 1)), start, end)).astype(dtype)
        tensors = torch.ones(1, 1, height, width, dtype=torch.float32).numpy().astype(dtype), rois
        output = traced(ROIAlign(7, 7, 0.25), *map(torch.from_numpy, tensors))
        assert (output(*map(torch.from_numpy, tensors)) > 0.99).all()


@pytest.mark.parametrize("mode", [0, 1])
def test_rows_that_pool_to_zero_do_so_in_one_call(mode):
    nan, inf = float("nan"), float("inf")
    rows = [[0, 0, 1, 0, 9], [1, nan, 1, 9, 9], [0, 1, 1, inf, 9], [0, -3e38, 1, 3e38, 9], [nan, 400, 400, 500, 500]]
    tensors = FEATURES, torch.tensor(rows)
    assert not traced(ROIAlign(3, 2, 0.25, 2, mode), *tensors)(*tensors).any()


def test_a_first_pixel_that_is_not_finite_spreads_to_samples_outside():
    features = FEATURES.clone()
    features[0, :, 0, 0] = float("inf")
    rois = torch.tensor([[0, 400, 400, 500, 500], [0, 0, 1, 0, 9], [1, 400, 400, 500, 500.0]])
    op = ROIAlign(3, 2, 0.25)
    assert not op(features, rois).any()
    output = traced(op, features, rois)(features, rois)
    assert output[:2].isnan().all()
    assert not output[2].any()
