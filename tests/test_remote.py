"""Recorded calls and reports may be at URLs that fsspec knows: in memory, and in an object store on this machine."""

import json
import threading
import warnings
import zipfile

import numpy as np
import pytest
import torch
from helpers import assert_same_bits, run_python, without
from torchvision.ops import roi_align

import ms2torch_roi
from ms2torch_roi.cli import main
from ms2torch_roi.parity import campaign, cases, operators, remote
from ms2torch_roi.parity.recording import calls, record

FEATURES = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 16, 32, 40)).astype(np.float32))
ROIS = torch.tensor([[0, 1.0, 2.0, 30.0, 28.0], [0, 0.0, 0.0, 39.0, 31.0]])


@pytest.fixture(scope="module")
def bucket():
    """The URL of an empty bucket of an object store, which runs on this machine."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ENDPOINT_URL": f"http://{host}:{port}",
            "ACCESS_KEY_ID": "testing",
            "SECRET_ACCESS_KEY": "testing",
            "DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(f"AWS_{name}", value)
        remote.path("s3://bucket").mkdir()
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["file", "memory", "s3"])
def url(request, tmp_path):
    """The URL of a folder of its own."""
    if request.param == "file":
        return tmp_path.as_uri()
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    root = request.getfixturevalue("bucket") if request.param == "s3" else "memory://"
    return f"{root}/{tmp_path.name}"


def record_two_heads(url):
    with record(f"{url}/calls", gradients=True) as recording:
        features = FEATURES.clone().requires_grad_()
        for size in (2, 3):
            roi_align(features, ROIS, size, 1.0, 2).sum().backward()
    return recording.paths


def test_what_is_recorded_at_a_url_is_read_there(url):
    paths = record_two_heads(url)
    files, others = campaign.recorded_files([remote.path(f"{url}/calls")])
    assert ([*map(str, files)], others) == ([*map(str, paths)], [])
    for path, size in zip(files, (2, 3), strict=True):
        call = calls.read(path)
        assert_same_bits(call.case.features, FEATURES.numpy())
        assert_same_bits(call.output, roi_align(FEATURES, ROIS, size, 1.0, 2).numpy())
        assert call.features_gradient is not None
    assert paths[1].stat().st_size < 2 * FEATURES.nbytes < paths[0].stat().st_size  # which has the features of both


@pytest.mark.needs_mindspore
def test_replay_and_merge_read_and_write_urls(url, capsys):
    record_two_heads(url)
    for part in (1, 2):
        shard = ("--shard", f"{part}/2", "--json", f"{url}/{part}.json")
        assert main(["replay", f"{url}/calls", *shard]) == 0
    reports = {name: f"{url}/report.{name}" for name in ("json", "junit", "html", "summary")}
    options = [f"--{name}={report}" for name, report in reports.items()]
    assert main(["merge", f"{url}/1.json", f"{url}/2.json", *options]) == 0
    assert "IDENTICAL: 4 cases" in capsys.readouterr().out
    assert json.loads(remote.path(reports["json"]).read_text())["total"]["cases"] == 4
    assert all(remote.path(report).stat().st_size for report in reports.values())


def test_identify_reads_and_writes_urls(url, capsys):
    for number in range(20):
        case = cases.random_case(4, number)
        ms2torch_roi.save_call(
            f"{url}/{number}.npz", case.features, case.rois, operators.reference(case), **case.arguments
        )
    assert main(["identify", url, "--json", f"{url}/facts.json"]) == 0
    assert "cpu" in capsys.readouterr().out
    assert json.loads(remote.path(f"{url}/facts.json").read_text())["verdict"] == "one"


@pytest.mark.needs_mindspore
def test_an_archive_at_a_url_is_read_in_place(url, capsys):
    paths = record_two_heads(url)
    with remote.path(f"{url}/calls.zip").open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for path in paths:
            archive.writestr(path.name, path.read_bytes())
    assert main(["replay", f"{url}/calls.zip"]) == 0
    assert "IDENTICAL: 4 cases" in capsys.readouterr().out


@pytest.mark.needs_mindspore
def test_a_failure_is_reproduced_by_what_is_printed(url, capsys):
    (first, _), path = record_two_heads(url), f"{url}/wrong.npz"
    call = calls.read(first)
    call.output[0, 0, 0, 0] += 1
    calls.write(remote.path(path), call)
    assert main(["replay", path]) == 1
    printed = capsys.readouterr().out
    code = printed[printed.index("from pathlib") :].split("\n\n")[0]
    exec(code, {})
    assert "differing=1" in capsys.readouterr().out


def test_an_object_that_is_not_whole_is_never_read_as_a_call(url):
    path, other = record_two_heads(url)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    for torn in (path, other):  # which has its features there
        with pytest.raises(ValueError, match=f"{torn.name}: not a recorded call: .*File is not a zip file"):
            calls.read(torn)


def test_a_write_that_fails_says_so_and_leaves_what_was_there(url, monkeypatch):
    path, _ = record_two_heads(url)
    content = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space left on device"):
        calls.write(path, calls.Call(case=cases.documented_cases()[0], output=None))
    assert path.read_bytes() == content
    with record(f"{url}/more") as recording, pytest.raises(OSError, match=r"recorded: No space left .*npz"):
        roi_align(FEATURES, ROIS, 2)
    assert recording.paths == []
    with pytest.raises((OSError, ValueError)):
        campaign.recorded_files([remote.path(f"{url}/more")])


def test_threads_record_to_one_url(url):
    def work(value):
        for _ in range(5):
            roi_align(torch.full((1, 1, 8, 8), float(value)), ROIS, 2)

    threads = [threading.Thread(target=work, args=(value,)) for value in (1, 2, 3)]
    with record(f"{url}/calls") as recording:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(calls.read(path).case.features[0, 0, 0, 0] for path in recording.paths) == [1] * 5 + [2] * 5 + [3] * 5


def test_max_bytes_counts_what_is_at_the_url(url):
    with warnings.catch_warnings(record=True) as caught, record(f"{url}/calls", max_bytes=300_000) as recording:
        warnings.simplefilter("always")
        for number in range(4):
            roi_align(FEATURES + number, ROIS, 2)
    assert sum(path.stat().st_size for path in recording.paths) <= 300_000
    assert len(recording.paths) == 3
    assert "max_bytes=300000 is reached" in str(caught[0].message)


def test_a_report_does_not_replace_what_is_read_and_an_earlier_one_does_not_outlive_a_run(url, capsys, monkeypatch):
    path, _ = record_two_heads(url)
    content = path.read_bytes()
    assert main(["replay", str(path), "--json", str(path)]) == 2
    assert f"--json: {path} is read" in capsys.readouterr().err
    assert path.read_bytes() == content
    assert main(["replay", str(path), "--json", f"{url}/1", "--html", f"{url}/1"]) == 2
    assert "is what --json writes" in capsys.readouterr().err
    report = remote.path(f"{url}/facts.json")
    report.write_text("of an earlier run")
    monkeypatch.setattr(campaign.Replay, "verdicts", lambda self, number: 1 / 0)
    assert main(["replay", str(path), "--json", str(report)]) == 2
    assert not report.exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("memory://nowhere/calls", "cannot run: memory://nowhere/calls: FileNotFoundError: "),
        ("nope://bucket/calls", "argument PATH: Unsupported filesystem: 'nope'"),
        ("file:///nowhere/calls", "cannot run: [Errno 2] No such file or directory: '/nowhere/calls'"),
    ],
)
def test_what_is_not_there_is_one_line(path, message, capsys):
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    try:
        status = main(["replay", path])
    except SystemExit as error:
        status = error.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_bucket_that_is_not_there_is_one_line(bucket, tmp_path, capsys):
    record_two_heads(tmp_path.as_uri())
    for arguments, option in (
        (["s3://nowhere/calls"], ""),
        ([tmp_path / "calls", "--json", "s3://nowhere/1"], "--json: "),
    ):
        assert main(["replay", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"ms2torch-roi replay: cannot run: {option}s3://nowhere/")
    with pytest.raises(OSError, match="s3://nowhere/calls"), record("s3://nowhere/calls"):
        roi_align(FEATURES, ROIS, 2)


def test_without_universal_pathlib_the_extra_is_named_and_files_are_read(tmp_path):
    record_two_heads(tmp_path.as_uri())
    code = (
        f"{without('upath')}{without('fsspec').replace('Absent', 'Other')}"
        "from ms2torch_roi.cli import main\n"
        f"print(main(['identify', {str(tmp_path / 'calls')!r}]))\n"  # of torchvision's calls, there is nothing to say
        f"print(main(['identify', {(tmp_path / 'calls').as_uri()!r}]))\n"
        "main(['identify', 's3://bucket/calls'])"
    )
    result = run_python(code)
    assert result.stdout.split() == ["2", "2"]
    *others, line = result.stderr.splitlines()
    assert all("no call has a value that tells one rule from another" in other for other in others)
    assert "s3://bucket/calls needs universal_pathlib. Install the extra 'remote' with: pip install" in line


def test_plain_paths_import_neither(tmp_path):
    record_two_heads(tmp_path.as_uri())
    code = (
        "import sys\nfrom ms2torch_roi.cli import main\n"
        f"main(['identify', {str(tmp_path / 'calls')!r}, '--json', {str(tmp_path / 'facts.json')!r}])\n"
        "print({'fsspec', 'upath'} & {*sys.modules})"
    )
    assert run_python(code).stdout.strip() == "set()"
