"""Recorded calls are on disk as they are made, from any thread and process, up to the limits."""

import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from helpers import assert_same_bits, run_python
from recordings import FEATURES, MS_FEATURES, MS_ROIS, ROIS, pool, read

from ms2torch_roi.parity import operators, remote
from ms2torch_roi.parity.recording import calls, record

# On disk as it goes.


def test_a_killed_recording_loses_one_call_at_most(tmp_path):
    code = """
import sys, torch
from torchvision.ops import roi_align
from ms2torch_roi.parity.recording import record
features, rois = torch.ones(1, 64, 64, 64), torch.tensor([[0, 1.0, 1, 9, 9]])
with record(sys.argv[1]):
    for number in range(10**6):
        roi_align(features, rois, 7)
        print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    returned = [process.stdout.readline() for _ in range(25)]
    process.send_signal(signal.SIGKILL)
    returned += process.stdout.readlines()
    process.wait()
    files = sorted(tmp_path.glob("*" + calls.SUFFIX))
    partial = list(tmp_path.glob("*" + remote.PARTIAL_SUFFIX))
    assert len(returned) <= len(files) <= len(returned) + 1
    assert len(partial) <= 1
    assert len(files) + len(partial) == len(list(tmp_path.iterdir()))
    assert [int(path.stem[-6:]) for path in files] == list(range(1, len(files) + 1))
    for path in files:
        assert calls.read(path).output.shape == (1, 64, 7, 7)


def test_threads_neither_lose_nor_mix_calls(tmp_path):
    def work(value):
        for ratio in range(1, 21):
            features = torch.full((1, 1, 8, 8), float(value), requires_grad=True)
            (pool(features, ROIS[:1], ratio).sum() * value).backward()

    threads = [threading.Thread(target=work, args=(value,)) for value in (1, 2, 3)]
    with record(tmp_path, gradients=True) as recording:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = set()
    for call in read(recording):
        value = call.case.features[0, 0, 0, 0]
        assert np.allclose(call.output, value)
        assert (call.output_gradient == value).all()
        assert call.features_gradient is not None
        found.add((float(value), call.case.sampling_ratio))
    assert found == {(value, ratio) for value in (1, 2, 3) for ratio in range(1, 21)}
    assert recording.calls == len(recording.paths) == 60


@pytest.mark.needs_mindspore
def test_calls_of_mindspore_on_any_thread_are_recorded(tmp_path, ms):
    operator, rois = ms.ops.ROIAlign(4, 4, 0.25), ms.Tensor(MS_ROIS)
    lock = threading.Lock()  # without one, MindSpore (2.10) now and then hands one thread the other's result

    def work(value):
        for _ in range(10):
            with lock:
                operator(ms.Tensor(np.full_like(MS_FEATURES, value)), rois)

    threads = [threading.Thread(target=work, args=(value,)) for value in (1, 2)]
    with record(tmp_path) as recording:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    recorded = read(recording)
    assert sorted(call.case.features[0, 0, 0, 0] for call in recorded) == [1] * 10 + [2] * 10
    assert all((call.output == call.case.features[0, 0, 0, 0]).all() for call in recorded)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_processes_share_a_directory(tmp_path):
    code = """
import os, sys, threading, torch
from torchvision.ops import roi_align
from ms2torch_roi.parity.recording import record
torch.set_num_threads(1)
def pool(value):
    roi_align(torch.full((1, 1, 8, 8), float(value)), torch.tensor([[0, 1.0, 1, 5, 5]]), 2)
