"""How the HTML report looks: the heat map, and the page on any screen and on paper."""

import itertools

import pytest
from reported import EDGE, FACTS, FAILED, PASSED, VERDICTS, facts_of

from ms2torch_roi.parity.verdicts import Verdict

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
    close = Verdict("close", "to-torch", EDGE, values=2, differing=2, largest_difference=0.9, heat_map=[[0.9, 0.85]])
    first, second = map(luminance, page(facts_of([close]), "#case=0").run(COLOURS))
    assert abs(first - second) < 0.03


def test_a_case_that_is_wrong_all_over_shows_where_it_is_worse(page):
    wrong = Verdict("wrong", "to-torch", EDGE, values=2, differing=2, largest_difference=3.0, heat_map=[[3.0, 1.0]])
    first, second = map(luminance, page(facts_of([wrong]), "#case=0").run(COLOURS))
    assert abs(first - second) > 0.1


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
    browser = page(FACTS, "#case=1", width=360)
    assert browser.run("document.querySelector('main').scrollWidth") <= 360
    assert browser.text("#list .result") == "1,003 of 1,200 differ, by infinity at most"


def test_paper_has_the_cases_without_the_controls(page):
    browser = page(FACTS, "#case=1", media="print", scheme="dark")
    assert browser.run("document.querySelector('form').checkVisibility()") is False
    assert FAILED.first in browser.text("#list")
    assert luminance(browser.run(COLOURS.replace("#list .map td.cell", "pre"))[0]) > 0.5
