"""Recording works with whichever framework is installed, and imports no other."""

import subprocess
import sys

import pytest
from helpers import run_python, without
from recordings import MS_FEATURES, MS_ROIS, pool, read

from ms2torch_roi import how_to_install
from ms2torch_roi.parity.recording import record


def test_mindspore_is_not_imported_for_a_user_of_torch(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "mindspore", raising=False)
    with record(tmp_path) as recording:
        pool()
    assert "mindspore" not in sys.modules
    assert len(read(recording)) == 1


@pytest.mark.needs_mindspore
def test_torch_is_not_imported_for_a_user_of_mindspore(tmp_path, monkeypatch, ms):
    for name in ("torch", "torchvision"):
        monkeypatch.delitem(sys.modules, name)
    with record(tmp_path) as recording:
        ms.ops.ROIAlign(4, 4, 0.25)(ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS))
    assert not {"torch", "torchvision"} & set(sys.modules)
    assert len(read(recording)) == 1


def test_torch_is_recorded_without_mindspore(tmp_path):
    code = """
from ms2torch_roi.parity.recording import record
with record(sys.argv[1]) as recording:
    import torch, torchvision
    torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0, 1.0, 1, 5, 5]]), 2)
assert recording.calls == len(recording.paths) == 1
"""
    result = run_python(without("mindspore") + code, str(tmp_path))
    assert result.returncode == 0, result.stderr


@pytest.mark.needs_mindspore
def test_mindspore_is_recorded_without_torch_but_not_what_it_traces(tmp_path):
    code = """
from ms2torch_roi.parity.recording import record
with record(sys.argv[1]) as recording:
    import mindspore as ms
    operator, features, rois = ms.ops.ROIAlign(2, 2, 1.0), ms.ops.ones((1, 1, 8, 8)), ms.Tensor([[0, 1.0, 1, 5, 5]])
    def pool(features, rois):
        return operator(features, rois)
    traced = ms.jit(pool, capture_mode="trace")
    assert [float(traced(features, rois).sum()) for _ in range(2)] == [4, 4]
    assert recording.calls == 0
    pool(features, rois)
assert recording.calls == len(recording.paths) == 1
"""
    script = tmp_path / "script.py"  # MindSpore traces no code that is not in a file
    script.write_text(without("torch") + without("torchvision") + code)
    result = subprocess.run([sys.executable, script, tmp_path / "calls"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_without_any_framework_both_extras_are_named(tmp_path):
    code = "from ms2torch_roi.parity.recording import record\nwith record(sys.argv[1]): pass"
    result = run_python(without("mindspore") + without("torchvision") + code, str(tmp_path / "none"))
    assert "ImportError: record: neither torchvision nor MindSpore can be imported." in result.stderr
    torch, mindspore = how_to_install("torch"), how_to_install("mindspore")
    assert f" For torchvision: {torch}; for MindSpore: {mindspore}" in result.stderr
    assert not (tmp_path / "none").exists()
