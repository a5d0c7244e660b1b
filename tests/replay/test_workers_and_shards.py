"""`ms2torch-roi check` and `replay` on several processes and in shards; a random case that fails is shrunk."""

import inspect
import itertools
import json
import os
import signal
import subprocess
import sys

import pytest
from recorded_calls import falsify

from ms2torch_roi import ROIAlign
from ms2torch_roi.parity import campaign, operators, processes, report, sharing
from ms2torch_roi.parity.report import facts
from ms2torch_roi.parity.verdicts import Tolerance, Verdict


def run_process(*arguments, env=None):
    command = [sys.executable, "-m", "ms2torch_roi", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)


def without_time(file, lost=0):
    found = json.loads(file.read_text())
    assert found.pop("seconds") > 0
    assert sum(case.pop("seconds") == 0 for case in found["cases"]) == lost
    assert all(origin.keys() == {"command", "started", "platform"} for origin in found.pop("origins"))
    return found


def test_the_names_of_the_calls_that_a_process_runs_go_there_and_no_others(folder):
    """There may be a hundred thousand."""
    files, _ = campaign.recorded_files([folder])
    sent = []

    class Counted(campaign.Replay):
        def __reduce__(self):
            sent.extend(self.files)
            return campaign.Replay, (self.files,)

    many = Counted(files * 10)
    found = list(sharing.run(many, range(len(many)), processes.workers(2)))
    assert [verdict.passed for verdicts in found for verdict in verdicts] == [True] * len(many)
    assert sorted(sent) == list(range(len(many)))


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
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


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
    assert merged.stdout.splitlines()[0] == one.stdout.splitlines()[0]
    assert all(f"--shard {part}/3" in merged.stdout.splitlines()[row] for row, part in enumerate((3, 1, 2), 1))
    tables = merged.stdout[merged.stdout.index("to-torch ") :]
    assert tables.splitlines()[:-1] == one.stdout[one.stdout.index("to-torch  ") :].splitlines()[:-1]


SHARDS = {
    "ours only": {"ms2torch_roi": "1.0", "numpy": "1.26.4"},
    "torch": {"ms2torch_roi": "1.0", "numpy": "1.26.4", "torch": "2.15.0", "torchvision": "0.29.2"},
    "MindSpore": {"ms2torch_roi": "1.0", "numpy": "1.26.4", "mindspore": "2.10.0"},
}


@pytest.mark.parametrize("order", [*itertools.permutations(SHARDS)], ids="-".join)
@pytest.mark.parametrize("oracle", ["frameworks", "reference", "recording"])
def test_a_merged_report_has_what_each_of_its_parts_has(run_command, tmp_path, oracle, order):
    tolerance = Tolerance(1e-5, 0.0, 3)
    for number, name in enumerate(order):
        verdict = Verdict(f"case {number}", "to-torch", "random", number, values=9, left_out={"never written": 2})
        run = report.Run(
            oracle,
            SHARDS[name],
            operators.devices(SHARDS[name]),
            numbers=3,
            settings={"backward_roi_end_mode": None},
            tolerance=tolerance,
            shard=f"{number + 1}/3",
            origins=[report.Origin(f"check --shard {number + 1}/3", "2026-11-26T18:07:21+00:00", "Linux")],
            notes=["said by all", f"said by {name}"],
            verdicts=[verdict],
        )
        (tmp_path / f"{number}.json").write_text(json.dumps(facts.as_json(run)))
    files = [tmp_path / f"{number}.json" for number in range(3)]
    result = run_command("merge", *files, "--json", tmp_path / "merged.json")
    merged = facts.read(tmp_path / "merged.json")
    assert (merged.oracle, merged.tolerance, merged.numbers, merged.shard) == (oracle, tolerance, 3, None)
    assert merged.versions == SHARDS["torch"] | SHARDS["MindSpore"]
    assert merged.devices == {"torch": "CPU", "mindspore": "CPU"}
    assert sorted(merged.notes) == ["said by MindSpore", "said by all", "said by ours only", "said by torch"]
    assert [origin.command for origin in merged.origins] == [f"check --shard {part}/3" for part in (1, 2, 3)]
    assert merged.total.left_out == {"never written": 6}
    assert result.stdout.splitlines()[0] == merged.headline
    assert ("WITHOUT MindSpore" in merged.headline) == (oracle == "reference")
    for said in ("torch 2.15.0", "torchvision 0.29.2", "NumPy 1.26.4", "CPU"):
        assert said in merged.headline
    for said in (*merged.notes, "Not compared: 6 rows never written."):
        assert said in result.stdout.splitlines()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"oracle": "reference"}, "oracle is 'frameworks' in one and 'reference' in another"),
        ({"tolerance": {"atol": 0.5, "rtol": 0.0, "max_differing": 0}}, "tolerance is Tolerance(atol=0.0, "),
        ({"versions": {"torch": "2.7.0"}}, "versions is {'torch': '2.15.0'} in one and {'torch': '2.7.0'} in another"),
        ({"devices": {"torch": "GPU"}}, "devices is "),
    ],
)
def test_shards_on_other_things_are_not_merged(run_command, tmp_path, changes, message):
    for number in range(2):
        verdict = Verdict(f"case {number}", "to-torch", "random", number, values=9)
        run = report.Run("frameworks", {"torch": "2.15.0"}, {"torch": "CPU"}, 2, {}, verdicts=[verdict])
        found = {**facts.as_json(run), "shard": f"{number + 1}/2", **(changes if number else {})}
        (tmp_path / f"{number}.json").write_text(json.dumps(found))
    result = run_command("merge", tmp_path / "0.json", tmp_path / "1.json")
    assert result.returncode == 2
    assert f"the shards are not of one campaign: {message}" in result.stderr


