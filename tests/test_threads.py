"""Large calls, on as many threads as torch has: the same bits, and nothing that a caller could notice."""

import functools
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_same_bits, run_python
from torchvision.ops import roi_align

from ms2torch_roi import ROIAlign, compiled

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")
RNG = np.random.default_rng(0)
FEATURES = torch.from_numpy(RNG.standard_normal((3, 70, 40, 50)).astype(np.float32))


def random_rois(count, smallest=4):
    corners = RNG.uniform(-20, (220, 180), (count, 2))
    rois = np.concatenate(
        (RNG.integers(0, 3, (count, 1)), corners, corners + RNG.uniform(smallest, 150, (count, 2))), 1
    )
    return torch.from_numpy(rois.astype(np.float32))


ROIS = random_rois(1200)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def callers(monkeypatch):
    """The threads that did the tasks of the engine, for each task."""
    found = []

    def run(tasks, threads):
        def noted(task):
            found.append(threading.get_ident())
            task()

        real([functools.partial(noted, task) for task in tasks], threads)

    real = compiled.run
    monkeypatch.setattr(compiled, "run", run)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_threads_have_the_bits_of_one_torchvision_call(threads, callers, dtype):
    features, rois = FEATURES.to(dtype), ROIS.to(dtype)
    output = ROIAlign(7, 7, 0.25, 2, 0)(features, rois)
    assert_same_bits(output.numpy(), roi_align(features, rois, 7, 0.25, 2).numpy())
    assert len(callers) == 3 * 5  # an image and 16 channels each
    assert len(set(callers)) <= threads
    assert threading.get_ident() in callers
    if threads > 1:
        assert len(set(callers)) > 1


def test_every_kind_of_row_finds_its_place(threads):
    rois = random_rois(1200, smallest=0.1)
    rois[5:1200:7, 3:] = rois[5:1200:7, 1:3] + 0.3  # below one cell: a second call, or no call at all
    rois[3:1200:11, 1:] = 0
    rois[4:1200:13, 3] = torch.nan
    op = ROIAlign(7, 7, 0.25, 2, 1)
    # Few rows are pooled by torchvision, where it can.
    expected = torch.cat([op(FEATURES, part) for part in rois.split(10)])
    assert_same_bits(op(FEATURES, rois).numpy(), expected.numpy())
    assert not expected[3::11].any()
    assert expected[5::7].any()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("sample_num", [0, 1])
def test_adaptive_grids_and_single_samples(sample_num):
    rois, op = ROIS[:600], ROIAlign(12, 11, 0.25, sample_num, 0)
    expected = torch.cat([op(FEATURES, part) for part in rois.split(2)])
    assert_same_bits(op(FEATURES, rois).numpy(), expected.numpy())


