"""A run as facts for machines: what JSON holds of it, read back, and the runs of all shards as one."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import remote
from ..recording import members
from ..verdicts import Tolerance, Verdict, cause
from . import Origin, Run, schema

FORMAT = 4


def as_json(run: Run) -> dict[str, Any]:
    """Return the facts of a run for ``json.dump``: numbers, strings, lists and dicts."""
    return {
        "format": FORMAT,
        "verdict": run.verdict,
        "conclusion": run.conclusion,
        "headline": run.headline,
        "oracle": run.oracle,
        "versions": run.versions,
        "devices": run.devices,
        "seed": run.seed,
        "settings": run.settings,
        "tolerance": asdict(run.tolerance),
        "numbers": run.numbers,
        "shard": run.shard,
        "origins": [asdict(origin) for origin in run.origins],
        "notes": run.notes,
        "seconds": round(run.seconds, 3),
        "total": _plain(asdict(run.total)),
        "categories": [
            {"direction": direction, "category": category, **_plain(asdict(total))}
            for (direction, category), total in run.by_category.items()
        ],
        "groups": [
            {
                "cause": group.cause,
                "failures": group.failures,
                "cases": group.cases,
                "example": {name: getattr(group.example, name) for name in ("case", "direction", "category", "number")},
            }
            for group in run.groups
        ],
        "cases": [_case_as_json(verdict) for verdict in run.verdicts],
        "shrunk": [_case_as_json(verdict) for verdict in run.shrunk],
    }


def _case_as_json(verdict: Verdict) -> dict[str, Any]:
    heat_map = [[_number(value) for value in row] for row in verdict.heat_map]
    found = "" if verdict.passed else cause(verdict)
    judged = {"passed": verdict.passed, "skipped": verdict.is_skipped, "cause": found}
    return _plain({**asdict(verdict), "heat_map": heat_map, **judged})


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    return facts | {"largest_difference": _number(facts["largest_difference"])}


def _number(value: float) -> float | str:
    """Replace an infinite difference, which JSON has no number for, by a string."""
    return "infinite" if math.isinf(value) else value


def read(file: Path) -> Run:
    """Read the run of a file that holds what ``as_json`` made.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else, or another format; the message names the file and the field.
    """
    try:
        with remote.errors(file):
            members.check_is_file(file)
            text = file.read_text(encoding="utf-8")
        return from_json(json.loads(text, parse_constant=_refuse))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{remote.name(file)}: not a report of ms2torch-roi: {error}") from error


def from_json(facts: Any) -> Run:
    """Return the run of what ``as_json`` made.

    Raises:
        ValueError: it is something else, or of another format; the message names the field.
    """
    if isinstance(facts, dict) and facts.get("format") != FORMAT:
        found = reprlib.repr(facts.get("format"))
        raise ValueError(f"its format is {found}; this version of ms2torch_roi reads {FORMAT}")
    return _RUN("", facts)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_VERDICT = schema.record_of(
    Verdict,
    {
        "case": schema.text,
        "direction": schema.text,
        "category": schema.text,
        "number": schema.whole,
        "values": schema.whole,
        "differing": schema.whole,
        "allowed": schema.whole,
        "largest_difference": schema.difference,
        "left_out": schema.dict_of(schema.whole),
        "first": schema.text,
        "heat_map": schema.heat_map,
        "raised": schema.text,
        "problem": schema.text,
        "explanation": schema.text,
        "reproduction": schema.text,
        "call": schema.text,
        "seconds": schema.number,
    },
)
_TOLERANCE = schema.record_of(
    Tolerance, {"atol": schema.tolerance, "rtol": schema.tolerance, "max_differing": schema.whole}
)

_ORIGIN = schema.record_of(Origin, dict.fromkeys(("command", "started", "platform"), schema.text))


def _run(cases: list[Verdict], **facts: Any) -> Run:
    return Run(verdicts=cases, **facts)


_RUN = schema.record_of(
    _run,
    {
        "oracle": schema.one_of("frameworks", "reference", "recording"),
        "versions": schema.dict_of(schema.text),
        "devices": schema.dict_of(schema.text),
        "numbers": schema.whole,
        "settings": schema.dict_of(schema.plain),
        "tolerance": _TOLERANCE,
        "seed": schema.optional(schema.whole),
        "shard": schema.optional(schema.shard),
        "origins": schema.list_of(_ORIGIN),
        "notes": schema.list_of(schema.text),
        "seconds": schema.number,
        "cases": schema.list_of(_VERDICT),
        "shrunk": schema.list_of(_VERDICT),
    },
)


def merged(parts: Sequence[Run]) -> Run:
    """Return the run that the shards of one campaign add up to.

    Raises:
        ValueError: they are not all of the shards of one campaign.
    """
    first = parts[0]
    for part in parts:
        for name in ("oracle", "numbers", "settings", "tolerance", "seed"):
            _check_same(name, getattr(first, name), getattr(part, name))
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
    run = replace(
        first,
        shard=None,
        origins=[origin for part in parts for origin in part.origins],
        versions=_union("versions", [part.versions for part in parts]),
        devices=_union("devices", [part.devices for part in parts]),
        notes=[*dict.fromkeys(note for part in parts for note in part.notes)],
        verdicts=every,
        seconds=sum(part.seconds for part in parts),
    )
    shown = {(verdict.number, verdict.category) for verdict in run.to_shrink}
    small = sorted((verdict for part in parts for verdict in part.shrunk), key=lambda verdict: verdict.number)
    run.shrunk = [verdict for verdict in small if (verdict.number, verdict.category) in shown]
    return run


def _union(name: str, parts: Sequence[dict[str, str]]) -> dict[str, str]:
    """Put together what some parts have each of their own: a framework may take part in one of them only."""
    union: dict[str, str] = {}
    for part in parts:
        _check_same(name, {**part, **union}, {**union, **part})
        union |= part
    return union


def _check_same(name: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise ValueError(f"the shards are not of one campaign: {name} is {ours!r} in one and {theirs!r} in another")