def test_shards_that_do_not_add_up_are_refused(run_command, tmp_path):
    for part in (1, 2):
        run_command(*CHECK[:-2], "--shard", f"{part}/2", "--json", tmp_path / f"{part}.json")
    run_command(*CHECK, "--shard", "2/2", "--json", tmp_path / "other.json")
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    for files, message in (
        ([first], "expected each of the shards 1/2 to 2/2 once, got 1/2"),
        ([first, first], "expected each of the shards 1/2 to 2/2 once, got 1/2, 1/2"),
        ([first, tmp_path / "other.json"], "the shards are not of one campaign: settings is "),
        ([first, second, second], "expected each of the shards 1/2 to 2/2 once, got 1/2, 2/2, 2/2"),
    ):
        result = run_command("merge", *files)
        assert result.returncode == 2
        assert message in result.stderr
    found = json.loads(second.read_text())
    del found["cases"][3]
    second.write_text(json.dumps(found))
    assert "the shards do not hold all of the" in run_command("merge", first, second).stderr
    for damage in ({"values": "x"}, {"first": None}, {"heat_map": 3}):
        second.write_text(json.dumps({**found, "cases": [{**found["cases"][0], **damage}]}))
        assert "2.json: not a report of ms2torch-roi" in run_command("merge", first, second).stderr
    second.write_text(json.dumps({**found, "seconds": float("nan")}))
    assert "NaN is no JSON" in run_command("merge", first, second).stderr
    second.write_text("[" * 200_000)
    assert "2.json: not a report of ms2torch-roi" in run_command("merge", first, second).stderr
    run_command(*CHECK[:-2], "--json", second)
    assert "a report is of a whole run, not of a shard" in run_command("merge", second).stderr
    second.write_text("[]")
    assert "2.json: not a report of ms2torch-roi" in run_command("merge", first, second).stderr


def test_a_report_of_absurdly_many_shards_or_cases_is_refused_at_once(run_command, folder, tmp_path):
    file = tmp_path / "1.json"
    run_command("replay", folder, "--shard", "1/1", "--json", file)
    found = json.loads(file.read_text())
    for changes, message in (
        (
            {"shard": "1/1000000000000"},
            "expected each of the shards 1/1000000000000 to 1000000000000/1000000000000 once",
        ),
        ({"numbers": 10**12}, "the shards do not hold all of the 1000000000000 cases"),
        ({"numbers": -1}, "numbers is -1; it must be a whole number of 0 or more"),
    ):
        file.write_text(json.dumps({**found, **changes}))
        result = run_command("merge", file)
        assert result.returncode == 2
        assert message in result.stderr


def test_replays_are_sharded_too(run_command, folder, tmp_path):
    falsify(folder / "3.npz")
    shards = [tmp_path / f"{part}.json" for part in (1, 2)]
    statuses = [run_command("replay", folder, "--shard", f"{s.stem}/2", "--json", s).returncode for s in shards]
    assert statuses == [0, 1]
    assert run_command("merge", *shards, "--json", tmp_path / "merged.json").returncode == 1
    run_command("replay", folder, "--workers", "2", "--json", tmp_path / "one.json")
    assert without_time(tmp_path / "merged.json") == without_time(tmp_path / "one.json")


DYING = """
import os
import ms2torch_roi.parity.recording.calls as calls
read = calls.read
calls.read = lambda path: os._exit(11) if path.name == "3.npz" else read(path)
"""


def test_a_call_that_ends_its_worker_twice_fails_by_name_and_the_others_are_replayed(folder, tmp_path):
    arguments = ("replay", folder, "--workers", "2", "--json", tmp_path / "facts.json")
    result = run_process(*arguments, env=sitecustomize(tmp_path, DYING))
    assert result.returncode == 1, result.stderr
    cases = without_time(tmp_path / "facts.json", lost=1)["cases"]
    assert [case["case"] for case in cases if not case["passed"]] == ["calls/3.npz"]
    assert "FAILED calls/3.npz (unknown, lost)\nit ended the process that ran it, twice\n" in result.stdout
    assert "verdicts(0)" in result.stdout


def test_where_no_worker_can_be_started_that_is_said(folder, tmp_path):
    dying = "import os\nfrom multiprocessing import spawn\nspawn.prepare = lambda data: os._exit(11)\n"
    result = run_process("replay", folder, "--workers", "2", env=sitecustomize(tmp_path, dying))
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("--workers: no process can be started, or it ends at once")


def test_a_failing_random_case_is_shrunk_before_it_is_shown(run_command, facts_of, monkeypatch, capsys):
    # The listed cases do not have 15 boxes.
    broken, forward = without_the_last_pixel(ROIAlign.forward, smallest=15), ROIAlign.forward
    monkeypatch.setattr(ROIAlign, "forward", broken)
    result, facts = facts_of(*CHECK)
    assert result.returncode == 1
    failed = [case for case in facts["cases"] if not case["passed"]]
    assert {case["category"].partition(":")[0] for case in failed} == {"random"}
    assert len(facts["shrunk"]) == len(facts["groups"])
    for small in facts["shrunk"]:
        place = small["number"], small["category"]
        (case,) = (case for case in failed if (case["number"], case["category"]) == place)
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
        assert "ms2torch-roi check --without-mindspore" in process.stdout.readline()
        assert "cases, 0 comparisons failed" in process.stdout.readline()  # all are at work
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
        _, stderr = process.communicate(timeout=60)
    assert stderr == "ms2torch-roi check: interrupted\n"
    assert process.returncode == 2
