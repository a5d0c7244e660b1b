"""What several test files need."""

import subprocess
import sys

import numpy as np

from ms2torch_roi.parity import edges
from ms2torch_roi.parity.verdicts import same_bits


def assert_same_bits(actual, expected):
    """Equal shape, dtype and values, where NaN equals NaN and 0 equals -0."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    different = ~same_bits(actual, expected)
    rows = np.unique(np.nonzero(different)[0])
    assert not different.any(), f"{different.sum()} of {different.size} values differ, in rows {rows.tolist()}"


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
