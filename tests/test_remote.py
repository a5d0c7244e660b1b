"""Recorded calls and reports may be at URLs that fsspec knows: in memory, and in an object store on this machine."""

import contextlib
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
    for same in (f"{url}/1", f"{url}//1", f"{url}/x/../1")[: 3 if remote.is_remote(path) else 1]:
        assert main(["replay", str(path), "--json", f"{url}/1", "--html", same]) == 2
    assert "is what --json writes" in capsys.readouterr().err
    report = remote.path(f"{url}/facts.json")
    report.write_text("of an earlier run")
    monkeypatch.setattr(campaign.Replay, "verdicts", lambda self, number: 1 / 0)
    assert main(["replay", str(path), "--json", str(report)]) == 2
    assert not report.exists()


def test_paths_of_universal_pathlib_are_taken(url):
    upath = pytest.importorskip("upath", reason="universal_pathlib is not installed")
    ms2torch_roi.save_call(upath.UPath(f"{url}/1.npz"), FEATURES, ROIS, roi_align(FEATURES, ROIS, 2), output_size=2)
    with record(upath.UPath(f"{url}/calls")) as recording:
        roi_align(FEATURES, ROIS, 2)
    first, second = (calls.read(path) for path in (remote.path(f"{url}/1.npz"), *recording.paths))
    assert_same_bits(first.output, second.output)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sftp://user:secret@host:22/calls", "sftp://user@host:22/calls"),
        ("ftp://user:secret@host/calls", "ftp://user@host/calls"),
        ("smb://user:secret@host/share/calls", "smb://user@host/share/calls"),
        ("hdfs://user@host:9000/calls", "hdfs://user@host:9000/calls"),
        ("webhdfs://host:9870/calls", "webhdfs://host:9870/calls"),
        ("http://user:sec@ret@host/calls", "http://user@host/calls"),
        ("memory://calls", "memory://calls"),
    ],
)
@pytest.mark.filterwarnings("ignore:UPath")
def test_a_url_is_named_with_its_host_and_without_its_password(url, name):
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    try:
        path = remote.path(url)
    except ImportError as error:
        pytest.skip(str(error))
    assert remote.name(path / "1.npz") == f"{name}/1.npz"
    assert remote.expression(path) == f"remote.path({name!r})"
    assert remote.identity(path) == remote.identity(remote.path(url))
    assert remote.identity(path) != remote.identity(remote.path(url.replace("host", "other") + "/1"))
    if "host" in url:
        assert remote.identity(path) != remote.identity(remote.path(url.replace("host", "other")))


