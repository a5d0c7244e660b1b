"""A run as one page for a browser, with filters, details and heat maps (``report.html`` is the page)."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

_PLACE = "{{facts}}"


def render(facts: dict[str, Any]) -> str:
    """Return the facts of a run (those of ``facts.as_json``) as one HTML page that loads nothing else, all in ASCII.

    >>> from ms2torch_roi.parity import report
    >>> from ms2torch_roi.parity.report import facts, html
    >>> run = report.Run("recording", {"ms2torch_roi": "1.0"}, {}, numbers=0, settings={})
    >>> html.render(facts.as_json(run)).splitlines()[0]
    '<!doctype html>'
    """
    page = resources.files(__package__).joinpath("report.html").read_text(encoding="ascii")
    # No "<" in it: nothing in the facts can end the script element that holds them, or start a comment.
    embedded = json.dumps(facts, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return page.replace(_PLACE, embedded)
