"""What a run found, as a table for people and as JSON for machines, and the runs of all shards as one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import calls
from .verdicts import Verdict, describe

FORMAT = 2

# Failing cases shown in full; the others are counted, and the JSON and HTML files have them all.
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
    """One run of a campaign: what took part, and what came of it.

    ``oracle`` is what the ports were compared with: ``"frameworks"``, ``"reference"`` or ``"recording"``. ``shard``
    ``"1/3"`` is the first of three parts of the ``numbers`` cases, and ``settings`` is what all parts have in common.
    ``notes`` are on what was not compared, and ``shrunk`` are the first random cases that failed, made small.
    """

    oracle: str
    headline: str
    versions: dict[str, str]
    numbers: int
    settings: dict[str, Any]
    seed: int | None = None
    shard: str | None = None
    notes: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    shrunk: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[Verdict]:
        """The verdicts that did not pass."""
        return [verdict for verdict in self.verdicts if not verdict.passed]

    @property
    def total(self) -> Total:
        """Everything added up."""
        return _total(self.verdicts)

    @property
    def verdict(self) -> str:
        """``"identical"``, ``"within tolerance"``, ``"different"`` or, without a case, ``"nothing compared"``."""
        total = self.total
        if not total.cases:
            return "nothing compared"
        return "different" if total.failed else "within tolerance" if total.largest_difference else "identical"

    @property
    def by_category(self) -> dict[tuple[str, str], Total]:
        """The verdicts of each direction and category added up, in the order they came.

        Random cases, round trips and workloads are the last of a direction, and sorted.
        """
        categories: dict[tuple[str, str], list[Verdict]] = {}
        for verdict in self.verdicts:
            categories.setdefault((verdict.direction, verdict.category), []).append(verdict)
        last = ("random", "round trip", "workload")
        names = sorted(categories, key=lambda key: key[1] if key[1].startswith(last) else "")
        return {name: _total(categories[name]) for name in names}


def headline(oracle: str, versions: dict[str, str]) -> str:
    """Return what is compared with what, on what."""
    ours = f"ms2torch_roi {versions['ms2torch_roi']}"
    torch = f"torch {versions.get('torch')} and torchvision {versions.get('torchvision')}"
    numpy = f"NumPy {versions['numpy']}"
    if oracle == "frameworks":
        return f"MindSpore {versions['mindspore']}, {torch}, {numpy}, all on CPU, against {ours}"
    if oracle == "reference":
        return f"The NumPy reference, WITHOUT MindSpore, against {ours} on {torch} (CPU), {numpy}"
    runs_on = [torch] if "torch" in versions else []
    runs_on += [f"MindSpore {versions['mindspore']}"] if "mindspore" in versions else []
    return f"Recorded calls against {ours} on {', '.join(runs_on)} (CPU), {numpy}"


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
    if run.verdict == "different":
        different = f"{total.differing:,} of {total.values:,} values differ"
        conclusion = f"DIFFERENT: {total.failed:,} of {total.cases:,} cases failed, {different}"
    elif run.verdict == "within tolerance":
        beyond = f"{total.differing:,} differ by more than allowed, all by {total.largest_difference:.3g} at most"
        conclusion = f"WITHIN TOLERANCE: {total.cases:,} cases, {total.values:,} values compared, {beyond}"
    elif run.verdict == "nothing compared":
        conclusion = "NOTHING COMPARED: 0 cases"
    else:
        conclusion = f"IDENTICAL: {total.cases:,} cases, {total.values:,} values compared, 0 differ"
    part = f", shard {run.shard} of {run.numbers:,} cases" if run.shard else ""
    _print(console, f"{conclusion} ({run.seconds:.1f} s{part}).", style="bold red" if total.failed else "bold green")


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


def as_json(run: Run) -> dict[str, Any]:
    """Return the facts of a run for ``json.dump``: numbers, strings, lists and dicts."""
    return {
        "format": FORMAT,
        "verdict": run.verdict,
        "headline": run.headline,
        "oracle": run.oracle,
        "versions": run.versions,
        "devices": {name: "CPU" for name in ("torch", "mindspore") if name in run.versions},
        "seed": run.seed,
        "settings": run.settings,
        "numbers": run.numbers,
        "shard": run.shard,
        "notes": run.notes,
        "seconds": round(run.seconds, 3),
        "total": _plain(asdict(run.total)),
        "categories": [
            {"direction": direction, "category": category, **_plain(asdict(total))}
            for (direction, category), total in run.by_category.items()
        ],
        "cases": [_case_as_json(verdict) for verdict in run.verdicts],
        "shrunk": [_case_as_json(verdict) for verdict in run.shrunk],
    }


def _case_as_json(verdict: Verdict) -> dict[str, Any]:
    heat_map = [[_number(value) for value in row] for row in verdict.heat_map]
    return _plain({**asdict(verdict), "heat_map": heat_map, "passed": verdict.passed})


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    return facts | {"largest_difference": _number(facts["largest_difference"])}


def _number(value: float) -> float | str:
    """Replace an infinite difference, which JSON has no number for, by a string."""
    return "infinite" if math.isinf(value) else value


def read(file: Path) -> Run:
    """Read the run of a file that holds what ``as_json`` made.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else, or another format.
    """
    try:
        calls.check_is_file(file)
        return from_json(json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not a report of ms2torch-roi: {type(error).__name__}: {error}") from error


def from_json(facts: dict[str, Any]) -> Run:
    """Return the run of what ``as_json`` made."""
    if facts["format"] != FORMAT:
        raise ValueError(f"its format is {facts['format']!r}; this version of ms2torch_roi reads {FORMAT}")
    names = ("oracle", "headline", "versions", "numbers", "settings", "seed", "shard", "notes", "seconds")
    verdicts = {name: [_case_from_json(case) for case in facts[name]] for name in ("cases", "shrunk")}
    return Run(**{name: facts[name] for name in names}, verdicts=verdicts["cases"], shrunk=verdicts["shrunk"])


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _case_from_json(case: dict[str, Any]) -> Verdict:
    known = {field.name: case[field.name] for field in fields(Verdict)}
    for name, default in vars(Verdict("", "", "")).items():
        if name != "largest_difference" and not isinstance(known[name], type(default)):
            raise ValueError(f"{name} of a case is {known[name]!r}")
    heat_map = [[_float(value) for value in row] for row in case["heat_map"]]
    return Verdict(**{**known, "heat_map": heat_map, "largest_difference": _float(case["largest_difference"])})


def _float(number: float | str) -> float:
    return math.inf if number == "infinite" else float(number)


def merged(parts: Sequence[Run]) -> Run:
    """Return the run that the shards of one campaign add up to.

    Raises:
        ValueError: they are not all of the shards of one campaign.
    """
    first = parts[0]
    for part in parts:
        for name in ("headline", "versions", "numbers", "settings", "seed"):
            ours, theirs = getattr(first, name), getattr(part, name)
            if ours != theirs:
                raise ValueError(
                    f"the shards are not of one campaign: {name} is {ours!r} in one and {theirs!r} in another"
                )
    if any(part.shard is None for part in parts):
        raise ValueError("a report is of a whole run, not of a shard: there is nothing to merge it with")
    shards = sorted(str(part.shard) for part in parts)
    count = int(shards[0].partition("/")[2])
    # A report may say any number: no list is made of so many.
    if len(shards) != count or shards != sorted(f"{i}/{count}" for i in range(1, count + 1)):
        raise ValueError(f"expected each of the shards 1/{count} to {count}/{count} once, got {', '.join(shards)}")
    every = sorted((verdict for part in parts for verdict in part.verdicts), key=lambda verdict: verdict.number)
    numbers = {verdict.number for verdict in every}
    if len(numbers) != first.numbers or any(not 0 <= number < first.numbers for number in numbers):
        raise ValueError(f"the shards do not hold all of the {first.numbers} cases")
    run = replace(first, shard=None, verdicts=every, seconds=sum(part.seconds for part in parts))
    shown = {(verdict.number, verdict.category) for verdict in run.failures[:SHOWN_FAILURES]}
    small = sorted((verdict for part in parts for verdict in part.shrunk), key=lambda verdict: verdict.number)
    run.shrunk = [verdict for verdict in small if (verdict.number, verdict.category) in shown]
    return run
