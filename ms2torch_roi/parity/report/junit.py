"""A run as JUnit XML, which CI systems show as test results."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from typing import Any

Facts = dict[str, Any]

_ORIGIN = ("command", "started", "platform")

# What XML 1.0 has no way to write, not even as a character reference.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(facts: Facts) -> str:
    """Return the facts of a run (those of ``facts.as_json``) as JUnit XML, all in ASCII.

    There is a suite for each direction and category, and a test for each case. The root element has the time of the
    run, which on several processes is less than that of its tests.

    >>> from ms2torch_roi.parity import report, verdicts
    >>> from ms2torch_roi.parity.report import facts, junit
    >>> versions = {"ms2torch_roi": "1.0", "numpy": "2.0"}
    >>> run = report.Run("recording", versions, {}, numbers=1, settings={})
    >>> run.verdicts.append(verdicts.Verdict("call-1.npz", "to-torch", "recorded", values=12))
    >>> print(junit.render(facts.as_json(run)).splitlines()[1])
    <testsuites name="ms2torch-roi" tests="1" failures="0" errors="0" time="0.000">
    """
    attributes = {"name": "ms2torch-roi", **_counts(facts["total"]), "time": f"{facts['seconds']:.3f}"}
    root = ET.Element("testsuites", attributes)
    cases = defaultdict(list)
    for case in facts["cases"]:
        cases[case["direction"], case["category"]].append(case)
    shrunk = {(small["number"], small["category"]): small for small in facts["shrunk"]}
    for total in facts["categories"]:
        direction, category = total["direction"], total["category"]
        skipped = sum(case["skipped"] for case in cases[direction, category])
        attributes = {"name": _xml(f"{direction}: {category}"), **_counts(total), "skipped": str(skipped)}
        attributes["time"] = f"{sum(case['seconds'] for case in cases[direction, category]):.6f}"
        if facts["origins"]:  # of the first shard; the format has no place for a time zone
            attributes["timestamp"] = _xml(min(origin["started"] for origin in facts["origins"]).partition("+")[0])
        suite = ET.SubElement(root, "testsuite", attributes)
        _add_properties(suite, facts)
        # Viewers take all up to the last full stop of a class name for a package.
        class_name = _xml(f"{direction}.{category.replace('.', '_')}")
        seen: Counter[str] = Counter()
        for case in cases[direction, category]:
            name = _xml(case["case"])
            seen[name] += 1
            if seen[name] > 1:  # viewers drop all but one of the tests of one name
                name = f"{name} ({seen[name]})"
            test = ET.SubElement(suite, "testcase", classname=class_name, name=name, time=f"{case['seconds']:.6f}")
            if case["skipped"]:
                ET.SubElement(test, "skipped", message=_xml(" ".join(_left_out(case))))
            if not case["passed"]:
                _add_failure(test, case, shrunk.get((case["number"], category)))
        if total["left_out"]:
            ET.SubElement(suite, "system-out").text = _xml("\n".join(_left_out(total)))
    ET.indent(root, "")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root).decode("ascii") + "\n"


def _counts(total: Facts) -> dict[str, str]:
    return {"tests": str(total["cases"]), "failures": str(total["failed"]), "errors": "0"}


def _add_properties(suite: ET.Element, facts: Facts) -> None:
    values = {
        **{name: facts[name] for name in ("verdict", "oracle", "seed", "shard")},
        "conclusion": facts["conclusion"],
        **{name: value for name, value in facts["tolerance"].items() if value},
        **{name: "\n".join(dict.fromkeys(origin[name] for origin in facts["origins"])) for name in _ORIGIN},
        **{f"version of {name}": version for name, version in facts["versions"].items()},
        **{f"device of {name}": device for name, device in facts["devices"].items()},
    }
    properties = ET.SubElement(suite, "properties")
    for name, value in values.items():
        if value not in (None, ""):
            ET.SubElement(properties, "property", name=_xml(name), value=_xml(str(value)))


def _add_failure(test: ET.Element, case: Facts, small: Facts | None) -> None:
    what, *lines = _failure_lines(case)
    if small is not None and small["reproduction"] != case["reproduction"]:
        lines += ["", "A smaller case that fails as well:", *_failure_lines(small)]
    kind = "problem" if case["problem"] else "difference"
    failure = ET.SubElement(test, "failure", type=kind, message=_xml(what.splitlines()[0]))
    failure.text = _xml("\n".join((what, *lines)))


def _failure_lines(case: Facts) -> list[str]:
    largest = case["largest_difference"]
    by = "infinity" if largest == "infinite" else f"{largest:.6g}"
    allowed = f" ({case['allowed']:,} may)" if case["allowed"] else ""
    what = case["problem"] or f"{case['differing']:,} of {case['values']:,} values differ{allowed}, by {by} at most"
    again = f"To see it again:\n\n{case['reproduction']}\n" if case["reproduction"] else ""
    return [what, *filter(None, (case["first"], case["call"], case["explanation"], *_left_out(case), again))]


def _left_out(counts: Facts) -> list[str]:
    return [f"Not compared: {rows:,} rows {reason}." for reason, rows in counts["left_out"].items()]


def _xml(text: str) -> str:
    """Replace the characters that XML does not allow."""
    return _NOT_XML.sub("\ufffd", text)