@pytest.mark.needs_mindspore
def test_files_of_one_path_on_two_hosts_are_two_calls(tmp_path, monkeypatch, capsys):
    fsspec = pytest.importorskip("fsspec", reason="universal_pathlib is not installed")
    from fsspec.implementations.ftp import FTPFileSystem
    from fsspec.implementations.memory import MemoryFileSystem

    stores = {}

    class Hosts(MemoryFileSystem):
        """Files of hosts, by the manners of FTP."""

        protocol = "hosts"
        _strip_protocol = FTPFileSystem._strip_protocol
        _get_kwargs_from_urls = FTPFileSystem._get_kwargs_from_urls

        def __init__(self, host, **options):
            super().__init__(host=host, **options)
            self.store, self.pseudo_dirs = stores.setdefault(host, ({}, [""]))

    fsspec.register_implementation("hosts", Hosts, clobber=True)
    urls = [f"hosts://me:secret@{host}/{tmp_path.name}/1.npz" for host in "ab"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # universal_pathlib says that it does not know them
        for url in urls:
            ms2torch_roi.save_call(url, FEATURES, ROIS, roi_align(FEATURES, ROIS, 2), output_size=2)
        report = tmp_path / "facts.json"
        assert main(["replay", *urls, "--json", str(report)]) == 0
    facts = report.read_text()
    assert "IDENTICAL: 2 cases" in capsys.readouterr().out
    assert json.loads(facts)["settings"]["files"] == [url.replace(":secret", "") for url in urls]
    assert "secret" not in facts


@pytest.mark.parametrize("name", ["?1.npz", "#1.npz", " 1.npz", "%1.npz"])
@pytest.mark.parametrize("start", ["file://", "FILE://", "file://localhost", "local://"])
def test_file_urls_are_files_of_this_machine(tmp_path, start, name):
    for text in ((tmp_path / name).as_uri(), f"file://{tmp_path}/{name.replace('%', '%25')}"):
        assert remote.path(text.replace("file://", start)) == tmp_path / name


@pytest.mark.parametrize(
    "url", ["file://reports/1.json", "file:/tmp/1.json", "local://tmp", "file://", "File://host/1"]
)
def test_file_urls_of_no_file_here_are_refused(url):
    with pytest.raises(ValueError, match=f"{url} is no file of this machine: its URL starts with file:///"):
        remote.path(url)


def test_a_report_that_may_be_written_and_not_removed_or_looked_at_is_written(tmp_path, capsys):
    fsspec = pytest.importorskip("fsspec", reason="universal_pathlib is not installed")
    from fsspec.implementations.memory import MemoryFileSystem

    class Kept(MemoryFileSystem):
        protocol = "kept"

        def rm(self, *_, **__):
            raise RuntimeError("nothing is removed here")

    class Unseen(Kept):
        protocol = "unseen"

        def exists(self, *_, **__):
            raise RuntimeError("nothing is seen here")

    record_two_heads(tmp_path.as_uri())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in (Kept, Unseen):
            fsspec.register_implementation(kind.protocol, kind, clobber=True)
            path = remote.path(f"{kind.protocol}://{tmp_path.name}/facts.json")
            for _ in range(2):
                main(["identify", str(tmp_path / "calls"), "--json", str(path)])
                assert "no call has a value" in capsys.readouterr().err
                assert path.read_bytes() == b""
                main(["merge", str(tmp_path / "nothing"), "--json", str(path)])
                assert "No such file" in capsys.readouterr().err


def test_a_report_stays_where_the_command_is_refused_for_another_option(url, tmp_path, capsys):
    record_two_heads(url)
    report = remote.path(f"{url}/facts.json")
    report.write_text("of an earlier run")
    other = str(tmp_path / "nowhere" / "page.html")
    assert main(["replay", f"{url}/calls", "--json", str(report), "--html", other]) == 2
    assert "--html: " in capsys.readouterr().err
    assert report.read_text() == "of an earlier run"


def test_no_report_goes_to_a_folder(url, capsys):
    path, _ = record_two_heads(url)
    for folder in (url, str(path.parent)):
        assert main(["replay", str(path), "--json", folder]) == 2
        assert "--json: [Errno 21] Is a directory: '" in capsys.readouterr().err
    assert len([*path.parent.iterdir()]) == 2


def test_no_report_goes_to_the_name_of_a_recorded_call(url, tmp_path, capsys):
    with_features, path = record_two_heads(url)
    content = with_features.read_bytes()
    for name in (with_features.name, "new.npz", "new.zip"):
        report = with_features.with_name(name)
        assert main(["replay", str(path), "--json", str(report)]) == 2
        assert f"--json: {report} is no place for a report" in capsys.readouterr().err
    assert with_features.read_bytes() == content
    assert len([*with_features.parent.iterdir()]) == 2


@pytest.mark.parametrize("broken", ["exists", "info"])
def test_a_recording_that_cannot_look_at_its_files_says_so_or_goes_on(tmp_path, monkeypatch, broken):
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    from fsspec.implementations.memory import MemoryFileSystem

    def fail(self, path, **_):
        if path.endswith(".npz"):
            raise RuntimeError("token expired")
        return {"name": path, "type": "directory", "size": 0}

    monkeypatch.setattr(MemoryFileSystem, broken, fail)
    with record(f"memory://{tmp_path.name}/calls") as recording:
        roi_align(FEATURES, ROIS, 2)
        said = pytest.raises(OSError, match=r"could not be recorded: memory://.*: RuntimeError: token expired")
        with said if broken == "exists" else contextlib.nullcontext():  # which takes it that there is none
            roi_align(FEATURES, ROIS, 2)
    monkeypatch.undo()
    assert len(recording.paths) == 1 + (broken == "info")
    assert all(calls.read(path).output is not None for path in recording.paths)


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
