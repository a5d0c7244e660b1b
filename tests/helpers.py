"""What several test files need."""

import re
import subprocess
import sys

import numpy as np
import torch
from hypothesis import settings

from ms2torch_roi import ROIAlign
from ms2torch_roi.parity import edges
from ms2torch_roi.parity.verdicts import same_bits


def assert_same_bits(actual, expected):
    """Equal shape, dtype and values, where NaN equals NaN and 0 equals -0."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    different = ~same_bits(actual, expected)
    rows = np.unique(np.nonzero(different)[0])
    assert not different.any(), f"{different.sum()} of {different.size} values differ, in rows {rows.tolist()}"


def anchors(markdown):
    """List the anchors of the headings of a page of Markdown."""
    titles = re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def examples(count):
    """So many examples of a test of hypothesis, and a tenth of them in the profile of ``make quick``."""
    return settings(max_examples=count * settings.default.max_examples // 100)


def run_python(code, *arguments, timeout=300):
    """Run code in a fresh interpreter, without the frameworks this one has imported."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )


def without(package):
    """Return code that makes imports of a package fail in a fresh interpreter, as if it were not installed."""
    return (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {package!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent)\n"
    )


EDGE_CASES = list(edges.edge_cases())
MINDSPORE_EDGE_CASES = [case for case in EDGE_CASES if case.direction == "to-torch"]
TORCHVISION_EDGE_CASES = [case for case in EDGE_CASES if case.direction == "to-mindspore"]


# The ways to MindSpore's mixed precision; tests/mixed_precision_cells.py goes them.
MIXED_PRECISION = ["to_float of the pool", "to_float of the model", "O1", "O2", "O3", "auto"]


class Head(torch.nn.Module):
    """A tiny detection head, of the same weights each time."""

    def __init__(self, sample_num=2, roi_end_mode=1, backward_roi_end_mode=None):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.pool = ROIAlign(3, 2, 0.25, sample_num, roi_end_mode, backward_roi_end_mode)
        self.linear = torch.nn.Linear(24, 5)

    def forward(self, images, rois):
        return self.linear(self.pool(self.convolution(images), rois).flatten(1))
