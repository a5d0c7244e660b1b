"""Recording the calls of a model: all of them, on disk as they are made, and nothing about the model is changed."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
import torchvision
from helpers import assert_same_bits, run_python, without
from torchvision.ops import roi_align
from torchvision.ops.roi_align import roi_align as roi_align_by_another_name

from ms2torch_roi.parity import calls, operators
from ms2torch_roi.parity.recording import record

RNG = np.random.default_rng(0)
FEATURES = torch.from_numpy(RNG.standard_normal((2, 3, 16, 20)).astype(np.float32))
ROIS = torch.tensor([[0, 1.0, 2.0, 30.0, 28.0], [1, 0.0, 0.0, 79.0, 63.0], [1, 40.5, 3.25, 41.0, 60.0]])
MADE_BEFORE = torchvision.ops.RoIAlign((3, 2), 0.25, 2, aligned=True)
OPERATOR = torch.ops.torchvision.roi_align

# With 4 x 4 bins, nothing is rounded: MindSpore adds gradients up in an order that changes from run to run.
MS_FEATURES = RNG.integers(-8, 9, (2, 3, 16, 20)).astype(np.float32)
MS_ROIS = np.array([[0, 4, 8, 35, 39], [1, 8, 4, 39, 35]], np.float32)


@pytest.fixture
def ms():
    return operators.import_mindspore()


def read(recording):
    """The calls of a recording, in order; nothing else is in the directory."""
    assert sorted(recording.paths) == sorted(recording.directory.iterdir())
    return [calls.read(path) for path in sorted(recording.paths)]


def pool(features=FEATURES, rois=ROIS, ratio=2):
    return roi_align(features, rois, (3, 2), 0.25, ratio)


# What is recorded.


@pytest.mark.parametrize(
    "call",
    [
        lambda: roi_align(FEATURES, ROIS, (3, 2), 0.25, 2, True),
        lambda: roi_align_by_another_name(FEATURES, ROIS, (3, 2), 0.25, sampling_ratio=2, aligned=True),
        lambda: torchvision.ops.roi_align(input=FEATURES, boxes=ROIS, output_size=[3, 2], spatial_scale=0.25,
                                          sampling_ratio=2, aligned=True),
        lambda: MADE_BEFORE(FEATURES, ROIS),
        lambda: torchvision.ops.RoIAlign((3, 2), 0.25, 2, aligned=True)(FEATURES, ROIS),
        lambda: OPERATOR(FEATURES, ROIS, 0.25, 3, pooled_width=2, sampling_ratio=2, aligned=True),
        lambda: torch.ops.torchvision.roi_align(FEATURES, ROIS, 0.25, np.int64(3), 2, 2, True),
    ],
    ids=["function", "another name", "keywords", "made before", "made inside", "operator", "operator inside"],
)  # fmt: skip
def test_a_call_of_torchvision_is_recorded(tmp_path, call):
    with record(tmp_path) as recording:
        output = call()
        (recorded,) = read(recording)  # on disk as soon as the call returns
    assert recording.calls == 1
    assert recorded.case.operator == "RoIAlign"
    assert recorded.case.arguments == {
        "output_size": (3, 2), "spatial_scale": 0.25, "sampling_ratio": 2, "aligned": True
    }  # fmt: skip
    assert_same_bits(recorded.case.features, FEATURES.numpy())
    assert_same_bits(recorded.case.rois, ROIS.numpy())
    assert_same_bits(recorded.output, output.numpy())
    assert_same_bits(recorded.output, operators.torchvision(recorded.case))
    assert recorded.output_gradient is None
    assert recorded.features_gradient is None
    assert recorded.device == "CPU"
    assert recorded.versions["torch"] == torch.__version__
    assert recorded.versions["torchvision"] == torchvision.__version__
    assert set(recorded.versions) == {"torch", "torchvision", "numpy", "python", "ms2torch_roi"}


def test_boxes_of_images_and_levels_are_recorded(tmp_path):
    boxes = [torch.tensor([[0.0, 0.0, 60.0, 60.0], [10.0, 10.0, 500.0, 400.0]]), torch.tensor([[1.0, 2.0, 30.0, 40.0]])]
    levels = {"fine": torch.randn(2, 3, 128, 160), "coarse": torch.randn(2, 3, 64, 80)}
    pooler = torchvision.ops.MultiScaleRoIAlign(["fine", "coarse"], 7, 2, canonical_scale=160)
    with record(tmp_path) as recording:
        output = pooler(levels, boxes, [(512, 640)] * 2)
        single = roi_align(levels["fine"], boxes, 7)
    fine, coarse, last = read(recording)
    assert_same_bits(fine.case.features, levels["fine"].numpy())
    assert_same_bits(coarse.case.features, levels["coarse"].numpy())
    assert (fine.case.spatial_scale, coarse.case.spatial_scale) == (0.25, 0.125)
    recorded = [row.tobytes() for call in (fine, coarse) for row in call.output]
    assert sorted(recorded) == sorted(row.tobytes() for row in output.numpy())
    assert last.case.rois.tolist() == [[0, 0, 0, 60, 60], [0, 10, 10, 500, 400], [1, 1, 2, 30, 40]]
    assert_same_bits(last.output, single.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_tensors_of_any_layout_and_dtype_are_recorded(tmp_path, dtype):
    features = FEATURES.to(dtype).contiguous(memory_format=torch.channels_last)[:, :, ::2]
    with record(tmp_path) as recording:
        output = pool(features, ROIS.to(dtype), ratio=0)
    (call,) = read(recording)
    assert_same_bits(call.case.features, features.numpy())
    assert_same_bits(call.output, output.numpy())


@pytest.mark.needs_mindspore
def test_calls_of_mindspore_are_recorded(tmp_path, ms):
    features, rois = ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS)
    before = ms.ops.ROIAlign(5, 4, 0.25, 3, 0)

    class Head(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.pool = before

        def construct(self, features, rois):
            return self.pool(features, rois)

    head = Head()
    with record(tmp_path) as recording:
        outputs = [head(features, rois), ms.ops.ROIAlign(6, 4, 0.25)(features.astype(ms.float16), rois)]
    first, second = read(recording)
    arguments = {"pooled_height": 5, "pooled_width": 4, "spatial_scale": 0.25, "sample_num": 3, "roi_end_mode": 0}
    assert first.case.arguments == arguments
    assert second.case.arguments == {**arguments, "pooled_height": 6, "sample_num": 2, "roi_end_mode": 1}
    assert_same_bits(first.case.features, MS_FEATURES)
    assert_same_bits(second.case.features, MS_FEATURES.astype(np.float16))
    for call, output in zip((first, second), outputs, strict=True):
        assert call.case.operator == "ROIAlign"
        assert_same_bits(call.case.rois, MS_ROIS)
        assert_same_bits(call.output, output.asnumpy())
        assert call.versions["mindspore"] == ms.__version__
        assert set(call.versions) == {"mindspore", "numpy", "python", "ms2torch_roi"}
        assert call.device == "CPU"


@pytest.mark.needs_mindspore
def test_rows_that_mindspore_never_writes_are_0_in_the_file(tmp_path, ms):
    rois = ms.Tensor(np.concatenate((MS_ROIS, np.zeros((2, 5), np.float32))))
    operator = ms.ops.ROIAlign(5, 2, 0.25)
    garbage = []

    def loss(features):
        output = operator(features, rois)
        garbage.append(output.asnumpy().copy())
        return (output * 3).sum()

    with record(tmp_path, gradients=True) as recording:
        ms.grad(loss)(ms.Tensor(MS_FEATURES))
    (call,) = read(recording)
    assert not call.output[2:].any()
    assert not call.output_gradient[2:].any()
    assert_same_bits(call.output[:2], garbage[0][:2])
    assert (call.output_gradient[:2] == 3).all()


def test_numpy_alone_reads_a_file_without_pickle(tmp_path):
    with record(tmp_path) as recording:
        pool()
    with np.load(recording.paths[0], allow_pickle=False) as file:
        assert set(file.files) == {"call", "features", "rois", "output"}
        assert json.loads(str(file["call"]))["operator"] == "torchvision.ops.roi_align"


# Nothing about the model is changed.


def train(dtype=torch.float32):
    """Train a model for a step, with features that are used twice and changed in place; return all that came of it."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 4, 3, padding=1)
    images, rois = torch.randn(2, 3, 16, 20, requires_grad=True), ROIS.clone().requires_grad_()
    features = convolution(images).to(dtype)
    output = pool(features, rois.to(dtype))
    output.register_hook(lambda gradient: gradient * 1.5)
    facts = (output.dtype, output.requires_grad, output.is_contiguous(), output._is_view())
    output.mul_(1.25)
    loss = (output * output).sum() + pool(features * 0.5, rois.to(dtype)).sum() + (features * features).sum()
    loss.backward()
    tensors = [output, loss, images.grad, convolution.weight.grad, convolution.bias.grad]
    return [np.atleast_1d(tensor.detach().float().numpy()) for tensor in tensors], facts, rois.grad is None


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("context", [contextlib.nullcontext, torch.no_grad, lambda: torch.autocast("cpu")])
def test_recording_changes_no_bit_of_a_torch_model(tmp_path, gradients, context):
    def run():
        if context is torch.no_grad:
            with context():
                output = pool(FEATURES.clone().requires_grad_())
                return [output.numpy()], (output.dtype, output.requires_grad), True
        with context():
            return train()

    expected, *expected_facts = run()
    with record(tmp_path, gradients=gradients) as recording:
        actual, *facts = run()
    assert facts == expected_facts
    for left, right in zip(actual, expected, strict=True):
        assert_same_bits(left, right)
    assert all(
        (call.features_gradient is None) == (not gradients or context is torch.no_grad) for call in read(recording)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_autocast_computes_in_float32_is_recorded_in_float32(tmp_path, dtype):
    features = FEATURES.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = pool(features)
        with record(tmp_path, gradients=True) as recording:
            output = pool(features)
    output.float().sum().backward()
    (call,) = read(recording)
    assert recording.calls == 1
    assert output.dtype == dtype
    assert torch.equal(output, expected)
    assert_same_bits(call.case.features, features.detach().float().numpy())
    assert_same_bits(call.output, operators.torchvision(call.case))
    assert torch.equal(torch.from_numpy(call.output).to(dtype), output)
    assert call.features_gradient.dtype == np.float32
    assert torch.equal(torch.from_numpy(call.features_gradient).to(dtype), features.grad)


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("gradients", [False, True])
def test_recording_changes_no_bit_of_a_mindspore_model(tmp_path, ms, gradients):
    operator, rois = ms.ops.ROIAlign(4, 4, 0.25), ms.Tensor(MS_ROIS)
    weight = ms.Parameter(ms.Tensor(np.float32(2)), name="weight")

    def model(features):
        scaled = features * weight
        output = operator(scaled, rois)
        output.register_hook(lambda gradient: gradient * 4)
        output.mul_(ms.Tensor(2.0))
        return (output * 3).sum() + (output * 5).sum() + (scaled * 2).sum(), output

    def run():
        differentiate = ms.value_and_grad(model, 0, [weight], has_aux=True)
        (loss, output), (of_features, of_weights) = differentiate(ms.Tensor(MS_FEATURES))
        return [np.atleast_1d(tensor.asnumpy()) for tensor in (loss, output, of_features, of_weights[0])]

    expected = run()
    with record(tmp_path, gradients=gradients) as recording:
        actual = run()
    for left, right in zip(actual, expected, strict=True):
        assert_same_bits(left, right)
    (call,) = read(recording)
    assert (call.features_gradient is not None) == gradients
    if gradients:  # with what the model's own hook makes of it
        alone = ms.grad(lambda features: (operator(features, rois) * ms.Tensor(call.output_gradient)).sum())
        assert_same_bits(call.features_gradient, alone(ms.Tensor(call.case.features)).asnumpy())


def test_nothing_is_left_behind(tmp_path):
    original = OPERATOR._op
    code = hash(OPERATOR)
    with record(tmp_path / "outer"):
        with contextlib.suppress(KeyError), record(tmp_path / "inner"):
            pool()
            assert OPERATOR._op is not original
            assert hash(OPERATOR) == code
            raise KeyError
        assert OPERATOR._op is not original
    assert OPERATOR._op is original
    assert len(list((tmp_path / "outer").iterdir())) == len(list((tmp_path / "inner").iterdir())) == 1


@pytest.mark.needs_mindspore
def test_nothing_is_left_behind_in_mindspore(tmp_path, ms):
    with record(tmp_path):
        ms.ops.ROIAlign(4, 4, 0.25)(ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS))
        assert "__call__" in vars(ms.ops.ROIAlign)
    assert "__call__" not in vars(ms.ops.ROIAlign)


