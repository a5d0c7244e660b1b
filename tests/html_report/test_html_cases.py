"""The list of cases in the HTML report: filters, addresses, and the details of a case."""

import dataclasses
import time

import pytest
from reported import EDGE, FACTS, FAILED, PASSED, PROBLEM, RANDOM, VERDICTS, address, facts_of, names

from ms2torch_roi.parity.verdicts import Verdict


def test_failing_cases_come_first(page):
    browser = page(FACTS)
    assert names(browser) == [FAILED.case, PROBLEM.case, *(verdict.case for verdict in PASSED)]
    assert browser.texts("#list .result") == [
        "1,003 of 1,200 differ, by infinity at most",
        "could not be compared",
        "identical",
        "identical",
        "identical",
    ]
    assert browser.texts("#list .where")[:2] == [
        f"number 1, to-torch, {EDGE}, with a smaller case",
        f"number 3, to-torch, {RANDOM}",
    ]


def test_a_category_of_the_table_is_a_filter(page):
    browser = page(FACTS)
    browser.click("#categories tbody tr:nth-child(3) a")
    assert names(browser) == [PROBLEM.case, PASSED[1].case]
    assert address(browser) == f"#direction=to-torch&category={RANDOM}"
    browser.click("#categories tbody:nth-of-type(2) a")
    assert names(browser) == [PASSED[2].case]
    browser.run("history.back()")
    browser.settle()
    assert names(browser) == [PROBLEM.case, PASSED[1].case]


def test_failures_are_grouped_by_explanation_and_each_group_is_a_filter(page):
    again = dataclasses.replace(FAILED, case="boxes farther away", number=6)
    browser = page(facts_of([*VERDICTS, again]))
    assert browser.texts("#groups .group > a") == [
        "2 \u00d7 These are the values of roi_end_mode 0",
        "1 \u00d7 the port raised RuntimeError",
    ]
    assert browser.texts("#groups .where")[0] == f"2 cases, for example {FAILED.case}"
    browser.click("#groups .group > a")
    assert names(browser) == [FAILED.case, again.case]
    browser.click("#groups .where a")
    assert FAILED.first in browser.text("#list details[open]")
    browser = page(facts_of(PASSED))
    assert browser.run("document.querySelector('#explanations').checkVisibility()") is False


def test_the_banner_leads_to_what_failed_and_the_table_is_folded_when_all_is_well(page):
    browser = page(FACTS)
    assert browser.run("document.querySelector('#totals').open")
    browser.click("#to-failures")
    assert names(browser) == [FAILED.case, PROBLEM.case]
    assert address(browser) == "#status=failed"
    browser = page(facts_of(PASSED))
    assert browser.run("document.querySelector('#totals').open") is False
    assert browser.run("document.querySelector('#to-failures').checkVisibility()") is False


def test_filters_narrow_the_list_and_are_kept_in_the_address(page):
    browser = page(FACTS)
    browser.choose("status", "passed")
    assert names(browser) == [verdict.case for verdict in PASSED]
    browser.choose("direction", "to-torch")
    assert names(browser) == [PASSED[0].case, PASSED[1].case]
    browser.choose("category", RANDOM)
    assert names(browser) == [PASSED[1].case]
    assert browser.text("#count") == "1 of 5 cases"
    assert address(browser) == f"#status=passed&direction=to-torch&category={RANDOM}"
    browser.choose("status", "failed")
    assert names(browser) == [PROBLEM.case]
    browser.choose("direction", "to-mindspore")
    assert names(browser) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [("FAR away", FAILED), ("no memory", PROBLEM), ("got 2.0", FAILED), ("values of roi_end", FAILED)],
)
def test_text_is_searched_for_in_names_problems_values_and_explanations(page, text, found):
    browser = page(FACTS)
    browser.click("[name=text]")
    browser.type(text)
    assert names(browser) == [found.case]
    assert address(browser) == f"#text={text}"


def test_an_address_sets_the_filters_and_opens_a_case(page):
    browser = page(FACTS, "#status=failed&text=memory&case=2")
    assert names(browser) == [PROBLEM.case]
    assert browser.run("[...new FormData(document.forms[0]).values()]") == ["failed", "", "", "", "memory"]
    assert "the port raised RuntimeError: no memory" in browser.text("#list details[open]")


def test_an_address_that_fits_nothing_does_no_harm(page):
    browser = page(FACTS, "#status=broken&direction=up&case=99&nonsense")
    assert len(names(browser)) == 5
    assert browser.run("[...new FormData(document.forms[0]).values()]") == ["", "", "", "", ""]


def test_a_case_opens_with_the_keyboard_and_shows_all_that_is_known(page):
    browser = page(FACTS)
    browser.run("document.querySelector('[name=text]').focus()")
    browser.press("Tab", windowsVirtualKeyCode=9)
    browser.press("Enter", windowsVirtualKeyCode=13, text="\r")
    own, small = "#list .details > dl", "#list .small dl"
    assert dict(zip(browser.texts(f"{own} dt"), browser.texts(f"{own} dd"), strict=True)) == {
        "Values that differ": "1,003 of 1,200 (2 may)",
        "Largest difference": "infinity",
        "First difference": FAILED.first,
        "Explanation": FAILED.explanation,
        "Not compared": "3 rows never written by MindSpore",
    }
    assert browser.texts("#list pre") == [FAILED.reproduction, "small()"]
    assert "so small" in browser.text(small)
    assert address(browser) == "#case=1"
    browser.press("Enter", windowsVirtualKeyCode=13, text="\r")
    assert browser.run("document.querySelectorAll('#list details[open]').length") == 0
    assert address(browser) in ("", "#")


def test_a_case_that_could_not_be_made_smaller_is_shown_once(page):
    browser = page(facts_of(VERDICTS, shrunk=[FAILED]), "#case=1")
    assert browser.texts("#list pre") == [FAILED.reproduction]


def test_the_copy_button_copies_the_program(page):
    browser = page(FACTS, "#case=1")
    browser.click("#list .details button")
    assert browser.text("#list .details button") == "Copied"
    browser.click("[name=text]")
    browser.press("v", commands=["paste"])
    assert browser.run("document.querySelector('[name=text]').value") == "case = 1 print(case < 2 & case)"


def test_long_lists_are_shown_piece_by_piece(page):
    verdicts = [Verdict(f"case {i}", "to-torch", EDGE, i, values=1) for i in range(1000)]
    browser = page(facts_of(verdicts))
    assert len(names(browser)) == 100
    assert browser.text("#count") == "1,000 of 1,000 cases, the first 100 of them below"
    browser.run("document.querySelector('#more').scrollIntoView()")
    browser.settle()
    assert names(browser)[:200] == [f"case {i}" for i in range(200)]
    browser.choose("text", "case 99")
    assert names(browser) == ["case 99", *(f"case {i}" for i in range(990, 1000))]
    assert browser.run("document.querySelector('#more').hidden")


def test_forty_thousand_cases_are_shown_at_once(page):
    verdicts = [
        Verdict(f"random case {i} of seed 0", "to-torch", RANDOM, i, values=1000, differing=int(i % 400 == 7))
        for i in range(40_000)
    ]
    facts = facts_of(verdicts)
    browser = page(facts)
    loaded = browser.run("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert names(browser)[0] == "random case 7 of seed 0"
    started = time.monotonic()
    browser.choose("text", "case 39999")
    filtered = time.monotonic() - started
    assert names(browser) == ["random case 39999 of seed 0"]
    assert loaded < 5000, "milliseconds"
    assert filtered < 2, "seconds"
