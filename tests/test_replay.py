"""`ms2torch-roi replay`, on several processes, in shards and with tolerances, as for check."""

import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import run_python, without

from ms2torch_roi import ROIAlign
from ms2torch_roi.cli import main
from ms2torch_roi.parity import calls, campaign, cases, edges, operators

RUN = "import sys\nfrom ms2torch_roi.cli import main\nsys.exit(main(sys.argv[1:]))"


def run_process(*arguments, env=None):
    command = [sys.executable, "-m", "ms2torch_roi", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)


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


def record(path, case, **changes):
    """Write what MindSpore gives for a case, by the NumPy reference, which has its bits."""
    output = None if case.raises else operators.reference(case)
    known = {"output": output, "versions": {"mindspore": "2.10.0", "torchvision": "0.29.2"}}
    path.parent.mkdir(exist_ok=True)
    calls.write(path, calls.Call(case=case, **{**known, **changes}))


@pytest.fixture
def folder(tmp_path):
    """Six recorded calls of MindSpore."""
    folder = tmp_path / "calls"
    recorded = [*(cases.random_case(4, number) for number in range(4)), *cases.documented_cases()[:2]]
    for number, case in enumerate(recorded):
        record(folder / f"{number}.npz", case)
    return folder


def falsify(path, by=1.0):
    call = calls.read(path)
    call.output[-1, 0, 0, 0] += by
    calls.write(path, call)


@pytest.fixture
def facts_of(run_command, tmp_path):
    """Run the command, and read its JSON as well."""

    def run(*arguments):
        result = run_command(*arguments, "--json", tmp_path / "facts.json")
        return result, json.loads((tmp_path / "facts.json").read_text())

    return run


