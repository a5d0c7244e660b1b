"""The recorder: it writes what ms2torch_roi.record writes, with NumPy and MindSpore alone."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ms2torch_roi.cli import main
from ms2torch_roi.parity import campaign, remote
from ms2torch_roi.parity.recording import calls

pytestmark = pytest.mark.needs_mindspore

# A model of two stages, whose second one refines the boxes of the first, in float32 and in float16.
MODEL = """
import sys
import numpy as np
import mindspore as ms
from mindspore import nn, ops

class Detector(nn.Cell):
    def __init__(self):
        super().__init__()
        self.first = ops.ROIAlign(3, 2, 0.25, 2, 0)
        self.second = ops.ROIAlign(2, 2, 0.5, 0)

    def construct(self, features, rois):
        moved = self.first(features, rois).mean((1, 2, 3)).reshape(-1, 1)
        index, corners = rois[:, :1], rois[:, 1:]
        return self.second(features, ops.concat((index, corners + moved.astype(corners.dtype)), 1))

ms.set_context(mode=ms.{mode}_MODE)
rng = np.random.default_rng(0)
features = ms.Tensor(rng.standard_normal((2, 5, 11, 14)).astype(np.float32))
rois = ms.Tensor(np.array([[0, 4, 8, 35, 39], [1, 8, 4, 39, 35], [1, 2, 3, 2.5, 30], [0, 0, 1, 0, 9]], np.float32))
detector = Detector()
half = Detector().to_float(ms.float16)

def outputs():
    # The last row is never written.
    return [cell(features, rois)[:3].asnumpy() for cell in (detector, half)]
