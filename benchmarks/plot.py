"""Draw time against the number of rois, from what ``speed.py --json`` wrote.

``python benchmarks/plot.py build/benchmark.json`` writes ``benchmarks/time_against_rois.png``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# Colours that colour-blind readers can tell apart; the markers do without colours.
STYLES = {
    "torchvision": ("#000000", "o"),
    "ours": ("#0072b2", "s"),
    "ours, one thread": ("#009e73", "D"),
    "MindSpore": ("#d55e00", "^"),
    "ONNX Runtime": ("#cc79a7", "v"),
}


def series(report: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Return the (rois, milliseconds) of each contender: stride-16 forward in float32, and all that differs in rois."""

    def kind(record: Mapping[str, Any]) -> tuple[Any, ...]:
        ignored = ("name", "rois", "dtypes", "backward", "one_thread", "mindspore", "by_default")
        case = {name: value for name, value in record["case"].items() if name not in ignored}
        return case, record["dtype"], record["pass"]

    records = report["records"]
    wanted = next((kind(record) for record in records if record["case"]["name"] == "stride-16"), None)
    if wanted is None:
        raise SystemExit("the report lacks the case stride-16, which the plot is of")
    points: dict[str, list[tuple[int, float]]] = {name: [] for name in STYLES}
    for record in records:
        if kind(record) == wanted:
            points[record["contender"]].append((record["case"]["rois"], record["milliseconds"]))
    return {name: sorted(found) for name, found in points.items() if found}


def draw(report: Mapping[str, Any]) -> Figure:
    """Return the figure."""
    figure = Figure(figsize=(8, 5.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    points = series(report)
    for name, found in points.items():
        colour, marker = STYLES[name]
        axes.plot(*zip(*found, strict=True), color=colour, marker=marker, markersize=5, label=name)
    axes.set(xscale="log", yscale="log", xlabel="rois", ylabel="milliseconds per call, median")
    axes.set_title("RoIAlign forward, float32, (2, 256, 50, 76) features, 7 x 7 bins of 2 x 2 samples", fontsize=10)
    counts = sorted({count for found in points.values() for count, _ in found})
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.supxlabel(caption(report), fontsize=7, color="#555555")
    return figure


def caption(report: Mapping[str, Any]) -> str:
    """Return the machine, and in a second line the versions."""
    machine = "{cpu}, {architecture}, cores: {cores}".format(**report["machine"])
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return f"{machine}, threads: {report['threads']}\n{versions}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="what speed.py --json wrote")
    default = Path(__file__).parent / "time_against_rois.png"
    parser.add_argument("--output", type=Path, default=default, metavar="PNG", help="(default: beside this script)")
    options = parser.parse_args(arguments)
    draw(json.loads(options.report.read_text())).savefig(options.output)


if __name__ == "__main__":
    main()
