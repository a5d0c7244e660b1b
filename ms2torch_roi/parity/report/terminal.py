"""A run as tables and lines for people at a terminal."""

from __future__ import annotations

import re

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..verdicts import describe
from . import SHOWN_FAILURES, Run


def print_headline(run: Run, console: Console) -> None:
    """Print what is compared with what, on what."""
    _print(console, run.headline, style="bold")


def print_origins(run: Run, console: Console) -> None:
    """Print when, where and by which command it was run, a line for each shard."""
    for origin in run.origins:
        _print(console, f"{origin.started}, {origin.platform}: {origin.command}")


def print_run(run: Run, console: Console) -> None:
    """Print a table of categories for each direction, the cases that failed, and one line with the verdict.

    The columns are the cases that failed, of how many; the values compared; how many of them differ, and by how much
    at most; and the rows left out.
    """
    for direction in dict.fromkeys(verdict.direction for verdict in run.verdicts):
        table = Table(box=box.SIMPLE, show_edge=False, padding=0, header_style="bold")
        table.add_column(_printable(direction))
        for column in ("failed", "values", "differ", "largest", "left out"):
            table.add_column(column, justify="right", no_wrap=True)
        for (direction_of_category, category), total in run.by_category.items():
            if direction_of_category == direction:
                table.add_row(
                    _printable(category),
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
    _print_worst(run, console)
    small = {(verdict.number, verdict.category): verdict for verdict in run.shrunk}
    for verdict in run.failures[:SHOWN_FAILURES]:
        shown = small.get((verdict.number, verdict.category), verdict)
        _print(console, f"FAILED {shown.case} ({shown.direction}, {shown.category})", style="bold red")
        for line in describe(shown):
            _print(console, line)
    if len(run.failures) > SHOWN_FAILURES:
        more = len(run.failures) - SHOWN_FAILURES
        _print(console, f"... and {more} more cases failed; --json or --html FILE has them all.\n")

    total = run.total
    for note in run.notes:
        _print(console, note)
    for reason, rows in total.left_out.items():
        _print(console, f"Not compared: {rows:,} rows {reason}.")
    part = f", shard {run.shard} of {run.numbers:,} cases" if run.shard else ""
    _print(
        console,
        f"{run.verdict.upper()}: {run.conclusion} ({run.seconds:.1f} s{part}).",
        style="bold red" if total.failed else "bold green",
    )


def _print_worst(run: Run, console: Console) -> None:
    """Print the cases with the largest differences, if there are any."""
    worst = sorted(run.verdicts, key=lambda verdict: -verdict.largest_difference)[:SHOWN_FAILURES]
    worst = [verdict for verdict in worst if verdict.largest_difference]
    if not worst:
        return
    table = Table(box=box.SIMPLE, show_edge=False, padding=0, header_style="bold")
    table.add_column("largest differences", overflow="fold")
    for column in ("differ", "of", "largest"):
        table.add_column(column, justify="right")
    for verdict in worst:
        counts = f"{verdict.differing:,}", f"{verdict.values:,}", f"{verdict.largest_difference:.3g}"
        table.add_row(_printable(f"{verdict.case} ({verdict.direction})"), *counts)
    console.print(table)
    console.print()


def _print(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: not wrapped, and brackets in it are no markup."""
    console.print(_printable(text), style=style or "", highlight=False, soft_wrap=True)


def _printable(text: str) -> Text:
    """Return a text as it is, but without characters that would command the terminal: names may come from anywhere."""
    return Text(re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "\ufffd", text))
