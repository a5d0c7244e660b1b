"""Both real frameworks: each port has the bits of the original, on every edge and on whatever hypothesis thinks of."""

import numpy as np
import pytest
from helpers import EDGE_CASES, examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ms2torch_roi import engine
from ms2torch_roi.parity import cases, edges, operators, round_trips, verdicts
from ms2torch_roi.torch import cpu

pytestmark = pytest.mark.needs_mindspore


def assert_parity(case, port=operators.port):
    verdict = verdicts.judge(case, operators.outcome(operators.original, case), operators.outcome(port, case))
    assert verdict.passed, f"{verdict}\n{verdicts.reproduction(case, 'original', port.__name__)}"


@pytest.mark.parametrize(
    "case", [*cases.documented_cases(), *(case for case in EDGE_CASES if not case.raises)], ids=lambda case: case.name
)
def test_round_trip(case):
    assert_parity(case, operators.round_trip)


RANDOM = {"to-torch": cases.random_case, "to-mindspore": cases.random_torchvision_case}


@pytest.mark.parametrize("direction", RANDOM)
@examples(150)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_cases(direction, seed):
    assert_parity(RANDOM[direction](seed, 0))


@pytest.mark.parametrize("direction", RANDOM)
@examples(60)
@given(seed=st.integers(0, 2**32 - 1))
def test_round_trip_of_random_cases(direction, seed):
    assert_parity(RANDOM[direction](seed, 0), operators.round_trip)


def test_a_round_trip_runs_the_port_back_on_what_the_port_hands_to_the_other_framework(monkeypatch):
    case = edges.edge_case("boxes of several cells, mode 1, float32")
    handed_over, roi_align = [], cpu._roi_align
    monkeypatch.setattr(cpu, "_roi_align", lambda *given: handed_over.append(given) or roi_align(*given))
    monkeypatch.setattr(cpu, "_plain_boxes", lambda *_: None)
    port = operators.port
    port(case)
    ported = []
    monkeypatch.setattr(operators, "port", lambda case: ported.append(case) or port(case))
    operators.round_trip(case)
    ((_, boxes, scale, *pooled, ratio, aligned),), (back,) = handed_over, ported
    assert back.direction == "to-mindspore"
    np.testing.assert_array_equal(back.rois, boxes.numpy())
    assert [*back.arguments.values()] == [tuple(pooled), scale, ratio, aligned]
    assert len(handed_over) == 1  # and not by the round trip


@pytest.mark.parametrize("direction", RANDOM)
def test_two_of_three_rows_of_the_random_cases_take_a_round_trip(direction):
    rows = left = 0
    for number in range(200):
        case = RANDOM[direction](0, number)
        rows, left = rows + len(case.rois), left + len(round_trips.encode(case).rest)
    assert 3 * left < rows


# What each port runs small calls on: the framework's operator, or the engine with Numba, or without.
ROADS = {"to-torch": ("framework", "numba", "numpy"), "to-mindspore": ("numba", "numpy")}


@pytest.mark.parametrize(
    ("road", "case"),
    [(road, case) for case in EDGE_CASES for road in ROADS[case.direction]],
    ids=lambda value: getattr(value, "name", value),
)
def test_edge(monkeypatch, road, case):
    if road != "framework":
        monkeypatch.setattr(cpu, "_is_worth_the_engine", lambda *_: True)
    if road == "numpy":
        monkeypatch.setattr(engine, "_compiled", lambda: None)
    assert_parity(case)


@st.composite
def arbitrary_cases(draw, direction):
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
    if direction == "to-mindspore" and sample_num <= 0:  # torchvision refuses what is inverted along one axis
        boxes = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    features = draw(hnp.arrays(dtype, shape, elements=st.floats(-8, 8, width=16) | st.sampled_from((np.inf, np.nan))))
    pooled = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    scale = draw(st.floats(0.01, 1) | st.sampled_from((1.0, 0.5, 0.0625, -1.0)))
    mode = draw(st.integers(0, 1))
    rois = np.concatenate((index, boxes), axis=1)
    common = {"name": "arbitrary", "category": "arbitrary", "source": "...", "features": features, "rois": rois}
    if direction == "to-torch":
        pooled_arguments = {"pooled_height": pooled[0], "pooled_width": pooled[1]}
        return cases.MindSporeCase(
            **common, **pooled_arguments, spatial_scale=scale, sample_num=sample_num, roi_end_mode=mode
        )
    return cases.TorchvisionCase(
        **common, output_size=pooled, spatial_scale=scale, sampling_ratio=sample_num, aligned=mode == 1
    )


@pytest.mark.parametrize("direction", RANDOM)
@examples(400)
@given(data=st.data())
def test_arbitrary_cases(direction, data):
    assert_parity(data.draw(arbitrary_cases(direction)))


def test_colliding_configurations_in_one_process():
    """MindSpore's PyNative cache takes the operators of each pair for one (FACTS: seen in 2.7 to 2.10)."""
    for first, second in (((1, 12), (11, 2)), ((3, 31), (33, 1))):
        for pooled in (first, second):
            (case,) = (case for case in EDGE_CASES if case.name.startswith(f"{pooled[0]} x {pooled[1]} bins"))
            assert operators.mindspore(case).shape[2:] == pooled
            assert_parity(case)
