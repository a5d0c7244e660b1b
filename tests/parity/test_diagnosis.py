"""What follows a rule is told which, on any device; what is no known mistake is not."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from explained import CASE, mode, random_case
from helpers import EDGE_CASES

from ms2torch_roi.parity import cases, diagnosis, edges, operators, rules, verdicts

RESULT = operators.reference(CASE)


def with_rule(case, **changes):
    """Compute a case by another rule, with the reference's parts."""
    rule = replace(rules.candidates_of(case)[0].rule, **changes)
    with np.errstate(all="ignore"):
        output = rule.pool(case, case.features, np.arange(len(case.rois)))
    output[case.undefined] = 0
    return output


@pytest.mark.parametrize("number", range(20))
def test_the_rule_asked_for_is_that_of_the_reference(number):
    for case in (cases.random_case(3, number), cases.random_torchvision_case(3, number)):
        assert verdicts.same_bits(with_rule(case), operators.reference(case)).all()


def test_the_rule_asked_for_is_that_of_the_reference_on_edges():
    for case in EDGE_CASES:
        if case.raises is None and len(case.features):
            assert verdicts.same_bits(with_rule(case), operators.reference(case)).all(), case.name


def test_a_recording_of_another_device_is_told_its_rule():
    case = next(
        case
        for number in itertools.count()
        if mode(1)(case := random_case(cases.random_case, number)) and case.dtype == np.float16 and case.sample_num > 0
    )
    expected = operators.reference(replace(case, rule="ascend-950"))
    assert diagnosis.explain(case, expected, operators.port(case)) == (
        "MindSpore's values match roi_end_mode=1 computed with 1 added to x1 and y1, with small boxes enlarged to one"
        " cell and in float32 instead of float16: as rule='ascend-950' does. That is not the rule of MindSpore on a"
        " CPU."
    )


def test_one_corrupt_value_follows_no_rule():
    for value, rest in (
        (RESULT[1, 2, 0, 3] + 1, "The largest difference is 1, 0.26 of the largest feature."),
        (np.nan, "1 of the 1 differences are between a number and NaN or infinity."),
        (0, f"All that differs is 0 in the port. The largest difference is {abs(RESULT[1, 2, 0, 3]):.3g}, "),
    ):
        actual = RESULT.copy()
        actual[1, 2, 0, 3] = value
        sentence = diagnosis.explain(CASE, RESULT, actual)
        assert sentence.startswith(f"None of the known rules fits. {rest}")
        assert "round" not in sentence


@pytest.mark.parametrize("number", range(20))
def test_corrupt_values_of_random_cases_follow_no_rule(number):
    rng = np.random.default_rng(number)
    for make in (cases.random_case, cases.random_torchvision_case):
        case = make(2, number)
        expected = operators.reference(case)
        if case.undefined.all() or not np.isfinite(expected).all():
            continue
        actual = expected.copy()
        row = rng.choice(np.flatnonzero(~case.undefined))
        actual[row].flat[rng.integers(actual[row].size)] += 0.5
        for pair in ((expected, actual), (actual, expected)):
            sentence = diagnosis.explain(case, *pair)
            assert sentence.startswith("None of the known rules fits.")
            assert "The largest difference is 0.5" in sentence


def test_zeros_are_no_proof_of_a_rule():
    """aligned=True would move the only sample, at -0.8, out of the image, and so would many another rule."""
    case = replace(
        CASE,
        rois=np.array([[0, -1.3, 2, -1.3, 3]], np.float32),
        pooled_height=1,
        pooled_width=1,
        spatial_scale=1.0,
        sample_num=1,
    )
    actual = with_rule(case, moved=rules._HALF_A_CELL)
    assert not actual.any()
    sentence = diagnosis.explain(case, operators.reference(case), actual)
    assert sentence.startswith("None of the known rules fits. All that differs is 0 in the port.")


def test_rows_that_follow_a_rule_are_counted():
    wrong = with_rule(CASE, end=0)
    case = replace(CASE, rois=np.tile(CASE.rois, (3, 1)))
    expected, actual = np.tile(RESULT, (3, 1, 1, 1)), np.tile(wrong, (3, 1, 1, 1))
    actual[2:4] = expected[2:4]
    actual[5] += 1
    assert diagnosis.explain(case, expected, actual) == (
        "In 3 of the 4 rows that differ, the port's values match roi_end_mode=1 computed without the 1 added to x2 and"
        " y2."
    )


