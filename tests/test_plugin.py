"""The pytest plugin, each time in a pytest of its own."""

import dataclasses
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import run_python, without

from ms2torch_roi import how_to_install
from ms2torch_roi.parity import cases, operators
from ms2torch_roi.parity.recording import calls

PLUGIN = "ms2torch_roi.parity.plugin"
ALL_PASSED, SOME_FAILED, USAGE_ERROR, NO_TESTS = 0, 1, 4, 5

ARRAYS = {
    "name": "",
    "category": "",
    "source": "",
    "features": np.random.default_rng(0).standard_normal((1, 3, 9, 9)).astype(np.float32),
    "rois": np.array([[0, 1, 2, 14, 15], [0, 0, 0, 0, 0], [0, 3, 3, 4, 4]], np.float32),
}
TO_TORCH = cases.MindSporeCase(**ARRAYS, pooled_height=2, pooled_width=3, spatial_scale=0.5)
TO_MINDSPORE = cases.TorchvisionCase(**ARRAYS, output_size=(2, 3), spatial_scale=0.5, aligned=True)


def run_pytest(folder, *arguments):
    """Run pytest in a folder, with this plugin and no other that happens to be installed."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-rs", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def outcomes(result):
    """Return the counts of the last line, such as ``{"passed": 2, "failed": 1}``."""
    counts = result.stdout.splitlines()[-1].split(" in ")[0]
    return {what: int(count) for count, what in re.findall(r"(\d+) (\w+)", counts)}


def record(file, case, **fields):
    call = calls.Call(case=case, output=operators.reference(case), versions={"mindspore": "2.7.0"})
    calls.write(file, dataclasses.replace(call, **fields))


@pytest.fixture
def recorded(tmp_path):
    """A call that is right, one that is not, one with a wrong gradient, and a file that was cut off."""
    folder = tmp_path / "recorded"
    folder.mkdir()
    ones = np.ones((3, 3, 2, 3), np.float32)
    gradients = {"output_gradient": ones, "features_gradient": operators.gradient(TO_TORCH, ones) + 1}
    record(folder / "call-1.npz", TO_TORCH)
    record(folder / "call-2.npz", TO_TORCH, output=operators.reference(TO_TORCH) + 0.25)
    record(folder / "call-3.npz", TO_TORCH, **gradients)
    (folder / "call-4.npz").write_bytes((folder / "call-1.npz").read_bytes()[:700])
    return folder


def test_pytest_loads_it_by_itself(tmp_path):
    result = run_python(
        "import pytest, sys\nsys.exit(pytest.main(sys.argv[1:]))", "--markers", "-p", "no:cacheprovider"
    )
    assert result.returncode == 0, result.stderr
    assert "@pytest.mark.needs_mindspore: skip the test where mindspore is not installed" in result.stdout
    assert "@pytest.mark.needs_torch: skip the test where torch or torchvision is not installed" in result.stdout


def test_loading_it_takes_under_10_ms_and_no_other_package():
    code = (
        f"import sys, time, pytest\nbefore, start = {{*sys.modules}}, time.process_time()\nimport {PLUGIN}\n"
        "print(time.process_time() - start)\n"
        "new = {name.split('.')[0] for name in {*sys.modules} - before} - sys.stdlib_module_names\n"
        "print(sorted(new))"
    )
    results = [run_python(code).stdout.splitlines() for _ in range(5)]
    assert {packages for _, packages in results} == {"['ms2torch_roi']"}
    assert min(float(seconds) for seconds, _ in results) < 0.01  # others may keep the processor busy


FIXTURE = """
import numpy as np

features = np.ones((1, 1, 4, 4), np.float32)
rois = np.array([[0, 1, 1, 3, 3]], np.float32)
arguments = {"pooled_height": 1, "pooled_width": 1, "spatial_scale": 1.0}

def test_of_the_port(roi_align_parity):
    roi_align_parity(features, rois, **arguments)

def test_of_a_model(roi_align_parity):
    roi_align_parity(features, rois, actual=np.full((1, 1, 1, 1), 3.0, np.float32), **arguments)
"""


def test_the_fixture_fails_with_a_readable_difference(tmp_path):
    (tmp_path / "test_model.py").write_text(FIXTURE)
    (tmp_path / "conftest.py").write_text(without("mindspore"))
    result = run_pytest(tmp_path)
    assert outcomes(result) == {"failed": 1, "passed": 1}, result.stdout
    assert "E       AssertionError: mindspore.ops.ROIAlign differs" in result.stdout
    assert "expected:  the NumPy reference, WITHOUT MindSpore" in result.stdout
    assert "1 of 1 values differ, by 2 at most" in result.stdout
    assert "test_model.py:12: AssertionError" in result.stdout
    assert "assertions.py" not in result.stdout  # nothing of how it was found


MARKED = """
import pytest

@pytest.mark.needs_mindspore
def test_on_mindspore():
    pass

@pytest.mark.needs_torch
def test_on_torch():
    pass

