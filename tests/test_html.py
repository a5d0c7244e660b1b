"""The HTML report, in a real browser: Chromium without a window, driven through its DevTools protocol."""

import itertools
import json
import math
import re
import shutil
import socket
import subprocess
import time

import pytest

from ms2torch_roi.parity import html, report
from ms2torch_roi.parity.verdicts import Verdict

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Browser:
    """A page in a browser. ``messages`` are what it logged and ``requests`` what it loaded since it was opened."""

    def __init__(self, profile):
        self._socket, other = socket.socketpair()
        self._socket.settimeout(60)
        # The protocol is spoken on file descriptors 3 (in) and 4 (out), JSON and a zero byte each way.
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        command = ["bash", "-c", f'exec "$@" 3<&{other.fileno()} 4>&{other.fileno()}', "bash", EXECUTABLE, *options]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}"], pass_fds=[other.fileno()], stderr=subprocess.DEVNULL
        )
        other.close()
        self._buffer, self._number, self._session = b"", 0, {}
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.messages, self.requests = [], []

    def close(self):
        self._session = {}
        self.send("Browser.close")
        self._process.wait(timeout=60)
        self._socket.close()

    def send(self, method, **parameters):
        """Give a command, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        self._socket.sendall(json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _receive(self):
        while b"\0" not in self._buffer:
            received = self._socket.recv(2**20)
            assert received, "the browser is gone"
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        method, parameters = message.get("method"), message.get("params")
        if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.messages.append(parameters)
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        return message

    def open(self, path, address="", width=1280, scheme="light", media=""):
        """Load a page anew, and wait until its script has run."""
        self.messages, self.requests = [], []
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=path.as_uri() + address)
        while not self.run("document.readyState === 'complete' && location.protocol === 'file:'"):
            time.sleep(0.01)

    def run(self, expression):
        """Return the value of an expression, or what it promises."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def text(self, selector="main"):
        return self.run(f"document.querySelector({selector!r}).innerText")

    def texts(self, selector):
        return self.run(f"[...document.querySelectorAll({selector!r})].map((element) => element.innerText.trim())")

    def _middle(self, selector):
        return self.run(f"""(() => {{
            const element = document.querySelector({selector!r});
            element.scrollIntoView({{ block: "center" }});
            const {{ x, y, width, height }} = element.getBoundingClientRect();
            return {{ x: x + width / 2, y: y + height / 2 }};
        }})()""")

    def hover(self, selector):
        self.send("Input.dispatchMouseEvent", type="mouseMoved", **self._middle(selector))

    def click(self, selector):
        at = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)
        self.settle()

    def press(self, key, **parameters):
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, **parameters)
        self.settle()

    def type(self, text):
        self.send("Input.insertText", text=text)
        self.settle()

    def choose(self, name, value):
        """Choose an option of a filter; the list of options that pops up is no part of the page."""
        self.run(f"""(() => {{
            const control = document.querySelector("[name={name}]");
            control.value = {value!r};
            control.dispatchEvent(new Event("input", {{ bubbles: true }}));
        }})()""")
        self.settle()

    def settle(self):
        """Wait until the page has handled what happened, and was painted."""
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if EXECUTABLE is None:
        pytest.skip("no Chromium or Chrome is installed")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def page(browser, tmp_path):
    """Open the report on a run in the browser; nothing may be logged or loaded by any test."""
    path = tmp_path / "report.html"

    def show(facts, address="", **options):
        path.write_text(html.render(facts), encoding="ascii")
        browser.open(path, address, **options)
        return browser

    yield show
    assert browser.messages == []
    assert {url.partition("#")[0] for url in browser.requests} - {"about:blank"} == {path.as_uri()}