def test_rows_of_another_rule_among_right_ones_are_told_theirs():
    expected, actual = RESULT, RESULT.copy()
    actual[1] = with_rule(CASE, start=1)[1]
    sentence = diagnosis.explain(CASE, expected, actual)
    assert sentence.startswith("In the only row that differs, the port's values match roi_end_mode=1 computed with 1 ")


def test_rounding_of_another_device_is_told_from_another_rule():
    def rounded_otherwise(values):
        return np.nextafter(np.nextafter(values, np.float32(9)), np.float32(9))

    sentence = diagnosis.explain(CASE, RESULT, rounded_otherwise(RESULT))
    assert sentence.startswith("None of the known rules fits. The largest difference is ")
    assert sentence.endswith("Another device, or sums in another order, may round like that.")
    naive = with_rule(CASE, end=0, moved=rules._HALF_A_CELL)
    assert diagnosis.explain(CASE, RESULT, rounded_otherwise(naive)) == (
        "To within rounding, the port's values match roi_end_mode=1 computed with aligned=True (boxes moved by half a"
        " cell) and without the 1 added to x2 and y2: aligned for roi_end_mode, as MindSpore's documentation suggests."
    )


@pytest.mark.parametrize(
    ("name", "changes", "phrase"),
    [
        ("inf in cell (0, 0) of the features, float32", {"outside_adds_0": True}, "that add 0 times its first pixel"),
        (
            "torchvision: nan in cell (0, 0) of the features, float16",
            {"outside_adds_0": False},
            "image that add nothing",
        ),
        (
            "torchvision: a height that float16 rounds up, float16",
            {"rounds_lengths": True},
            "with MindSpore's border (",
        ),
    ],
)
def test_what_happens_outside_the_image_is_named(name, changes, phrase):
    case = edges.edge_case(name)
    assert phrase in diagnosis.explain(case, operators.reference(case), with_rule(case, **changes))


def test_explanations_do_not_depend_on_those_before():
    differences = []
    for number in range(12):
        case = random_case(cases.random_case, number)
        if len(case.rois):
            changes = ({"end": 0}, {"moved": rules._HALF_A_CELL, "end": 0}, {"start": 1}, {"smallest": 1})[number % 4]
            differences.append((case, operators.reference(case), with_rule(case, **changes)))
    forwards = [diagnosis.explain(*difference) for difference in differences]
    rules._candidates.cache_clear()
    backwards = [diagnosis.explain(*difference) for difference in reversed(differences)]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) > 3


def test_nothing_is_said_where_nothing_differs():
    assert diagnosis.explain(CASE, RESULT, RESULT.copy()) == ""


def test_an_operator_taken_for_another_is_recognised():
    case = replace(CASE, pooled_height=33, pooled_width=1)
    actual = operators.reference(case)
    expected = operators.reference(replace(CASE, pooled_height=3, pooled_width=31))
    sentence = diagnosis.explain(case, expected, actual)
    assert sentence.startswith(
        "MindSpore returned the shape (2, 3, 3, 31) instead of (2, 3, 33, 1). MindSpore's PyNative"
    )
    assert "'331'" in sentence
    assert "op.add_prim_attr('arguments', '33x1')" in sentence
    sentence = diagnosis.explain(case, actual, actual[:, :, :5])
    assert sentence == "The port returned the shape (2, 3, 5, 1) instead of (2, 3, 33, 1)."


def test_another_dtype_is_named():
    sentence = diagnosis.explain(CASE, RESULT, RESULT.astype(np.float64))
    assert sentence == "The port returned float64 where MindSpore returned float32."


def test_undefined_rows_are_told_from_wrong_ones():
    case = edges.edge_case("zero-padded rois, sample_num 2, mode 1, float32")
    result = operators.reference(case)
    garbage = result.copy()
    garbage[:3] = 99
    assert diagnosis.explain(case, garbage, result) == (
        "Only rows 0, 1 and 2 differ, never written by MindSpore (|x1| and |x2| < 0.001): their values mean nothing."
    )
    assert diagnosis.explain(case, result, garbage) == (
        "The port must give 0 for rows never written by MindSpore (|x1| and |x2| < 0.001), and does not in rows 0, 1"
        " and 2."
    )
    assert diagnosis.explain(case, garbage, with_rule(case, end=0)).endswith("without the 1 added to x2 and y2.")