@pytest.mark.needs_mindspore
@pytest.mark.needs_torch
class TestBoth:
    def test_both(self):
        pass
"""


@pytest.mark.parametrize(
    ("packages", "reasons"),
    [
        ((), {}),
        (("mindspore",), {f"mindspore is not installed. {how_to_install('mindspore')}": 2}),
        (("torch",), {f"torch is not installed. {how_to_install('torch')}": 2}),
        (("torchvision",), {f"torchvision is not installed. {how_to_install('torch')}": 2}),
    ],
)
def test_marked_tests_are_skipped_with_a_reason_where_the_framework_is_missing(tmp_path, packages, reasons):
    if "mindspore" not in {*operators.versions(), *packages}:
        pytest.skip("mindspore would be missed too")
    (tmp_path / "conftest.py").write_text("".join(map(without, packages)))
    (tmp_path / "test_marked.py").write_text(MARKED)
    result = run_pytest(tmp_path, "--strict-markers")
    assert result.returncode == ALL_PASSED, result.stdout
    skipped = sum(reasons.values())
    assert outcomes(result) == {name: n for name, n in (("passed", 3 - skipped), ("skipped", skipped)) if n}
    found = re.findall(r"^SKIPPED \[(\d)\] test_marked.py(?::\d+)?: (.*)$", result.stdout, re.MULTILINE)
    assert sum(int(count) for count, _ in found) == skipped
    assert {reason for _, reason in found} == {*reasons}


def test_each_recorded_call_is_a_test(tmp_path, recorded):
    record(recorded / "call-5.npz", TO_MINDSPORE)
    (tmp_path / "conftest.py").write_text(without("mindspore") + without("rich"))
    result = run_pytest(tmp_path, "-v", "--ms2torch-roi-calls", "recorded")
    assert result.returncode == SOME_FAILED, result.stderr
    assert outcomes(result) == {"failed": 4, "passed": 1}, result.stdout
    lines = [line.split(" ", 1) for line in result.stdout.splitlines() if line.startswith("recorded::")]
    assert [(name, rest.split()[0]) for name, rest in lines] == [
        ("recorded::call-1.npz", "PASSED"),
        ("recorded::call-2.npz", "FAILED"),
        ("recorded::call-3.npz", "FAILED"),
        ("recorded::call-4.npz", "FAILED"),
        ("recorded::call-5.npz", "FAILED"),
    ]
    # Its port is missing, and it must not pass unseen.
    assert f"MindSpore is not installed. {how_to_install('mindspore')}" in result.stdout
    assert "call-2.npz (recorded: MindSpore 2.7.0 on CPU, float32, mode 1, fixed)" in result.stdout
    assert "36 of 36 values differ, by 0.25 at most" in result.stdout
    assert "rois row 0 (0.0, 1.0, 2.0, 14.0, 15.0), channel 0, bin (0, 0): expected" in result.stdout
    assert "call-3.npz (gradient, recorded: MindSpore 2.7.0 on CPU" in result.stdout
    assert "243 of 243 values differ, by 1 at most" in result.stdout
    assert f"{recorded / 'call-4.npz'}: not a recorded call: BadZipFile: " in result.stdout
    # Nothing of how it was found.
    assert "Traceback" not in result.stdout
    assert not re.search(r"^\S+\.py:\d+", result.stdout, re.MULTILINE)


def test_a_call_of_which_nothing_can_be_compared_is_skipped(tmp_path, recorded):
    for file in recorded.iterdir():
        file.unlink()
    record(recorded / "padding.npz", dataclasses.replace(TO_TORCH, rois=np.zeros_like(TO_TORCH.rois)))
    result = run_pytest(tmp_path, "--ms2torch-roi-calls", "recorded")
    assert outcomes(result) == {"skipped": 1}, result.stdout
    assert "nothing could be compared: 3 rows never written by MindSpore" in result.stdout


def test_recorded_calls_stand_beside_other_tests_and_are_selected_like_them(tmp_path, recorded):
    (tmp_path / "test_own.py").write_text("def test_own(): pass\ndef test_of_call(): pass\n")
    (recorded / "notes.txt").touch()
    # Whoever sorts or selects tests, here all of a suite, finds them.
    (tmp_path / "conftest.py").write_text("def pytest_collection_modifyitems(items): items.reverse()\n")
    option = ("--ms2torch-roi-calls", recorded)
    result = run_pytest(tmp_path, "--collect-only", "-q", *option)
    own = ["test_own.py::test_own", "test_own.py::test_of_call"]
    assert result.stdout.splitlines()[5::-1] == [*own, *(f"recorded::call-{number}.npz" for number in (1, 2, 3, 4))]
    result = run_pytest(tmp_path, "--collect-only", *option)
    assert "ms2torch_roi: 4 recorded calls, notes.txt is none" in result.stdout
    assert "<RecordedCalls recorded>\n  <RecordedCall call-4.npz>\n  <RecordedCall call-3.npz>" in result.stdout
    result = run_pytest(tmp_path, "test_own.py::test_own", "-k", "own or call-4", *option)
    assert outcomes(result) == {"passed": 1, "failed": 1, "deselected": 3}


def test_recorded_calls_run_on_several_processes(tmp_path, recorded):
    pytest.importorskip("xdist")
    result = run_pytest(tmp_path, "-p", "xdist", "-n", "2", "-v", "--ms2torch-roi-calls", "recorded")
    assert outcomes(result) == {"failed": 3, "passed": 1}, result.stdout
    found = re.findall(r"^\[gw\d\].* (PASSED|FAILED) (recorded::\S+)", result.stdout, re.MULTILINE)
    assert sorted(found, key=lambda item: item[1]) == [
        ("PASSED", "recorded::call-1.npz"),
        ("FAILED", "recorded::call-2.npz"),
        ("FAILED", "recorded::call-3.npz"),
        ("FAILED", "recorded::call-4.npz"),
    ]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "No such file or directory: '{}'"),
        (lambda folder: folder.mkdir(), "no recorded calls (.npz files) in {}"),
    ],
    ids=["no such folder", "an empty folder"],
)
def test_a_folder_without_recorded_calls_is_a_usage_error(tmp_path, prepare, message):
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    prepare(tmp_path / "recorded")
    result = run_pytest(tmp_path, "--ms2torch-roi-calls", "recorded")
    assert result.returncode == USAGE_ERROR
    line = result.stderr.strip()
    assert line.startswith("ERROR: --ms2torch-roi-calls: ")
    assert line.endswith(message.format(tmp_path / "recorded"))


def test_without_the_option_nothing_is_added(tmp_path, recorded):
    result = run_pytest(tmp_path)
    assert result.returncode == NO_TESTS
    assert "recorded" not in result.stdout


@pytest.mark.parametrize(
    ("case", "package", "reason"),
    [
        (TO_TORCH, "torch", "ms2torch_roi.ROIAlign runs on torch and torchvision, but torch is not installed."),
        (TO_MINDSPORE, "mindspore", "MindSpore is not installed."),
    ],
    ids=["to torch", "to mindspore"],
)
def test_calls_whose_port_cannot_run_fail_with_a_reason(tmp_path, case, package, reason):
    folder = tmp_path / "recorded"
    folder.mkdir()
    record(folder / "call.npz", case)
    (tmp_path / "conftest.py").write_text(without(package))
    result = run_pytest(tmp_path, "--ms2torch-roi-calls", "recorded")
    assert result.returncode == SOME_FAILED, result.stdout
    assert outcomes(result) == {"failed": 1}
    assert f"{reason} {how_to_install(package)}\n" in result.stdout


def test_recorded_gradients_of_mindspores_mode_0_pass_with_its_backward_mode(tmp_path):
    case = cases.documented_cases()[0]
    weights = np.ones_like(operators.reference(case))
    gradient = operators.gradient(case, weights, backward_roi_end_mode=1)
    (tmp_path / "recorded").mkdir()
    record(tmp_path / "recorded" / "call.npz", case, output_gradient=weights, features_gradient=gradient)
    assert outcomes(run_pytest(tmp_path, "--ms2torch-roi-calls", "recorded")) == {"failed": 1}
    result = run_pytest(tmp_path, "--ms2torch-roi-calls", "recorded", "--ms2torch-roi-backward-mode", "1")
    assert outcomes(result) == {"passed": 1}


@pytest.mark.needs_mindspore
def test_calls_of_torchvision_need_no_torch_and_leave_the_mode_of_mindspore_alone(tmp_path):
    folder = tmp_path / "recorded"
    folder.mkdir()
    record(folder / "call.npz", TO_MINDSPORE)
    conftest = "import mindspore\nmindspore.set_context(mode=mindspore.GRAPH_MODE)\ndef pytest_unconfigure():\n"
    conftest += "    print('in graph mode still:', mindspore.get_context('mode') == mindspore.GRAPH_MODE)\n"
    (tmp_path / "conftest.py").write_text(without("torch") + conftest)
    result = run_pytest(tmp_path, "--ms2torch-roi-calls", "recorded")
    assert "= 1 passed in " in result.stdout
    assert "in graph mode still: True" in result.stdout


def test_a_framework_that_is_there_and_broken_fails_in_its_own_words(tmp_path):
    folder = tmp_path / "recorded"
    folder.mkdir()
    record(folder / "call.npz", TO_MINDSPORE)
    (tmp_path / "mindspore.py").write_text("raise ImportError('libsomething.so: cannot open shared object file')\n")
    (tmp_path / "conftest.py").write_text("")  # so that pytest puts the folder in front of the path
    result = run_pytest(tmp_path, "--ms2torch-roi-calls", "recorded")
    assert outcomes(result) == {"failed": 1}
    assert "libsomething.so: cannot open shared object file" in result.stdout