def test_recordings_may_overlap_in_any_order(tmp_path):
    original = OPERATOR._op
    first, second = record(tmp_path), record(tmp_path)  # in one directory
    recording = first.__enter__()
    pool()
    other = second.__enter__()
    pool()
    first.__exit__(None, None, None)
    pool()
    second.__exit__(None, None, None)
    assert OPERATOR._op is original
    assert (recording.calls, other.calls) == (2, 2)
    assert sorted(recording.paths + other.paths) == sorted(tmp_path.iterdir())
    assert len({*recording.paths, *other.paths}) == 4


# Gradients.


def gradient(case, output_gradient):
    features = torch.from_numpy(case.features).requires_grad_()
    output = roi_align(features, torch.from_numpy(case.rois), **case.arguments)
    return torch.autograd.grad(output, features, torch.from_numpy(output_gradient))[0].numpy()


def test_the_gradient_of_each_call_alone_is_recorded(tmp_path):
    features = FEATURES.clone().requires_grad_()
    weights = torch.randn(3, 3, 3, 2)
    with record(tmp_path, gradients=True) as recording:
        output, other = pool(features), pool(features, ratio=0)
        assert all(call.features_gradient is None for call in read(recording))
    output.register_hook(lambda gradient: 2 * gradient)
    # After the block; features and output are used more than once.
    ((output * weights).sum() + output.sum() + 5 * other.sum() + (features * features).sum()).backward()
    first, second = read(recording)
    assert_same_bits(first.output_gradient, 2 * (weights + 1).numpy())
    assert (second.output_gradient == 5).all()
    for call in (first, second):
        assert_same_bits(call.features_gradient, gradient(call.case, call.output_gradient))
    assert_same_bits(first.output, output.detach().numpy())