def test_every_recorded_call_is_replayed_without_mindspore(folder, tmp_path):
    result = run_python(without("mindspore") + RUN, "replay", str(folder), "--json", str(tmp_path / "facts.json"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Recorded calls against ms2torch_roi ")
    assert "MindSpore" not in result.stdout.splitlines()[0]
    assert result.stdout.splitlines()[-1].startswith("IDENTICAL: 6 cases, ")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["oracle"] == "recording"
    assert facts["settings"]["files"] == [str(folder / f"{number}.npz") for number in range(6)]
    assert [case["case"] for case in facts["cases"]] == [f"calls/{number}.npz" for number in range(6)]
    assert all(case["category"].startswith("recorded: MindSpore 2.10.0 on CPU, ") for case in facts["cases"])
    assert all(case["values"] for case in facts["cases"])


def test_one_value_in_one_call_is_found(facts_of, folder):
    falsify(folder / "2.npz")
    result, facts = facts_of("replay", folder)
    assert result.returncode == 1
    assert "FAILED calls/2.npz (to-torch, recorded: MindSpore 2.10.0 on CPU, " in result.stdout
    assert result.stdout.splitlines()[-1].startswith("DIFFERENT: 1 of 6 cases failed, 1 of ")
    (failed,) = (case for case in facts["cases"] if not case["passed"])
    assert failed["differing"] == 1
    assert failed["largest_difference"] == pytest.approx(1, rel=1e-3)
    assert failed["heat_map"][0][0] == pytest.approx(1, rel=1e-3)
    assert sum(map(sum, failed["heat_map"])) == failed["heat_map"][0][0]
    # The printed lines show it again.
    assert "differing=1" in run_python(failed["reproduction"]).stdout


def test_single_files_are_replayed(run_command, folder):
    result = run_command("replay", folder / "0.npz", folder / "4.npz")
    assert result.stdout.splitlines()[-1].startswith("IDENTICAL: 2 cases, ")


def test_files_that_are_no_recorded_calls_fail_by_name_and_the_others_are_replayed(facts_of, folder):
    whole = (folder / "1.npz").read_bytes()
    (folder / "1.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "3.npz").write_bytes(b"")
    np.savez(folder / "foreign.npz", weights=np.zeros(3))
    result, facts = facts_of("replay", folder)
    assert result.returncode == 1
    problems = {case["case"]: case["problem"] for case in facts["cases"] if not case["passed"]}
    assert set(problems) == {"calls/1.npz", "calls/3.npz", "calls/foreign.npz"}
    assert (
        f"{folder / 'foreign.npz'}: not a recorded call: ValueError: there is no 'call' in it, but weights"
        in (problems["calls/foreign.npz"])
    )
    assert all(f"{name}: not a recorded call" in result.stdout for name in problems)
    assert result.stdout.splitlines()[-1].startswith("DIFFERENT: 3 of 7 cases failed, 0 of ")


def test_other_files_are_named_and_do_not_fail(run_command, folder):
    (folder / "6.npz.partial").write_bytes(b"PK")
    (folder / "README").write_text("what these are")
    result = run_command("replay", folder)
    assert result.returncode == 0
    for name in ("6.npz.partial", "README"):
        assert f"Not compared: {folder / name} is no recorded call." in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay"], "give files or folders of recorded calls, or --golden"),
        (["replay", "--golden", "calls"], "give files or folders of recorded calls, or --golden"),
        (["replay", "nowhere"], "No such file or directory: 'nowhere'"),
        (["replay", "empty"], "no recorded calls (.npz files) in empty"),
        (["replay", "empty", "--shard", "3/2"], "argument --shard: '3/2' is not I/N with I from 1 to N"),
        (["replay", "empty", "--shard", "0/2"], "argument --shard: '0/2' is not I/N with I from 1 to N"),
        (["replay", "empty", "--atol", "-1"], "argument --atol: '-1' is not a number of 0 or more"),
        (["replay", "empty", "--rtol", "nan"], "argument --rtol: 'nan' is not a number of 0 or more"),
        (["replay", "empty", "--workers", "0"], "argument --workers: '0' is not a whole number of 1 or more"),
        (["merge", "nowhere.json"], "No such file or directory: 'nowhere.json'"),
    ],
)
def test_what_cannot_run_says_why_in_one_line(run_command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    result = run_command(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_a_report_that_cannot_be_written_is_found_before_the_run(run_command, folder, tmp_path):
    for name in ("json", "junit", "html"):
        result = run_command("replay", folder, f"--{name}", tmp_path / "nowhere" / "file")
        assert result.returncode == 2
        assert result.stdout == ""
        assert f"cannot run: --{name}: [Errno 2] No such file or directory" in result.stderr


def test_reports_replace_neither_what_is_read_nor_each_other(run_command, folder, tmp_path):
    call, whole = folder / "0.npz", (folder / "0.npz").read_bytes()
    result = run_command("replay", call, "--json", call)
    assert result.returncode == 2
    assert f"--json: {call} is read" in result.stderr
    assert call.read_bytes() == whole
    same = tmp_path / "same"
    result = run_command("replay", call, "--json", same, "--html", same)
    assert result.returncode == 2
    assert f"--html: {same} is what --json writes" in result.stderr
    # Nor is an empty one left by a command that cannot run.
    assert run_command("merge", tmp_path / "nowhere", "--json", same).returncode == 2
    assert not same.exists()


def test_a_report_on_a_full_disk_is_no_difference(run_command, folder):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no device that is full")
    result = run_command("replay", folder, "--html", full)
    assert result.returncode == 2
    assert "cannot run: --html: [Errno 28] No space left on device" in result.stderr


def test_a_fault_of_the_command_itself_is_no_difference(run_command, folder, monkeypatch):
    monkeypatch.setattr(campaign.Replay, "verdicts", lambda self, number: 1 / 0)
    result = run_command("replay", folder)
    assert result.returncode == 2
    assert "ZeroDivisionError" in result.stderr


def test_a_call_is_replayed_once_and_folders_in_folders_are_named(run_command, folder):
    (folder / "more.npz").mkdir()
    result = run_command("replay", folder, folder, folder / "0.npz")
    assert result.stdout.splitlines()[-1].startswith("IDENTICAL: 6 cases, ")
    assert f"Not compared: {folder / 'more.npz'} is no recorded call." in result.stdout
    assert f"{folder} is a folder: give it too" in run_command("replay", folder.parent).stderr


def test_names_and_reports_cannot_command_the_terminal(run_command, folder, tmp_path):
    odd = folder / "\x1b]0;title\x07[bold]\udcff.npz"
    odd.write_bytes(b"")
    result = run_command("replay", folder, "--json", tmp_path / "facts.json", "--html", tmp_path / "page.html")
    assert result.returncode == 1
    assert "\x1b" not in result.stdout
    assert "[bold]" in result.stdout
    call = calls.read(folder / "0.npz")
    calls.write(folder / "0.npz", dataclasses.replace(call, device="\x1b[31mGPU"))
    assert "its device or versions are not printable" in run_command("replay", folder / "0.npz").stdout


def test_an_empty_shard_says_that_nothing_was_compared(facts_of, folder):
    result, facts = facts_of("replay", folder / "0.npz", "--shard", "2/2")
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1].startswith("NOTHING COMPARED: 0 cases (")
    assert facts["verdict"] == "nothing compared"


def test_a_missing_framework_is_said(folder, tmp_path):
    result = run_python(without("torch") + RUN, "replay", str(folder))
    assert result.returncode == 2
    assert (
        "cannot run: ms2torch_roi.ROIAlign runs on torch and torchvision, but torch is not installed" in result.stderr
    )
    back = tmp_path / "back"
    record(back / "0.npz", cases.documented_cases()[2])
    result = run_python(without("mindspore") + RUN, "replay", str(back))
    assert result.returncode == 2
    assert "MindSpore is not installed. Install it with: pip install 'ms2torch-roi[mindspore]'" in result.stderr


@pytest.mark.needs_mindspore
def test_calls_of_torchvision_are_replayed_on_mindspore(facts_of, tmp_path):
    recorded = [*(cases.random_torchvision_case(4, number) for number in range(4)), cases.documented_cases()[3]]
    for number, case in enumerate(recorded):
        record(tmp_path / "calls" / f"{number}.npz", case)
    result, facts = facts_of("replay", tmp_path / "calls")
    assert result.returncode == 0, result.stdout
    assert {case["direction"] for case in facts["cases"]} == {"to-mindspore"}
    assert facts["total"]["values"] == sum(int((~c.undefined).sum()) * operators.reference(c)[0].size for c in recorded)


def test_a_call_that_raised_must_raise_in_the_port(run_command, tmp_path):
    case = edges.edge_case("index 2 of 2 images, float32")
    record(tmp_path / "calls" / "0.npz", case, error_message="out of range")
    assert run_command("replay", tmp_path / "calls").returncode == 0
    fine = cases.documented_cases()[0]
    fine_but_recorded_as_raising = calls.Call(
        case=cases.MindSporeCase(
            name="",
            category="",
            source="",
            features=fine.features,
            rois=fine.rois,
            raises=RuntimeError,
            **fine.arguments,
        ),
        output=None,
    )
    calls.write(tmp_path / "calls" / "0.npz", fine_but_recorded_as_raising)
    result = run_command("replay", tmp_path / "calls")
    assert result.returncode == 1
    assert "the port should raise RuntimeError, but raised nothing" in result.stdout


# Tolerances


def test_tolerances_allow_what_they_say_and_no_more(facts_of, run_command, folder):
    falsify(folder / "4.npz", by=0.25)  # the documented example: a value of 3.03
    assert run_command("replay", folder).returncode == 1
    assert run_command("replay", folder, "--atol", "0.2").returncode == 1
    assert run_command("replay", folder, "--rtol", "0.05").returncode == 1
    for arguments in (["--atol", "0.26"], ["--rtol", "0.2"], ["--atol", "0.2", "--rtol", "0.04"]):
        result, facts = facts_of("replay", folder, *arguments)
        assert result.returncode == 0, arguments
        assert result.stdout.splitlines()[-1].startswith("WITHIN TOLERANCE: 6 cases, ")
        assert facts["verdict"] == "within tolerance"
        assert facts["total"]["largest_difference"] == pytest.approx(0.25, abs=1e-6)
    assert run_command("replay", folder, "--max-differing", "1").returncode == 0
    call = calls.read(folder / "4.npz")
    call.output[0, 0, 2, 2] = np.nan
    calls.write(folder / "4.npz", call)
    assert run_command("replay", folder, "--max-differing", "1").returncode == 1
    for tolerance in ("--atol", "--rtol"):  # NaN is within no tolerance
        assert run_command("replay", folder, tolerance, "1e30").returncode == 1
    assert run_command("replay", folder, "--max-differing", "2").returncode == 0


# Gradients


def with_gradient(case, backward_roi_end_mode):
    output_gradient = np.random.default_rng(0).standard_normal(operators.reference(case).shape).astype(np.float32)
    gradient = operators.gradient(case, output_gradient, backward_roi_end_mode)
    return {"output_gradient": output_gradient, "features_gradient": gradient}


@pytest.fixture
def mode_0():
    return next(case for case in (cases.random_case(9, n) for n in range(99))
                if case.roi_end_mode == 0 and case.features.dtype == case.rois.dtype == np.float32)  # fmt: skip


def test_the_gradient_of_mindspores_mode_0_needs_the_backward_mode(facts_of, tmp_path, mode_0):
    record(tmp_path / "calls" / "0.npz", mode_0, **with_gradient(mode_0, 1))  # as MindSpore has it
    result, facts = facts_of("replay", tmp_path / "calls")
    assert result.returncode == 1
    assert [case["passed"] for case in facts["cases"]] == [True, False]
    assert facts["cases"][1]["category"].startswith("gradient, recorded: MindSpore 2.10.0")
    assert "backward_roi_end_mode=1" in facts["cases"][1]["explanation"]
    assert "backward_roi_end_mode=1" in result.stdout
    result, facts = facts_of("replay", tmp_path / "calls", "--backward-roi-end-mode", "1")
    assert result.returncode == 0
    assert facts["total"]["cases"] == 2


def test_a_wrong_gradient_is_found(facts_of, run_command, tmp_path, mode_0):
    changes = with_gradient(mode_0, None)
    record(tmp_path / "calls" / "0.npz", mode_0, **changes)
    assert run_command("replay", tmp_path / "calls").returncode == 0
    # What sums in another order may be is no difference at all, however many processes and threads there are.
    changes["features_gradient"] += 1e-6 * abs(changes["features_gradient"]).max()
    record(tmp_path / "calls" / "0.npz", mode_0, **changes)
    result, facts = facts_of("replay", tmp_path / "calls")
    assert (result.returncode, facts["verdict"], facts["total"]["largest_difference"]) == (0, "identical", 0)
    changes["features_gradient"][0, 0, 0, 0] += 0.01
    record(tmp_path / "calls" / "0.npz", mode_0, **changes)
    result, facts = facts_of("replay", tmp_path / "calls")
    assert result.returncode == 1
    assert facts["cases"][1]["differing"] == 1
    assert facts["cases"][1]["first"].startswith("gradient for image 0, channel 0, cell (0, 0): expected ")


# Processes and shards


def without_time(file):
    facts = json.loads(file.read_text())
    assert facts.pop("seconds") > 0
    return facts


def without_the_last_pixel(forward, smallest=0):
    """Break ROIAlign.forward of mode 1, for that many boxes and more."""
    import torch

    def broken(self, features, rois):
        if self.roi_end_mode and len(rois) >= smallest:
            rois = torch.cat((rois[:, :3], rois[:, 3:] - 1), 1)
        return forward(self, features, rois)

    return broken


# For the processes of --workers: Python runs a file of this name before everything else.
def sitecustomize(folder, code):
    (folder / "sitecustomize.py").write_text(code)
    return {**os.environ, "PYTHONPATH": str(folder)}


BROKEN = f"""
from ms2torch_roi import ROIAlign
{inspect.getsource(without_the_last_pixel)}
ROIAlign.forward = without_the_last_pixel(ROIAlign.forward)
"""
CHECK = ("check", "--without-mindspore", "--cases", "12", "--seed", "2")


@pytest.mark.parametrize("broken", [False, True])
def test_workers_shards_and_merge_give_the_results_of_one_process(run_command, tmp_path, monkeypatch, broken):
    if broken:
        monkeypatch.setattr(ROIAlign, "forward", without_the_last_pixel(ROIAlign.forward))
    one = run_command(*CHECK, "--json", tmp_path / "one.json")
    assert one.returncode == broken
    environment = sitecustomize(tmp_path, BROKEN if broken else "")
    two = run_process(*CHECK, "--workers", "2", "--json", tmp_path / "two.json", env=environment)
    assert two.returncode == broken, two.stderr
    assert without_time(tmp_path / "two.json") == without_time(tmp_path / "one.json")

    shards = [tmp_path / f"{part}.json" for part in (3, 1, 2)]
    for shard in shards:
        result = run_command(*CHECK, "--shard", f"{shard.stem}/3", "--json", shard)
        assert f", shard {shard.stem}/3 of " in result.stdout.splitlines()[-1]
    reports = [f"--{name}={tmp_path / 'merged'}.{name}" for name in ("json", "junit", "html")]
    merged = run_command("merge", *shards, *reports)
    assert merged.returncode == broken
    assert without_time(tmp_path / "merged.json") == without_time(tmp_path / "one.json")
    assert 'tests="' in (tmp_path / "merged.junit").read_text()
    assert "<html" in (tmp_path / "merged.html").read_text()
    # What is printed is the same too, but for the documented example before the tables, and the time.
    tables = merged.stdout[merged.stdout.index("to-torch ") :]
    assert tables.splitlines()[:-1] == one.stdout[one.stdout.index("to-torch  ") :].splitlines()[:-1]


def test_shards_that_do_not_add_up_are_refused(run_command, tmp_path):
    for part in (1, 2):
        run_command(*CHECK[:-2], "--shard", f"{part}/2", "--json", tmp_path / f"{part}.json")
    run_command(*CHECK, "--shard", "2/2", "--json", tmp_path / "other.json")
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    for files, message in (
        ([first], "expected each of the shards 1/2, 2/2 once, got 1/2"),
        ([first, first], "expected each of the shards 1/2, 2/2 once, got 1/2, 1/2"),
        ([first, tmp_path / "other.json"], "the shards are not of one campaign: settings is "),
        ([first, second, second], "expected each of the shards 1/2, 2/2 once, got 1/2, 2/2, 2/2"),
    ):
        result = run_command("merge", *files)
        assert result.returncode == 2
        assert message in result.stderr
    facts = json.loads(second.read_text())
    del facts["cases"][3]
    second.write_text(json.dumps(facts))
    assert "the shards do not hold all of the" in run_command("merge", first, second).stderr
    for damage in ({"values": "x"}, {"first": None}, {"heat_map": 3}):
        second.write_text(json.dumps({**facts, "cases": [{**facts["cases"][0], **damage}]}))
        assert "2.json: not a report of ms2torch-roi" in run_command("merge", first, second).stderr
    second.write_text(json.dumps({**facts, "seconds": float("nan")}))
    assert "NaN is no JSON" in run_command("merge", first, second).stderr
    second.write_text("[" * 200_000)
    assert "2.json: not a report of ms2torch-roi" in run_command("merge", first, second).stderr
    run_command(*CHECK[:-2], "--json", second)
    assert "a report is of a whole run, not of a shard" in run_command("merge", second).stderr
    second.write_text("[]")
    assert "2.json: not a report of ms2torch-roi" in run_command("merge", first, second).stderr


def test_replays_are_sharded_too(run_command, folder, tmp_path):
    falsify(folder / "3.npz")
    shards = [tmp_path / f"{part}.json" for part in (1, 2)]
    statuses = [run_command("replay", folder, "--shard", f"{s.stem}/2", "--json", s).returncode for s in shards]
    assert statuses == [0, 1]
    assert run_command("merge", *shards, "--json", tmp_path / "merged.json").returncode == 1
    run_command("replay", folder, "--workers", "2", "--json", tmp_path / "one.json")
    assert without_time(tmp_path / "merged.json") == without_time(tmp_path / "one.json")


def test_a_worker_that_dies_is_said(folder, tmp_path):
    dying = "import os\nimport ms2torch_roi.parity.calls as calls\ncalls.read = lambda path: os._exit(11)\n"
    result = run_process("replay", folder, "--workers", "2", env=sitecustomize(tmp_path, dying))
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("a worker process died; --workers 1 may tell at which case")


def test_a_failing_random_case_is_shrunk_before_it_is_shown(run_command, facts_of, monkeypatch, capsys):
    # The listed cases do not have 15 boxes.
    broken, forward = without_the_last_pixel(ROIAlign.forward, smallest=15), ROIAlign.forward
    monkeypatch.setattr(ROIAlign, "forward", broken)
    result, facts = facts_of(*CHECK)
    assert result.returncode == 1
    failed = [case for case in facts["cases"] if not case["passed"]]
    assert {case["category"].partition(":")[0] for case in failed} == {"random"}
    for case, small in zip(failed[:5], facts["shrunk"], strict=True):
        assert (small["number"], small["category"]) == (case["number"], case["category"])
        assert small["case"] == f"{case['case']}, shrunk"
        assert len(small["reproduction"]) > len(case["reproduction"])  # it has every number in it
        assert f"FAILED {small['case']}" in result.stdout
        assert f"FAILED {case['case']} " not in result.stdout
        # What is printed fails again, and not with the port as it is.
        assert small["reproduction"] in result.stdout
        for port, differing in ((broken, small["differing"]), (forward, 0)):
            monkeypatch.setattr(ROIAlign, "forward", port)
            exec(small["reproduction"], {})
            printed = capsys.readouterr().out
            assert f"differing={differing}," in printed
            assert ("problem=''" in printed) == (port is forward or not small["problem"])


def test_an_interrupt_ends_all_processes_at_once():
    command = [
        sys.executable,
        "-m",
        "ms2torch_roi",
        "check",
        "--without-mindspore",
        "--cases",
        "20000",
        "--workers",
        "2",
    ]
    # A shell that runs pytest in the background makes its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline().startswith("The NumPy reference")
        assert "cases, 0 comparisons failed" in process.stdout.readline()  # all are at work
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
        _, stderr = process.communicate(timeout=60)
    assert stderr == "ms2torch-roi check: interrupted\n"
    assert process.returncode == 2
