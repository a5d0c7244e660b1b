"""What `ms2torch-roi replay` cannot do is said in one line, before it runs if possible, and is no difference."""

from pathlib import Path

import pytest

from ms2torch_roi.parity import campaign

NAIVE = ["--adapter", "adapters_of_users:naive"]


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
        (["replay", "empty", "--workers", "0"], "argument --workers: '0' is not a whole number from 1 to 10**18"),
        (["merge", "nowhere.json"], "No such file or directory: 'nowhere.json'"),
        (["check", "--cases", 20 * "9"], f"argument --cases: '{20 * '9'}' is not a whole number from 0 to 10**18"),
        (["replay", "empty", "--timeout", "0"], "'0' is not a number of seconds from 0.001 to 1,000,000"),
        (["replay", "empty", "--timeout", "1e9"], "'1e9' is not a number of seconds from 0.001 to 1,000,000"),
        (["check", "--device", "cuda", *NAIVE], "--device is where our port runs: an adapter chooses its own"),
        (["check", "--direction", "to-mindspore", *NAIVE], "the adapter takes MindSpore's calls, which go to-torch"),
        (["replay", "--golden", "--backward-rule", "cpu", *NAIVE], "--backward-rule is of gradients"),
        (["replay", "--golden", "--backward-roi-end-mode", "1", *NAIVE], "--backward-roi-end-mode is of gradients"),
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


@pytest.mark.parametrize("link", [Path.hardlink_to, Path.symlink_to])
@pytest.mark.parametrize("option", ["--json", "--junit", "--html"])
def test_a_link_to_what_is_read_is_not_written_to(run_command, folder, tmp_path, link, option):
    call, shard = folder / "0.npz", tmp_path / "1.json"
    assert run_command("replay", folder, "--shard", "1/1", "--json", shard).returncode == 0
    for command, read, given in (("replay", call, folder), ("merge", shard, shard)):
        whole = read.read_bytes()
        output = tmp_path / f"of {command}"
        link(output, read)
        result = run_command(command, given, option, output)
        assert result.returncode == 2
        assert f"cannot run: {option}: {output} is read" in result.stderr
        assert read.read_bytes() == output.read_bytes() == whole


def test_a_link_to_another_report_is_not_written_to(run_command, folder, tmp_path):
    for name, link in (("hard", Path.hardlink_to), ("symbolic", Path.symlink_to)):
        first, second = tmp_path / "first", tmp_path / name
        first.write_text("of an earlier run")
        link(second, first)
        result = run_command("replay", folder, "--json", first, "--html", second)
        assert result.returncode == 2
        assert f"--html: {second} is what --json writes" in result.stderr


def test_a_report_of_an_earlier_run_does_not_outlive_the_start_of_another(run_command, folder, tmp_path, monkeypatch):
    reports = [tmp_path / name for name in ("facts.json", "tests.xml", "page.html")]
    arguments = [f"--{name}={file}" for name, file in zip(("json", "junit", "html"), reports, strict=True)]
    assert run_command("replay", folder, *arguments).returncode == 0
    assert all(file.stat().st_size for file in reports)
    monkeypatch.setattr(campaign.Replay, "verdicts", lambda self, number: 1 / 0)
    assert run_command("replay", folder, *arguments).returncode == 2
    assert not any(file.exists() for file in reports)
    # One that is led to by a link is written where that leads.
    monkeypatch.undo()
    (tmp_path / "elsewhere").mkdir()
    reports[0].symlink_to(tmp_path / "elsewhere" / "facts.json")
    for _ in range(2):
        assert run_command("replay", folder, *arguments).returncode == 0
        assert reports[0].is_symlink()
        assert (tmp_path / "elsewhere" / "facts.json").stat().st_size


def test_a_report_on_a_full_disk_is_no_difference(run_command, folder):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no device that is full")
    result = run_command("replay", folder, "--html", full)
    assert result.returncode == 2
    assert "cannot run: --html: [Errno 28] No space left on device" in result.stderr


def test_each_report_is_tried_and_all_that_fail_are_said(run_command, folder, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is full")
    page = tmp_path / "page.html"
    result = run_command("replay", folder, "--json", "/dev/full", "--html", page)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "--json: [Errno 28] No space left on device" in line
    assert page.stat().st_size


def test_reports_have_long_names_and_leave_alone_what_is_named_like_a_part_of_them(run_command, folder, tmp_path):
    reports = tmp_path / "reports"
    reports.mkdir()
    name = "x" * 245 + ".json"
    (reports / "facts.json.partial").write_text("a user's own")
    for report in (name, "facts.json"):
        assert run_command("replay", folder, "--json", reports / report).returncode == 0
    assert (reports / "facts.json.partial").read_text() == "a user's own"
    assert sorted(path.name for path in reports.iterdir()) == ["facts.json", "facts.json.partial", name]


def test_a_report_that_cannot_be_finished_is_not_there_in_part(run_command, folder, tmp_path, monkeypatch):
    def full(self, target):
        assert self.stat().st_size
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    (tmp_path / "reports").mkdir()
    result = run_command("replay", folder, "--json", tmp_path / "reports" / "facts.json")
    assert result.returncode == 2
    assert "cannot run: --json: [Errno 28] No space left on device" in result.stderr
    assert not list((tmp_path / "reports").iterdir())


def test_a_fault_of_the_command_itself_is_no_difference(run_command, folder, monkeypatch):
    monkeypatch.setattr(campaign.Replay, "verdicts", lambda self, number: 1 / 0)
    result = run_command("replay", folder)
    assert result.returncode == 2
    assert "ZeroDivisionError" in result.stderr
