"""Failures are grouped by what explains them."""

import pytest

from ms2torch_roi.parity import report
from ms2torch_roi.parity.verdicts import Verdict, cause


def failed(case, explanation="", problem="", category="edge"):
    return Verdict(case, "to-torch", category, differing=1, explanation=explanation, problem=problem)


@pytest.mark.parametrize(
    ("explanation", "problem", "expected"),
    [
        ("The port's values match aligned=True. That is it.", "", "The port's values match aligned=True"),
        ("In 2 of the 9 rows that differ, the port's values match scale 0.5.", "", "The port's values match scale 0.5"),
        ("To within rounding, MindSpore's values match mode 0.", "", "MindSpore's values match mode 0"),
        ("The port's gradient matches that of mode 0.", "", "The port's gradient matches that of mode 0"),
        ("None of the known rules fits. The largest difference is 3.", "", "None of the known rules fits"),
        ("", "the port raised RuntimeError: no memory: 3 bytes\nmore", "the port raised RuntimeError"),
        ("", "", "Not explained"),
    ],
)
def test_what_two_failures_have_in_common_does_not_depend_on_their_numbers(explanation, problem, expected):
    assert cause(failed("a case", explanation, problem)) == expected


def test_groups_are_the_most_frequent_first_with_twins_folded_and_the_first_as_example():
    rule, other = "The port's values match mode 0.", "None of the known rules fits."
    verdicts = [
        failed("lonely", other),
        failed("boxes, mode 1, float32", rule),
        failed("boxes, mode 1, float16", "In 1 of the 2 rows that differ, t" + rule[1:]),
        failed("boxes, mode 1, float32", rule, category="round trip: edge"),
        failed("others, mode 1, float32", rule),
        Verdict("passed", "to-torch", "edge"),
        *(Verdict(f"calls/{i}.npz", "unknown", "unreadable", problem=f"calls/{i}.npz: no call") for i in range(2)),
    ]
    run = report.Run("frameworks", {}, {}, len(verdicts), {}, verdicts=verdicts)
    found = [(group.cause, group.failures, group.cases, group.example.case) for group in run.groups]
    assert found == [
        ("The port's values match mode 0", 4, 2, "boxes, mode 1, float32"),
        ("It cannot be read", 2, 2, "calls/0.npz"),
        ("None of the known rules fits", 1, 1, "lonely"),
    ]
    assert [verdict.case for verdict in run.to_shrink] == ["lonely", "boxes, mode 1, float32", "calls/0.npz"]
