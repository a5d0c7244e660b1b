"""JUnit XML: what CI systems read."""

import dataclasses
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import xmlschema

from ms2torch_roi.parity import report
from ms2torch_roi.parity.report import junit
from ms2torch_roi.parity.report.facts import as_json
from ms2torch_roi.parity.verdicts import Tolerance, Verdict

SCHEMA = xmlschema.XMLSchema(Path(__file__).with_name("junit.xsd"))
VERSIONS = {"ms2torch_roi": "1.2.3", "torch": "2.15.0", "mindspore": "2.10.0", "numpy": "1.26.4"}
EDGE = "edge: boxes"
RECORDED = "recorded: MindSpore 2.10.0 on CPU, float32, mode 1, fixed"

PASSED = Verdict("boxes without a size", "to-torch", EDGE, 1, values=24, seconds=0.25)
DIFFERENT = Verdict(
    "boxes far away",
    "to-torch",
    EDGE,
    2,
    values=1224,
    differing=1003,
    allowed=2,
    largest_difference=0.5,
    left_out={"never written by MindSpore": 3},
    first="rois row 0 [0.0, 1.0], channel 0, bin (0, 1): expected 1.5, got 2.0",
    heat_map=[[0.0, 0.5]],
    explanation="the values are those of roi_end_mode 0",
    reproduction="case = 1\nprint(case < 2 & case)",
)
INFINITE = Verdict("call-1.npz", "to-mindspore", RECORDED, 3, values=4, differing=1, largest_difference=math.inf)
PROBLEM = Verdict("call-2.npz", "to-mindspore", RECORDED, 4, problem="the port raised RuntimeError: no memory\nat all")


def facts(*verdicts, **changes):
    facts_of_run = {
        "versions": VERSIONS,
        "devices": {"torch": "CPU", "mindspore": "CPU"},
        "numbers": len(verdicts),
        "settings": {},
        "seed": 7,
        "seconds": 1234.5,
    }
    return as_json(report.Run("frameworks", **facts_of_run | changes, verdicts=list(verdicts)))


def parsed(*verdicts, **changes):
    text = junit.render(facts(*verdicts, **changes))
    SCHEMA.validate(text)
    return ET.fromstring(text)


def by_name(root):
    return {(test.get("classname"), test.get("name")): test for test in root.iter("testcase")}


def test_every_case_is_a_test_in_the_suite_of_its_direction_and_category():
    root = parsed(PASSED, DIFFERENT, INFINITE, PROBLEM)
    assert [suite.get("name") for suite in root] == ["to-torch: edge: boxes", f"to-mindspore: {RECORDED}"]
    recorded = "to-mindspore.recorded: MindSpore 2_10_0 on CPU, float32, mode 1, fixed"
    assert list(by_name(root)) == [
        ("to-torch.edge: boxes", "boxes without a size"),
        ("to-torch.edge: boxes", "boxes far away"),
        (recorded, "call-1.npz"),
        (recorded, "call-2.npz"),
    ]


def test_the_totals_are_those_of_the_tests():
    root = parsed(PASSED, DIFFERENT, INFINITE, PROBLEM)
    assert (root.get("tests"), root.get("failures"), root.get("time")) == ("4", "3", "1234.500")
    for suite in (root, *root):
        assert int(suite.get("tests")) == len(list(suite.iter("testcase")))
        assert int(suite.get("failures")) == len(list(suite.iter("failure")))
        assert int(suite.get("errors")) == 0


def test_a_failure_says_what_differs_why_and_how_to_see_it_again():
    failure = by_name(parsed(PASSED, DIFFERENT))["to-torch.edge: boxes", "boxes far away"].find("failure")
    assert failure.get("type") == "difference"
    assert failure.get("message") == "1,003 of 1,224 values differ (2 may), by 0.5 at most"
    assert failure.text.splitlines() == [
        "1,003 of 1,224 values differ (2 may), by 0.5 at most",
        "rois row 0 [0.0, 1.0], channel 0, bin (0, 1): expected 1.5, got 2.0",
        "the values are those of roi_end_mode 0",
        "Not compared: 3 rows never written by MindSpore.",
        "To see it again:",
        "",
        "case = 1",
        "print(case < 2 & case)",
    ]


def test_the_message_of_a_failure_is_the_first_line_of_a_problem():
    failure = parsed(PROBLEM).find(".//failure")
    assert failure.get("type") == "problem"
    assert failure.get("message") == "the port raised RuntimeError: no memory"
    assert failure.text.splitlines()[:2] == ["the port raised RuntimeError: no memory", "at all"]


def test_an_infinite_difference_is_written_out():
    assert parsed(INFINITE).find(".//failure").get("message") == "1 of 4 values differ, by infinity at most"


def test_a_failure_has_the_smaller_case_that_was_made_of_it():
    small = Verdict("a small one", "to-torch", EDGE, 2, values=1, differing=1, first="so small", reproduction="small()")
    with_small = parsed(PASSED, DIFFERENT, shrunk=[small]).find(".//failure").text
    assert "A smaller case that fails as well:\n1 of 1 values differ" in with_small
    assert "so small\nTo see it again:\n\nsmall()" in with_small
    assert "smaller" not in parsed(PASSED, DIFFERENT, shrunk=[DIFFERENT]).find(".//failure").text


