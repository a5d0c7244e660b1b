"""A run as tables and lines for people at a terminal."""

from __future__ import annotations

import re

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..verdicts import UNREADABLE, describe
from . import SHOWN, Run

_COLUMNS = ("failed", "values", "differ", "largest", "left out")

# A terminal of fewer columns has no room for a table: the numbers would leave nothing of the names.
_NARROW = 60


def print_headline(run: Run, console: Console) -> None:
    """Print what is compared with what, on what."""
    _print(console, run.headline, style="bold")


def print_origins(run: Run, console: Console) -> None:
    """Print when, where and by which command it was run, a line for each shard."""
    for origin in run.origins:
        _print(console, f"{origin.started}, {origin.platform}: {origin.command}")


def print_run(run: Run, console: Console) -> None:
    """Print a table of categories for each direction, and the failures by explanation with an example of each.

    The columns are the cases that failed, of how many; the values compared; how many of them differ, and by how much
    at most; and the rows left out.
    """
    for direction in dict.fromkeys(verdict.direction for verdict in run.verdicts):
        table = Table(box=box.SIMPLE, show_edge=False, padding=0, header_style="bold")
        table.add_column(_printable(direction))
        for column in _COLUMNS:
            table.add_column(column, justify="right", no_wrap=True)
        console.print()
        narrow = console.width < _NARROW
        if narrow:
            _print(console, direction, style="bold")
        for (direction_of_category, category), total in run.by_category.items():
            if direction_of_category != direction:
                continue
            numbers = (
                f"{total.failed:,}/{total.cases:,}",
                f"{total.values:,}",
                f"{total.differing:,}",
                f"{total.largest_difference:.3g}",
                f"{sum(total.left_out.values()):,}",
            )
            style = "red" if total.failed else ""
            if narrow:
                _print(console, category, style)
                named = ", ".join(f"{name} {number}" for name, number in zip(_COLUMNS, numbers, strict=True))
                _print(console, f"  {named}", style)
            else:
                table.add_row(_printable(category), *numbers, style=style)
        if not narrow:
            console.print(table)

    console.print()
    _print_worst(run, console)
    small = {(verdict.number, verdict.category): verdict for verdict in run.shrunk}
    groups, failures = run.groups, len(run.failures)
    if failures > 1:
        explanations = f"{len(groups)} explanation{'s' * (len(groups) > 1)}"
        _print(console, f"{failures:,} failures, {explanations}:", style="bold red")
        for group in groups[:SHOWN]:
            _print(console, f"{group.failures:,} x {group.cause} ({group.cases:,} case{'s' * (group.cases > 1)})")
        if len(groups) > SHOWN:
            _print(console, f"... and {len(groups) - SHOWN} more; --json or --html FILE has them all.")
        console.print()
    for group in groups[:SHOWN]:
        verdict = group.example
        shown = small.get((verdict.number, verdict.category), verdict)
        _print(console, f"FAILED {shown.case} ({shown.direction}, {shown.category})", style="bold red")
        for line in describe(shown):
            _print(console, line)

    # Each file that cannot be read is named, though they are one group.
    unread = [verdict.problem for verdict in run.verdicts if verdict.category == UNREADABLE]
    for problem in unread[1:SHOWN]:
        _print(console, problem)
    if len(unread) > SHOWN:
        _print(console, f"... and {len(unread) - SHOWN:,} more that cannot be read.")

    total = run.total
    for note in run.notes:
        _print(console, note)
    for reason, rows in total.left_out.items():
        _print(console, f"Not compared: {rows:,} rows {reason}.")


def print_conclusion(run: Run, console: Console) -> None:
    """Print what came of it, in one line."""
    part = f", shard {run.shard} of {run.numbers:,} cases" if run.shard else ""
    _print(
        console,
        f"{run.verdict.upper()}: {run.conclusion} ({run.seconds:.1f} s{part}).",
        style="bold red" if run.total.failed or run.verdict == "nothing compared" else "bold green",
    )


def _print_worst(run: Run, console: Console) -> None:
    """Print the cases with the largest differences, if there are any."""
    worst = sorted(run.verdicts, key=lambda verdict: -verdict.largest_difference)[:SHOWN]
    worst = [verdict for verdict in worst if verdict.largest_difference]
    if not worst:
        return
    table = Table(box=box.SIMPLE, show_edge=False, padding=0, header_style="bold")
    table.add_column("largest differences", overflow="fold")
    for column in ("differ", "of", "largest"):
        table.add_column(column, justify="right", no_wrap=True)
    if console.width < _NARROW:
        _print(console, "largest differences", style="bold")
    for verdict in worst:
        counts = f"{verdict.differing:,}", f"{verdict.values:,}", f"{verdict.largest_difference:.3g}"
        if console.width < _NARROW:
            _print(
                console,
                f"{verdict.case} ({verdict.direction})\n  differ {' of '.join(counts[:2])}, largest {counts[2]}",
            )
        else:
            table.add_row(_printable(f"{verdict.case} ({verdict.direction})"), *counts)
    if console.width >= _NARROW:
        console.print(table)
    console.print()


def _print(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: not wrapped, and brackets in it are no markup."""
    console.print(_printable(text), style=style or "", highlight=False, soft_wrap=True)


def _printable(text: str) -> Text:
    """Return a text as it is, but without characters that would command the terminal: names may come from anywhere."""
    return Text(re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "\ufffd", text))
