from dataclasses import replace

import numpy as np
import pytest

from ms2torch_roi import rules
from ms2torch_roi.parity import cases, edges, operators, report, verdicts
from ms2torch_roi.parity.report.facts import as_json, from_json

CASE = edges.edge_case("boxes of several cells, mode 1, float32")
RESULT = operators.reference(CASE)


def test_equal_results_are_identical():
    verdict = verdicts.judge(CASE, RESULT, RESULT.copy())
    assert verdict.passed
    assert (verdict.values, verdict.differing, verdict.largest_difference) == (RESULT.size, 0, 0.0)


def test_one_bit_is_a_difference():
    actual = RESULT.copy()
    actual[1, 2, 0, 3] = np.nextafter(actual[1, 2, 0, 3], np.float32(9))
    verdict = verdicts.judge(CASE, RESULT, actual)
    assert not verdict.passed
    assert verdict.differing == 1
    assert 0 < verdict.largest_difference < 1e-6
    assert verdict.first.startswith("rois row 1 (0.0, 4.5, ")
    assert "channel 2, bin (0, 3)" in verdict.first


def test_nan_equals_nan_and_zero_equals_minus_zero():
    assert verdicts.same_bits(np.array([np.nan, 0.0]), np.array([np.nan, -0.0])).all()
    assert not verdicts.same_bits(np.array([np.nan, 1.0]), np.array([1.0, np.nan])).any()


def test_nan_against_a_number_is_an_infinite_difference():
    actual = RESULT.copy()
    actual[0, 0, 0, 0] = np.nan
    verdict = verdicts.judge(CASE, RESULT, actual)
    assert verdict.largest_difference == np.inf
    run = report.Run("reference", {}, {}, numbers=1, settings={}, verdicts=[verdict])
    assert as_json(run)["total"]["largest_difference"] == "infinite"
    assert from_json(as_json(run)) == run


def test_a_large_heat_map_is_one_of_blocks_that_hold_the_largest_difference():
    expected = np.zeros((1, 1, 200, 130), np.float32)
    actual = expected.copy()
    actual[0, 0, 199, 0], actual[0, 0, 0, 129] = 0.123456, 7
    gradient = verdicts.judge_gradient(CASE, expected, actual, "gradient")
    heat_map = np.array(gradient.heat_map)
    assert heat_map.shape == (50, 44)
    assert (heat_map[-1, 0], heat_map[0, -1], np.count_nonzero(heat_map)) == (0.123, 7, 2)


@pytest.mark.parametrize("wanted", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_within_no_tolerance(wanted):
    tolerance = verdicts.Tolerance(atol=1e30, rtol=1e30)
    for value in {0.0, np.inf, -np.inf, np.nan} - {wanted}:
        expected, actual = RESULT.copy(), RESULT.copy()
        expected[0, 0, 0, 0], actual[0, 0, 0, 0] = wanted, value
        assert verdicts.judge(CASE, expected, actual, tolerance=tolerance).differing == (
            0 if np.isnan(wanted) and np.isnan(value) else 1
        )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"atol": -1}, ValueError, "atol must be 0 or more, got -1"),
        ({"atol": float("inf")}, ValueError, "atol must be 0 or more, got inf"),
        ({"rtol": float("nan")}, ValueError, "rtol must be 0 or more, got nan"),
        ({"rtol": "1"}, TypeError, "rtol must be a number, got '1'"),
        ({"max_differing": -1}, ValueError, "max_differing must be 0 or more, got -1"),
        ({"max_differing": 1e9}, TypeError, "max_differing must be an int, got 1000000000.0"),
    ],
)
def test_tolerances_are_numbers_of_0_or_more(arguments, error, message):
    with pytest.raises(error, match=message):
        verdicts.Tolerance(**arguments)


def test_subnormal_float32_equals_zero_but_the_smallest_normal_number_does_not():
    tiny = np.finfo(np.float32).tiny
    for value, passed in ((tiny / 2, True), (-tiny / 2, True), (tiny, False)):
        expected, actual = RESULT.copy(), RESULT.copy()
        expected[0, 0, 0, 0], actual[0, 0, 0, 0] = 0, value
        assert verdicts.judge(CASE, expected, actual).passed is passed


def test_rows_never_written_are_left_out_and_counted():
    case = edges.edge_case("zero-padded rois, sample_num 2, mode 1, float32")
    result = operators.reference(case)
    garbage = result.copy()
    garbage[:3] = 99
    verdict = verdicts.judge(case, garbage, result)
    assert verdict.passed
    assert verdict.left_out == {case.undefined_reason: 3}
    assert verdict.values == result[3:].size
    garbage[3] = 99
    assert not verdicts.judge(case, garbage, result).passed