def test_every_suite_has_the_versions_and_what_was_not_compared():
    root = parsed(DIFFERENT, INFINITE, shard="2/3")
    for suite in root:
        properties = {item.get("name"): item.get("value") for item in suite.find("properties")}
        assert properties == {
            "verdict": "different",
            "conclusion": "2 of 2 cases failed, 1,004 of 1,228 values differ, by infinity at most",
            "oracle": "frameworks",
            "seed": "7",
            "shard": "2/3",
            **{f"version of {name}": version for name, version in VERSIONS.items()},
            "device of torch": "CPU",
            "device of mindspore": "CPU",
        }
    assert [suite.findtext("system-out") for suite in root] == [
        "Not compared: 3 rows never written by MindSpore.",
        None,
    ]


def test_a_case_of_which_all_was_left_out_is_skipped():
    left_out = dataclasses.replace(PASSED, values=0, left_out={"never written by MindSpore": 3})
    (suite,) = parsed(PASSED, left_out)
    assert [suite.get(name) for name in ("tests", "failures", "skipped")] == ["2", "0", "1"]
    (skipped,) = suite.iter("skipped")
    assert skipped.get("message") == "Not compared: 3 rows never written by MindSpore."


def test_times_and_the_origin_are_those_of_the_run():
    here = report.Origin("ms2torch-roi check", "2026-11-26T18:07:21+00:00", "Python 3.11 on Linux")
    later = report.Origin("ms2torch-roi check", "2026-11-26T19:00:00+00:00", "Python 3.11 on Linux")
    (suite,) = parsed(PASSED, dataclasses.replace(DIFFERENT, seconds=0.5), origins=[later, here])
    assert suite.get("timestamp") == "2026-11-26T18:07:21"
    assert float(suite.get("time")) == 0.75
    assert [float(test.get("time")) for test in suite.iter("testcase")] == [0.25, 0.5]
    properties = {item.get("name"): item.get("value") for item in suite.iter("property")}
    assert properties["command"] == "ms2torch-roi check"
    assert properties["platform"] == "Python 3.11 on Linux"
    assert properties["started"].splitlines() == [later.started, here.started]


def test_the_tolerance_is_a_property():
    root = parsed(PASSED, tolerance=Tolerance(1e-5, 0.0, 3))
    properties = {item.get("name"): item.get("value") for item in root.iter("property")}
    assert (properties["atol"], properties["max_differing"]) == ("1e-05", "3")
    assert "rtol" not in properties


def test_tests_of_one_name_are_told_apart():
    names = [name for _, name in by_name(parsed(PASSED, PASSED, PASSED))]
    assert names == ["boxes without a size", "boxes without a size (2)", "boxes without a size (3)"]


def test_characters_that_xml_does_not_allow_are_replaced():
    text = "<a>&\"'\x00\x1b[31m\ud800\ufffe ]]> \U0001f600 \u00e9"
    kept = "<a>&\"'\ufffd\ufffd[31m\ufffd\ufffd ]]> \U0001f600 \u00e9"
    odd = Verdict(text, "to-torch", text, problem=text, reproduction=text)
    rendered = junit.render(facts(odd, versions={**VERSIONS, "torch": text}))
    assert rendered.isascii()
    SCHEMA.validate(rendered)
    root = ET.fromstring(rendered)
    assert root.find(".//testcase").get("name") == kept
    assert root.find(".//failure").get("message") == kept
    assert kept in root.find(".//failure").text
    assert root.find(".//property[@name='version of torch']").get("value") == kept


def test_a_run_without_cases_is_valid():
    root = parsed()
    assert (root.get("tests"), root.get("failures"), len(root)) == ("0", "0", 0)


def test_many_cases_stay_small():
    verdicts = [
        Verdict(f"random case {i} of seed 0", "to-torch", "random: float32, mode 1, fixed", i, values=1000)
        for i in range(20_000)
    ]
    assert len(junit.render(facts(*verdicts))) < 3e6


# What the schema is for: these are refused by a viewer, or misread.
MISTAKES = {
    "tests of one name": lambda suite: suite.append(suite.find("testcase")),
    "a count that is no number": lambda suite: suite.set("tests", "4.0"),
    "a time that is no number": lambda suite: suite.set("time", "inf"),
    "a time with an exponent": lambda suite: suite.set("time", "1e-3"),
    "no class name": lambda suite: suite.find("testcase").attrib.pop("classname"),
    "a full stop in a class": lambda suite: suite.find("testcase").set("classname", "to-torch.MindSpore 2.10"),
    "a failure without a message": lambda suite: suite.find(".//failure").attrib.pop("message"),
    "a message of two lines": lambda suite: suite.find(".//failure").set("message", "one\ntwo"),
    "a failure outside a test": lambda suite: suite.append(suite.find(".//failure")),
    "output before the tests": lambda suite: suite.insert(1, suite.find("system-out")),
    "an unknown attribute": lambda suite: suite.set("cases", "1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_schema_finds_mistakes(mistake):
    root = parsed(PASSED, DIFFERENT)
    MISTAKES[mistake](root[0])
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        SCHEMA.validate(ET.tostring(root, encoding="unicode"))
