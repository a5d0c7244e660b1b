"""Cases that fail are made small, still fail, and are written down as Python that makes them again."""

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torchvision
from helpers import EDGE_CASES

from ms2torch_roi.parity import cases, diagnosis, operators, shrinking, verdicts


def made_again(source):
    return eval(source, {"cases": cases, "np": np})


def assert_same_case(left, right):
    assert type(left) is type(right)
    for field in fields(left):
        if field.name == "source":
            continue
        mine, others = getattr(left, field.name), getattr(right, field.name)
        if isinstance(mine, np.ndarray):
            assert (mine.dtype, mine.shape) == (others.dtype, others.shape)
            np.testing.assert_array_equal(mine, others)
            np.testing.assert_array_equal(np.signbit(mine), np.signbit(others))
        else:
            assert mine == others or (np.isnan(mine) and np.isnan(others)), field.name


def naive(case):
    rois, pooled = torch.from_numpy(case.rois), (case.pooled_height, case.pooled_width)
    features = torch.from_numpy(case.features)
    return torchvision.ops.roi_align(features, rois.to(features.dtype), pooled, case.spatial_scale, 2, True).numpy()


def other_mode(case):
    return operators.reference(replace(case, roi_end_mode=1 - case.roi_end_mode))


def in_float32(case):
    typed = {"features": case.features.astype(np.float32), "rois": case.rois.astype(np.float32)}
    return operators.reference(replace(case, **typed)).astype(case.features.dtype)


def truncated_index(case):
    return operators.reference(replace(case, rois=np.concatenate((np.trunc(case.rois[:, :1]), case.rois[:, 1:]), 1)))


def unaligned(case):
    return operators.reference(replace(case, aligned=not case.aligned))


def fails_with(port):
    def fails(case):
        expected = operators.outcome(operators.reference, case)
        actual = operators.outcome(port, case)
        return verdicts.judge(case, expected, actual).differing > 0

    return fails


def first_failing(make, fails, count=2):
    every = (make(1, number) for number in range(100))
    failing = [*itertools.islice((case for case in every if np.isfinite(case.rois).all() and fails(case)), count)]
    assert len(failing) == count
    return failing


MISTAKES = {
    "naive": (naive, cases.random_case),
    "the other mode": (other_mode, cases.random_case),
    "float16 in float32": (in_float32, cases.random_case),
    "a truncated index": (truncated_index, cases.random_case),
    "the other aligned": (unaligned, cases.random_torchvision_case),
}


@pytest.mark.parametrize(("port", "make"), MISTAKES.values(), ids=MISTAKES)
def test_shrunk_cases_are_small_and_still_fail(port, make):
    fails = fails_with(port)
    for case in first_failing(make, fails):
        small = shrinking.shrink(case, fails)
        assert fails(small)
        assert small.name == f"{case.name}, shrunk"
        assert len(small.rois) == 1
        assert len(small.features) <= 2
        assert small.features.shape[1] == 1
        assert small.features.size <= 24
        arguments = small.arguments
        height, width = arguments.get("output_size", (arguments.get("pooled_height"), arguments.get("pooled_width")))
        assert height * width <= 8
        assert len(small.source) < 600
        again = made_again(small.source)
        assert_same_case(again, small)
        assert fails(again)


def test_shrunk_cases_show_the_same_mistake_if_that_is_asked_for():
    def explained(case):
        return diagnosis.explain(case, operators.reference(case), other_mode(case))

    case = next(
        case for case in first_failing(cases.random_case, fails_with(other_mode)) if "not the" in explained(case)
    )
    small = shrinking.shrink(case, lambda candidate: explained(candidate) == explained(case))
    assert explained(small) == explained(case)
    assert len(small.rois) <= 2
    assert small.features.size <= 8


def test_what_a_case_needs_to_fail_is_kept():
    case = cases.random_case(1, 2)
    case = replace(case, features=case.features.copy())
    case.features[0, 0, 0, 0] = np.nan

    def fails(case):
        return np.isnan(case.features).any() and len(case.rois) >= 3 and case.pooled_width >= 2

    small = shrinking.shrink(case, fails)
    assert len(small.rois) == 3
    assert (small.pooled_height, small.pooled_width) == (1, 2)
    assert small.features.shape == (1, 1, 1, 1)
    assert "features=np.array([[[[np.nan]]]]" in small.source
    assert_same_case(made_again(small.source), small)


def test_a_case_that_does_not_fail_again_is_returned_as_it_is():
    case = cases.random_case(1, 2)
    assert shrinking.shrink(case, lambda case: False) is case


