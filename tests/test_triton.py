"""The engine of a GPU has the bits of the definition, whatever the rule: on a GPU, or else in Triton's interpreter.

The interpreter is chosen when triton is imported, so the tests run in a process of their own there, which
``test_in_the_interpreter`` starts.
"""

import dataclasses
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import assert_same_bits

from ms2torch_roi import rules, sampling

pytest.importorskip("triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
on_both = pytest.mark.skipif(DEVICE == "cpu" and not INTERPRETED, reason="test_in_the_interpreter runs it")
on_a_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="torch finds no CUDA GPU")

from ms2torch_roi.torch import cuda  # noqa: E402 (it takes triton)


@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the tests run as they are")
@pytest.mark.parametrize("half", ["pool", "gradient"])
def test_in_the_interpreter(half):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", half]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert result.returncode == 0, result.stdout[-5000:]
    assert " passed" in result.stdout


@pytest.fixture(autouse=True, scope="module")
def _fast_interpreter():
    """Spare the interpreter to patch the language at each call of a function, and to check integers for overflow."""
    if not INTERPRETED:
        yield
        return
    from triton.runtime import interpreter

    patched = {cuda.__name__}  # which is, while a kernel runs

    def call(function, *arguments, **keywords):
        if function.fn.__module__ not in patched:
            interpreter._patch_lang(function.fn)
            patched.add(function.fn.__module__)
        return function.rewrite()(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        set_interpreter_option("sanitize_overflow", False)
        yield


def set_interpreter_option(name, value):
    from triton.runtime import interpreter

    object.__setattr__(interpreter.interpreter_builder.options, name, value)


def all_rules(count):
    """Return the rules of the two libraries, and so many others, of which each field has each of its values."""
    fields = {
        "start": [0, 1],
        "end": [0, 1],
        "scales_end_apart": [True, False],
        "moved": [(), (0.5,), (0.3, 0.1)],
        "smallest": [None, 1, 0],
        "enlarges_nan": [True, False],
        "index": ["round", "trunc", "ceil", "floor"],
        "grid": ["floor", "ceil"],
        "smallest_count": [None, 1, 3],
        "border": ["[-1, n]", "[-1, n)", "(-1, n)", "[0, n)"],
        "rounds_lengths": [True, False],
        "outside_adds_0": [True, False],
        "refuses_negative_grids": [True, False],
        "skips": ["near 0", "not finite", None],
    }
    rng = random.Random(0)
    columns = {name: rng.sample((values * count)[:count], count) for name, values in fields.items()}
    others = [rules.Rule(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
    return [*dict.fromkeys(rules.NAMED.values()), *rules.TORCHVISION, *others]


RULES = all_rules(12)
DTYPES = [np.float32, np.float16, np.float32, np.float16, np.float64]
SAMPLE_NUMS = [2, 0, 1, 0, 3, 5, 4]


def some_rois(rng, images, size, scale):
    """Return boxes of any size and place, in image pixels, and one of each kind that is special."""
    height, width = size
    ends = np.array([width, height]) / scale
    start = rng.uniform(-0.3, 1.1, (4, 2)) * ends
    end = start + rng.uniform(-0.4, 1, (4, 2)) * ends * [[0.03], [0.3], [1], [1]]
    cells = np.round(start[:1] * scale) / scale
    corners = [
        *np.hstack((start, end)),
        [-3000 / scale, -5000 / scale, 4000 / scale, 2000 / scale],
        [*ends, -1 / scale, 0],  # inverted along both axes, from border to border
        [-1 / scale, -1 / scale, *ends],
        [*cells[0], *(cells[0] + 2 / scale)],
        [0.0005, 1, -0.0005, 2],
        [np.nan, 1, 2, 3],
        [1, 2, 3, np.inf],
        [1, 2, np.nan, 4],
        [-np.inf, 0, np.inf, 4],
        [0, 0, 1e-41, 1e-41],
    ]
    index = rng.integers(0, images, (len(corners), 1)) + rng.choice([0, 0.2, 0.49995, 0.7], (len(corners), 1))
    index[2:4] = 0.49993  # half of an image, in float32, once 7e-5 is added
    return np.hstack((index.clip(0, images - 1), corners))


class Call:
    """A call of random arguments, the same ones for a number; ``rows`` of its rois."""

    def __init__(self, number, channels, rows=slice(None), sample_num=None):
        rng = np.random.default_rng(number)
        self.rule, self.dtype = RULES[number % len(RULES)], DTYPES[number % len(DTYPES)]
        self.sample_num = SAMPLE_NUMS[number % len(SAMPLE_NUMS)] if sample_num is None else sample_num
        self.pooled = tuple(rng.integers(1, 5, 2).tolist())
        self.scale = float(rng.choice([1, 0.25, 0.0613]))
        self.shape = (int(rng.integers(1, 4)), channels, *rng.integers(1, 14, 2).tolist())
        self.features = rng.standard_normal(self.shape).astype(self.dtype)
        if number % 3 == 0:
            self.features[0, 0, 0, 0] = np.inf
        with np.errstate(over="ignore"):
            rois = some_rois(rng, self.shape[0], self.shape[2:], self.scale).astype(self.dtype)
        self.rois = rois[rows]
        self.of_output = rng.standard_normal((len(self.rois), channels, *self.pooled)).astype(self.dtype)
        if number % 4 == 0:
            self.of_output[0, 0, 0, 0] = np.nan
        self.layout = number % 3

    def placed(self):
        with np.errstate(all="ignore"):
            return rules.place(self.rule, self.rois, self.scale, self.pooled, self.sample_num, self.shape[2:])

    def expected(self):
        with np.errstate(all="ignore"):
            return sampling.pool(self.features, self.placed(), self.pooled)

    def expected_gradient(self):
        with np.errstate(all="ignore"):
            return sampling.gradient(self.of_output, self.placed(), self.shape)

    def pool(self):
        arguments = self.rule, self.pooled, self.scale, self.sample_num
        return cuda.pool(self.tensor(self.features), self.tensor(self.rois), *arguments).cpu().numpy()

    def gradient(self):
        arguments = self.rule, self.shape, self.scale, self.sample_num
        return cuda.gradient(self.tensor(self.of_output), self.tensor(self.rois), *arguments).cpu().numpy()

    def tensor(self, array):
        """Return the array on the device: contiguous, channels_last, or of other strides."""
        tensor = torch.from_numpy(array).to(DEVICE)
        if self.layout == 1 and array.ndim == 4:
            return tensor.to(memory_format=torch.channels_last)
        return torch.stack((tensor, tensor), -1)[..., 0] if self.layout == 2 else tensor


@pytest.fixture
def large_blocks(monkeypatch):
    """Let few programs do much, which the interpreter is faster with."""
    if INTERPRETED:
        for name in ("pool", "pool channels_last", "pool channels_last, many bins", "add tiles"):
            monkeypatch.setitem(cuda.BLOCKS, name, cuda.Block(64, 64, 1))


@on_both
@pytest.mark.parametrize("number", range(18))
def test_pool_has_the_bits_of_the_definition(large_blocks, number):
    call = Call(number, channels=64)
    assert_same_bits(call.pool(), call.expected())


@on_both
@pytest.mark.parametrize("number", range(16))
def test_gradient_has_the_bits_of_the_definition(large_blocks, number):
    call = Call(number, channels=64)
    assert_same_bits(call.gradient(), call.expected_gradient())


@on_both
@pytest.mark.parametrize("channels", [1, 3, 37])
def test_pool_by_small_blocks(monkeypatch, channels):
    for name in ("pool", "pool channels_last", "pool channels_last, many bins"):
        monkeypatch.setitem(cuda.BLOCKS, name, cuda.Block(16, 4, 1))
    call = Call(channels, channels, rows=slice(6))
    assert_same_bits(call.pool(), call.expected())


@on_both
@pytest.mark.parametrize("channels", [1, 21])
@pytest.mark.parametrize("number", range(5))
def test_pool_in_rounds_of_channels(monkeypatch, number, channels):
    launches = []
    kernel = cuda._pool

    class Noted:
        def __getitem__(self, tasks):
            launches.append(tasks)
            return kernel[tasks]

    monkeypatch.setattr(cuda, "_pool", Noted())
    monkeypatch.setattr(cuda, "_ENOUGH_TASKS", 1)
    monkeypatch.setitem(cuda.BLOCKS, "pool, few samples", cuda.Block(2, 16, 1, 5))
    call = Call(number, channels, rows=slice(number, number + 2), sample_num=1 + number % 2)
    call.layout *= 2  # contiguous, or of other strides
    assert_same_bits(call.pool(), call.expected())
    assert launches == [(len(call.rois) * -(-channels // (min(2, channels) * 5)),)]


@on_both
@pytest.mark.parametrize("channels", [1, 3, 37])
@pytest.mark.parametrize("sample_num", [2, 0])
def test_gradient_by_small_blocks(monkeypatch, sample_num, channels):
    for name in ("transpose", "add terms", "add tiles"):
        monkeypatch.setitem(cuda.BLOCKS, name, cuda.Block(16, 16, 1))
    call = Call(channels + 3, channels, slice(3, 8), sample_num)
    assert_same_bits(call.gradient(), call.expected_gradient())


@on_both
@pytest.mark.parametrize("number", range(4))
def test_gradient_goes_on_from_one_part_of_the_rows_to_the_next(monkeypatch, number):
    call = Call(number, 5, sample_num=2)
    rows = []
    add_part = cuda._add_part

    def add_and_note(of_output, *arguments):
        rows.append(len(of_output))
        add_part(of_output, *arguments)

    monkeypatch.setattr(cuda, "_add_part", add_and_note)
    monkeypatch.setattr(cuda, "MEMORY_FOR_TERMS", 20_000)
    assert_same_bits(call.gradient(), call.expected_gradient())
    assert len(rows) > 1
    assert sum(rows) == len(call.rois)


@on_both
@pytest.mark.parametrize("width", [2**15 - 1, 2**15])
def test_gradient_of_as_many_cells_as_a_key_of_16_bits_counts_and_of_one_more(monkeypatch, width):
    monkeypatch.setitem(cuda.BLOCKS, "add terms", cuda.Block(1, 1024, 1))
    call = Call(0, 1, sample_num=2)
    call.rule, call.pooled, call.scale, call.shape = rules.TORCHVISION[0], (1, 2), 1.0, (1, 1, 1, width)
    # In the first cells, in the last ones, and outside: of a cell behind the last.
    call.rois = np.array([[0, 0, 0, 2, 1], [0, width - 2, 0, width, 1], [0, width + 9, 0, width + 19, 1]], call.dtype)
    call.of_output = np.arange(1, 7, dtype=call.dtype).reshape(3, 1, 1, 2)
    expected = call.expected_gradient()
    assert expected[..., :2].all()
    assert expected[..., -2:].all()
    assert_same_bits(call.gradient(), expected)


@on_both
@pytest.mark.parametrize("number", range(4))
def test_gradient_of_a_fixed_grid_without_memory_for_its_terms(monkeypatch, large_blocks, number):
    monkeypatch.setattr(cuda, "MEMORY_FOR_TERMS", 1)
    monkeypatch.delattr(cuda, "_add_part")
    call = Call(number, 64, sample_num=2)
    assert_same_bits(call.gradient(), call.expected_gradient())


HUGE = [[0, -9e5, -7e5, 1e6, 9e5], [0, 1e6, 5, -9e5, 2], [0, 9e5, 1e6, -1e6, -9e5], [0, -9e5, 1, -8e5, 3]]


@pytest.fixture
def huge():
    """Return a call whose boxes have a million samples in a bin along an axis, and few of them inside."""
    call = Call(2, channels=16)
    call.rule, call.sample_num, call.pooled, call.scale = rules.TORCHVISION[0], 0, (1, 2), 1.0
    call.rois = np.array(HUGE, call.dtype)
    call.of_output = np.random.default_rng(0).standard_normal((4, 16, 1, 2)).astype(call.dtype)
    assert call.placed().grid.prod(1).max() > 10**12
    return call


@on_both
def test_pool_visits_no_sample_outside(large_blocks, huge):
    assert_same_bits(huge.pool(), huge.expected())
    assert np.abs(huge.expected()).max() > 0


@on_both
def test_gradient_visits_no_sample_outside(large_blocks, huge):
    assert_same_bits(huge.gradient(), huge.expected_gradient())
    assert np.abs(huge.expected_gradient()).max() > 0


@on_both
@pytest.mark.parametrize("rule", [rules.MINDSPORE[0], rules.TORCHVISION[0]])
def test_pool_and_gradient_at_the_border_of_an_image_of_more_cells_than_float16_counts(rule):
    call = Call(1, channels=4)
    call.rule, call.sample_num, call.pooled, call.scale, call.shape = rule, 2, (1, 2), 1.0, (1, 4, 1, 3003)
    call.rois = np.array([[0, 2990, 0, 3008, 1], [0, 3004, 0, 3004, 1]], np.float16)
    call.features = np.ones(call.shape, np.float16)
    call.of_output = np.ones((2, 4, 1, 2), np.float16)
    # Only MindSpore rounds 3003 to 3004, where the second box lies.
    assert call.expected()[1].any() == rule.rounds_lengths
    assert_same_bits(call.pool(), call.expected())
    assert_same_bits(call.gradient(), call.expected_gradient())


@on_both
def test_pool_and_gradient_of_a_box_of_subnormal_size():
    call = Call(2, channels=4)
    call.rule, call.sample_num, call.pooled = dataclasses.replace(rules.TORCHVISION[0], smallest=None), 0, (1, 1)
    call.rois = np.array([[0, 0, 0, 1e-41, 1e-41], [0, 1e-41, 1e-41, 0, 0]], np.float32)
    call.of_output = np.ones((2, 4, 1, 1), np.float32)
    assert call.expected()[0].any()
    assert_same_bits(call.pool(), call.expected())
    assert_same_bits(call.gradient(), call.expected_gradient())


@on_both
@pytest.mark.parametrize("rows", [0, 2])
def test_pool_and_gradient_of_nothing(rows):
    rois = torch.zeros(rows, 5, device=DEVICE)
    features = torch.ones(2, 0 if rows else 3, 4, 5, device=DEVICE)
    output = cuda.pool(features, rois, rules.TORCHVISION[0], (2, 3), 1.0, 2)
    assert output.shape == (rows, features.shape[1], 2, 3)
    gradient = cuda.gradient(output, rois, rules.TORCHVISION[0], features.shape, 1.0, 2)
    assert torch.equal(gradient, torch.zeros_like(features))


@pytest.mark.skipif(not INTERPRETED, reason="it would be the last thing that the GPU does for this process")
@pytest.mark.parametrize("index", [-1, -0.5, 1.5, 2, 1e9, -np.inf, np.inf])
@pytest.mark.parametrize("rule", [rules.MINDSPORE[1], rules.TORCHVISION[1]])
def test_pool_asserts_that_an_index_is_in_range(rule, index):
    if index == 1.5 and rule.index == "trunc":
        pytest.skip("it is that of image 1")
    rois = torch.tensor([[1, 1, 1, 3, 3], [index, 1, 1, 3, 3.0]])
    arguments = torch.ones(2, 3, 4, 5), rois, rule, (2, 2), 1.0, 2
    set_interpreter_option("debug", True)
    try:
        with pytest.raises(Exception, match="rois with an image index out of range"):
            cuda.pool(*arguments)
    finally:
        set_interpreter_option("debug", False)
    # A GPU goes on until it has noticed: it must not read where there is no image.
    assert torch.equal(cuda.pool(*arguments).sum((1, 2, 3)), torch.tensor([12.0, 0]))


@on_a_gpu
@pytest.mark.parametrize("channels_last", [False, True])
def test_pool_and_gradient_beyond_32_bits(channels_last):
    if torch.cuda.mem_get_info()[0] < 2**35:
        pytest.skip("it takes 32 GB")
    channels, height, width = (2**15, 2**8, 2**8 + 1) if channels_last else (3, 2**15, 2**15)
    features = torch.zeros(1, channels, height, width, dtype=torch.float16, device=DEVICE)
    features[0, -1, -1, -1] = 4
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    corner = torch.tensor([[0.0, width - 2, height - 2, width, height]], device=DEVICE).half()
    rule = rules.TORCHVISION[0]
    output = cuda.pool(features, corner, rule, (1, 1), 1.0, 2)
    assert output[0, -1].item() > 0
    assert output[0, :-1].count_nonzero() == 0
    gradient = cuda.gradient(torch.ones_like(output), corner, rule, features.shape, 1.0, 2)
    assert gradient[0, :, -1, -1].min() > 0
    assert gradient.count_nonzero() < 10 * channels


@on_a_gpu
@pytest.mark.parametrize("sample_num", [2, 0])
def test_neither_pool_nor_gradient_waits_for_the_host(sample_num):
    call = Call(0, 64, sample_num=sample_num)
    features, rois, of_output = (call.tensor(array) for array in (call.features, call.rois, call.of_output))

    def run():
        cuda.pool(features, rois, call.rule, call.pooled, call.scale, sample_num)
        cuda.gradient(of_output, rois, call.rule, call.shape, call.scale, sample_num)

    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
@pytest.mark.parametrize("sample_num", [2, 0])
def test_pool_is_one_launch(sample_num):
    call = Call(0, 64, sample_num=sample_num)
    features, rois = call.tensor(call.features), call.tensor(call.rois)
    for _ in range(2):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            cuda.pool(features, rois, call.rule, call.pooled, call.scale, sample_num)
            torch.cuda.synchronize()
    assert [event.name for event in profile.events() if event.device_type.name == "CUDA"] == ["_pool"]