@pytest.mark.needs_mindspore
def test_the_gradient_of_each_call_alone_is_recorded_in_mindspore(tmp_path, ms):
    operator, rois = ms.ops.ROIAlign(4, 4, 0.25), ms.Tensor(MS_ROIS)
    weights = ms.Tensor(RNG.integers(-3, 4, (2, 3, 4, 4)).astype(np.float32))

    def model(features):
        output = operator(features, rois)
        return (output * weights).sum() + output.sum() + 5 * operator(features, rois).sum() + (features * 2).sum()

    with record(tmp_path, gradients=True) as recording:
        of_features = ms.grad(model)(ms.Tensor(MS_FEATURES)).asnumpy()
        operator(ms.Tensor(MS_FEATURES), rois)  # in no backward pass
        ms.grad(lambda features: (operator(ms.ops.stop_gradient(features), rois) * features[0, 0, 0, 0]).sum())(
            ms.Tensor(MS_FEATURES)
        )
    first, second, *others = read(recording)
    assert_same_bits(first.output_gradient, weights.asnumpy() + 1)
    assert (second.output_gradient == 5).all()
    for call in (first, second):
        alone = ms.grad(lambda features, call=call: (operator(features, rois) * ms.Tensor(call.output_gradient)).sum())
        assert_same_bits(call.features_gradient, alone(ms.Tensor(MS_FEATURES)).asnumpy())
    assert_same_bits(first.features_gradient + second.features_gradient + 2, of_features)
    assert [call.features_gradient for call in others] == [None, None]


