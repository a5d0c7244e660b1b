"""The example of a CI job: its very commands are run here, with fewer cases, on the ports as they are and broken."""

import importlib.metadata
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml
from helpers import without

from ms2torch_roi import how_to_install
from ms2torch_roi.parity import cases, operators
from ms2torch_roi.parity.recording import calls

EXAMPLES = Path(__file__).parent.parent / "examples"
WORKFLOW = yaml.safe_load((EXAMPLES / "roi-align-parity.yml").read_text())
JOBS = WORKFLOW["jobs"]
STEPS = [step for job in JOBS.values() for step in job["steps"]]
INSTALL = "pip install "

# A port that leaves the mode out, in every process that finds this on its path.
BROKEN = """
from ms2torch_roi import rules
rules.NAMED["cpu, mode 1"] = rules.NAMED["cpu, mode 0"]
"""


@pytest.fixture
def repository(tmp_path):
    """A user's repository, with everything that the workflow expects."""
    folder = tmp_path / "repository"
    (folder / "tests").mkdir(parents=True)
    shutil.copy(EXAMPLES / "test_roi_align.py", folder / "tests")
    (folder / "recorded-calls").mkdir()
    case = cases.documented_cases()[1]  # of mode 1
    call = calls.Call(case=case, output=operators.mindspore(case), versions=operators.versions())
    calls.write(folder / "recorded-calls" / "call.npz", call)
    return folder


def run_job(job, folder, **matrix):
    """Run the steps of a job as GitHub does, apart from actions; return their statuses, and the files to upload."""

    def filled_in(text):
        return re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda found: str(matrix[found[1]]), str(text))

    statuses, uploads = {}, []
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(folder.parent), os.environ.get("PYTHONPATH", "")]),
        **{name: filled_in(value) for name, value in {**WORKFLOW["env"], **job.get("env", {})}.items()},
        **{"CASES": "3", "MANY_CASES": "3", "WORKERS": "1"},
    }
    for step in job["steps"]:
        command = step.get("run", INSTALL)
        if not command.startswith(INSTALL) and ("if" in step or not any(statuses.values())):
            result = subprocess.run(
                ["bash", "-e", "-c", command], cwd=folder, env=environment, timeout=600, check=False
            )
            statuses[step["name"]] = result.returncode
        if step.get("uses", "").startswith("actions/upload-artifact@") and "if" in step:
            uploads += folder.glob(filled_in(step["with"]["path"]))
    return statuses, uploads


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("works", [True, False], ids=["the ports as they are", "a broken port"])
def test_every_step_passes_with_the_ports_and_fails_with_a_broken_one(repository, works):
    if not works:
        (repository.parent / "sitecustomize.py").write_text(BROKEN)
    statuses, (reports,) = run_job(JOBS["parity"], repository)
    assert statuses == dict.fromkeys(
        (
            "Compare both frameworks on made-up calls",
            "Compare the ports with the recorded calls",
            "Run the tests",
        ),
        0 if works else 1,
    )
    assert reports == repository / "reports"
    assert {file.name for file in reports.iterdir()} == {
        *(f"{name}.{kind}" for name, kind in itertools.product(("check", "replay"), ("json", "xml", "html"))),
        "tests.xml",
    }
    for name in ("check", "replay"):
        facts = json.loads((reports / f"{name}.json").read_text())
        assert facts["verdict"] == ("identical" if works else "different")
        assert (ET.parse(reports / f"{name}.xml").find(".//failure") is None) == works
        assert facts["headline"] in (reports / f"{name}.html").read_text()
    suite = ET.parse(reports / "tests.xml").find("testsuite")
    # A call of MindSpore and the recorded one differ; the one of torchvision, and mode 0, do not.
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "0" if works else "2", "0")


@pytest.mark.needs_mindspore
def test_the_parts_of_many_cases_are_put_together(repository):
    parts = JOBS["part"]["strategy"]["matrix"]["part"]
    for part in parts:
        statuses, (report,) = run_job(JOBS["part"], repository, part=part)
        assert statuses == {"Run one part of two": 0}
        facts = json.loads(report.read_text())
        assert (report.name, facts["shard"]) == (f"part-{part}.json", f"{part}/{len(parts)}")

    statuses, uploads = run_job(JOBS["whole"], repository)
    assert statuses == {"Put the parts together": 0}
    assert {file.name for file in uploads} == {"whole.json", "whole.xml", "whole.html"}
    assert json.loads((repository / "whole.json").read_text())["verdict"] == "identical"

    facts["cases"][0]["problem"] = "made up here"
    report.write_text(json.dumps(facts))
    assert run_job(JOBS["whole"], repository)[0] == {"Put the parts together": 1}
    assert json.loads((repository / "whole.json").read_text())["verdict"] == "different"
    report.unlink()
    assert run_job(JOBS["whole"], repository)[0] == {"Put the parts together": 2}


def test_the_workflow_installs_extras_that_exist_and_pins_its_actions():
    installed = [step["run"] for step in STEPS if step.get("run", "").startswith(INSTALL)]
    extras = [extra for command in installed for extra in re.findall(r"\$WHEEL\[(\w+)\]", command)]
    assert len(extras) == len(installed) == len(JOBS)
    assert {*extras} <= {*importlib.metadata.metadata("ms2torch-roi").get_all("Provides-Extra")}
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in STEPS if "uses" in step)


def test_the_workflow_installs_the_wheel_of_this_version_from_the_repository():
    version = importlib.metadata.version("ms2torch-roi")
    assert WORKFLOW["env"]["WHEEL"].endswith(f"/ms2torch_roi-{version}-py3-none-any.whl")
    for job in JOBS.values():
        assert job["steps"][0].get("uses", "").startswith("actions/checkout@")


def test_reports_are_kept_whatever_they_say():
    uploads = [step for step in STEPS if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert [step["if"] for step in uploads] == ["always()"] * len(JOBS)


def test_the_example_of_a_test_says_what_it_skips_without_mindspore(tmp_path):
    shutil.copy(EXAMPLES / "test_roi_align.py", tmp_path)
    (tmp_path / "conftest.py").write_text(without("mindspore"))
    command = [sys.executable, "-m", "pytest", "-rs", "--strict-markers", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert "= 2 passed, 1 skipped in " in result.stdout, result.stdout
    assert f"mindspore is not installed. {how_to_install('mindspore')}" in result.stdout