with record(sys.argv[1]) as recording:
    pool(0)
    children = []
    for value in (1, 2, 3):
        child = os.fork()
        if not child:
            pool(value)
            pool(value)
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    pool(4)
print(os.getpid(), *children, recording.calls)
"""
    result = run_python(code, str(tmp_path))
    assert result.returncode == 0, result.stderr
    *processes, seen = (int(word) for word in result.stdout.split())
    values = {}
    for path in sorted(tmp_path.iterdir()):
        start, process, _ = path.stem.split("-")
        values.setdefault((start, int(process)), []).append(calls.read(path).case.features[0, 0, 0, 0])
    assert sorted(process for _, process in values) == sorted(processes)  # forks may start in any order
    assert sorted(values.values()) == [[0, 4], [1, 1], [2, 2], [3, 3]]
    assert len({start for start, _ in values}) == 4  # process numbers are used again
    assert seen == 2


def test_a_call_that_cannot_be_written_names_the_file(tmp_path):
    directory = tmp_path / "gone"
    with record(directory) as recording:
        directory.rmdir()
        with pytest.raises(OSError, match=r"a call could not be recorded: No such file .*whole: .*gone/.*-000001\.npz"):
            pool()
    assert recording.paths == []


FULL = """
import resource, sys, torch
from torchvision.ops import roi_align
from ms2torch_roi.parity.recording import record
features, rois = torch.ones(1, 4, 64, 64, requires_grad=True), torch.tensor([[0, 1.0, 1, 9, 9]])
with record(sys.argv[1], gradients=True) as recording:
    first = roi_align(features, rois, 2)
    first.sum().backward()
    first_of_others = roi_align(features * 2, rois, 2)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, hard))  # one of features, and not their gradient
    for attempt in (first_of_others.sum().backward, lambda: roi_align(torch.ones(1, 8, 64, 64), rois, 2)):
        try:
            attempt()
        except OSError as error:
            print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    roi_align(torch.ones(1, 8, 64, 64), rois, 2)
    roi_align(torch.ones(1, 8, 64, 64), rois, 3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of files")
def test_a_disk_that_is_full_loses_neither_an_earlier_call_nor_a_later_one_and_says_so(tmp_path):
    result = run_python(FULL, str(tmp_path))
    assert result.returncode == 0, result.stderr
    files = sorted(tmp_path.iterdir())
    said = result.stdout.splitlines()
    assert len(said) == 2
    assert result.stderr == ""
    assert all("a call could not be recorded: File too large; the calls before it are whole: " in line for line in said)
    assert files[1].name in said[0]
    assert not any(file.name in said[1] for file in files)
    first, without_gradient, *later = [calls.read(file) for file in files]
    assert len(later) == 2  # the second of which has the features of the first, as no file that was not written has
    assert first.features_gradient is not None
    assert without_gradient.features_gradient is None
    assert all(call.case.features.shape == (1, 8, 64, 64) for call in later)
    for call in (first, without_gradient, *later):
        assert_same_bits(call.output, operators.torchvision(call.case))


def test_the_directory_is_made_and_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with record("some/folder") as recording:
        monkeypatch.chdir("/")
        pool()
    assert len(list((tmp_path / "some" / "folder").iterdir())) == 1
    assert recording.directory == tmp_path / "some" / "folder"


# Limits.


def test_every_nth_call_is_recorded(tmp_path):
    with record(tmp_path, every=3) as recording:
        for ratio in range(1, 9):
            pool(ratio=ratio)
    assert recording.calls == 8
    assert [call.case.sampling_ratio for call in read(recording)] == [1, 4, 7]


def test_max_calls_is_kept_and_said_once(tmp_path):
    with warnings.catch_warnings(record=True) as caught, record(tmp_path, max_calls=3, every=2) as recording:
        warnings.simplefilter("always")
        for ratio in range(1, 7):
            pool(ratio=ratio)
        assert not caught  # nothing has been left out
        for ratio in range(7, 13):
            pool(ratio=ratio)
    assert recording.calls == 12
    assert [call.case.sampling_ratio for call in read(recording)] == [1, 3, 5]
    (warning,) = caught
    assert str(warning.message).startswith("ms2torch_roi.record: max_calls=3 is reached: later calls are not recorded")


@pytest.mark.parametrize("channels", [1, 2, 99])
def test_the_first_channels_alone_are_recorded_and_replay(tmp_path, channels):
    features = FEATURES.clone().requires_grad_()
    with record(tmp_path, gradients=True, channels=channels) as recording, record(tmp_path / "all", gradients=True):
        output = pool(features)
        (output * torch.arange(output.numel()).reshape(output.shape)).sum().backward()
    (call,) = read_some(recording)
    (whole,) = [calls.read(path) for path in (tmp_path / "all").iterdir()]
    for name in ("output", "output_gradient", "features_gradient"):
        assert_same_bits(getattr(call, name), getattr(whole, name)[:, :channels])
    assert_same_bits(call.case.features, whole.case.features[:, :channels])
    assert_same_bits(call.output, operators.original(call.case))
    assert features.grad.shape == features.shape


def read_some(recording):
    return [calls.read(path) for path in recording.paths]


def test_channels_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="record: channels must be at least 1, got 0"):
        record(tmp_path, channels=0)
    with pytest.raises(TypeError, match="record: channels must be an int, got '8'"):
        record(tmp_path, channels="8")


@pytest.mark.parametrize("gradients", [False, True])
def test_max_bytes_is_kept_and_said_once(tmp_path, gradients):
    limit = 200_000
    features = FEATURES.clone().requires_grad_()
    with (
        warnings.catch_warnings(record=True) as caught,
        record(tmp_path, max_bytes=limit, gradients=gradients) as recording,
    ):
        warnings.simplefilter("always")
        for _ in range(20):
            pool(features).sum().backward()
    size = sum(path.stat().st_size for path in recording.paths)
    each = recording.paths[0].stat().st_size
    assert size <= limit < size + 2 * each
    assert len(read(recording)) < recording.calls == 20
    (warning,) = caught
    assert str(warning.message).startswith("ms2torch_roi.record: max_bytes=200000 is reached: later calls are not")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"directory": 3}, TypeError, r"record: directory must be a path, got 3 \(int\)"),
        ({"gradients": 1}, TypeError, r"record: gradients must be True or False, got 1 \(int\)"),
        ({"max_calls": 0}, ValueError, "record: max_calls must be at least 1, got 0"),
        ({"max_calls": "3"}, TypeError, r"record: max_calls must be an int, got '3' \(str\)"),
        ({"max_bytes": 1e9}, TypeError, r"record: max_bytes must be an int, got 1000000000.0 \(float\)"),
        ({"max_bytes": -1}, ValueError, "record: max_bytes must be at least 1, got -1"),
        ({"every": True}, TypeError, r"record: every must be an int, got True \(bool\)"),
        ({"every": 0}, ValueError, "record: every must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_at_once(tmp_path, arguments, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        record(**{"directory": tmp_path, **arguments})