def test_a_gradient_that_cannot_be_added_says_to_what(tmp_path):
    features = FEATURES.clone().requires_grad_()
    with record(tmp_path, gradients=True) as recording:
        output = pool(features)
    recording.paths[0].unlink()
    with pytest.raises(OSError, match=r"-000001\.npz"):
        output.sum().backward()


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
    partial = list(tmp_path.glob("*" + calls.PARTIAL_SUFFIX))
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
    assert [process for _, process in values] == processes
    assert list(values.values()) == [[0, 4], [1, 1], [2, 2], [3, 3]]
    assert len({start for start, _ in values}) == 4  # process numbers are used again
    assert seen == 2


def test_a_call_that_cannot_be_written_names_the_file(tmp_path):
    directory = tmp_path / "gone"
    with record(directory) as recording:
        directory.rmdir()
        with pytest.raises(OSError, match=r"a call could not be recorded: No such file .*gone/.*-000001\.npz"):
            pool()
    assert recording.paths == []


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


# Errors, and what cannot be recorded.


def test_an_error_is_recorded_and_raised(tmp_path):
    with record(tmp_path) as recording, pytest.raises(RuntimeError) as caught:
        pool(FEATURES.int(), ROIS.int())
    (call,) = read(recording)
    assert call.case.raises is RuntimeError
    assert str(call.result) == str(caught.value)
    assert call.output is None


