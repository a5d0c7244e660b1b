"""What a run found, as a table for people and as JSON for machines."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .verdicts import Verdict

# Failing cases shown in full; the others are counted, and the JSON file has them all.
SHOWN_FAILURES = 5


@dataclass
class Total:
    """Verdicts added up."""

    cases: int = 0
    failed: int = 0
    values: int = 0
    differing: int = 0
    largest_difference: float = 0.0
    left_out: dict[str, int] = field(default_factory=dict)

    def add(self, verdict: Verdict) -> None:
        """Count one verdict in."""
        self.cases += 1
        self.failed += not verdict.passed
        self.values += verdict.values
        self.differing += verdict.differing
        self.largest_difference = max(self.largest_difference, verdict.largest_difference)
        for reason, rows in verdict.left_out.items():
            self.left_out[reason] = self.left_out.get(reason, 0) + rows


@dataclass
class Run:
    """One run of the check: what took part, and what came of it.

    ``oracle`` is ``"frameworks"`` or ``"reference"``: what the ports were compared with.
    """

    oracle: str
    versions: dict[str, str]
    seed: int
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def total(self) -> Total:
        """Everything added up."""
        return _total(self.verdicts)

    @property
    def by_category(self) -> dict[tuple[str, str], Total]:
        """The verdicts of each direction and category added up, in the order they came.

        Random cases and round trips are the last of a direction, and sorted.
        """
        categories: dict[tuple[str, str], list[Verdict]] = {}
        for verdict in self.verdicts:
            categories.setdefault((verdict.direction, verdict.category), []).append(verdict)
        names = sorted(categories, key=lambda key: key[1] if key[1].startswith(("random", "round trip")) else "")
        return {name: _total(categories[name]) for name in names}

    @property
    def headline(self) -> str:
        """What is compared with what, on what."""
        versions = self.versions
        torch = f"torch {versions['torch']} and torchvision {versions['torchvision']}"
        ours = f"ms2torch_roi {versions['ms2torch_roi']}"
        if self.oracle == "frameworks":
            return f"MindSpore {versions['mindspore']}, {torch}, NumPy {versions['numpy']}, all on CPU, against {ours}"
        return f"The NumPy reference, WITHOUT MindSpore, against {ours} on {torch} (CPU), NumPy {versions['numpy']}"


def _total(verdicts: Iterable[Verdict]) -> Total:
    total = Total()
    for verdict in verdicts:
        total.add(verdict)
    return total


def print_run(run: Run, console: Console) -> None:
    """Print a table of categories for each direction, the cases that failed, and one line with the verdict.

    The columns are the cases that failed, of how many; the values compared; how many of them differ, and by how much
    at most; and the rows left out.
    """
    for direction in dict.fromkeys(verdict.direction for verdict in run.verdicts):
        table = Table(box=box.SIMPLE, show_edge=False, padding=0, header_style="bold")
        table.add_column(direction, no_wrap=True)
        for column in ("failed", "values", "differ", "largest", "left out"):
            table.add_column(column, justify="right")
        for (direction_of_category, category), total in run.by_category.items():
            if direction_of_category == direction:
                table.add_row(
                    category,
                    f"{total.failed:,}/{total.cases:,}",
                    f"{total.values:,}",
                    f"{total.differing:,}",
                    f"{total.largest_difference:.3g}",
                    f"{sum(total.left_out.values()):,}",
                    style="red" if total.failed else None,
                )
        console.print()
        console.print(table)

    console.print()
    failures = [verdict for verdict in run.verdicts if not verdict.passed]
    for verdict in failures[:SHOWN_FAILURES]:
        _print(console, f"\nFAILED {verdict.case} ({verdict.direction}, {verdict.category})", style="bold red")
        if verdict.problem:
            _print(console, verdict.problem)
        else:
            most = f"{verdict.largest_difference:.6g}"
            _print(console, f"{verdict.differing:,} of {verdict.values:,} values differ, by {most} at most")
            _print(console, verdict.first)
        _print(console, f"To see it again:\n\n{verdict.reproduction}\n")
    if len(failures) > SHOWN_FAILURES:
        _print(console, f"... and {len(failures) - SHOWN_FAILURES} more cases failed; --json FILE lists them all.\n")

    total = run.total
    for reason, rows in total.left_out.items():
        _print(console, f"Not compared: {rows:,} rows {reason}.")
    if total.failed:
        different = f"{total.differing:,} of {total.values:,} values differ"
        conclusion = f"DIFFERENT: {total.failed:,} of {total.cases:,} cases failed, {different}"
    else:
        conclusion = f"IDENTICAL: {total.cases:,} cases, {total.values:,} values compared, 0 differ"
    _print(console, f"{conclusion} ({run.seconds:.1f} s).", style="bold red" if total.failed else "bold green")


def _print(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: not wrapped, and brackets in it are no markup."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def as_json(run: Run) -> dict[str, Any]:
    """Return the facts of a run for ``json.dump``: numbers, strings, lists and dicts."""
    return {
        "format": 1,
        "verdict": "different" if run.total.failed else "identical",
        "headline": run.headline,
        "oracle": run.oracle,
        "versions": run.versions,
        "devices": {"torch": "CPU"} | ({"mindspore": "CPU"} if "mindspore" in run.versions else {}),
        "seed": run.seed,
        "seconds": round(run.seconds, 3),
        "total": _plain(asdict(run.total)),
        "categories": [
            {"direction": direction, "category": category, **_plain(asdict(total))}
            for (direction, category), total in run.by_category.items()
        ],
        "cases": [{**_plain(asdict(verdict)), "passed": verdict.passed} for verdict in run.verdicts],
    }


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """Replace an infinite difference, which JSON has no number for, by a string."""
    return facts | ({"largest_difference": "infinite"} if math.isinf(facts["largest_difference"]) else {})
