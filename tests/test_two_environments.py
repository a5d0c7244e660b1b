"""Record where one framework is installed, replay where only the other one is, with the NumPy that each of them wants.

Both environments are made here, with uv: seconds if it has the wheels, minutes if they are to be downloaded.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import golden
import pytest

from ms2torch_roi.parity.recording import calls

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 13), reason="MindSpore has no wheels for this Python")

RECORD_IN_MINDSPORE = """
import mindspore as ms, numpy as np, ms2torch_roi
ms.set_context(mode=ms.PYNATIVE_MODE, device_target="CPU")
rng = np.random.default_rng(0)
features = rng.standard_normal((2, 3, 11, 14)).astype(np.float32)
corners = rng.uniform(0, 12, (20, 2))
rois = np.hstack((rng.integers(0, 2, (20, 1)), corners, corners + rng.uniform(0, 12, (20, 2)))).astype(np.float32)
with ms2torch_roi.record("calls/", gradients=True):
    for mode in (0, 1):
        pool = ms.ops.ROIAlign(3, 4, 0.5, 2, mode)
        for dtype in (ms.float32, ms.float16):
            pool(ms.Tensor(features, dtype), ms.Tensor(rois, dtype))
    ms.grad(lambda features: (pool(features, ms.Tensor(rois)) ** 2).sum())(ms.Tensor(features))
"""
RECORD_IN_TORCH = """
import torch, torchvision, ms2torch_roi
torch.manual_seed(0)
features = torch.randn(2, 3, 11, 14)
corners = 12 * torch.rand(20, 2)
boxes = torch.hstack((torch.randint(0, 2, (20, 1)), corners, corners + 12 * torch.rand(20, 2)))
with ms2torch_roi.record("calls/", gradients=True):
    for aligned in (False, True):
        for dtype in (torch.float32, torch.float16):
            torchvision.ops.roi_align(features.to(dtype), boxes.to(dtype), (3, 4), 0.5, 2, aligned=aligned)
    features.requires_grad_()
    (torchvision.ops.roi_align(features, boxes, (3, 4), 0.5, 2, aligned=True) ** 2).sum().backward()
"""
# Five calls of 20 boxes, 3 channels and 3 x 4 bins, and a gradient for all features.
CALLS, VALUES = 5, 5 * 20 * 3 * 3 * 4 + 2 * 3 * 11 * 14


class Environment:
    """A virtual environment without one of the frameworks, and a user's commands in it."""

    def __init__(self, folder, without, *requirements, extras):
        try:
            python = golden.make_environment(folder, *requirements, extras=extras, python=sys.executable)
        except FileNotFoundError as error:
            pytest.skip(str(error))
        except subprocess.CalledProcessError as error:
            if "Failed to fetch" in error.stderr or "network was disabled" in error.stderr:
                pytest.skip(f"the environments cannot be downloaded: {error.stderr}")
            pytest.fail(error.stderr)
        self.bin = python.parent
        find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({without!r}) is not None)"
        assert self.run("python", "-I", "-c", find).returncode == 0

    def run(self, command, *arguments, cwd=None):
        return subprocess.run(
            [self.bin / command, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
        )

    def record(self, code, folder):
        result = self.run("python", "-I", "-c", code, cwd=folder)
        assert result.returncode == 0, result.stderr
        assert len(list((folder / "calls").iterdir())) == CALLS

    def replay(self, folder):
        result = self.run("ms2torch-roi", "replay", "calls/", "--json", "facts.json", cwd=folder)
        return result, json.loads((folder / "facts.json").read_text()) if result.returncode < 2 else None


@pytest.fixture(scope="module")
def with_mindspore():
    with tempfile.TemporaryDirectory() as folder:
        yield Environment(Path(folder), "torch", extras="[mindspore,cli]")


@pytest.fixture(scope="module")
def with_torch():
    with tempfile.TemporaryDirectory() as folder:
        yield Environment(Path(folder), "mindspore", "numpy>=2", extras="[torch,cli]")


@pytest.fixture(scope="module", params=["to-torch", "to-mindspore"])
def recording(request, tmp_path_factory, with_mindspore, with_torch):
    """Return a direction, a folder with recorded calls, and the environments to record and to replay them in."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "to-torch":
        with_mindspore.record(RECORD_IN_MINDSPORE, folder)
        return request.param, folder, with_mindspore, with_torch
    with_torch.record(RECORD_IN_TORCH, folder)
    return request.param, folder, with_torch, with_mindspore


def test_what_one_environment_records_the_other_replays_to_the_same_bits(recording):
    direction, folder, _, environment = recording
    original, recorded_numpy, own, replayed_numpy = {
        "to-torch": ("mindspore", "1", "torch", "2"),
        "to-mindspore": ("torchvision", "2", "mindspore", "1"),
    }[direction]
    for path in (folder / "calls").iterdir():
        versions = calls.read(path).versions
        assert original in versions
        assert own not in versions
        assert versions["numpy"].split(".")[0] == recorded_numpy

    result, facts = environment.replay(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    expected = f"IDENTICAL: {CALLS + 1} cases, {VALUES:,} values compared, 0 differ"
    assert result.stdout.splitlines()[-1].startswith(expected)
    assert facts["oracle"] == "recording"
    assert original not in facts["versions"]
    assert own in facts["versions"]
    assert facts["versions"]["numpy"].split(".")[0] == replayed_numpy
    assert facts["total"]["values"] == VALUES
    assert {case["direction"] for case in facts["cases"]} == {direction}
    assert sum(case["category"].startswith("gradient, ") for case in facts["cases"]) == 1


def test_falsified_values_fail_in_the_other_environment(recording, tmp_path):
    _, folder, _, environment = recording
    shutil.copytree(folder / "calls", tmp_path / "calls")
    recorded = {path: calls.read(path) for path in sorted((tmp_path / "calls").iterdir())}
    with_gradient = [path for path, call in recorded.items() if call.features_gradient is not None]
    falsified = {with_gradient[0]: "features_gradient", next(iter(recorded)): "output"}
    assert len(falsified) == 2
    for path, name in falsified.items():
        getattr(recorded[path], name)[-1, -1, -1, -1] += 1
        calls.write(path, recorded[path])
    result, facts = environment.replay(tmp_path)
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1].startswith(f"DIFFERENT: 2 of {len(facts['cases'])} cases failed, 2 of ")
    failed = {case["case"]: case for case in facts["cases"] if not case["passed"]}
    assert set(failed) == {f"calls/{path.name}" for path in falsified}
    gradient = failed[f"calls/{with_gradient[0].name}"]
    assert gradient["category"].startswith("gradient, ")


def test_calls_are_not_replayed_where_they_were_recorded(recording):
    direction, folder, recorder, _ = recording
    result, _ = recorder.replay(folder)
    assert result.returncode == 2
    assert f"{'torch' if direction == 'to-torch' else 'MindSpore'} is not installed" in result.stderr