@pytest.mark.needs_mindspore
def test_an_error_is_recorded_and_raised_in_mindspore(tmp_path, ms):
    features = ms.Tensor(MS_FEATURES)
    with record(tmp_path) as recording:
        with pytest.raises(RuntimeError, match="image_index 7 must be a number in"):
            ms.ops.ROIAlign(4, 4, 0.25)(features, ms.Tensor([[7, 1.0, 1, 9, 9]]))
        with pytest.raises(TypeError):
            ms.ops.ROIAlign(4, 4, 0.25)(features.astype(ms.int32), ms.Tensor(MS_ROIS))
    late, early = read(recording)
    assert late.case.raises is RuntimeError
    assert "image_index 7" in str(late.result)
    assert early.case.raises is TypeError
    assert early.case.features.dtype == np.int32


@pytest.mark.needs_mindspore
def test_an_earlier_error_is_not_taken_for_the_call_s(tmp_path, ms):
    operator = ms.ops.ROIAlign(4, 4, 0.25)
    with record(tmp_path / "empty", every=2) as recording:
        operator(ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS))
        left_to_raise = operator(ms.Tensor(MS_FEATURES), ms.Tensor([[7, 1.0, 1, 9, 9]]))  # not recorded, so not read
        with pytest.raises(RuntimeError, match="image_index 7"):
            operator(ms.Tensor(MS_FEATURES) + 1, ms.Tensor(MS_ROIS))
    assert [call.case.raises for call in read(recording)] == [None]
    del left_to_raise


def test_tensors_that_cannot_be_recorded_pass_and_are_mentioned_once(tmp_path):
    features = FEATURES.to("meta")
    with warnings.catch_warnings(record=True) as caught, record(tmp_path) as recording:
        warnings.simplefilter("always")
        for _ in range(2):
            assert pool(features, ROIS.to("meta")).shape == (3, 3, 3, 2)
            with pytest.raises(RuntimeError, match="BFloat16"):
                pool(FEATURES.bfloat16(), ROIS.bfloat16())
            with pytest.raises(RuntimeError):
                OPERATOR(FEATURES, ROIS)
    assert [str(warning.message) for warning in caught] == [
        "ms2torch_roi.record: a call was not recorded: a tensor is torch.float32, torch.strided, on meta",
        "ms2torch_roi.record: a call was not recorded: a tensor is torch.bfloat16, torch.strided, on cpu",
        "ms2torch_roi.record: a call was not recorded: torchvision's operator takes input, rois, spatial_scale,"
        " pooled_height, pooled_width, sampling_ratio, aligned, and got others",
    ]
    assert (recording.calls, read(recording)) == (6, [])


@pytest.mark.needs_mindspore
def test_tensors_that_cannot_be_recorded_pass_in_mindspore(tmp_path, ms):
    operator = ms.ops.ROIAlign(4, 4, 0.25)
    features, rois = (ms.Tensor(array).astype(ms.bfloat16) for array in (MS_FEATURES, MS_ROIS))
    with record(tmp_path) as recording:
        with pytest.warns(UserWarning, match="not recorded: a tensor is BFloat16"), pytest.raises(TypeError):
            operator(features, rois)
        with pytest.warns(UserWarning, match=r"takes two tensors, got \(ndarray, Tensor\)"), pytest.raises(TypeError):
            operator(MS_FEATURES, rois)
    assert (recording.calls, read(recording)) == (2, [])


# What Python does not call.


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_models_are_compiled_as_ever_while_recording(tmp_path):
    compiled_before = torch.compile(MADE_BEFORE, backend="aot_eager", fullgraph=True)
    expected = compiled_before(FEATURES, ROIS)
    with record(tmp_path) as recording:
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert torch.equal(compiled_before(FEATURES, ROIS), expected)
        compiled = torch.compile(torchvision.ops.RoIAlign((3, 2), 0.25, 2), backend="aot_eager", fullgraph=True)
        compiled(FEATURES, ROIS)
        exported = torch.export.export(MADE_BEFORE, (FEATURES, ROIS))
        scripted = torch.jit.script(MADE_BEFORE)
        scripted(FEATURES, ROIS)
        traced = torch.jit.trace(MADE_BEFORE, (FEATURES, ROIS), check_trace=False)
        assert recording.calls == 0
        pool()
    assert len(read(recording)) == 1
    for save, model in ((torch.export.save, exported), (torch.jit.save, scripted), (torch.jit.save, traced)):
        save(model, io.BytesIO())
    for model in (compiled, exported.module(), scripted, traced):
        model(FEATURES, ROIS)
    assert torch.equal(scripted(FEATURES, ROIS), expected)