LEFT_OUT = "never written by MindSpore"
EDGE, RANDOM, TORCHVISION = "edge: boxes", "random: float32, mode 1, fixed", "edge: border"
HEAT_MAP = [[0.0, 1e-6, 0.001], [0.5, math.inf, 0.05]]
FAILED = Verdict(
    "boxes far away",
    "to-torch",
    EDGE,
    1,
    values=1200,
    differing=1003,
    allowed=2,
    largest_difference=math.inf,
    left_out={LEFT_OUT: 3},
    first="rois row 0 [0.0, 1.0], channel 0, bin (0, 1): expected 1.5, got 2.0",
    heat_map=HEAT_MAP,
    explanation="these are the values of roi_end_mode 0",
    reproduction="case = 1\nprint(case < 2 & case)",
)
PROBLEM = Verdict(
    "random case 7 of seed 0", "to-torch", RANDOM, 3, problem="the port raised RuntimeError: no memory", left_out={}
)
SMALL = Verdict(
    "boxes far away, smaller", "to-torch", EDGE, 1, values=1, differing=1, first="so small", reproduction="small()"
)
PASSED = [
    Verdict("boxes without a size", "to-torch", EDGE, 0, values=24, left_out={LEFT_OUT: 1}),
    Verdict("random case 8 of seed 0", "to-torch", RANDOM, 4, values=36),
    Verdict("samples on -1", "to-mindspore", TORCHVISION, 5, values=8),
]
VERDICTS = [PASSED[0], FAILED, PROBLEM, *PASSED[1:]]


def facts_of(verdicts, **changes):
    facts = {
        "versions": {"ms2torch_roi": "1.2.3", "torch": "2.15.0", "mindspore": "2.10.0"},
        "numbers": len(verdicts),
        "settings": {},
        "seed": 7,
        "seconds": 1234.5,
    }
    return report.as_json(report.Run("frameworks", "these against those", **facts | changes, verdicts=verdicts))


FACTS = facts_of(VERDICTS, shrunk=[SMALL], shard="2/3", notes=["2 files were not read."])


def names(browser):
    return browser.texts("#list .name")


def address(browser):
    return browser.run("decodeURIComponent(location.hash.replaceAll('+', ' '))")


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
        "2 of 5 cases failed; 1,003 of 1,268 values differ, by infinity at most",
        "these against those",
    ]
    assert browser.run("document.title").startswith("DIFFERENT: 2 of 5 cases failed")
    terms, texts = browser.texts("#facts-of-run dt"), browser.texts("#facts-of-run dd")
    assert dict(zip(terms, texts, strict=True)) == {
        "Versions": "ms2torch_roi 1.2.3, torch 2.15.0, mindspore 2.10.0",
        "Devices": "torch CPU, mindspore CPU",
        "Seed": "7",
        "Shard": "2/3",
        "Duration": "1,234.5 s",
        "Not compared": "2 files were not read.\n4 rows never written by MindSpore",
    }


