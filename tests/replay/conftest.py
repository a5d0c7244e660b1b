"""The command, run in this process, and recorded calls for it."""

import json
import types

import pytest
from recorded_calls import record

from ms2torch_roi.cli import main
from ms2torch_roi.parity import cases


@pytest.fixture
def run_command(capsys):
    """Run the command in this process, which has imported the frameworks already."""

    def run(*arguments):
        capsys.readouterr()
        try:
            status = main(list(map(str, arguments)))
        except SystemExit as error:
            status = error.code
        printed = capsys.readouterr()
        return types.SimpleNamespace(returncode=status, stdout=printed.out, stderr=printed.err)

    return run


@pytest.fixture
def folder(tmp_path):
    """Six recorded calls of MindSpore."""
    folder = tmp_path / "calls"
    recorded = [*(cases.random_case(4, number) for number in range(4)), *cases.documented_cases()[:2]]
    for number, case in enumerate(recorded):
        record(folder / f"{number}.npz", case)
    return folder


@pytest.fixture
def facts_of(run_command, tmp_path):
    """Run the command, and read its JSON as well."""

    def run(*arguments):
        result = run_command(*arguments, "--json", tmp_path / "facts.json")
        return result, json.loads((tmp_path / "facts.json").read_text())

    return run