def test_a_block_that_records_nothing_says_why_it_may_be(tmp_path):
    message = r"nothing was recorded in .*torchvision\.ops\.roi_align.*torch\.compile"
    with pytest.warns(UserWarning, match=message), record(tmp_path):
        pass
    with warnings.catch_warnings(), contextlib.suppress(KeyError), record(tmp_path):
        warnings.simplefilter("error")
        raise KeyError


@pytest.mark.needs_mindspore
def test_graph_mode_is_refused(tmp_path, ms):
    message = r"MindSpore is in graph mode.*mode=mindspore\.PYNATIVE_MODE.*mindspore\.jit"
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        with pytest.raises(RuntimeError, match=message), record(tmp_path / "none"):
            pass
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    assert not (tmp_path / "none").exists()


@pytest.mark.needs_mindspore
def test_jit_runs_as_ever_and_is_not_recorded(tmp_path, ms):
    operator = ms.ops.ROIAlign(4, 4, 0.25)

    @ms.jit
    def pool(features, rois):
        return operator(features, rois)

    features, rois = ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with record(tmp_path) as recording:
            output = pool(features, rois)
    assert any("nothing was recorded" in str(warning.message) for warning in caught)
    assert_same_bits(output.asnumpy(), operator(features, rois).asnumpy())
    assert recording.calls == 0


# Whatever is installed.


def test_mindspore_is_not_imported_for_a_user_of_torch(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "mindspore", raising=False)
    with record(tmp_path) as recording:
        pool()
    assert "mindspore" not in sys.modules
    assert len(read(recording)) == 1


@pytest.mark.needs_mindspore
def test_torch_is_not_imported_for_a_user_of_mindspore(tmp_path, monkeypatch, ms):
    for name in ("torch", "torchvision"):
        monkeypatch.delitem(sys.modules, name)
    with record(tmp_path) as recording:
        ms.ops.ROIAlign(4, 4, 0.25)(ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS))
    assert not {"torch", "torchvision"} & set(sys.modules)
    assert len(read(recording)) == 1


def test_torch_is_recorded_without_mindspore(tmp_path):
    code = """
from ms2torch_roi.parity.recording import record
with record(sys.argv[1]) as recording:
    import torch, torchvision
    torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0, 1.0, 1, 5, 5]]), 2)
assert recording.calls == len(recording.paths) == 1
"""
    result = run_python(without("mindspore") + code, str(tmp_path))
    assert result.returncode == 0, result.stderr


@pytest.mark.needs_mindspore
def test_mindspore_is_recorded_without_torch_but_not_what_it_traces(tmp_path):
    code = """
from ms2torch_roi.parity.recording import record
with record(sys.argv[1]) as recording:
    import mindspore as ms
    operator, features, rois = ms.ops.ROIAlign(2, 2, 1.0), ms.ops.ones((1, 1, 8, 8)), ms.Tensor([[0, 1.0, 1, 5, 5]])
    def pool(features, rois):
        return operator(features, rois)
    traced = ms.jit(pool, capture_mode="trace")
    assert [float(traced(features, rois).sum()) for _ in range(2)] == [4, 4]
    assert recording.calls == 0
    pool(features, rois)
assert recording.calls == len(recording.paths) == 1
"""
    script = tmp_path / "script.py"  # MindSpore traces no code that is not in a file
    script.write_text(without("torch") + without("torchvision") + code)
    result = subprocess.run([sys.executable, script, tmp_path / "calls"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_without_any_framework_both_extras_are_named(tmp_path):
    code = "from ms2torch_roi.parity.recording import record\nwith record(sys.argv[1]): pass"
    result = run_python(without("mindspore") + without("torchvision") + code, str(tmp_path / "none"))
    assert "ImportError: record: neither torchvision nor MindSpore can be imported." in result.stderr
    assert "pip install 'ms2torch-roi[torch]' or pip install 'ms2torch-roi[mindspore]'" in result.stderr
    assert not (tmp_path / "none").exists()