@pytest.mark.parametrize("pooled", [(1, 1), (200, 200), (2, 90)])
def test_any_number_of_bins(pooled):
    rois = random_rois(max(100, 20000 // (pooled[0] * pooled[1])))
    output = ROIAlign(*pooled, 0.25, 1, 0)(FEATURES, rois)
    assert_same_bits(output.numpy(), roi_align(FEATURES, rois, pooled, 0.25, 1).numpy())


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("channels", [1, 3, 4, 15, 17, 70])
def test_any_number_of_channels_with_their_gradient(channels):
    features = FEATURES[:, :channels].clone().requires_grad_()
    rois = random_rois(6000 if channels < 5 else 1500)
    expected = roi_align(features, rois, 7, 0.25, 2)
    of_output = torch.linspace(-1, 1, expected.numel()).reshape(expected.shape)
    (expected_gradient,) = torch.autograd.grad(expected, features, of_output)
    output = ROIAlign(7, 7, 0.25, 2, 0)(features, rois)
    (gradient,) = torch.autograd.grad(output, features, of_output)
    assert_same_bits(output.detach().numpy(), expected.detach().numpy())
    assert_same_bits(gradient.numpy(), expected_gradient.numpy())


@pytest.mark.parametrize(
    "features",
    [
        FEATURES.contiguous(memory_format=torch.channels_last),
        FEATURES.transpose(2, 3),
        FEATURES[:1].expand(3, -1, -1, -1),
        FEATURES[:, :33],
        torch._neg_view(FEATURES),
    ],
    ids=["channels_last", "transposed", "expanded", "some channels", "negated"],
)
def test_features_in_any_memory(features):
    rois = torch.cat((ROIS, ROIS))
    output = ROIAlign(7, 7, 0.25, 2, 0)(features, rois)
    assert_same_bits(output.numpy(), roi_align(features, rois, 7, 0.25, 2).numpy())
    assert output.is_contiguous()


def test_more_images_than_rois_of_an_image():
    features = torch.from_numpy(RNG.standard_normal((300, 64, 5, 6)).astype(np.float32))
    rois = torch.rand(600, 5) * torch.tensor([299, 20, 20, 20, 20])
    rois[:, 0].round_()
    rois[:, 3:] += rois[:, 1:3] + 4
    output = ROIAlign(7, 7, 0.25, 2, 0)(features, rois)
    assert_same_bits(output.numpy(), roi_align(features, rois, 7, 0.25, 2).numpy())


def test_a_small_call_starts_no_thread(callers):
    ROIAlign(7, 7, 0.25)(FEATURES, ROIS[:8])
    assert callers == []


@pytest.mark.usefixtures("threads")
def test_modes_of_the_caller_hold_in_the_threads():
    op, expected = ROIAlign(7, 7, 0.25), ROIAlign(7, 7, 0.25)(FEATURES, ROIS)
    features = FEATURES.clone().requires_grad_()
    with_gradient = op(features, ROIS)
    assert with_gradient.requires_grad
    with torch.no_grad():
        without_gradient = op(features, ROIS)
    assert not without_gradient.requires_grad
    with torch.inference_mode():
        inference = op(FEATURES.clone(), ROIS)
        assert inference.is_inference()
        assert_same_bits(inference.numpy(), expected.numpy())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = op(FEATURES, ROIS)
        half = op(FEATURES.half(), ROIS.half())
    for output in (with_gradient.detach(), without_gradient, autocast):
        assert_same_bits(output.numpy(), expected.numpy())
    assert_same_bits(half.numpy(), op(FEATURES.half(), ROIS.half()).numpy())
    with_gradient.sum().backward()
    assert features.grad.any()


def test_two_callers_at_once():
    op = ROIAlign(7, 7, 0.25)
    expected = [op(FEATURES, rois) for rois in (ROIS, ROIS.flip(0))]
    outputs = {}

    def call(number, rois):
        outputs[number] = [op(FEATURES, rois) for _ in range(4)]

    callers = [threading.Thread(target=call, args=pair) for pair in enumerate((ROIS, ROIS.flip(0)))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for number in range(2):
        for output in outputs[number]:
            assert_same_bits(output.numpy(), expected[number].numpy())


def test_no_thread_outlives_the_call():
    before = threading.active_count()
    ROIAlign(7, 7, 0.25)(FEATURES, ROIS)
    assert threading.active_count() == before


@pytest.mark.parametrize("failing", ["main", "other"])
def test_an_error_in_any_thread_ends_the_call(monkeypatch, failing):
    calls = []

    def fail():
        calls.append(None)
        if (threading.current_thread() is threading.main_thread()) == (failing == "main"):
            raise MemoryError(failing)
        threading.Event().wait(0.01)

    real, before = compiled.run, torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(compiled, "run", lambda tasks, threads: real([fail] * 1000, threads))
    try:
        with pytest.raises(MemoryError, match=failing):
            ROIAlign(7, 7, 0.25, 2, 0)(FEATURES, ROIS)
    finally:
        torch.set_num_threads(before)
    if failing == "main":
        assert len(calls) < 10  # the others stop as well


FORKED = """
import sys
import torch
from torch.utils.data import DataLoader, Dataset
from ms2torch_roi import ROIAlign

torch.manual_seed(0)
features = torch.randn(2, 64, 40, 50)
rois = torch.rand(900, 5) * torch.tensor([1, 100, 80, 100, 80])
rois[:, 0].round_()
rois[:, 3:] += rois[:, 1:3]
op = ROIAlign(7, 7, 0.25)
expected = op(features, rois)


class Pooled(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, item):
        torch.set_num_threads(1 + item % 3)  # a worker starts with one
        return op(features, rois)


for batch in DataLoader(Pooled(), batch_size=None, num_workers=2, multiprocessing_context="fork"):
    assert torch.equal(batch, expected)
print("same")
"""


def test_workers_that_are_forked_after_a_call():
    done = run_python(FORKED)
    assert done.stdout.strip() == "same", done.stderr


# How a call comes to be made after the main thread has ended: code that calls ``pool``.
SHUTDOWNS = {
    "atexit": "import atexit\natexit.register(pool)",
    "a thread that outlives the main one": (
        "import threading\n"
        "def later():\n    threading.main_thread().join()\n    pool()\n"
        "threading.Thread(target=later).start()"
    ),
    "tasks left in an executor": (
        "import concurrent.futures, time\n"
        "executor = concurrent.futures.ThreadPoolExecutor(1)\n"
        "executor.submit(time.sleep, 1)\n"
        "executor.submit(pool).add_done_callback(lambda done: done.result())"
    ),
}

POOL = """
import torch
from ms2torch_roi import ROIAlign

torch.manual_seed(0)
torch.set_num_threads(2)
features = torch.randn(2, 64, 40, 50)
rois = torch.rand(900, 5) * torch.tensor([1, 100, 80, 100, 80])
rois[:, 0].round_()
rois[:, 3:] += rois[:, 1:3]
op = ROIAlign(7, 7, 0.25)
expected = op(features, rois)


def pool():
    leaf = features.clone().requires_grad_()
    output = op(leaf, rois)
    output.sum().backward()
    print(torch.equal(output, expected), bool(leaf.grad.any()))


"""


@pytest.mark.parametrize("shutdown", SHUTDOWNS.values(), ids=SHUTDOWNS)
def test_calls_while_the_interpreter_shuts_down(shutdown):
    done = run_python(POOL + shutdown, timeout=100)
    assert done.stdout.strip() == "True True", done.stderr
    assert not done.stderr


def test_a_call_where_no_thread_can_be_started(monkeypatch, callers):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    expected = ROIAlign(7, 7, 0.25)(FEATURES, ROIS)
    callers.clear()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert_same_bits(ROIAlign(7, 7, 0.25)(FEATURES, ROIS).numpy(), expected.numpy())
    assert set(callers) == {threading.get_ident()}


MEMORY = """
import torch
from memory import extra_memory
from ms2torch_roi import ROIAlign

torch.set_num_threads(2)
features = torch.randn(1, 256, 50, 76)
rois = torch.rand(1000, 5) * torch.tensor([0, 600, 400, 0, 0])
rois[:, 3:] = rois[:, 1:3] + 16 + 300 * torch.rand(1000, 2)
print(extra_memory(lambda: [ROIAlign(7, 7, 1 / 16, 2, 0)(features, rois).numpy()]))
"""


def test_a_large_call_takes_five_percent_of_the_memory_of_the_output():
    done = run_python(f"import sys\nsys.path.insert(0, {BENCHMARKS!r})\n{MEMORY}")
    assert done.returncode == 0, done.stderr
    if done.stdout.strip() == "None":
        pytest.skip("only Linux tells the peak of memory")
    assert float(done.stdout) < 0.05 + 0.02  # as exactly as it can be measured
