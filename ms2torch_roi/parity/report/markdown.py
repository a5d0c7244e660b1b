"""A run in short, as Markdown, which CI services show on the page of a run; and failures as annotations of GitHub's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Facts = dict[str, Any]


def render(facts: Facts) -> str:
    r"""Return the facts of a run (those of ``facts.as_json``) as Markdown: the verdict, and failures by explanation.

    >>> from ms2torch_roi.parity import report, verdicts
    >>> from ms2torch_roi.parity.report import facts, markdown
    >>> run = report.Run("recording", {"ms2torch_roi": "1.0", "numpy": "2.0"}, {}, numbers=1, settings={})
    >>> run.verdicts.append(verdicts.Verdict("call-1.npz", "to-torch", "recorded", values=12))
    >>> print(markdown.render(facts.as_json(run)))
    ## IDENTICAL
    <BLANKLINE>
    1 case, 12 values compared, 0 differ.
    <BLANKLINE>
    Recorded calls against ms2torch\_roi 1.0, NumPy 2.0
    <BLANKLINE>
    """
    lines = [f"## {facts['verdict'].upper()}", "", f"{_text(facts['conclusion'])}.", "", _text(facts["headline"]), ""]
    if facts["groups"]:
        lines += ["| Failures | Cases | Explanation | For example |", "|--:|--:|---|---|"]
        for group in facts["groups"]:
            cells = (f"{group['failures']:,}", f"{group['cases']:,}", group["cause"], group["example"]["case"])
            lines.append(f"| {' | '.join(map(_text, cells))} |")
        lines.append("")
    lines += [f"- {_text(note)}" for note in facts["notes"]]
    lines += [f"- Not compared: {rows:,} rows {_text(reason)}." for reason, rows in facts["total"]["left_out"].items()]
    lines += [f"- `{_code(origin['command'])}`, {_text(origin['started'])}" for origin in facts["origins"]]
    return "\n".join(lines) + "\n"


def github_annotations(facts: Facts) -> Iterator[str]:
    """Yield a line for each explanation of failures, which GitHub's runners take out of what a step prints."""
    for group in facts["groups"]:
        example = group["example"]
        text = f"{group['failures']:,} x {group['cause']}, for example {example['case']} ({example['direction']})"
        yield f"::error title=ms2torch-roi::{re.sub(_ENDS_A_COMMAND, _percent, text)}"


_ENDS_A_COMMAND = r"[%\x00-\x1f\x7f-\x9f]"


def _percent(found: re.Match[str]) -> str:
    return f"%{ord(found[0]):02X}"


def _text(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, and in one line of a table."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&!])", r"\\\1", re.sub(r"\s+", " ", text))


def _code(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("`", "'"))
