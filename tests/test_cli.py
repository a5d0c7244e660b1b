"""The command, end to end, each time in a process of its own."""

import json
import signal
import subprocess
import sys

import pytest
from helpers import run_python, without

import ms2torch_roi
from ms2torch_roi import how_to_install

RUN = "import sys\nfrom ms2torch_roi.cli import main\nsys.exit(main(sys.argv[1:]))"
# The mapping that MindSpore's own page suggests: its "aligned" for roi_end_mode.
NAIVE = """
import torch, torchvision, ms2torch_roi.torch
class Naive(torch.nn.Module):
    def __init__(self, **arguments):
        super().__init__()
        self.arguments = arguments.values()
    def forward(self, features, rois):
        ph, pw, scale, sample_num, mode = self.arguments
        finite = torch.nan_to_num(rois.float(), 0, 0, 0).clamp(-300, 300).to(features.dtype)
        return torchvision.ops.roi_align(features, finite, (ph, pw), 0.5, sample_num, bool(mode))
ms2torch_roi.torch.ROIAlign = Naive
"""
# The mapping of the one existing port in the other direction: roi_end_mode for "aligned".
NAIVE_BACK = """
import mindspore, ms2torch_roi.mindspore
class Naive(mindspore.nn.Cell):
    def __init__(self, output_size, spatial_scale, sampling_ratio, aligned=False):
        super().__init__()
        self.pool = mindspore.ops.ROIAlign(*output_size, spatial_scale, max(sampling_ratio, 1), int(aligned))
        self.pool.add_prim_attr("naive", repr((output_size, spatial_scale, sampling_ratio, aligned)))
    def construct(self, input, boxes):
        return self.pool(input, boxes)
ms2torch_roi.mindspore.RoIAlign = Naive
"""


