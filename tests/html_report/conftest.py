"""The HTML report, opened in a real browser."""

import pytest
from browsers import EXECUTABLE, Browser

from ms2torch_roi.parity.report import html


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