def test_a_case_that_cannot_be_smaller_is_returned_as_it_is():
    case = cases.random_case(1, 2)
    shape = case.features.shape, case.rois.tobytes(), case.features.tobytes(), case.arguments
    same = shrinking.shrink(
        case, lambda case: (case.features.shape, case.rois.tobytes(), case.features.tobytes(), case.arguments) == shape
    )
    assert same is case


def test_no_more_cases_are_tried_than_allowed():
    asked = []

    def fails(case):
        asked.append(case)
        return len(asked) == 1 or len(asked) % 3 == 0

    for allowed in (1, 7, 50, 200):
        asked.clear()
        shrinking.shrink(cases.random_case(1, 2), fails, allowed)
        assert 0 < len(asked) <= allowed
    asked.clear()
    shrinking.shrink(cases.random_case(1, 2), lambda case: asked.append(case) or True)
    assert len(asked) < 60


WORKLOAD = cases.workload_case(0, 11)


def test_a_workload_is_made_as_small():
    small = shrinking.shrink(WORKLOAD, fails_with(other_mode))
    assert len(small.rois) == 1
    assert small.features.size <= 24
    assert small.threads is None


def test_of_large_cases_fewer_are_tried():
    asked = []

    def fails(case):
        asked.append(case.features.size + np.prod(case.output_shape))
        return len(asked) == 1

    shrinking.shrink(WORKLOAD, fails)
    assert asked[0] > 2**21
    assert sum(asked) < 2 * shrinking.VALUES
    assert len(asked) < shrinking.EVALUATIONS


def test_what_would_be_too_long_to_write_down_is_returned_as_it_is():
    assert shrinking.shrink(WORKLOAD, lambda case: len(case.rois) > shrinking.MOST_NUMBERS / 5) is WORKLOAD
    small = shrinking.shrink(WORKLOAD, lambda case: len(case.rois) > 100)
    assert len(small.rois) > 100
    assert_same_case(made_again(small.source), small)


def test_threads_that_a_case_needs_are_kept():
    small = shrinking.shrink(WORKLOAD, lambda case: case.threads == WORKLOAD.threads)
    assert f"threads={WORKLOAD.threads}" in small.source
    assert_same_case(made_again(small.source), small)


@pytest.mark.parametrize("seed", range(4))
def test_every_case_on_the_way_is_one_that_both_operators_take(seed):
    """Whatever fails: else an error of the operators would be taken for the failure that was to be made small."""
    rng = np.random.default_rng(seed)

    def fails(case):
        result = operators.outcome(operators.reference, case)
        assert not isinstance(result, Exception), (result, case)
        return rng.random() < 0.5

    for number in range(8):
        shrinking.shrink(cases.random_case(seed, number), fails, 60)
        case = cases.random_torchvision_case(seed, number)
        if case.sampling_ratio > 0:  # torchvision refuses adaptive grids of some boxes
            shrinking.shrink(case, fails, 60)


def test_an_index_is_not_rounded_up_to_an_image_that_is_not_there():
    case = cases.random_torchvision_case(1, 0)
    rois = np.array([[1.75, 1, 2, 3, 4]], case.rois.dtype)
    case = replace(case, features=np.tile(case.features[:1], (2, 1, 1, 1)), rois=rois, sampling_ratio=2)

    def fails(case):
        operators.reference(case)
        return len(case.features) == 2 and case.rois[0, 0] > 1

    assert 1 < shrinking.shrink(case, fails).rois[0, 0] < 2


def test_any_case_can_be_written_down():
    for case in (*cases.documented_cases(), *EDGE_CASES[::7], cases.random_case(0, 3)):
        assert_same_case(made_again(shrinking.source(case)), case)


def test_numbers_are_written_as_short_as_they_can_be():
    features = np.arange(1, 7, dtype=np.float16).reshape(1, 1, 2, 3)
    rois = np.array([[0, 0.1, -np.inf, -0.0, 3e38]], np.float32)
    case = cases.MindSporeCase(
        name="a", category="b", source="", features=features, rois=rois, pooled_height=1, pooled_width=1,
        spatial_scale=float("nan"), raises=RuntimeError,
    )  # fmt: skip
    source = shrinking.source(case)
    assert "features=np.arange(1, 7, dtype=np.float16).reshape(1, 1, 2, 3)" in source
    assert "rois=np.array([[0.0, 0.1, -np.inf, -0.0, 3e+38]], np.float32)" in source
    assert "spatial_scale=np.nan" in source
    assert "raises=RuntimeError" in source
    assert_same_case(made_again(source), case)
