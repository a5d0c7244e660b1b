"""Cases whose differences are explained."""

import functools
from dataclasses import replace

import numpy as np

from ms2torch_roi.parity import edges


@functools.cache
def random_case(make, number):
    """A random case without the rows on which ports by hand crash, and those that MindSpore does not write."""
    case = make(7, number)
    cells = np.abs(case.rois[:, 1:] * case.arguments["spatial_scale"])
    return replace(case, rois=case.rois[(cells < 200).all(1) & ~case.undefined])


def mode(number):
    return lambda case: case.roi_end_mode == number and case.sample_num > 0 and not has_fractional_index(case)


def has_fractional_index(case):
    return (case.rois[:, 0] % 1).any()


CASE = edges.edge_case("boxes of several cells, mode 1, float32")
