"""What is printed of a run: nothing is cut off, however narrow the terminal."""

import io
import math

import pytest
from rich.console import Console

from ms2torch_roi.parity import report
from ms2torch_roi.parity.report import terminal
from ms2torch_roi.parity.verdicts import Verdict

CATEGORIES = ["edge: boxes", "recorded: MindSpore 2.10.0 on CPU, float32, mode 1, fixed", "workload: gradient"]


@pytest.mark.parametrize("width", [24, 42, 59, 60, 80, 200])
def test_names_and_numbers_are_whole_at_any_width(width):
    verdicts = [
        Verdict(
            f"case {number}",
            "to-torch",
            category,
            number,
            values=123_456_789 + number,
            differing=23_456_789 + number,
            largest_difference=[1.23e-7, math.inf, 0.5][number],
            left_out={"never written": 1_234_567 + number},
        )
        for number, category in enumerate(CATEGORIES)
    ]
    run = report.Run("reference", {"torch": "2.15.0"}, {"torch": "CPU"}, len(verdicts), {}, verdicts=verdicts)
    console = Console(file=io.StringIO(), width=width)
    terminal.print_run(run, console)
    printed = console.file.getvalue()
    for verdict in verdicts:
        for number in (verdict.values, verdict.differing, *verdict.left_out.values()):
            assert f"{number:,}" in printed
        assert f"{verdict.largest_difference:.3g}" in printed
    assert "\u2026" not in printed  # the dots of something cut off
    words = printed.split()
    assert all(word in words for category in CATEGORIES for word in category.split())
