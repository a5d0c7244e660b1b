"""`ms2torch-roi replay`: which calls are replayed, what is compared, gradients and tolerances."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import run_python, without
from recorded_calls import falsify, record

from ms2torch_roi import how_to_install
from ms2torch_roi.parity import cases, edges, operators
from ms2torch_roi.parity.recording import calls

RUN = "import sys\nfrom ms2torch_roi.cli import main\nsys.exit(main(sys.argv[1:]))"


def test_every_recorded_call_is_replayed_without_mindspore(folder, tmp_path):
    result = run_python(without("mindspore") + RUN, "replay", str(folder), "--json", str(tmp_path / "facts.json"))
    assert result.returncode == 0, result.stderr
    origin, headline = result.stdout.splitlines()[:2]
    assert f": ms2torch-roi replay {folder} --json " in origin
    assert headline.startswith("Recorded calls against ms2torch_roi ")
    assert "MindSpore" not in headline
    assert result.stdout.splitlines()[-1].startswith("IDENTICAL: 6 cases, ")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["oracle"] == "recording"
    assert set(facts["versions"]) == {"ms2torch_roi", "numpy", "torch", "torchvision"}
    assert facts["devices"] == {"torch": "CPU"}
    assert "on torch " in facts["headline"]
    assert all(case["call"].startswith("ROIAlign(pooled_height=") for case in facts["cases"])
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
    assert result.stdout.splitlines()[-1].startswith("INCOMPLETE: 3 of 7 cases could not be read, ")


@pytest.mark.parametrize("reading", ["folder", "device"])
def test_where_nothing_can_be_read_nothing_was_compared(facts_of, run_command, folder, tmp_path, reading):
    for file in folder.iterdir():
        file.write_bytes(b"")
    result, facts = facts_of("replay", folder if reading == "folder" else "/dev/null")
    assert result.returncode == 2
    count = 6 if reading == "folder" else 1
    cases = "6 cases" if count == 6 else "1 case"
    assert result.stdout.splitlines()[-1].startswith(f"NOTHING COMPARED: {count} of {cases} could not be read (")
    assert (facts["verdict"], facts["total"]["failed"]) == ("nothing compared", count)


def test_what_differs_is_different_whatever_cannot_be_read(facts_of, folder):
    (folder / "1.npz").write_bytes(b"")
    falsify(folder / "2.npz")
    result, facts = facts_of("replay", folder)
    assert (result.returncode, facts["verdict"]) == (1, "different")
    assert result.stdout.splitlines()[-1].startswith("DIFFERENT: 2 of 6 cases failed, 1 of ")


def test_other_files_are_named_and_do_not_fail(run_command, folder):
    (folder / "6.npz.partial").write_bytes(b"PK")
    (folder / "README").write_text("what these are")
    result = run_command("replay", folder)
    assert result.returncode == 0
    for name in ("6.npz.partial", "README"):
        assert f"Not compared: {folder / name} is no recorded call." in result.stdout


def test_a_call_is_replayed_once_and_folders_in_folders_are_named(run_command, folder):
    (folder / "more").mkdir()
    result = run_command("replay", folder, folder, folder / "0.npz")
    assert result.stdout.splitlines()[-1].startswith("IDENTICAL: 6 cases, ")
    assert f"Not compared: {folder / 'more'} is no recorded call." in result.stdout
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
    assert r"device must be printable, got '\x1b[31mGPU'" in run_command("replay", folder / "0.npz").stdout


@pytest.mark.parametrize("what", ["padding", "no rois", "calls of the other library"])
def test_where_nothing_is_compared_it_does_not_pass(facts_of, run_command, folder, tmp_path, what):
    for file in folder.iterdir():
        file.unlink()
    case = cases.documented_cases()[1]
    rois = {"padding": np.zeros_like(case.rois), "no rois": case.rois[:0]}.get(what, case.rois)
    record(folder / "0.npz", dataclasses.replace(case, rois=rois))
    adapter = ["--adapter", "adapters_of_users:of_torchvision"] if what == "calls of the other library" else []
    result, facts = facts_of("replay", folder, *adapter)
    assert result.returncode == 2
    assert result.stdout.splitlines()[-1].startswith("NOTHING COMPARED: 1 case, 0 values compared (")
    assert (facts["verdict"], facts["total"]["failed"]) == ("nothing compared", 0)
    # A shard is no whole run.
    for shard in ("1/2", "2/2"):
        part = tmp_path / f"{shard[0]}.json"
        assert run_command("replay", folder, *adapter, "--shard", shard, "--json", part).returncode == 0
    assert run_command("merge", tmp_path / "1.json", tmp_path / "2.json").returncode == 2


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
    assert f"MindSpore is not installed. {how_to_install('mindspore')}" in result.stderr


@pytest.mark.needs_mindspore
def test_calls_of_torchvision_are_replayed_on_mindspore(facts_of, tmp_path):
    recorded = [*(cases.random_torchvision_case(4, number) for number in range(4)), cases.documented_cases()[3]]
    for number, case in enumerate(recorded):
        record(tmp_path / "calls" / f"{number}.npz", case)
    result, facts = facts_of("replay", tmp_path / "calls")
    assert result.returncode == 0, result.stdout
    assert {case["direction"] for case in facts["cases"]} == {"to-mindspore"}
    assert set(facts["versions"]) == {"ms2torch_roi", "numpy", "mindspore"}
    assert facts["devices"] == {"mindspore": "CPU"}
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
        last = result.stdout.splitlines()[-1]
        assert last.startswith("WITHIN TOLERANCE: 6 cases, ")
        allowed = ", ".join(f"{name[2:]} {value}" for name, value in zip(arguments[::2], arguments[1::2], strict=True))
        assert f" 0 differ by more than the tolerance ({allowed}), the largest difference is 0.25 (" in last
        assert f"0 differ by more than the tolerance ({allowed})" in facts["conclusion"]
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