def test_rows_of_a_nan_index_are_left_out_and_said_to_be():
    case = edges.edge_case("NaN as an index, float32")
    assert case.undefined.tolist() == [True, False]
    assert case.undefined_reason == "whose index is NaN, on which MindSpore can crash"
    result = operators.reference(case)
    assert verdicts.judge(case, result, operators.port(case)).left_out == {case.undefined_reason: 1}
    padded = replace(case, rois=np.concatenate((case.rois, np.zeros((1, 5), np.float32))))
    assert padded.undefined.tolist() == [True, False, True]
    both = "never written by MindSpore (|x1| and |x2| < 0.001) or whose index is NaN, on which MindSpore can crash"
    assert padded.undefined_reason == both
    assert not replace(padded, rule="ascend-dynamic").undefined.any()


@pytest.mark.parametrize(
    "name",
    ["zero-padded rois, sample_num 2, mode 1, float32", "torchvision: x1 not finite, sample_num 2, aligned, float32"],
)
def test_rows_left_out_must_be_0_in_the_port(name):
    case = edges.edge_case(name)
    result = operators.reference(case)
    assert verdicts.judge(case, result, result).passed
    actual = result.copy()
    actual[case.undefined.argmax(), 0, 0, 0] = 1
    assert "the port gave other values than 0 for rows" in verdicts.judge(case, result, actual).problem


@pytest.mark.parametrize("actual", [RESULT[:1], RESULT.astype(np.float64)])
def test_another_shape_or_dtype_is_a_difference(actual):
    verdict = verdicts.judge(CASE, RESULT, actual)
    assert not verdict.passed
    assert "expected float32 (2, 3, 3, 4), got" in verdict.problem


def test_an_error_where_none_was_wanted_is_a_failure():
    assert verdicts.judge(CASE, RESULT, TypeError("no")).problem == "the port raised TypeError: no"
    assert verdicts.judge(CASE, TypeError("no"), TypeError("no")).problem == "MindSpore raised TypeError: no"


def test_an_error_that_was_wanted_must_come_from_both_and_be_of_the_type():
    case = edges.edge_case("index -1 of 2 images, float32")
    error = RuntimeError("index")
    assert verdicts.judge(case, error, error).passed
    assert "the port should raise RuntimeError, but raised nothing" in verdicts.judge(case, error, RESULT).problem
    assert "but raised IndexError: 9" in verdicts.judge(case, error, IndexError(9)).problem
    assert "MindSpore should raise" in verdicts.judge(case, RESULT, error).problem


def test_the_documented_example_is_held_to_what_its_page_prints():
    case = cases.documented_cases()[0]
    other = case.printed + np.float32(0.001)
    assert "the documentation's" in verdicts.judge(case, other, other).problem


def test_reproductions_run_and_find_the_difference_again(capsys, monkeypatch):
    def port(case):
        return operators.reference(case) + case.dtype.type(1) * ~case.undefined[:, None, None, None]

    monkeypatch.setattr(operators, "port", port)
    for case in (CASE, cases.random_case(3, 5), cases.random_torchvision_case(3, 5), cases.documented_cases()[1]):
        exec(verdicts.reproduction(case, "reference", "port"), {})
        printed = capsys.readouterr().out
        assert f"case={case.name!r}" in printed
        assert "problem=''" in printed
        assert "differing=0" not in printed


def test_every_edge_is_named_once_and_found_by_its_source():
    every = list(edges.edge_cases())
    assert len({case.name for case in every}) == len(every) >= 600
    for case in every:
        assert case.source == f"edges.edge_case({case.name!r})"
        assert np.array_equal(edges.edge_case(case.name).rois, case.rois, equal_nan=True)


def test_random_cases_depend_on_their_seed_and_number_alone():
    again, other = cases.random_case(4, 2), cases.random_case(4, 3)
    np.testing.assert_array_equal(cases.random_case(4, 2).rois, again.rois)
    np.testing.assert_array_equal(cases.random_case(4, 2).features, again.features)
    assert again.rois.shape != other.rois.shape


def test_random_cases_cover_every_category():
    categories = {cases.random_case(0, number).category for number in range(200)}
    assert len(categories) == 12
    categories = {cases.random_torchvision_case(0, number).category for number in range(200)}
    assert len(categories) == 8


def test_undefined_rows_of_torchvision_cases_are_those_that_the_port_does_not_hand_over():
    for number in range(100):
        case = cases.random_torchvision_case(1, number)
        with np.errstate(all="ignore"):
            feature_boxes = rules.feature_boxes(np, rules.TORCHVISION[case.aligned], case.rois, case.spatial_scale)
            finite = rules.is_finite(np, *feature_boxes)
        np.testing.assert_array_equal(case.undefined, ~finite)
