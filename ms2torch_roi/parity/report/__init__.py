"""What a run found: its verdicts added up. A module for each form that it is shown or kept in."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ..verdicts import EXACT, UNREADABLE, Tolerance, Verdict, cause

# Explanations of which a failing case is shown in full, and cases with the largest differences that are named; the JSON
# and HTML files have all.
SHOWN = 5

# Explanations of which a failing case is made small. They are the first that came up, which are those of each shard.
SHRUNK = 10

_DTYPE = re.compile(r",? ?\bfloat(16|32|64)\b")

_SPELLED = {"mindspore": "MindSpore", "numpy": "NumPy"}


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


@dataclass(frozen=True)
class Group:
    """Failures for one reason: how many there are, of how many cases but for their dtype, and the first of them."""

    cause: str
    failures: int
    cases: int
    example: Verdict


@dataclass(frozen=True)
class Origin:
    """How a run, or a shard of it, came about: the command, when it was started, and where it ran."""

    command: str
    started: str
    platform: str

    @classmethod
    def here(cls, command: str) -> Origin:
        """Return that of a run that starts now, in universal time."""
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(command, started, f"Python {platform.python_version()} on {platform.platform()}")


@dataclass
class Run:
    """One run of a campaign: what took part, and what came of it.

    ``oracle`` is what the ports were compared with: ``"frameworks"``, ``"reference"`` or ``"recording"``. ``shard``
    ``"1/3"`` is the first of three parts of the ``numbers`` cases, and ``settings`` is what all parts have in common.
    ``origins`` has one entry, or after a merge one for each shard. ``devices`` are what the frameworks run on.
    ``notes`` are on what was not compared, and ``shrunk`` are the first random cases that failed, made small.
    """

    oracle: str
    versions: dict[str, str]
    devices: dict[str, str]
    numbers: int
    settings: dict[str, Any]
    tolerance: Tolerance = EXACT
    seed: int | None = None
    shard: str | None = None
    origins: list[Origin] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    shrunk: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def headline(self) -> str:
        """What is compared with what, on what."""
        ours, numpy = self._named("ms2torch_roi"), self._named("numpy")
        torch, mindspore = self._named("torch", "torchvision"), self._named("mindspore")
        on = " and ".join(dict.fromkeys(self.devices.values()))
        if self.oracle == "frameworks":
            return f"{mindspore}, {torch}, {numpy}, all on {on}, against {ours}"
        if self.oracle == "reference":
            absent = "MindSpore" if torch else "torch"
            return f"The NumPy reference, WITHOUT {absent}, against {ours} on {torch or mindspore} ({on}), {numpy}"
        runs_on = ", ".join(filter(None, (torch, mindspore)))
        return f"Recorded calls against {ours}{f' on {runs_on} ({on})' if runs_on else ''}, {numpy}"

    def _named(self, *packages: str) -> str:
        """Name packages with their versions, those that there are."""
        there = (package for package in packages if package in self.versions)
        return " and ".join(f"{_SPELLED.get(package, package)} {self.versions[package]}" for package in there)

    @property
    def failures(self) -> list[Verdict]:
        """The verdicts that did not pass."""
        return [verdict for verdict in self.verdicts if not verdict.passed]

    @property
    def groups(self) -> list[Group]:
        """The failures by their reason, the most frequent first."""
        failures: dict[str, list[Verdict]] = {}
        for verdict in self.failures:
            failures.setdefault(cause(verdict), []).append(verdict)
        groups = [
            Group(name, len(alike), len({(one.direction, _DTYPE.sub("", one.case)) for one in alike}), alike[0])
            for name, alike in failures.items()
        ]
        return sorted(groups, key=lambda group: -group.failures)

    @property
    def to_shrink(self) -> list[Verdict]:
        """The failures to be made small: an example of each of the first reasons that came up."""
        first: dict[str, Verdict] = {}
        for verdict in self.failures:
            first.setdefault(cause(verdict), verdict)
        return [*first.values()][:SHRUNK]

    @property
    def total(self) -> Total:
        """Everything added up."""
        return _total(self.verdicts)

    @property
    def unreadable(self) -> int:
        """How many recorded calls could not be read."""
        return sum(verdict.category == UNREADABLE for verdict in self.verdicts)

    @property
    def verdict(self) -> str:
        """What came of it, in a word or two.

        ``"identical"``, ``"within tolerance"`` or ``"different"``; ``"incomplete"`` if all that could be read passed;
        ``"nothing compared"`` without a value, or an error that there must be, that could be.
        """
        total = self.total
        if total.failed == self.unreadable and not any(verdict.values or verdict.raised for verdict in self.verdicts):
            return "nothing compared"
        if total.failed > self.unreadable:
            return "different"
        if self.unreadable:
            return "incomplete"
        return "within tolerance" if total.largest_difference else "identical"

    @property
    def conclusion(self) -> str:
        """What came of it, in numbers."""
        total = self.total
        cases = f"{total.cases:,} case{'s' * (total.cases != 1)}"
        beyond = "" if self.tolerance == EXACT else f" by more than the tolerance ({self.tolerance})"
        differ = f"differ{'s' * (total.differing == 1)}{beyond}"
        if total.largest_difference:
            largest = "infinity" if math.isinf(total.largest_difference) else f"{total.largest_difference:.3g}"
            differ += f", the largest difference is {largest}" if beyond else f", by {largest} at most"
        compared = f"{total.values:,} values compared, {total.differing:,} {differ}"
        if self.verdict == "different":
            of = f"{total.differing:,} of {total.values:,} values {differ}"
            return f"{total.failed:,} of {cases} failed, {of}"
        unread = f"{self.unreadable:,} of {cases} could not be read" if self.unreadable else ""
        if self.verdict == "nothing compared":
            return unread or (f"{cases}, 0 values compared" if total.cases else cases)
        return f"{unread or cases}, {compared}"

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


def _total(verdicts: Iterable[Verdict]) -> Total:
    total = Total()
    for verdict in verdicts:
        total.add(verdict)
    return total
