"""Both real frameworks: the adapter has MindSpore's bits, on every edge and on whatever hypothesis thinks of."""

import numpy as np
import pytest
from helpers import EDGE_CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ms2torch_roi.parity import cases, operators, verdicts

pytestmark = pytest.mark.mindspore


def assert_parity(case):
    verdict = verdicts.judge(
        case, operators.outcome(operators.mindspore, case), operators.outcome(operators.port, case)
    )
    assert verdict.passed, f"{verdict}\n{verdicts.reproduction(case, with_mindspore=True)}"


@pytest.mark.parametrize("case", EDGE_CASES, ids=lambda case: case.name)
def test_edge(case):
    assert_parity(case)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_cases(seed):
    assert_parity(cases.random_case(seed, 0))


@st.composite
def arbitrary_cases(draw):
    """Any rois that the dtype can hold, on features around the origin: less likely than the random cases, but freer."""
    dtype = draw(st.sampled_from((np.float16, np.float32)))
    width = np.dtype(dtype).itemsize * 8
    # Adaptive grids of millions of samples keep MindSpore busy for hours.
    sample_num = draw(st.integers(-1, 4))
    most = 100.0 if sample_num <= 0 else None
    anything = most is None
    near = st.floats(-20, 20, width=16)
    wild = st.floats(-most if most else None, most, width=width, allow_nan=anything, allow_infinity=anything)
    # Smaller numbers make subnormal products in float32, which MindSpore flushes to 0 on some of its threads.
    wild = wild.filter(lambda x: not 0 < abs(x) < 1e-10)
    images = draw(st.integers(1, 3))
    shape = (images, draw(st.integers(1, 2)), draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    count = draw(st.integers(0, 8))
    boxes = draw(hnp.arrays(dtype, (count, 4), elements=near | wild))
    index = draw(hnp.arrays(dtype, (count, 1), elements=st.floats(0, images - 1, width=16)))
    features = draw(hnp.arrays(dtype, shape, elements=st.floats(-8, 8, width=16) | st.sampled_from((np.inf, np.nan))))
    return cases.MindSporeCase(
        name="arbitrary",
        category="arbitrary",
        source="...",
        features=features,
        rois=np.concatenate((index, boxes), axis=1),
        pooled_height=draw(st.integers(1, 4)),
        pooled_width=draw(st.integers(1, 4)),
        spatial_scale=draw(st.floats(0.01, 1) | st.sampled_from((1.0, 0.5, 0.0625, -1.0))),
        sample_num=sample_num,
        roi_end_mode=draw(st.integers(0, 1)),
    )


@settings(max_examples=400)
@given(case=arbitrary_cases())
def test_arbitrary_cases(case):
    assert_parity(case)


def test_colliding_configurations_in_one_process():
    """MindSpore's PyNative cache takes the operators of each pair for one (FACTS: seen in 2.7 to 2.10)."""
    for first, second in (((1, 12), (11, 2)), ((3, 31), (33, 1))):
        for pooled in (first, second):
            (case,) = (case for case in EDGE_CASES if case.name.startswith(f"{pooled[0]} x {pooled[1]} bins"))
            assert operators.mindspore(case).shape[2:] == pooled
            assert_parity(case)
