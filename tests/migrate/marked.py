"""The sources of these tests: each line with a site says, behind ``#:``, what the scan is to find there.

That is what the site becomes, or ``left: ...`` with a part of the reason, and the kinds of its notes in brackets; of
several sites in a line in order. A line with a note of the file has its kind behind ``#~``.
"""

import re
from pathlib import Path

SOURCES = Path(__file__).parent / "sources"
NAMES = sorted(path.name for path in SOURCES.glob("*.py"))


def read(name):
    return (SOURCES / name).read_text(encoding="utf-8")


def expected_sites(text):
    """Return (line, what it becomes or None, a part of why it is left or None, kinds of notes) of each marked site."""
    sites = []
    for number, line in enumerate(text.splitlines(), 1):
        for mark in line.partition("  #: ")[2].split("; "):
            if mark:
                what, kinds = re.fullmatch(r"(.*?)(?: \[([a-z0-9, -]+)\])?", mark).groups()
                left = what.removeprefix("left: ") if what.startswith("left: ") else None
                sites.append((number, None if left else what, left, kinds.split(", ") if kinds else []))
    return sites


def expected_notes(text):
    """Return (line, kind) of each marked note of a file."""
    lines = enumerate(text.splitlines(), 1)
    return [(number, line.partition("  #~ ")[2]) for number, line in lines if "  #~ " in line]