"""
TRAIN = MODEL + "np.savez(sys.argv[1], *outputs())"


@pytest.fixture
def train(tmp_path):
    """Write a script that runs the model, and saves its outputs."""

    def train(mode="PYNATIVE", code=TRAIN):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / "train.py").write_text(code.replace("{mode}", mode))
        return "models/train.py"

    return train


def read(folder):
    return [calls.read(path) for path in campaign.recorded_files([folder])[0]]


@pytest.fixture
def own(train, tmp_path):
    """What ms2torch_roi.record writes of the model, and its outputs."""
    code = "import runpy, sys, ms2torch_roi\nsys.argv = sys.argv[1:]\n"
    code += "import mindspore\nwith ms2torch_roi.record('own'): runpy.run_path(sys.argv[0])"
    subprocess.run([sys.executable, "-c", code, train(), "own.npz"], cwd=tmp_path, check=True)
    return read(tmp_path / "own"), np.load(tmp_path / "own.npz")


def test_a_script_is_recorded_as_ms2torch_roi_records_it_and_computes_the_same(run, train, own, tmp_path):
    result = run("recorder", "--out", "calls", train(), "outputs.npz")
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == f"recorder: calls recorded in {tmp_path / 'calls'}: 4"
    recorded, (expected, outputs) = read(tmp_path / "calls"), own
    assert len(recorded) == len(expected) == 4
    for actual, wanted in zip(recorded, expected, strict=True):
        assert actual.case.arguments == wanted.case.arguments
        assert actual.device == wanted.device
        assert actual.versions == {name: wanted.versions[name] for name in ("mindspore", "numpy", "python")}
        for name in ("features", "rois"):
            assert_same_array(getattr(actual.case, name), getattr(wanted.case, name))
        assert_same_array(actual.output, wanted.output)
    assert {call.case.features.dtype.name for call in recorded} == {"float16", "float32"}
    with np.load(tmp_path / "outputs.npz") as found:
        for name in outputs.files:
            assert_same_array(found[name], outputs[name])


def assert_same_array(actual, expected):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


def test_replay_finds_the_port_identical(run, train, tmp_path):
    assert run("recorder", train(), "outputs.npz").returncode == 0
    assert main(["replay", str(tmp_path / "calls"), "--json", str(tmp_path / "facts.json")]) == 0
    assert json.loads((tmp_path / "facts.json").read_text())["total"]["cases"] == 4


AS_A_MODULE = """
import os
sys.path.insert(0, os.getcwd())
import recorder
before = outputs()
recorder.start("calls", max_calls={max_calls}, channels={channels})
during = outputs()
recorder.start("others")
recorder.stop()
after = outputs()
for other in (during, after):
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, other))
"""


@pytest.mark.parametrize(("max_calls", "channels", "files", "shape"), [(None, None, 4, 5), (3, 2, 3, 2), (1, 9, 1, 5)])
def test_it_is_a_module_with_limits(train, tmp_path, max_calls, channels, files, shape):
    path = train(code=MODEL + AS_A_MODULE.format(max_calls=max_calls, channels=channels))
    assert main(["recorder", "--out", str(tmp_path / "recorder.py")]) == 0
    result = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"recorder: calls recorded in {tmp_path / 'calls'}: {files}\n" in result.stderr
    assert "recorder: nothing was recorded. Python called no ROIAlign.\n" in result.stderr
    recorded = read(tmp_path / "calls")
    assert len(recorded) == files
    assert {(call.case.features.shape[1], call.output.shape[1]) for call in recorded} == {(shape, shape)}
    assert list((tmp_path / "others").iterdir()) == []


def test_in_graph_mode_it_says_that_it_sees_nothing(run, train, tmp_path):
    result = run("recorder", train("GRAPH"), "outputs.npz")
    assert result.returncode == 0, result.stderr
    assert (
        "recorder: nothing was recorded. MindSpore is in graph mode, whose graphs do not call Python" in result.stderr
    )
    assert (tmp_path / "outputs.npz").exists()


def test_an_error_of_the_operator_is_recorded_and_raised(run, train, tmp_path):
    wrong = MODEL + "rois = ms.Tensor(np.array([[2, 1, 1, 9, 9]], np.float32))\ndetector(features, rois)"
    result = run("recorder", train(code=wrong))
    assert result.returncode == 1
    assert "RuntimeError" in result.stderr
    (call,) = read(tmp_path / "calls")
    assert call.case.raises is RuntimeError
    assert main(["replay", str(tmp_path / "calls")]) == 0


def test_what_cannot_be_written_is_said_once_and_does_not_stop_the_model(run, train, tmp_path):
    code = MODEL + "import shutil\nshutil.rmtree('calls')\noutputs()\nnp.savez(sys.argv[1], *outputs())"
    result = run("recorder", train(code=code), "outputs.npz")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("recorder: a call was not recorded: [Errno 2] No such file or directory") >= 1
    assert (tmp_path / "outputs.npz").exists()


ENDING = """
import os
files = []
original = np.savez
def savez(file, **arrays):
    files.append(file)
    if len(files) == 3:
        file.write(b"the beginning")
        file.flush()
        os._exit(9)
    original(file, **arrays)
np.savez = savez
"""


def test_a_process_that_ends_while_it_writes_leaves_whole_files(run, train, tmp_path):
    assert run("recorder", train(code=MODEL + ENDING + "outputs()")).returncode == 9
    files, others = campaign.recorded_files([tmp_path / "calls"])
    assert len(files) == 2
    assert all(calls.read(file).output is not None for file in files)
    assert [other.read_bytes() for other in others] == [b"the beginning"]
    assert others[0].name.endswith(remote.PARTIAL_SUFFIX)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.py"], "there is no script nothing.py"),
        (["--out", "recorder.py/calls", "recorder.py"], "[Errno 20] Not a directory: '"),
        (["--max-calls", "many", "train.py"], "argument --max-calls: invalid int value: 'many'"),
        (["--channels", "0", "recorder.py"], "channels must be at least 1, got 0"),
        ([], "the following arguments are required: script, arguments"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, run):
    result = run("recorder", *arguments)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"recorder.py: error: {message}")
