"""The oracle of the tests has the bits of both frameworks, forward and backward."""

import numba
import numpy as np
import oracle
import pytest
from helpers import EDGE_CASES, assert_same_bits

from ms2torch_roi.parity import cases, operators
from ms2torch_roi.parity.verdicts import flushed

HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


@numba.njit
def to_halves(values):
    rounded = np.empty_like(values)
    for i in range(len(values)):
        rounded[i] = oracle.to_half(values[i])
    return rounded


def some_floats():
    rng = np.random.default_rng(0)
    yield HALVES
    between = np.sort(HALVES[np.isfinite(HALVES)])
    between = (between[1:] + between[:-1]) / 2  # ties
    yield from (between, np.nextafter(between, np.float32(np.inf)), np.nextafter(between, np.float32(-np.inf)))
    yield rng.integers(0, 2**32, 10**6, dtype=np.uint32).view(np.float32)
    yield (rng.standard_normal(10**6) * 10 ** rng.uniform(-9, 6, 10**6)).astype(np.float32)


def test_float16_is_rounded_as_numpy_rounds_it():
    for values in some_floats():
        with np.errstate(over="ignore", invalid="ignore"):
            expected = values.astype(np.float16).astype(np.float32)
        actual = to_halves(values)
        assert_same_bits(actual, expected)
        numbers = ~np.isnan(expected)
        assert (np.signbit(actual) == np.signbit(expected))[numbers].all()


def assert_the_oracle_is_right(case):
    expected, actual = operators.original(case), oracle.output(case)
    assert not actual[getattr(case, "unwritten", case.undefined)].any()  # image 0, where the index is NaN
    assert_same_bits(flushed(actual)[~case.undefined], flushed(expected)[~case.undefined])
    weights = np.random.default_rng(0).standard_normal(case.output_shape).astype(case.features.dtype)
    assert_same_bits(flushed(oracle.gradient(case, weights)), flushed(operators.original_gradient(case, weights)))


EDGES = [case for case in EDGE_CASES if not case.raises and len(case.rois)]


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("first", range(0, 150, 10))
def test_random_cases_of_mindspore(first):
    for number in range(first, first + 10):
        assert_the_oracle_is_right(cases.random_case(8, number))


@pytest.mark.parametrize("first", range(0, 150, 10))
def test_random_cases_of_torchvision(first):
    for number in range(first, first + 10):
        assert_the_oracle_is_right(cases.random_torchvision_case(8, number))


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("number", range(5))
def test_workloads_of_mindspore(number):
    assert_the_oracle_is_right(cases.workload_case(8, number))


@pytest.mark.parametrize("number", range(5))
def test_workloads_of_torchvision(number):
    assert_the_oracle_is_right(cases.torchvision_workload_case(8, number))


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("case", [case for case in EDGES if case.original == "MindSpore"], ids=lambda case: case.name)
def test_edges_of_mindspore(case):
    assert_the_oracle_is_right(case)


@pytest.mark.parametrize("case", [case for case in EDGES if case.original == "torchvision"], ids=lambda case: case.name)
def test_edges_of_torchvision(case):
    assert_the_oracle_is_right(case)
