"""The cases that are run: the documented example, random calls and workloads (``edges.py`` has the edges)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .case import Case, MindSporeCase, TorchvisionCase

NDArray = npt.NDArray[Any]

DOCUMENTED = "documented example"
RANDOM, WORKLOAD = "random", "workload"


def documented_cases() -> list[Case]:
    """Return the example of MindSpore's page on the difference, both ways: first as the page prints it.

    The second of each pair is the same call in mode 1, and aligned.
    """
    features = np.array([[[[1, 2], [3, 4]]]], np.float32)
    rois = np.array([[0, 0.2, 0.3, 0.2, 0.3]], np.float32)
    printed = np.array(
        [[[[1.7, 2.0333333, 2.3666668], [2.3666668, 2.7, 3.0333335], [3.0333333, 3.3666668, 3.7]]]], np.float32
    )

    def common(number: int, what: str) -> dict[str, Any]:
        return {
            "name": f"documented example, {what}",
            "category": DOCUMENTED,
            "source": f"cases.documented_cases()[{number}]",
            "features": features,
            "rois": rois,
            "spatial_scale": 0.25,
            "printed": printed if number % 2 == 0 else None,
        }

    return [
        MindSporeCase(**common(0, "mode 0"), pooled_height=3, pooled_width=3, roi_end_mode=0),
        MindSporeCase(**common(1, "mode 1"), pooled_height=3, pooled_width=3, roi_end_mode=1),
        TorchvisionCase(**common(2, "not aligned"), output_size=(3, 3), aligned=False),
        TorchvisionCase(**common(3, "aligned"), output_size=(3, 3), aligned=True),
    ]


def random_case(seed: int, number: int) -> MindSporeCase:
    """Return random case ``number`` of the series ``seed``; it depends on nothing else."""
    rng = np.random.default_rng([seed, number])
    features_dtype, rois_dtype = _DTYPES[rng.choice(len(_DTYPES), p=(0.4, 0.4, 0.1, 0.1))]
    sizes = _random_sizes(rng)
    mode = int(rng.integers(2))
    boxes = _random_boxes(rng, sizes.shape)
    return _mindspore_case(
        rng,
        features_dtype,
        rois_dtype,
        sizes,
        mode,
        boxes,
        name=f"random case {number} of seed {seed}",
        category=RANDOM,
        source=f"cases.random_case(seed={seed}, number={number})",
    )


def random_torchvision_case(seed: int, number: int) -> TorchvisionCase:
    """Return random case ``number`` of the series ``seed`` of calls of torchvision; it depends on nothing else."""
    rng = np.random.default_rng([seed, number, 1])
    dtype = (np.float32, np.float16)[rng.integers(2)]
    sizes = _random_sizes(rng)
    aligned = bool(rng.integers(2))
    boxes = _random_boxes(rng, sizes.shape)
    return _torchvision_case(
        rng,
        dtype,
        sizes,
        aligned,
        boxes,
        name=f"random torchvision case {number} of seed {seed}",
        category=RANDOM,
        source=f"cases.random_torchvision_case(seed={seed}, number={number})",
    )


def workload_case(seed: int, number: int) -> MindSporeCase:
    """Return case ``number`` of the series ``seed`` of calls as large as models make them.

    There are 50 to 1,000 boxes, 8 to 256 channels, and up to 14 x 14 bins, of all of which no case has the most. Many
    boxes overlap, as the proposals that come to a level of a feature pyramid do, and some or all are of the kinds of
    ``random_case``. torch has 1 to 3 threads.
    """
    rng = np.random.default_rng([seed, number, 2])
    features_dtype, rois_dtype = _DTYPES[rng.choice(len(_DTYPES), p=(0.55, 0.15, 0.15, 0.15))]
    sizes = _workload_sizes(rng, half=(features_dtype, rois_dtype) == (np.float16, np.float16))
    case = _mindspore_case(
        rng,
        features_dtype,
        rois_dtype,
        sizes,
        int(rng.integers(2)),
        _workload_boxes(rng, sizes),
        name=f"workload {number} of seed {seed}",
        category=WORKLOAD,
        source=f"cases.workload_case(seed={seed}, number={number})",
    )
    return replace(case, threads=int(rng.integers(1, 4)))


def torchvision_workload_case(seed: int, number: int) -> TorchvisionCase:
    """Return case ``number`` of the series ``seed`` of calls of torchvision of that size."""
    rng = np.random.default_rng([seed, number, 3])
    dtype = (np.float32, np.float16)[rng.choice(2, p=(0.75, 0.25))]
    sizes = _workload_sizes(rng, half=dtype == np.float16)
    return _torchvision_case(
        rng,
        dtype,
        sizes,
        bool(rng.integers(2)),
        _workload_boxes(rng, sizes),
        name=f"torchvision workload {number} of seed {seed}",
        category=WORKLOAD,
        source=f"cases.torchvision_workload_case(seed={seed}, number={number})",
    )


class _Sizes(NamedTuple):
    """What is drawn before the boxes; ``rois`` is their number if that is drawn too."""

    shape: tuple[int, int, int, int]
    pooled: tuple[int, int]
    scale: float
    samples: int
    rois: int | None = None


# (K, 1) image indices, and (K, 4) boxes in feature cells: so each kind keeps its size at every scale.
_Boxes = tuple[NDArray, NDArray]


def _mindspore_case(
    rng: np.random.Generator,
    features_dtype: Any,
    rois_dtype: Any,
    sizes: _Sizes,
    mode: int,
    boxes: _Boxes,
    *,
    name: str,
    category: str,
    source: str,
) -> MindSporeCase:
    index, cells = boxes
    if rng.random() < 0.2:
        index = np.clip(index + rng.uniform(-0.5, 0.5, index.shape), 0, sizes.shape[0] - 1)
    rois = np.concatenate((index, cells / sizes.scale - np.array((0, 0, mode, mode))), axis=1)
    rois[rng.random(len(rois)) < 0.05, 1::2] = 0  # padding, which MindSpore never writes
    features = _random_features(rng, sizes.shape, features_dtype)
    with np.errstate(over="ignore"):
        rois = rois.astype(rois_dtype)
    dtypes = features.dtype.name if features_dtype == rois_dtype else "mixed"
    case = MindSporeCase(
        name=name,
        category=category,
        source=source,
        features=features,
        rois=rois,
        pooled_height=sizes.pooled[0],
        pooled_width=sizes.pooled[1],
        spatial_scale=sizes.scale,
        sample_num=sizes.samples,
        roi_end_mode=mode,
    )
    return replace(case, category=f"{category}: {dtypes}, {case.kind}")


def _torchvision_case(
    rng: np.random.Generator,
    dtype: Any,
    sizes: _Sizes,
    aligned: bool,
    boxes: _Boxes,
    *,
    name: str,
    category: str,
    source: str,
) -> TorchvisionCase:
    index, cells = boxes
    if sizes.samples <= 0:
        # torchvision refuses the adaptive grids of boxes that are inverted along one axis, or too large.
        cells[np.abs(cells) > 1e30] = np.inf
        inverted = cells[:, 2:] < cells[:, :2]
        one_axis = inverted[:, 0] != inverted[:, 1]
        cells[one_axis] = np.sort(cells[one_axis].reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    if rng.random() < 0.2:
        index = index + rng.uniform(0, 0.99, index.shape)
    rois = np.concatenate((index, (cells + aligned / 2) / sizes.scale), axis=1)
    rois[rng.random(len(rois)) < 0.05, 1:] = 0  # padding
    features = _random_features(rng, sizes.shape, dtype)
    with np.errstate(over="ignore"):
        rois = rois.astype(dtype)
    case = TorchvisionCase(
        name=name,
        category=category,
        source=source,
        features=features,
        rois=rois,
        output_size=sizes.pooled,
        spatial_scale=sizes.scale,
        sampling_ratio=sizes.samples,
        aligned=aligned,
    )
    return replace(case, category=f"{category}: {features.dtype.name}, {case.kind}")


_DTYPES = [
    (np.float32, np.float32),
    (np.float16, np.float16),
    (np.float16, np.float32),
    (np.float32, np.float16),
]


def _random_sizes(rng: np.random.Generator) -> _Sizes:
    images, channels = int(rng.integers(1, 4)), int(rng.integers(1, 13))
    height, width = (int(length) for length in rng.integers(1, 49, 2))
    pooled_height, pooled_width = (int(length) for length in rng.integers(1, 9, 2))
    return _Sizes((images, channels, height, width), (pooled_height, pooled_width), *_random_scale_and_samples(rng))


def _random_scale_and_samples(rng: np.random.Generator) -> tuple[float, int]:
    scale = float(rng.choice((1.0, 0.5, 0.25, 0.125, 0.0625, 1 / 3, 0.1, rng.uniform(0.02, 2))))
    samples = int(rng.choice((-1, 0, 1, 2, 3, 4), p=(0.1, 0.2, 0.15, 0.35, 0.1, 0.1)))
    return scale, samples


def _random_boxes(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> _Boxes:
    count = int(rng.integers(1, 61))
    cells = np.stack([_random_cells(rng, shape[3], shape[2]) for _ in range(count)])
    return rng.integers(0, shape[0], (count, 1)).astype(np.float64), cells


# Samples of all boxes and channels of a workload, between which its own limit is; float16 takes ten times as long.
_WORKLOAD_SAMPLES = (2**20, 2**24)
_WORKLOAD_FEATURES = 2**21


def _workload_sizes(rng: np.random.Generator, *, half: bool) -> _Sizes:
    limit = _log_uniform(rng, *_WORKLOAD_SAMPLES) / (10 if half else 1)
    while True:
        images = int(rng.integers(1, 4))
        channels = 256 if rng.random() < 0.3 else int(_log_uniform(rng, 8, 257))
        height, width = (int(_log_uniform(rng, 7, 101)) for _ in range(2))
        pooled = ((7, 7), (14, 14), tuple(rng.integers(1, 15, 2).tolist()))[rng.choice(3, p=(0.4, 0.2, 0.4))]
        scale, samples = _random_scale_and_samples(rng)
        bins = pooled[0] * pooled[1]
        # An adaptive grid has about a sample for each cell of a box.
        samples_of_a_box = bins * max(samples**2, 2) if samples > 0 else bins + height * width / 2
        rois = int(limit / (channels * samples_of_a_box))
        if 50 <= rois <= 1000 and images * channels * height * width <= _WORKLOAD_FEATURES:
            return _Sizes((images, channels, height, width), pooled, scale, samples, rois)


def _workload_boxes(rng: np.random.Generator, sizes: _Sizes) -> _Boxes:
    (images, _, height, width), count = sizes.shape, sizes.rois
    assert count is not None
    cells = _random_proposals(rng, width, height, count)
    for row in np.flatnonzero(rng.random(count) < rng.choice((0, 0.1, 0.5, 1))):
        cells[row] = _random_cells(rng, width, height)
    moved = np.isfinite(cells).all(1) & (rng.random(count) < rng.choice((0, 0.1, 0.9)))
    for row in np.flatnonzero(moved):
        axis = int(rng.integers(2))
        _move_to_border(rng, cells[row, axis::2], (width, height)[axis], sizes.pooled[1 - axis])
    if sizes.samples <= 0:  # or the largest boxes would have most of the samples, outside the image
        lengths = np.array((width, height, width, height))
        cells = np.where(np.abs(cells) < 1e30, np.clip(cells, -lengths, 2 * lengths), cells)
    index = rng.integers(0, images, (count, 1)).astype(np.float64)
    return np.sort(index, axis=0) if rng.random() < 0.5 else index, cells


def _move_to_border(rng: np.random.Generator, ends: NDArray, length: int, pooled: int) -> None:
    """Move a box along one axis to where about one bin of it is inside the image, or none."""
    low, high = np.sort(ends)
    inside = rng.uniform(-0.5, 1.5) * max((high - low) / pooled, 1)
    ends += inside - high if rng.random() < 0.5 else length - inside - low


def _random_proposals(rng: np.random.Generator, width: int, height: int, count: int) -> NDArray:
    """Return boxes in feature cells as they come to a level of a feature pyramid: many for one object, and clipped."""
    lengths = np.array((width, height))
    objects = int(rng.integers(2, 21))
    # The finest level has all that is smaller, the coarsest all that is larger.
    smallest, largest = ((1, 28), (14, 28), (14, max(28, *lengths)))[rng.integers(3)]
    side, aspect = _log_uniform(rng, smallest, largest, objects), _log_uniform(rng, 0.5, 2, objects)
    size = np.stack((side * np.sqrt(aspect), side / np.sqrt(aspect)), axis=1)
    centre = rng.uniform(0, 1, (objects, 2)) * lengths
    of = rng.integers(0, objects, count)
    centre = centre[of] + size[of] * rng.normal(0, 0.15, (count, 2))
    size = size[of] * np.exp(rng.normal(0, 0.2, (count, 2)))
    cells: NDArray = np.clip(np.concatenate((centre - size / 2, centre + size / 2), axis=1), 0, np.tile(lengths, 2))
    return cells


def _log_uniform(rng: np.random.Generator, low: float, high: float, size: int | None = None) -> Any:
    return low * (high / low) ** rng.random(size)


def _random_features(rng: np.random.Generator, shape: tuple[int, int, int, int], dtype: Any) -> NDArray:
    """Return standard normal features, of channels last in memory in one case of five."""
    features = rng.standard_normal(shape).astype(dtype)
    if rng.random() < 0.2:
        features = features.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    return features


def _random_cells(rng: np.random.Generator, width: int, height: int) -> NDArray:
    """Return one random box ``(x1, y1, x2, y2)`` in feature cells, of a random kind."""
    lengths = np.array((width, height))
    centre = rng.uniform(-0.1, 1.1, 2) * lengths
    kind = rng.choice(
        ("any", "below one cell", "tiny", "whole cells", "half cells", "inverted", "outside", "huge", "not finite"),
        p=(0.38, 0.2, 0.05, 0.1, 0.06, 0.07, 0.06, 0.04, 0.04),
    )
    if kind == "below one cell":
        size = rng.uniform(0, 1.1, 2)
    elif kind == "tiny":
        size = rng.uniform(-1, 1, 2) * 10.0 ** rng.uniform(-6, -1)
    elif kind == "inverted":
        size = rng.uniform(-1, 1, 2) * lengths
    elif kind == "huge":
        size = lengths * 10.0 ** rng.uniform(0, 1.2, 2)
    else:
        size = rng.uniform(0, 1, 2) * lengths
    if kind == "outside":
        centre = centre + rng.choice((-3, 3)) * lengths
    start, end = centre - size / 2, centre + size / 2
    if kind == "whole cells":
        start, end = np.round(start), np.round(end)
    elif kind == "half cells":
        start, end = np.round(2 * start) / 2, np.round(2 * end) / 2
    cells: NDArray = np.concatenate((start, end))
    if kind == "not finite":
        cells[rng.integers(4)] = rng.choice((np.nan, np.inf, -np.inf, 1e38, -3e38))
    return cells