@pytest.mark.parametrize(
    ("verdicts", "verdict", "summary"),
    [
        ([], "NOTHING COMPARED", "0 of 0 cases failed; 0 of 0 values differ"),
        (PASSED, "IDENTICAL", "0 of 3 cases failed; 0 of 68 values differ"),
        (
            [Verdict("close", "to-torch", EDGE, values=8, largest_difference=1e-7)],
            "WITHIN TOLERANCE",
            "0 of 1 case failed; 0 of 8 values differ, by 1e-7 at most",
        ),
        ([FAILED], "DIFFERENT", "1 of 1 case failed; 1,003 of 1,200 values differ, by infinity at most"),
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
    assert browser.run("[...new FormData(document.forms[0]).values()]") == ["failed", "", "", "memory"]
    assert "the port raised RuntimeError: no memory" in browser.text("#list details[open]")


def test_an_address_that_fits_nothing_does_no_harm(page):
    browser = page(FACTS, "#status=broken&direction=up&case=99&nonsense")
    assert len(names(browser)) == 5
    assert browser.run("[...new FormData(document.forms[0]).values()]") == ["", "", "", ""]


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
    assert browser.run("document.querySelectorAll('details[open]').length") == 0
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


# What is painted: red, green, blue and alpha of each cell.
COLOURS = """[...document.querySelectorAll("#list .map td.cell")].map((cell) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.fillStyle = getComputedStyle(cell).backgroundColor;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
})"""


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (c / 255 for c in colour[:3])]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_of_the_heat_map_are_in_the_order_of_the_differences(page, scheme):
    browser = page(FACTS, "#case=1", scheme=scheme)
    assert browser.texts("#list .map td.cell") == ["0", "1e-6", "0.001", "0.5", "\u221e", "0.05"]
    zero, lowest, low, highest, infinite, high = browser.run(COLOURS)
    steps = [luminance(colour) for colour in (lowest, low, high, highest)]
    assert sorted(steps, reverse=scheme == "light") == steps
    assert min(abs(a - b) for a, b in itertools.pairwise(steps)) > 0.03
    assert infinite[1] > infinite[0] + 40  # more green than red, which nothing between the ends is
    assert all(colour[1] < colour[0] + 10 for colour in (lowest, low, high, highest))
    assert zero not in (lowest, low, high, highest, infinite)


def test_equal_differences_are_not_stretched_over_the_scale(page):
    close = Verdict("close", "to-torch", EDGE, values=2, differing=2, largest_difference=0.9, heat_map=[[0.9, 0.8]])
    first, second = map(luminance, page(facts_of([close]), "#case=0").run(COLOURS))
    assert abs(first - second) < 0.03


def test_the_heat_map_tells_the_value_of_the_cell_pointed_at_and_has_a_legend(page):
    browser = page(FACTS, "#case=1")
    browser.hover("#list .map tr:nth-child(3) td:nth-child(4)")
    assert browser.text("#list output") == "y 1, x 2: 0.05"
    browser.hover("#list .map tr:nth-child(3) td:nth-child(3)")
    assert browser.text("#list output") == "y 1, x 1: infinity"
    assert browser.texts("#list .legend span") == ["0", "1e-6\n0.5 (log)", "NaN or infinite on one side"]


def test_a_heat_map_of_a_whole_feature_map_fits_the_page(page):
    values = [[(x * y % 97) / 97 for x in range(304)] for y in range(200)]
    large = Verdict("large", "to-torch", EDGE, values=9, differing=9, largest_difference=1.0, heat_map=values)
    browser = page(facts_of([large]))
    browser.click("#list summary")
    assert browser.run("document.querySelectorAll('#list .map td.cell').length") == 60_800
    assert browser.run("document.querySelector('#list .map').getBoundingClientRect().width") <= 1000
    browser.hover("#list .map tr:nth-child(102) td:nth-child(104)")
    assert browser.text("#list output") == f"y 100, x 102: {100 * 102 % 97 / 97:.6g}"


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


# Every text on the page with less contrast to what is behind it than WCAG 2 asks for (AA).
FAINT = """(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const channels = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = (colour) => channels(colour).slice(0, 3).map((c) => c / 255)
        .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return channels(colour)[3] ? colour : behind(element.parentElement);
    };
    const faint = [];
    for (const element of document.querySelectorAll("body *:not(script, option)")) {
        if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
        const [a, b] = [luminance(getComputedStyle(element).color), luminance(behind(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) faint.push([element.textContent, contrast]);
    }
    return faint;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("verdicts", [VERDICTS, PASSED, []], ids=["different", "identical", "empty"])
def test_all_text_stands_out_from_its_background(page, verdicts, scheme):
    gradual = [[10 ** (-6 + (8 * y + x) / 10) for x in range(8)] for y in range(7)]
    every = [*verdicts, Verdict("gradual", "to-torch", EDGE, values=1, heat_map=gradual)] if verdicts else []
    browser = page(facts_of(every), "#case=1", scheme=scheme)
    browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    browser.settle()
    assert browser.run(FAINT) == []
    dark = luminance(browser.run(COLOURS.replace("#list .map td.cell", "body"))[0]) < 0.5
    assert dark == (scheme == "dark")


def test_the_page_fits_a_narrow_screen(page):
    browser = page(FACTS, "#case=1", width=400)
    assert browser.run("document.documentElement.scrollWidth") <= 400
    assert browser.text("#list .result") == "1,003 of 1,200 differ, by infinity at most"


def test_paper_has_the_cases_without_the_controls(page):
    browser = page(FACTS, "#case=1", media="print", scheme="dark")
    assert browser.run("document.querySelector('form').checkVisibility()") is False
    assert FAILED.first in browser.text("#list")
    assert luminance(browser.run(COLOURS.replace("#list .map td.cell", "pre"))[0]) > 0.5


def test_the_page_says_so_where_scripts_are_blocked(page, browser):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        text = page(FACTS).text("body")
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert text.startswith("This page needs JavaScript")
    assert "Category" not in text
