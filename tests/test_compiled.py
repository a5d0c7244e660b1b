"""The compiled engine has the bits of the definition in NumPy, whatever the rule, the dtype and the memory."""

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ms2torch_roi import compiled, rules, sampling
from ms2torch_roi.parity import cases
from ms2torch_roi.parity.verdicts import same_bits

DTYPES = [np.float16, np.float32, np.float64]
SHAPE = (3, 5, 17, 23)  # of features

# Values of each field of a rule, those of both libraries and others.
FIELDS = {
    "start": (0, 1),
    "end": (0, 1),
    "moved": ((), (0.5,), (-0.5, 0.5)),
    "smallest": (None, 0, 1),
    "enlarges_nan": (False, True),
    "index": ("round", "trunc"),
    "grid": ("floor", "ceil"),
    "smallest_count": (None, 1),
    "rounds_lengths": (False, True),
    "outside_adds_0": (False, True),
    "skips": ("near 0", "not finite"),
}


def random_rule(rng):
    fields = {name: values[rng.integers(len(values))] for name, values in FIELDS.items()}
    return dataclasses.replace(rules.TORCHVISION[0], **fields)


def random_rois(rng, count, images):
    """Boxes of every kind, in cells."""
    case = cases.random_case(int(rng.integers(1000)), int(rng.integers(1000)))
    rows = rng.integers(len(case.rois), size=count)
    rois = case.rois[rows].astype(np.float64)
    rois[:, 1:] *= case.spatial_scale
    rois[:, 0] = rng.integers(images, size=count)
    return rois


def place(rule, rois, pooled, sample_num, size=SHAPE[2:]):
    with np.errstate(all="ignore"):
        samples = rules.place(rule, rois, 1.0, pooled, sample_num, size)
    return samples._replace(grid=np.where(samples.grid > 50, -1, samples.grid))


def pooled_by_both(features, samples, pooled, threads=1):
    with np.errstate(all="ignore"):
        expected = sampling.pool(features, samples, pooled)
    output = np.full_like(expected, 7)
    compiled.pool(features, samples, output, threads)
    return output, expected


def gradients_of_both(of_output, samples, shape, threads=1):
    with np.errstate(all="ignore"):
        expected = sampling.gradient(of_output, samples, shape)
    of_features = np.full_like(expected, 7)
    compiled.gradient(of_output, samples, of_features, threads)
    return of_features, expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(30))
def test_any_rule(dtype, seed):
    rng = np.random.default_rng(seed)
    rule, sample_num = random_rule(rng), int(rng.choice((-1, 1, 2, 3)))
    pooled = tuple(int(bins) for bins in rng.integers(1, 6, 2))
    features = rng.standard_normal(SHAPE).astype(dtype)
    features[1, 2, 0, 0] = np.inf  # a first pixel
    with np.errstate(over="ignore"):
        rois = random_rois(rng, 40, SHAPE[0]).astype(dtype)
    samples = place(rule, rois, pooled, sample_num)
    output, expected = pooled_by_both(features, samples, pooled, threads=int(rng.integers(1, 4)))
    assert same_bits(output, expected).all()
    assert (samples.image >= 0).sum() > 10
    of_output = rng.standard_normal(output.shape).astype(dtype)
    assert same_bits(*gradients_of_both(of_output, samples, SHAPE, threads=int(rng.integers(1, 4)))).all()


def some_samples(dtype=np.float32, size=SHAPE[2:], pooled=(3, 4), count=30):
    rois = random_rois(np.random.default_rng(1), count, SHAPE[0]).astype(dtype)
    return place(rules.MINDSPORE[1], rois, pooled, 2, size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 4, 15, 16, 17, 33])
def test_any_number_of_channels(dtype, channels):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3, channels, 17, 23)).astype(dtype)
    samples = some_samples(dtype)
    output, expected = pooled_by_both(features, samples, (3, 4), threads=2)
    assert same_bits(output, expected).all()
    of_output = rng.standard_normal(output.shape).astype(dtype)
    assert same_bits(*gradients_of_both(of_output, samples, features.shape, threads=2)).all()


def unaligned(array):
    memory = np.empty(array.nbytes + 1, np.uint8)[1:]
    copy = memory.view(array.dtype).reshape(array.shape)
    copy[:] = array
    assert not copy.flags.aligned
    return copy


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


