"""Recorded calls in a .zip are read in place, and what a .zip may do to who unpacks it, it does not."""

import json
import os
import warnings
import zipfile

import numpy as np
import pytest
from recorded_calls import record

from ms2torch_roi.cli import main
from ms2torch_roi.parity import campaign, cases
from ms2torch_roi.parity.recording import calls


@pytest.fixture
def file(tmp_path):
    """A recorded call."""
    record(tmp_path / "calls" / "000001.npz", cases.random_case(0, 3))
    return tmp_path / "calls" / "000001.npz"


@pytest.fixture
def archive(tmp_path, file):
    """Make an archive of some members."""

    def make(*names, content=None, compression=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "probe.zip", "w", compression) as archive:
            for name in names:
                archive.writestr(name, file.read_bytes() if content is None else content)
        return tmp_path / "probe.zip"

    return make


def test_calls_in_an_archive_are_those_of_a_folder(archive, file):
    path = archive("02.npz", "01.npz", "more/03.npz", "notes.txt", "more/")
    files, others = campaign.recorded_files([path])
    assert [calls.read(file).case.name for file in files] == ["probe.zip/01.npz", "probe.zip/02.npz", "more/03.npz"]
    assert others == [path / "notes.txt"]
    expected = calls.read(file)
    for read in map(calls.read, files):
        assert read.case.features.tobytes() == expected.case.features.tobytes()
        assert read.output.tobytes() == expected.output.tobytes()
        assert read.versions == expected.versions


@pytest.mark.parametrize("workers", ["1", "2"])
def test_replay_takes_it_and_leaves_nothing_behind(archive, tmp_path, monkeypatch, workers):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = archive(*(f"{number:02}.npz" for number in range(6)), "notes.txt")
    before = sorted(tmp_path.rglob("*"))
    report = tmp_path / "facts.json"
    assert main(["replay", str(path), "--workers", workers, "--json", str(report)]) == 0
    facts = json.loads(report.read_text())
    assert [case["case"] for case in facts["cases"]] == [f"probe.zip/{number:02}.npz" for number in range(6)]
    assert facts["notes"] == [f"Not compared: {path / 'notes.txt'} is no recorded call."]
    assert sorted(tmp_path.rglob("*")) == sorted([*before, report])


def test_a_report_does_not_replace_it(archive, capsys):
    path = archive("01.npz")
    content = path.read_bytes()
    assert main(["replay", str(path), "--json", str(path)]) == 2
    assert f"--json: {path} is read" in capsys.readouterr().err
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["../calls/000001.npz", "/etc/000001.npz", "more/../../000001.npz"])
def test_a_name_that_leads_out_of_it_is_refused(archive, capsys, name):
    path = archive("01.npz", name)
    assert main(["replay", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ms2torch-roi replay: cannot run: {path}: it holds ")
    assert line.endswith("which would be outside")


def test_a_link_in_it_is_no_call_and_is_not_followed(archive, file):
    path = archive("01.npz")
    link = zipfile.ZipInfo("02.npz")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr(link, str(file))
    with pytest.raises(ValueError, match=r"probe\.zip/02\.npz: not a recorded call: BadZipFile"):
        calls.read(path / "02.npz")


def test_what_unpacks_to_far_more_than_it_holds_is_refused(archive):
    """Once: a member that is far larger; and twice: one that is small, and of which a member is."""
    path = archive("01.npz", content=bytes(2**26 + 1))
    with pytest.raises(ValueError, match=r"its \d+ bytes would unpack to 67108865, more than 20 times as many"):
        calls.read(path / "01.npz")


def test_what_unpacks_to_far_more_in_two_steps_is_refused(archive, file):
    np.savez_compressed(file, **{**np.load(file), "features": np.zeros((1, 1, 2**13, 2**12), np.float32)})
    path = archive("01.npz")
    assert path.stat().st_size < file.stat().st_size / 20
    with pytest.raises(ValueError, match=r"its \d{1,5} bytes would unpack to 13\d+, more than 20 times as many"):
        calls.read(path / "01.npz")


def test_other_compressions_and_passwords_are_refused(archive):
    path = archive("01.npz", compression=zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match="it is compressed in a way that NumPy does not write"):
        calls.read(path / "01.npz")
    path = archive("01.npz", compression=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    for at in (6, content.rindex(b"PK\1\2") + 8):
        content[at] |= 1  # encrypted
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"probe\.zip/01\.npz: not a recorded call: .* encrypted"):
        calls.read(path / "01.npz")


def test_an_archive_that_is_damaged_missing_or_empty_is_named(archive, tmp_path, capsys):
    path = archive("01.npz")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    empty = tmp_path / "empty.zip"
    zipfile.ZipFile(empty, "w").close()
    os.mkfifo(tmp_path / "pipe.zip")
    for name, message in (
        ("probe.zip", "File is not a zip file"),
        ("missing.zip", "No such file or directory"),
        ("empty.zip", "no recorded calls (.npz files) in"),
        ("pipe.zip", "it is a named pipe, not a file"),
    ):
        assert main(["replay", str(tmp_path / name)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert name in line
        assert message in line


def test_a_name_that_is_there_twice_is_refused(archive, folder):
    """One of the two would not be looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = archive("01.npz", "01.npz")
    with pytest.raises(ValueError, match=r"\.zip: '01\.npz' is in it twice"):
        campaign.recorded_files([path])
    call = folder / "0.npz"
    with warnings.catch_warnings(), zipfile.ZipFile(call, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("output.npy", file.read("output.npy"))
    with pytest.raises(ValueError, match=r"0\.npz: not a recorded call: ValueError: 'output\.npy' is in it twice"):
        calls.read(call)
