"""What is no file, such as a pipe, is refused by name and at once by all that reads files, and the others are read."""

import json
import os
import re
import subprocess
import sys

import pytest
from recorded_calls import NO_FILES, make_no_files, record

from ms2torch_roi.parity import cases
from ms2torch_roi.parity.recording import calls

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run Python in a process of its own, which is ended if it hangs."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def no_files(tmp_path):
    """Make all of them in a folder, with a recorded call."""

    def make(suffix):
        record(tmp_path / "calls" / "right.npz", cases.documented_cases()[0])
        return make_no_files(tmp_path / "calls", suffix)

    return make


def test_replay_refuses_what_is_no_file(run, no_files, tmp_path):
    no_files(calls.SUFFIX)
    result = run("-m", "ms2torch_roi", "replay", "calls", "--json", "facts.json")
    assert result.returncode == 1, result.stderr
    problems = {case["case"]: case["problem"] for case in json.loads((tmp_path / "facts.json").read_text())["cases"]}
    assert problems.pop("calls/right.npz") == ""
    assert set(problems) == {f"calls/{name}.npz" for name in NO_FILES}
    for name, what in NO_FILES.items():
        assert what in problems[f"calls/{name}.npz"]
        assert f"calls/{name}.npz" in problems[f"calls/{name}.npz"]


ONE_BY_ONE = """
import sys
from ms2torch_roi.cli import main
for path in sys.argv[2:]:
    print("status", main([sys.argv[1], path]), file=sys.stderr)
"""


@pytest.mark.parametrize(("command", "suffix"), [("replay", calls.SUFFIX), ("merge", ".json")])
def test_one_that_is_given_by_name_is_refused(run, no_files, command, suffix):
    # replay takes a folder for one of recorded calls.
    paths = {name: path for name, path in no_files(suffix).items() if command == "merge" or "folder" not in name}
    result = run("-c", ONE_BY_ONE, command, *paths.values())
    said = result.stdout + result.stderr
    for name, path in paths.items():
        assert re.search(f"{path}.*{NO_FILES[name]}|{NO_FILES[name]}.*{path}", said)
    statuses = re.findall(r"status (\d)", result.stderr)
    assert len(statuses) == len(paths)
    assert set(statuses) <= {"1", "2"}


def test_the_pytest_plugin_refuses_what_is_no_file(run, no_files, monkeypatch):
    no_files(calls.SUFFIX)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    plugin = ("-p", "ms2torch_roi.parity.plugin", "-p", "no:cacheprovider")
    result = run("-m", "pytest", *plugin, "--ms2torch-roi-calls", "calls")
    assert f"{len(NO_FILES)} failed, 1 passed" in result.stdout
    for name, what in NO_FILES.items():
        assert re.search(f"{name}.npz.*{what}|{what}.*{name}.npz", result.stdout)
