"""The HTML report, in a real browser: what it says of the run, and that it loads and runs nothing else."""

import json
import re

import pytest
from reported import EDGE, FACTS, FAILED, PASSED, RANDOM, TORCHVISION, facts_of, names

from ms2torch_roi.parity.report import html
from ms2torch_roi.parity.verdicts import Tolerance, Verdict


def test_the_page_holds_the_facts_and_loads_nothing():
    page = html.render(FACTS)
    embedded = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(embedded) == FACTS
    assert page.isascii()
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|@import|url\(|<iframe|<img|src=", page.replace(embedded, ""))


def test_the_banner_has_the_verdict_and_what_it_rests_on(page):
    browser = page(FACTS)
    assert browser.text("#banner").split("\n\n") == [
        "DIFFERENT",
        "2 of 5 cases failed, 1,003 of 1,268 values differ, by infinity at most",
        FACTS["headline"],
        "Show what failed",
    ]
    assert browser.run("document.title").startswith("DIFFERENT: 2 of 5 cases failed")
    terms, texts = browser.texts("#facts-of-run dt"), browser.texts("#facts-of-run dd")
    assert dict(zip(terms, texts, strict=True)) == {
        "Versions": "ms2torch_roi 1.2.3, torch 2.15.0, mindspore 2.10.0, numpy 1.26.4",
        "Devices": "torch CPU, mindspore CPU",
        "Tolerance": "none: bits are compared",
        "Seed": "7",
        "Shard": "2/3",
        "Duration": "1,234.5 s",
        "Started": "2026-11-26T18:07:21+00:00",
        "Command": "ms2torch-roi check",
        "Platform": "Python 3.11 on Linux",
        "Notes": "2 files were not read.",
        "Not compared": "4 rows never written by MindSpore",
    }


UNREAD = Verdict("calls/0.npz", "unknown", "unreadable", problem="calls/0.npz: not a recorded call")


def test_the_tolerance_is_stated(page):
    close = Verdict("close", "to-torch", EDGE, values=8, largest_difference=1e-7)
    browser = page(facts_of([close], tolerance=Tolerance(1e-5, 0.25)))
    assert browser.text("#verdict") == "WITHIN TOLERANCE"
    said = "1 case, 8 values compared, 0 differ by more than the tolerance (atol 1e-05, rtol 0.25), the largest "
    assert browser.text("#summary") == f"{said}difference is 1e-07"
    facts = dict(zip(browser.texts("#facts-of-run dt"), browser.texts("#facts-of-run dd"), strict=True))
    assert facts["Tolerance"] == "atol 0.00001, rtol 0.25"


@pytest.mark.parametrize(
    ("verdicts", "verdict", "summary"),
    [
        ([], "NOTHING COMPARED", "0 cases"),
        ([UNREAD], "NOTHING COMPARED", "1 of 1 case could not be read"),
        ([UNREAD, *PASSED], "INCOMPLETE", "1 of 4 cases could not be read, 68 values compared, 0 differ"),
        (PASSED, "IDENTICAL", "3 cases, 68 values compared, 0 differ"),
        (
            [Verdict("close", "to-torch", EDGE, values=8, largest_difference=1e-7)],
            "WITHIN TOLERANCE",
            "1 case, 8 values compared, 0 differ, by 1e-07 at most",
        ),
        ([FAILED], "DIFFERENT", "1 of 1 case failed, 1,003 of 1,200 values differ, by infinity at most"),
    ],
)
def test_the_verdict_of_every_kind_of_run(page, verdicts, verdict, summary):
    browser = page(facts_of(verdicts, seed=None))
    assert browser.text("#verdict") == verdict
    assert browser.text("#summary") == summary
    assert "Seed" not in browser.texts("#facts-of-run dt")
    assert len(names(browser)) == len(verdicts)


def test_the_table_has_the_totals_of_each_category(page):
    rows = page(FACTS).run(
        "[...document.querySelectorAll('#categories tbody tr')].map((row) => [...row.cells].map((c) => c.innerText))"
    )
    assert rows == [
        ["to-torch"],
        [EDGE, "1", "2", "1,224", "1,003", "infinity", "4"],
        [RANDOM, "1", "2", "36", "0", "0", "0"],
        ["to-mindspore"],
        [TORCHVISION, "0", "1", "8", "0", "0", "0"],
    ]


HOSTILE = "</script><img src=x onerror=hit()><!-- <script> \u2028 {{facts}} & <b>"


def test_text_from_outside_is_never_markup(page):
    odd = Verdict(
        HOSTILE,
        "to-torch",
        HOSTILE,
        values=1,
        differing=1,
        largest_difference=1.0,
        left_out={HOSTILE: 1},
        first=HOSTILE,
        heat_map=[[1.0]],
        explanation=HOSTILE,
        reproduction=HOSTILE + "\udcff",  # as in the name of a file that is not in UTF-8
    )
    facts = facts_of([odd], versions={"ms2torch_roi": HOSTILE}, notes=[HOSTILE], shard=HOSTILE)
    browser = page(facts | {"headline": HOSTILE}, "#case=0")
    assert browser.run("document.querySelectorAll('img, b, main script').length") == 0
    assert browser.run("[...document.querySelectorAll('.name, #headline, pre')].map((e) => e.textContent)") == [
        HOSTILE,
        HOSTILE,
        HOSTILE + "\udcff",
    ]
    browser.choose("text", "nothing")
    browser.click("#categories tbody tr:nth-child(2) a")
    assert names(browser) == [browser.text("#headline")]


def test_the_page_says_so_where_scripts_are_blocked(page, browser):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        text = page(FACTS).text("body")
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert text.startswith("This page needs JavaScript")
    assert "Category" not in text
