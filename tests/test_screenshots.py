"""The pictures of the documentation: pages show each, and the runs that they are made of still say the same."""

import html
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import screenshots

from ms2torch_roi.parity.report import facts

ROOT = Path(__file__).parent.parent
PICTURES = sorted((ROOT / "docs/images").iterdir())


def test_pages_show_every_picture_and_say_what_is_seen():
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    shown = {name: alternative for alternative, name in re.findall(r"!\[([^\]]*)\]\(images/([^)]+)\)", text)}
    assert shown.keys() == {picture.name for picture in PICTURES}
    assert all(len(alternative.split()) > 10 for alternative in shown.values())


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_a_picture_is_small_and_loads_nothing(picture):
    content = picture.read_bytes()
    assert len(content) < 150_000
    assert not re.search(rb"url\(\"?http|(?:href|src)=", content)


@pytest.fixture(scope="module")
def run():
    return screenshots.run_with_a_mistake()


def _words(svg):
    """List what stands in a picture of a terminal, but for versions and where lines end."""
    text = " ".join(html.unescape(part) for part in re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL))
    return re.sub(r"\d+(?:\.\d+){2}\S*", "VERSION", text.replace("\xa0", " ")).split()


@pytest.mark.needs_torch
def test_the_terminal_of_the_picture_says_what_the_command_says(run):
    words = _words((ROOT / "docs/images/replay.svg").read_text(encoding="utf-8"))
    assert "DIFFERENT:" in words
    assert _words(screenshots.terminal_picture(run)) == words


@pytest.mark.needs_torch
def test_the_report_of_the_picture_opens_at_a_case_with_a_heat_map(run):
    assert run.failures[0].heat_map
    assert facts.as_json(run)["verdict"] == "different"


def test_the_box_of_the_picture_is_drawn():
    assert screenshots.plot().startswith(b"\x89PNG")


def test_without_a_browser_it_says_so_in_a_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "browsers", SimpleNamespace(EXECUTABLE=None))
    monkeypatch.setattr(screenshots, "IMAGES", None)
    assert screenshots.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Chromium" in line
