"""``ms2torch-roi identify``."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import CouldNotRunError, arguments, make_console, reporting

if TYPE_CHECKING:
    from rich.console import Console

    from ..parity.identification import Conclusion, Finding, Tried
    from ..parity.recording.calls import Call

HELP = "tell which device's rule recorded calls of MindSpore obey"
DESCRIPTION = (
    "Try the rules of MindSpore's devices on all recorded calls of mindspore.ops.ROIAlign together, up to the rounding"
    " of a device, and print which explain them, which are refuted and by what, and the constructor to use. Kernels"
    " that ROIAlign has no rule for are tried as well. Neither framework is needed."
)
EPILOG = "Exit status: 0 if one rule explains all calls, 1 if none does, 2 if several do or nothing could be compared."

_STATUS = {"one": 0, "none": 1, "several": 2}
_GRADIENTS = "gradients, of mode 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "paths",
        nargs="+",
        type=arguments.path,
        metavar="PATH",
        help="recorded calls, or folders or .zip files of them; or URLs of those",
    )
    parser.add_argument(
        "--tolerance",
        type=arguments.tolerance,
        metavar="T",
        help="values may differ by T times the largest feature of a call (default: 1e-4, or in float16 1e-2, and what"
        " the last digits of a coordinate make)",
    )
    parser.add_argument("--json", type=arguments.report, metavar="FILE", help="write the same facts for machines")
    parser.set_defaults(junit=None, html=None, summary=None)


def run(options: argparse.Namespace) -> int:
    """Run it, and return the exit status."""
    console = make_console()
    from ..parity import campaign, identification, remote

    try:
        files, others = campaign.recorded_files(options.paths)
    except (OSError, ValueError) as error:
        raise CouldNotRunError(str(error)) from error
    reporting.prepare_reports(options, (*files, *options.paths))
    unreadable: list[str] = []
    sources: Counter[str] = Counter()
    tried = identification.identify(_calls(files, unreadable, sources, console), options.tolerance)
    try:
        conclusion = identification.conclude(tried)
    except ValueError as error:
        raise CouldNotRunError("; ".join([str(error), *unreadable[:1]])) from error
    unreadable += [f"{remote.name(file)} is no recorded call" for file in others]
    _print(tried, conclusion, unreadable, sources, console)
    if options.json is not None:
        facts = _as_json(tried, conclusion, unreadable)
        try:
            reporting.write(options.json, (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode())
        except OSError as error:
            raise CouldNotRunError(f"--json: {error}") from error
    return _STATUS[conclusion.verdict]


def _calls(files: Sequence[Path], unreadable: list[str], sources: Counter[str], console: Console) -> Iterator[Call]:
    """Yield the calls in files, and note those that cannot be read, and where the others were recorded."""
    from rich.progress import track

    from ..parity.recording import calls

    for file in track(files, "identifying", console=console, transient=True, disable=not console.is_terminal):
        try:
            call = calls.read(file)
        except (OSError, ValueError) as error:
            unreadable.append(str(error))
            continue
        version = call.versions.get("mindspore")
        sources[f"MindSpore {version} on {call.device}" if version else f"MindSpore on {call.device}"] += 1
        yield call


def _print(
    tried: Tried, conclusion: Conclusion, unreadable: Sequence[str], sources: Counter[str], console: Console
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def line(text: str, style: str = "") -> None:
        console.print(Text(text), style=style, highlight=False, soft_wrap=True)

    for source, count in sources.items():
        line(f"{count:,} recorded calls of {source}")
    for what, findings in (("outputs", tried.outputs), (_GRADIENTS, tried.gradients)):
        if not any(finding.explained or finding.refuted for finding in findings):
            continue
        table = Table(box=box.SIMPLE, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column(what)
        table.add_column("explained", justify="right", no_wrap=True)
        table.add_column("largest", justify="right", no_wrap=True)
        table.add_column("refuted by")
        is_explained = any(finding.hypothesis.is_named and not finding.refuted for finding in findings)
        for finding in findings:
            if is_explained and finding.refuted and not finding.hypothesis.is_named:
                continue
            count = len(finding.explained) + len(finding.refuted)
            name = finding.hypothesis.name
            table.add_row(
                Text(name if finding.hypothesis.is_named else f"({name})"),
                f"{len(finding.explained):,}/{count:,}",
                f"{finding.residual:.1g}" if finding.explained else "-",
                Text(_refutation(finding)),
                style=None if finding.refuted else "green",
            )
        line("")
        console.print(table)
    line("")
    line("Differences are relative to the largest value of a call; kernels in brackets have no rule= in ROIAlign.")
    if tried.left_out:
        line(f"Not compared: {tried.left_out:,} calls that ended in an error, or are not of MindSpore.")
    for text in unreadable:
        line(f"Not compared: {text}.")
    line(conclusion.sentence, "bold green" if conclusion.verdict == "one" else "bold yellow")
    if conclusion.call:
        line(conclusion.call)
    for kind, names in conclusion.by_kind.items():
        line(f"  {kind}: {' or '.join(names) or 'none'}")


def _refutation(finding: Finding) -> str:
    """Say which calls a hypothesis does not explain: the kind of box that most of them have, and the worst one."""
    if not finding.refuted:
        return ""
    kinds = Counter(refutation.what for refutation in finding.refuted.values())
    (what, count), *_ = kinds.most_common(1)
    name = max(finding.refuted, key=lambda name: finding.refuted[name].difference)
    calls = f"{len(finding.refuted):,} call{'s' * (len(finding.refuted) > 1)}"
    most = "" if count == len(finding.refuted) else f", {count:,} of them"
    return f"{calls}{most} with {what} ({name} row {finding.refuted[name].row})"


def _as_json(tried: Tried, conclusion: Conclusion, unreadable: Sequence[str]) -> dict[str, Any]:
    def facts(finding: Finding) -> dict[str, Any]:
        refuted = {
            name: {**refutation._asdict(), "difference": _number(refutation.difference)}
            for name, refutation in finding.refuted.items()
        }
        return {
            "name": finding.hypothesis.name,
            "is_named": finding.hypothesis.is_named,
            "explained": finding.explained,
            "refuted": refuted,
            "residual": _number(finding.residual),
            "identical": finding.identical,
            "silent": finding.silent,
        }

    return {
        "format": 1,
        **conclusion._asdict(),
        "outputs": [facts(finding) for finding in tried.outputs],
        "gradients": [facts(finding) for finding in tried.gradients],
        "left_out": tried.left_out,
        "unreadable": list(unreadable),
    }


def _number(value: float) -> float | str:
    """Replace an infinite difference, which JSON has no number for, by a string."""
    return "infinite" if math.isinf(value) else value
