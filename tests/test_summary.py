"""What CI services show of a run: Markdown, annotations of GitHub's, and the two lines of --quiet."""

import json
import math

import pytest

from ms2torch_roi.cli import main
from ms2torch_roi.parity import report
from ms2torch_roi.parity.report import markdown
from ms2torch_roi.parity.report.facts import as_json
from ms2torch_roi.parity.verdicts import Verdict

RULE = "The port's values match aligned=True"
VERDICTS = [
    Verdict("passed", "to-torch", "edge", 0, values=9, left_out={"never written": 3}),
    Verdict("boxes, float32", "to-torch", "edge", 1, values=9, differing=1, explanation=f"{RULE}. So it is."),
    Verdict("boxes, float16", "to-torch", "edge", 2, values=9, differing=1, explanation=f"{RULE}."),
    Verdict("calls | of <b>\n100%", "to-torch", "edge", 3, problem="the port raised RuntimeError: no memory"),
]


def run_of(verdicts, **changes):
    versions = {"ms2torch_roi": "1.0", "numpy": "1.26.4", "torch": "2.15.0", "torchvision": "0.29.2"}
    return report.Run("reference", versions, {"torch": "CPU"}, len(verdicts), {}, verdicts=verdicts, **changes)


def test_the_summary_has_the_verdict_and_the_failures_by_explanation():
    lines = markdown.render(as_json(run_of(VERDICTS, notes=["a note"]))).splitlines()
    assert lines[0] == "## DIFFERENT"
    assert lines[2] == "3 of 4 cases failed, 2 of 27 values differ."
    assert "WITHOUT MindSpore" in lines[4]
    assert lines[6:10] == [
        "| Failures | Cases | Explanation | For example |",
        "|--:|--:|---|---|",
        f"| 2 | 1 | {RULE} | boxes, float32 |",
        r"| 1 | 1 | the port raised RuntimeError | calls \| of \<b\> 100% |",
    ]
    assert lines[11:13] == ["- a note", "- Not compared: 3 rows never written."]
    assert "| Failures" not in markdown.render(as_json(run_of(VERDICTS[:1])))


def test_annotations_are_a_line_for_each_explanation_and_end_no_command_early():
    assert list(markdown.github_annotations(as_json(run_of(VERDICTS)))) == [
        f"::error title=ms2torch-roi::2 x {RULE}, for example boxes, float32 (to-torch)",
        "::error title=ms2torch-roi::1 x the port raised RuntimeError, for example calls | of <b>%0A100%25 (to-torch)",
    ]


@pytest.fixture
def shard(tmp_path):
    def write(verdicts):
        file = tmp_path / "1.json"
        file.write_text(json.dumps(as_json(run_of(verdicts, shard="1/1"))))
        return str(file)

    return write


@pytest.mark.parametrize("on_github", [True, False])
def test_annotations_are_printed_on_github_only(shard, capsys, monkeypatch, on_github):
    monkeypatch.setenv("GITHUB_ACTIONS", str(on_github).lower())
    assert main(["merge", shard(VERDICTS)]) == 1
    assert (capsys.readouterr().out.count("\n::error ") == 2) == on_github
    assert main(["merge", shard(VERDICTS[:1])]) == 0
    assert "::error" not in capsys.readouterr().out


def test_quiet_prints_what_was_compared_with_what_and_the_verdict(shard, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    summary = tmp_path / "summary.md"
    assert main(["merge", shard(VERDICTS), "--quiet", "--summary", str(summary)]) == 1
    headline, verdict = capsys.readouterr().out.splitlines()
    assert headline.startswith("The NumPy reference, WITHOUT MindSpore, against ms2torch_roi 1.0 on torch 2.15.0")
    assert verdict.startswith("DIFFERENT: 3 of 4 cases failed, 2 of 27 values differ (")
    assert summary.read_text().startswith("## DIFFERENT")


def test_quiet_is_quiet_while_it_runs(capsys):
    assert main(["check", "--without-mindspore", "--cases", "2", "--quiet"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["The", "IDENTICAL:"]


def test_an_infinite_difference_is_written_out():
    infinite = Verdict("far", "to-torch", "edge", 0, values=2, differing=1, largest_difference=math.inf)
    assert "1 of 2 values differs, by infinity at most." in markdown.render(as_json(run_of([infinite])))