MEMORIES = {
    "contiguous": np.copy,
    "channels last": lambda array: array.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "every other": lambda array: np.repeat(array, 2, axis=3)[..., ::2],
    "backward": lambda array: array[:, ::-1, :, ::-1].copy()[:, ::-1, :, ::-1],
    "one number": lambda array: np.broadcast_to(array[:1, :1, :1, :1], array.shape),
    "read only": read_only,
    "unaligned": unaligned,
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("channels", [2, 20])
def test_memory_of_any_layout(dtype, memory, channels):
    rng = np.random.default_rng(0)
    features = MEMORIES[memory](rng.standard_normal((3, channels, 17, 23)).astype(dtype))
    samples = some_samples(dtype)
    output, expected = pooled_by_both(features, samples, (3, 4))
    assert same_bits(output, expected).all()
    of_output = MEMORIES[memory](rng.standard_normal(output.shape).astype(dtype))
    assert same_bits(*gradients_of_both(of_output, samples, features.shape)).all()


@pytest.mark.parametrize("channels", [1, 20])
def test_values_that_are_not_finite_stay_where_they_are(channels):
    rng = np.random.default_rng(0)
    samples = some_samples()
    features = rng.standard_normal((3, channels, 17, 23)).astype(np.float32)
    features[rng.random(features.shape) < 0.05] = np.nan
    output, expected = pooled_by_both(features, samples, (3, 4))
    assert same_bits(output, expected).all()
    assert 0 < np.isnan(output).sum() < output.size / 2
    of_output = rng.standard_normal(output.shape).astype(np.float32)
    of_output[rng.random(of_output.shape) < 0.05] = np.inf
    of_features, expected = gradients_of_both(of_output, samples, features.shape)
    assert same_bits(of_features, expected).all()
    assert 0 < (~np.isfinite(of_features)).sum() < of_features.size / 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("end", [3e5, -3e5])
def test_of_a_box_far_larger_than_the_image_only_what_is_inside_is_visited(dtype, end):
    """Three bins of a million samples, two of which lie outside: an engine that looked at each would take minutes."""
    features = np.random.default_rng(0).standard_normal((1, 16, 9, 9)).astype(dtype)
    rois = np.array([[0, 2, 2, end, end], [0, -end, 1, 5, 2]], dtype)
    with np.errstate(all="ignore"):
        samples = rules.place(rules.MINDSPORE[1], rois, 1.0, (3, 3), 1000, (9, 9))
    samples = samples._replace(grid=np.full((2, 2), (2**20, 3)))
    output, expected = pooled_by_both(features, samples, (3, 3))
    assert same_bits(output, expected).all()
    assert output.any()


def test_in_float16_the_last_of_very_many_samples_may_be_nowhere():
    """The number of a sample is infinite from 65520 on, and so is that of all samples: the position is NaN."""
    features = np.random.default_rng(0).standard_normal((1, 4, 9, 9)).astype(np.float16)
    rois = np.array([[0, 2, 2, 5, 5], [0, 5, 5, 2, 2]], np.float16)
    with np.errstate(all="ignore"):
        samples = rules.place(rules.MINDSPORE[1], rois, 1.0, (1, 1), 2, (9, 9))
        assert np.isnan(sampling.sample_positions(samples.start[0, 0], samples.bin_size[0, 0], 70000, 1)[0, -1])
    for grid in ((70000, 1), (1, 70000)):
        output, expected = pooled_by_both(features, samples._replace(grid=np.full((2, 2), grid)), (1, 1))
        assert same_bits(output, expected).all()
        assert output.all()


def test_of_no_rows_no_value_is_left_unwritten():
    features = np.ones(SHAPE, np.float32)
    samples = some_samples(count=30).of_rows(np.arange(0))
    of_features = np.full(SHAPE, 7, np.float32)
    compiled.gradient(np.ones((0, 5, 3, 4), np.float32), samples, of_features, 2)
    assert not of_features.any()
    compiled.pool(features, samples, np.empty((0, 5, 3, 4), np.float32), 2)


def test_the_rows_of_one_image_may_be_of_any_order():
    features = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    samples = some_samples()
    output, _ = pooled_by_both(features, samples, (3, 4))
    order = np.random.default_rng(1).permutation(len(output))
    again, _ = pooled_by_both(features, samples.of_rows(order), (3, 4))
    assert same_bits(again, output[order]).all()


def test_float16_rounds_as_numpy_does_after_every_operation():
    """Every half times and plus and by others: as weights of one sample, on a grid of bins."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)][: 248 * 256]
    mixed, alike = np.random.default_rng(0).permutation(halves), np.sort(halves)
    features = np.stack((mixed, alike, -mixed, alike)).reshape(1, 4, 248, 256)
    corners = itertools.product((0.3, 7.77, 40.1), repeat=2)
    rois = np.array([[0, x, y, x + 200, y + 200] for x, y in corners], np.float16)
    samples = place(rules.MINDSPORE[1], rois, (100, 100), 2, (248, 256))
    output, expected = pooled_by_both(features, samples, (100, 100))
    assert same_bits(output, expected).all()
    assert np.isinf(output).any()
    assert (np.abs(output[output != 0]) < 6e-5).any()  # subnormal


def in_a_new_process(script, **environment):
    path = str(Path(compiled.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": path, **environment}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


POOL = """
import numpy as np
from ms2torch_roi import compiled, rules
rois = np.array([[0, 1, 1, 3, 3]], np.float32)
samples = rules.place(rules.MINDSPORE[1], rois, 1.0, (1, 1), 2, (5, 5))
output = np.empty((1, 1, 1, 1), np.float32)
compiled.pool(np.ones((1, 1, 5, 5), np.float32), samples, output, 1)
"""


def test_it_works_where_nothing_can_be_cached():
    script = "from numba.core import caching\ncaching.CacheImpl._locator_classes = []\n" + POOL + "print(output.item())"
    assert in_a_new_process(script) == "1.0\n"


def test_what_was_compiled_is_loaded_by_the_next_process(tmp_path):
    script = POOL + "print(sum(compiled._pool(np.dtype('f4'), 1).stats.cache_hits.values()))"
    assert in_a_new_process(script, NUMBA_CACHE_DIR=str(tmp_path)) == "0\n"
    assert in_a_new_process(script, NUMBA_CACHE_DIR=str(tmp_path)) == "1\n"
