"""What is run on both sides: the documented example and random cases (``edges.py`` has the catalogue of edges)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One call of MindSpore's ROIAlign.

    ``printed`` holds the values that MindSpore's documentation prints for it, if any; ``raises`` the type of the error
    that the call ends in, if it does; ``source`` the Python expression that makes the case again.
    """

    name: str
    category: str
    source: str
    features: NDArray
    rois: NDArray
    pooled_height: int
    pooled_width: int
    spatial_scale: float
    sample_num: int = 2
    roi_end_mode: int = 1
    printed: NDArray | None = None
    raises: type[Exception] | None = None

    @property
    def arguments(self) -> tuple[int, int, float, int, int]:
        """The constructor arguments, in MindSpore's order."""
        return self.pooled_height, self.pooled_width, self.spatial_scale, self.sample_num, self.roi_end_mode

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that both operators compute in."""
        dtype: np.dtype[Any] = np.result_type(self.features, self.rois)
        return dtype


def documented_cases() -> list[Case]:
    """Return the example of MindSpore's page on the difference: mode 0, as the page prints it, and mode 1."""
    features = np.array([[[[1, 2], [3, 4]]]], np.float32)
    rois = np.array([[0, 0.2, 0.3, 0.2, 0.3]], np.float32)
    printed = np.array(
        [[[[1.7, 2.0333333, 2.3666668], [2.3666668, 2.7, 3.0333335], [3.0333333, 3.3666668, 3.7]]]], np.float32
    )
    return [
        Case(
            name=f"documented example, mode {mode}",
            category="documented example",
            source=f"cases.documented_cases()[{mode}]",
            features=features,
            rois=rois,
            pooled_height=3,
            pooled_width=3,
            spatial_scale=0.25,
            roi_end_mode=mode,
            printed=printed if mode == 0 else None,
        )
        for mode in (0, 1)
    ]


def random_case(seed: int, number: int) -> Case:
    """Return random case ``number`` of the series ``seed``; it depends on nothing else."""
    rng = np.random.default_rng([seed, number])
    features_dtype, rois_dtype = _DTYPES[rng.choice(len(_DTYPES), p=(0.4, 0.4, 0.1, 0.1))]
    images, channels = int(rng.integers(1, 4)), int(rng.integers(1, 13))
    height, width = (int(length) for length in rng.integers(1, 49, 2))
    pooled_height, pooled_width = (int(length) for length in rng.integers(1, 9, 2))
    scale = float(rng.choice((1.0, 0.5, 0.25, 0.125, 0.0625, 1 / 3, 0.1, rng.uniform(0.02, 2))))
    sample_num = int(rng.choice((-1, 0, 1, 2, 3, 4), p=(0.1, 0.2, 0.15, 0.35, 0.1, 0.1)))
    mode = int(rng.integers(2))
    count = int(rng.integers(1, 61))
    # In feature cells, so that every kind of box keeps its size whatever the scale and the mode.
    cells = np.stack([_random_cells(rng, width, height) for _ in range(count)])
    index = rng.integers(0, images, (count, 1)).astype(np.float64)
    if rng.random() < 0.2:
        index = np.clip(index + rng.uniform(-0.5, 0.5, (count, 1)), 0, images - 1)
    rois = np.concatenate((index, cells / scale - np.array((0, 0, mode, mode))), axis=1)
    rois[rng.random(count) < 0.05, 1::2] = 0  # padding, which MindSpore never writes
    features = rng.standard_normal((images, channels, height, width)).astype(features_dtype)
    if rng.random() < 0.2:
        features = features.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    with np.errstate(over="ignore"):
        rois = rois.astype(rois_dtype)
    dtypes = features.dtype.name if features_dtype == rois_dtype else "mixed"
    return Case(
        name=f"random case {number} of seed {seed}",
        category=f"random: {dtypes}, mode {mode}, {'fixed' if sample_num > 0 else 'adaptive'}",
        source=f"cases.random_case(seed={seed}, number={number})",
        features=features,
        rois=rois,
        pooled_height=pooled_height,
        pooled_width=pooled_width,
        spatial_scale=scale,
        sample_num=sample_num,
        roi_end_mode=mode,
    )


_DTYPES = [
    (np.float32, np.float32),
    (np.float16, np.float16),
    (np.float16, np.float32),
    (np.float32, np.float16),
]


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
