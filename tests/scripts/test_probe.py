"""The probe: what it asks a device, and what becomes of the answers."""

import json
import zipfile
from collections import Counter

import numpy as np
import pytest
from helpers import run_python

from ms2torch_roi.cli import main
from ms2torch_roi.parity import campaign
from ms2torch_roi.parity.recording import calls
from ms2torch_roi.parity.scripts import inputs

pytestmark = pytest.mark.needs_mindspore

FILES = 6 * len(inputs.CALLS)  # of two dtypes, in three modes


def facts_of(path, name):
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npz") as file:
        return json.loads(str(np.load(file)["call"]))


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A file that the probe has written on this CPU, and what it printed."""
    folder = tmp_path_factory.mktemp("probed")
    assert main(["probe", "--out", str(folder / "probe.py")]) == 0
    code = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    result = run_python(code, folder / "probe.py", "--out", folder / "probe.zip", "--note", "a note")
    assert result.returncode == 0, result.stderr
    return folder / "probe.zip", result.stdout


def test_every_call_comes_to_an_output_and_a_gradient_in_every_mode(probed):
    path, printed = probed
    assert printed.splitlines()[-1] == f"{FILES} outputs and {FILES} gradients are in {path}"
    files, others = campaign.recorded_files([path])
    assert not others
    read = [calls.read(file) for file in files]
    assert len(read) == FILES
    assert all(call.features_gradient is not None for call in read)
    modes = Counter(call.case.name.rpartition("-")[2] for call in read)
    assert modes == {f"{mode}.npz": FILES / 3 for mode in ("pynative", "graph", "dynamic")}
    assert read[0].case.name == "probe.zip/01-float16-dynamic.npz"
    assert {call.device for call in read} == {"CPU"}
    facts = facts_of(path, "01-float32-graph")
    assert (facts["mode"], facts["note"], facts["chip"]) == ("graph", "a note", "CPU")


def test_it_is_small(probed):
    assert probed[0].stat().st_size < 150_000


def test_replay_finds_the_port_identical(probed, capsys):
    """MindSpore's gradient is of mode 1 in mode 0 too."""
    assert main(["replay", str(probed[0]), "--backward-roi-end-mode", "1"]) == 0
    assert f"IDENTICAL: {2 * FILES} cases" in capsys.readouterr().out


def test_identify_finds_the_rule_of_the_cpu_and_no_other(probed, tmp_path, capsys):
    assert main(["identify", str(probed[0]), "--json", str(tmp_path / "facts.json")]) == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["call"] == "ms2torch_roi.ROIAlign(..., rule='cpu', backward_rule='cpu')"
    for findings in (facts["outputs"], facts["gradients"]):
        others = [finding for finding in findings if finding["name"] != "cpu"]
        assert min(len(finding["refuted"]) for finding in others) > FILES / 6


ON_EACH_CALL = """
import mindspore, os
calls = []
original = mindspore.ops.ROIAlign.__call__
def call(self, *args):
    calls.append(args)
    {what}
    return original(self, *args)
mindspore.ops.ROIAlign.__call__ = call
"""


def test_a_call_that_ends_the_process_leaves_a_file_of_those_before(run, tmp_path):
    assert run("probe", before=ON_EACH_CALL.format(what="if len(calls) == 6: os._exit(9)")).returncode == 9
    files, _ = campaign.recorded_files([tmp_path / "probe.zip"])
    assert [calls.read(file).case.name for file in files] == [
        "probe.zip/01-float16-pynative.npz",
        "probe.zip/01-float32-pynative.npz",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["probe.py", "probe.zip"]


def test_a_call_that_fails_is_recorded_and_does_not_stop_the_others(run, tmp_path):
    what = r"if len(calls) == 3: raise NotImplementedError('no float16\nat file.cc:1')"
    what += "\n    if len(calls) == 7: os._exit(9)"
    result = run("probe", before=ON_EACH_CALL.format(what=what))
    assert "\n01-float16-pynative: RuntimeError: NotImplementedError: no float16\n02-" in result.stdout
    failed = calls.read(tmp_path / "probe.zip" / "01-float16-pynative.npz")
    assert (failed.case.raises, failed.error_message) == (RuntimeError, "NotImplementedError: no float16")
    assert calls.read(tmp_path / "probe.zip" / "02-float32-pynative.npz").features_gradient is not None


def test_a_gradient_that_fails_leaves_the_output(run, tmp_path):
    what = "if len(calls) == 2: raise ValueError('no gradient')\n    if len(calls) == 5: os._exit(9)"
    result = run("probe", before=ON_EACH_CALL.format(what=what))
    assert result.stdout.startswith("01-float32-pynative: ValueError: no gradient\n01-float16-pynative: ok\n")
    call = calls.read(tmp_path / "probe.zip" / "01-float32-pynative.npz")
    assert call.output is not None
    assert call.features_gradient is None
    assert facts_of(tmp_path / "probe.zip", "01-float32-pynative")["error_of_gradient"] == "ValueError: no gradient"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "Abacus"], "ValueError: "),
        (["--out", "nowhere/probe.zip"], "FileNotFoundError: [Errno 2] No such file or directory: 'nowhere/probe.zip'"),
        (["--mode", "graph"], "unrecognized arguments: --mode graph"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, run):
    result = run("probe", *arguments)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"probe.py: error: {message}")
