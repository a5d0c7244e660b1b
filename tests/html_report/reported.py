"""A run to report on, and what the page says of it."""

import math

from ms2torch_roi.parity import report
from ms2torch_roi.parity.report.facts import as_json
from ms2torch_roi.parity.verdicts import Verdict

LEFT_OUT = "never written by MindSpore"
EDGE, RANDOM, TORCHVISION = "edge: boxes", "random: float32, mode 1, fixed", "edge: border"
HEAT_MAP = [[0.0, 1e-6, 0.001], [0.5, math.inf, 0.05]]
FAILED = Verdict(
    "boxes far away",
    "to-torch",
    EDGE,
    1,
    values=1200,
    differing=1003,
    allowed=2,
    largest_difference=math.inf,
    left_out={LEFT_OUT: 3},
    first="rois row 0 [0.0, 1.0], channel 0, bin (0, 1): expected 1.5, got 2.0",
    heat_map=HEAT_MAP,
    explanation="these are the values of roi_end_mode 0",
    reproduction="case = 1\nprint(case < 2 & case)",
)
PROBLEM = Verdict(
    "random case 7 of seed 0", "to-torch", RANDOM, 3, problem="the port raised RuntimeError: no memory", left_out={}
)
SMALL = Verdict(
    "boxes far away, smaller", "to-torch", EDGE, 1, values=1, differing=1, first="so small", reproduction="small()"
)
PASSED = [
    Verdict("boxes without a size", "to-torch", EDGE, 0, values=24, left_out={LEFT_OUT: 1}),
    Verdict("random case 8 of seed 0", "to-torch", RANDOM, 4, values=36),
    Verdict("samples on -1", "to-mindspore", TORCHVISION, 5, values=8),
]
VERDICTS = [PASSED[0], FAILED, PROBLEM, *PASSED[1:]]


def facts_of(verdicts, **changes):
    facts = {
        "versions": {"ms2torch_roi": "1.2.3", "torch": "2.15.0", "mindspore": "2.10.0", "numpy": "1.26.4"},
        "devices": {"torch": "CPU", "mindspore": "CPU"},
        "numbers": len(verdicts),
        "settings": {},
        "seed": 7,
        "seconds": 1234.5,
        "origins": [report.Origin("ms2torch-roi check", "2026-11-26T18:07:21+00:00", "Python 3.11 on Linux")],
    }
    return as_json(report.Run("frameworks", **facts | changes, verdicts=verdicts))


FACTS = facts_of(VERDICTS, shrunk=[SMALL], shard="2/3", notes=["2 files were not read."])


def names(browser):
    return browser.texts("#list .name")


def address(browser):
    return browser.run("decodeURIComponent(location.hash.replaceAll('+', ' '))")