def run_command(*arguments):
    command = [sys.executable, "-m", "ms2torch_roi", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def listed_example(facts):
    """Return a case that is shown as it is: random ones are made small first."""
    for group in facts["groups"][:5]:
        example = group["example"]
        if example["category"].startswith(("documented", "edge")):
            place = example["number"], example["category"]
            return next(case for case in facts["cases"] if (case["number"], case["category"]) == place)
    raise AssertionError("no listed case is shown")


@pytest.mark.needs_mindspore
def test_check_runs_both_frameworks_and_finds_them_identical(tmp_path):
    result = run_command("check", "--cases", "50", "--seed", "5", "--json", str(tmp_path / "facts.json"))
    assert result.returncode == 0, result.stderr
    first, *rest = result.stdout.splitlines()
    assert first.startswith("MindSpore 2.")
    assert " torchvision 0." in first
    assert f"all on CPU, against ms2torch_roi {ms2torch_roi.__version__}" in first
    assert "documented example, mode 0 (to-torch), from both, as its page has it:" in rest
    assert "documented example, not aligned (to-mindspore), from both, as its page has it:" in rest
    assert rest[0].endswith(f": ms2torch-roi check --cases 50 --seed 5 --json {tmp_path / 'facts.json'}")
    assert rest.count("   [3.0333333 3.3666668 3.7      ]]]]") == 2
    assert "rows never written by MindSpore" in rest[-3]
    assert "rows that are not finite, on which torchvision crashes" in rest[-2]
    assert all(len(line) <= 80 for line in rest[1:] if not line.startswith("Not compared"))
    for line in ("to-torch ", "to-mindspore ", "round trip: edge ", "round trip: random ", "workload: gradient "):
        assert any(row.startswith(line) for row in rest), line
    assert rest[-1].startswith("IDENTICAL: ")
    assert "values compared, 0 differ" in rest[-1]

    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["verdict"] == "identical"
    assert facts["devices"] == {"torch": "CPU", "mindspore": "CPU"}
    assert set(facts["versions"]) == {"ms2torch_roi", "torch", "torchvision", "numpy", "mindspore"}
    assert [case["case"] for case in facts["cases"][:2]] == ["documented example, mode 0"] * 2
    assert [case["category"] for case in facts["cases"][:2]] == ["documented example", "round trip: documented example"]
    assert facts["cases"][-5]["case"] == "random torchvision case 49 of seed 5"
    assert [case["case"] for case in facts["cases"][-2:]] == [
        "torchvision workload 0 of seed 5"
    ] * 2  # one for 50 cases
    assert {case["direction"] for case in facts["cases"]} == {"to-torch", "to-mindspore"}
    assert facts["total"]["cases"] == len(facts["cases"]) == sum(c["cases"] for c in facts["categories"])
    assert facts["total"]["values"] == sum(case["values"] for case in facts["cases"])
    assert f"{facts['total']['values']:,} values compared" in rest[-1]
    assert all(case["passed"] for case in facts["cases"])


@pytest.mark.needs_mindspore
def test_check_fails_with_the_naive_mapping_and_says_how_to_see_it_again(tmp_path):
    result = run_python(NAIVE + RUN, "check", "--cases", "30", "--json", str(tmp_path / "facts.json"))
    assert result.returncode == 1, result.stderr
    last = result.stdout.splitlines()[-1]
    assert last.startswith("DIFFERENT: ")
    assert "values differ, by" in result.stdout
    assert "bin (0, 0): expected" in result.stdout

    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["verdict"] == "different"
    failed = [case for case in facts["cases"] if not case["passed"]]
    assert len(failed) > 100
    assert f"{len(failed):,} of " in last
    groups = facts["groups"]
    assert f"{len(failed)} failures, {len(groups)} explanations:" in result.stdout
    assert sum(group["failures"] for group in groups) == len(failed)
    for group in groups[:5]:
        assert f"{group['failures']} x {group['cause']} ({group['cases']} case" in result.stdout
        assert f"FAILED {group['example']['case']}" in result.stdout
    # The printed lines do show the difference when they are run, and none with the adapter as it is.
    example = listed_example(facts)
    reproduction = example["reproduction"]
    assert reproduction in result.stdout
    assert f"differing={example['differing']}," in run_python(NAIVE + reproduction).stdout
    assert "differing=0" in run_python(reproduction).stdout


@pytest.mark.needs_mindspore
def test_check_fails_with_the_naive_mapping_back(tmp_path):
    arguments = ("check", "--cases", "10", "--direction", "to-mindspore", "--json", str(tmp_path / "facts.json"))
    result = run_python(NAIVE_BACK + RUN, *arguments)
    assert result.returncode == 1, result.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert {case["direction"] for case in facts["cases"]} == {"to-mindspore"}
    failed = [case for case in facts["cases"] if not case["passed"]]
    assert len(failed) > 100
    example = listed_example(facts)
    reproduction = example["reproduction"]
    assert reproduction in result.stdout
    assert f"differing={example['differing']}," in run_python(NAIVE_BACK + reproduction).stdout
    assert "differing=0" in run_python(reproduction).stdout


@pytest.mark.needs_mindspore
def test_check_of_one_direction(tmp_path):
    arguments = ("check", "--cases", "5", "--direction", "to-torch", "--json", str(tmp_path / "facts.json"))
    assert run_command(*arguments).returncode == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert {case["direction"] for case in facts["cases"]} == {"to-torch"}


def test_check_without_mindspore_says_so_and_does_not_import_it():
    result = run_python(without("mindspore") + RUN, "check", "--without-mindspore", "--cases", "5")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("The NumPy reference, WITHOUT MindSpore, against ms2torch_roi ")
    assert result.stdout.splitlines()[-1].startswith("IDENTICAL: ")


@pytest.mark.needs_mindspore
def test_check_without_torch_says_so_and_does_not_import_it(tmp_path):
    absent = without("torch") + without("torchvision").replace("Absent", "Absent2")
    arguments = ("check", "--without-torch", "--cases", "5", "--json", str(tmp_path / "facts.json"))
    result = run_python(absent + RUN, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("The NumPy reference, WITHOUT torch, against ms2torch_roi ")
    assert " on MindSpore 2" in result.stdout.splitlines()[0]
    assert result.stdout.splitlines()[-1].startswith("IDENTICAL: ")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert {case["direction"] for case in facts["cases"]} == {"to-mindspore"}
    assert not {"torch", "torchvision"} & facts["versions"].keys()


@pytest.mark.needs_mindspore
def test_check_without_torch_fails_with_the_naive_mapping():
    result = run_python(NAIVE_BACK + RUN, "check", "--without-torch", "--cases", "5")
    assert result.returncode == 1
    assert "operators.outcome(operators.reference, case)" in result.stdout


def test_check_without_mindspore_fails_with_the_naive_mapping():
    result = run_python(NAIVE + RUN, "check", "--without-mindspore", "--cases", "5")
    assert result.returncode == 1
    assert "operators.outcome(operators.reference, case)" in result.stdout


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("mindspore", f"MindSpore is not installed. {how_to_install('mindspore')}, or use --without-mindspore"),
        ("torch", "ms2torch_roi.ROIAlign runs on torch and torchvision, but torch is not installed."),
        ("rich", f"rich is not installed. {how_to_install('cli')}"),
    ],
)  # fmt: skip
def test_check_that_cannot_run_says_why_in_one_line(package, message):
    result = run_python(without(package) + RUN, "check")
    if package == "torch" and "MindSpore is not installed" in result.stderr:
        pytest.skip("MindSpore is missed first")
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"ms2torch-roi check: cannot run: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--cases", "many"], "argument --cases: 'many' is not a whole number from 0 to 10**18"),
        (["check", "--cases", "-1"], "argument --cases: '-1' is not a whole number from 0 to 10**18"),
        (["check", "--workloads", "-1"], "argument --workloads: '-1' is not a whole number from 0 to 10**18"),
        (["check", "--seed", "1.5"], "argument --seed: '1.5' is not a whole number from 0 to 10**18"),
        (["check", "--json", "-"], "argument --json: '-' is no file: what is printed is for people"),
        (["check", "--html", "-"], "argument --html: '-' is no file: what is printed is for people"),
        (["check", "--colour"], "unrecognized arguments: --colour"),
        (["check", "--direction", "up"], "argument --direction: invalid choice: 'up'"),
        (["check", "--direction", "to-mindspore", "--without-mindspore"], "--direction to-mindspore needs MindSpore"),
        (["check", "--direction", "to-torch", "--without-torch"], "--direction to-torch needs torch"),
        (["check", "--without-mindspore", "--without-torch"], "--without-torch leave nothing to run"),
        (["check", "--without-torch", "--device", "cuda"], "--device cuda does not go with --without-torch"),
        (["prove"], "invalid choice: 'prove'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(arguments, message):
    result = run_command(*arguments)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_a_json_file_that_cannot_be_written_is_found_before_the_run(tmp_path):
    result = run_command("check", "--without-mindspore", "--json", str(tmp_path / "nowhere" / "facts.json"))
    assert result.returncode == 2
    assert result.stdout == ""
    assert "cannot run: --json: [Errno 2] No such file or directory" in result.stderr


def test_version():
    assert run_command("--version").stdout == f"ms2torch-roi {ms2torch_roi.__version__}\n"


def test_help_states_the_exit_statuses():
    assert "0 if all are identical, 1 if one differs, 2 if the check could not run" in " ".join(
        run_command("check", "--help").stdout.split()
    )


@pytest.fixture
def long_check():
    """A check that has printed its headline and has minutes to go."""
    command = [sys.executable, "-m", "ms2torch_roi", "check", "--without-mindspore", "--cases", "20000"]
    # A shell that runs pytest in the background makes its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("The NumPy reference")
        yield process
        process.kill()


def test_a_check_that_is_interrupted_says_so_and_has_status_2(long_check):
    long_check.send_signal(signal.SIGINT)
    _, stderr = long_check.communicate(timeout=60)
    assert stderr == "ms2torch-roi check: interrupted\n"
    assert long_check.returncode == 2


def test_a_check_whose_reader_leaves_has_status_2(long_check):
    long_check.stdout.close()
    assert long_check.wait(timeout=120) == 2
    assert long_check.stderr.read() == ""
