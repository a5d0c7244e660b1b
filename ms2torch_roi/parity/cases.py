"""What is run on both sides: the documented example, a catalogue of edges, and random cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]

NAN, INF = float("nan"), float("inf")


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
        return np.result_type(self.features, self.rois)


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


def edge_case(name: str) -> Case:
    """Return the edge case of that name."""
    return next(case for case in edge_cases() if case.name == name)


def edge_cases() -> Iterator[Case]:
    """Yield the catalogue: every behaviour on which a port can go wrong, by name, in float32 and float16."""
    for edge in _edges():
        for dtype in edge.pop("dtypes", (np.float32, np.float16)):
            yield _edge_case(**edge, dtype=dtype)


def _edge_case(
    category: str,
    name: str,
    dtype: Any,
    boxes: Any,
    shape: tuple[int, ...] = (2, 3, 11, 14),
    pooled: tuple[int, int] = (3, 4),
    scale: float = 0.5,
    sample_num: int = 2,
    mode: int = 1,
    features: Any = None,
    rois_dtype: Any = None,
    raises: type[Exception] | None = None,
) -> Case:
    """Make an edge case of ``boxes``, rows of 4 (for image 0) or 5 numbers in image pixels.

    ``features`` turns standard normal features into what the case needs.
    """
    name = f"{name}, {np.dtype(dtype).name}"
    rois = np.asarray(boxes, np.float64)
    if rois.shape[1] == 4:
        rois = np.insert(rois, 0, 0, axis=1)
    with np.errstate(over="ignore"):
        rois = rois.astype(rois_dtype or dtype)
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return Case(
        name=name,
        category=f"edge: {category}",
        source=f"cases.edge_case({name!r})",
        features=values if features is None else features(values),
        rois=rois,
        pooled_height=pooled[0],
        pooled_width=pooled[1],
        spatial_scale=scale,
        sample_num=sample_num,
        roi_end_mode=mode,
        raises=raises,
    )


def _edges() -> Iterator[dict[str, Any]]:
    """Yield the arguments of ``_edge_case``, and ``dtypes`` where an edge is one of a single dtype."""
    # Unless a line says otherwise: 11 x 14 cells, 0.5 cells per pixel (22 x 28 pixels), 3 x 4 bins of 2 x 2 samples.
    below_1 = float(np.nextafter(np.float32(1), np.float32(0)))
    boxes: dict[str, list[list[float]]] = {
        "boxes of several cells": [[2, 3, 17, 14], [4.5, 0.1, 9.3, 21.7]],
        "boxes of exactly one cell": [[4, 6, 6, 8], [4, 6, 5, 7], [3, 3, 5, 9]],
        "boxes just below one cell": [[4, 6, 4 + 2 * below_1, 8], [4, 6, 4 + below_1, 7], [4.1, 6.2, 5.05, 7.1]],
        "boxes of a hundredth of a cell": [[4, 6, 3.02, 5.02], [7.3, 9.1, 6.32, 8.12], [0.3, 0.2, -0.65, -0.7]],
        "boxes without a size": [[4, 6, 4, 6], [4, 6, 3, 5], [20.7, 13.3, 19.7, 12.3]],
        "boxes inverted on both axes": [[14, 12, 3, 2], [5.3, 7.7, 4.2, 1.1]],
        "boxes inverted on one axis": [[14, 2, 3, 12], [2, 12, 14, 3]],
        "boxes partly outside": [[-5, -6, 9, 8], [20, 15, 40, 33], [-7, 10, 40, 12]],
        "boxes wholly outside": [[-30, 3, -9, 9], [40, 3, 60, 9], [3, -30, 9, -9], [3, 40, 9, 60]],
        "boxes that cover the image": [[0, 0, 27, 21], [0, 0, 28, 22], [-2, -2, 28, 22]],
        "boxes a thousand times the image": [[-3e4, -3e4, 3e4, 3e4], [3, 4, 3e4, 2e4]],
        "small boxes near 0": [[0.3, 0.2, 0.31, 0.22], [0.011, 0.7, 0.03, 0.71], [-0.4, 1e-3, -0.6, 2e-3]],
        "boxes far away": [[3e4, 3e4, 3.1e4, 3.2e4], [-3e4, 3, -2.9e4, 9]],
    }
    for name, rows in boxes.items():
        for mode in (0, 1):
            yield {"category": "boxes", "name": f"{name}, mode {mode}", "boxes": rows, "mode": mode}

    # One sample in the middle of one bin: a box of one cell puts it wherever wanted. In mode 1, x2 + 1 is the end.
    middle = {"pooled": (1, 1), "scale": 1.0, "sample_num": 1}
    for mode in (0, 1):
        for where, at in {"-1": (-1, -1), "the height and width": (14, 11)}.items():
            for side, step in {"on": 0, "just inside": 1, "just outside": -1}.items():
                x, y = (c - np.sign(c) * step * 2**-6 for c in at)
                on = [[x - 0.5, y - 0.5, x + 0.5 - mode, y + 0.5 - mode], [x - 0.5, 3, x + 0.5 - mode, 4 - mode]]
                edge = {**middle, "category": "border", "boxes": on, "mode": mode}
                yield {**edge, "name": f"samples {side} {where}, mode {mode}"}
    small = [[-1.05, -1.05, -0.95, -0.95], [13.95, 10.95, 14.05, 11.05]]
    yield {**middle, "category": "border", "name": "small boxes around the border, mode 0", "boxes": small, "mode": 0}
    small = [[x1, y1, x2 - 1, y2 - 1] for x1, y1, x2, y2 in small]
    yield {**middle, "category": "border", "name": "small boxes around the border, mode 1", "boxes": small}
    long = {"shape": (1, 1, 2051, 2), "pooled": (1, 1), "scale": 1.0, "sample_num": 1, "dtypes": (np.float16,)}
    beyond = [[0.5, y - 1, 0.5, y] for y in (2048.0, 2050.0, 2052.0, 2054.0)]
    yield {**long, "category": "border", "name": "a height that float16 rounds up", "boxes": beyond, "mode": 0}

    some = [[2, 3, 17, 14], [4.5, 0.1, 9.3, 21.7], [-3, 5, 25, 9], [6, 6, 7.2, 6.8]]
    for mode in (0, 1):
        for sample_num in (1, 3, 7):
            name = f"{sample_num} x {sample_num} samples, mode {mode}"
            yield {"category": "grids", "name": name, "boxes": some, "sample_num": sample_num, "mode": mode}
        adaptive = {
            "as wide as high": [[1, 1, 22, 17], [-20, -10, 30, 25]],
            "wider than high": [[1, 1, 26, 9], [-20, 2, 50, 12]],
            "higher than wide": [[1, 1, 9.5, 20], [2, -20, 12, 50]],
            "of zero": [[1, 1, 4, 4], [1, 1, 26, 3], [5, 6, 5, 6]],
            "negative": [[26, 20, 1, 1], [26, 1, 1, 20], [4, 20, 1, 1], [5, 7, 3, 6.9]],
            "of hundreds": [[-3000, -2000, 3000, 2000], [-900, 3, 900, 17]],
        }
        for name, rows in adaptive.items():
            edge = {"category": "grids", "name": f"adaptive grids {name}, mode {mode}", "boxes": rows, "mode": mode}
            yield {**edge, "sample_num": 0}
    yield {"category": "grids", "name": "a negative sample_num", "boxes": adaptive["wider than high"], "sample_num": -3}
    # Pairs that MindSpore's PyNative cache takes for each other (seen in 2.7 to 2.10).
    for pooled in ((1, 12), (11, 2), (3, 31), (33, 1), (1, 1), (7, 7), (14, 14)):
        name = f"{pooled[0]} x {pooled[1]} bins"
        yield {"category": "grids", "name": name, "boxes": some, "pooled": pooled, "dtypes": (np.float32,)}

    for scale in (1.0, 0.0625, 1 / 3, 0.37, 1e-3, 0.0, -0.5, INF, NAN, 1e39):
        for mode in (0, 1):
            edge = {"category": "scales", "name": f"spatial_scale {scale:.4g}, mode {mode}", "boxes": some}
            yield {**edge, "scale": scale, "mode": mode}

    rest = [2, 3, 17, 14]
    for name, indices in {
        "images in any order": [1, 0, 1, 1, 0],
        "fractional indices": [0.4, 0.49, 0.5, 0.51, 0.99],
        "indices around the rounding": [0.4998, 0.49993, 0.49994, 0.5, 0.50007],
        "NaN as an index": [NAN, 1],
    }.items():
        yield {"category": "indices", "name": name, "boxes": [[index, *rest] for index in indices]}
    for index in (2, 1.3, -1, -0.1, INF, -INF):
        edge = {"category": "errors", "name": f"index {index} of 2 images", "boxes": [[0, *rest], [index, *rest]]}
        yield {**edge, "raises": RuntimeError}
    yield {
        **{"category": "errors", "name": "a box but no image", "boxes": [[0, *rest]], "shape": (0, 3, 11, 14)},
        "raises": RuntimeError,
    }

    f32, f16 = (np.float32,), (np.float16,)
    mixed = {"category": "inputs", "boxes": some}
    for mode in (0, 1):
        edge = {**mixed, "mode": mode}
        yield {**edge, "name": f"features float16 and rois float32, mode {mode}", "dtypes": f16, "rois_dtype": np.float32}
        yield {**edge, "name": f"features float32 and rois float16, mode {mode}", "dtypes": f32, "rois_dtype": np.float16}
    none = np.zeros((0, 5))
    yield {**mixed, "name": "no boxes", "boxes": none}
    yield {**mixed, "name": "no boxes, adaptive", "boxes": none, "sample_num": 0}
    yield {**mixed, "name": "neither images nor boxes", "boxes": none, "shape": (0, 3, 11, 14)}
    yield {**mixed, "name": "an image of one cell", "shape": (1, 2, 1, 1)}
    yield {**mixed, "name": "an image of one row", "shape": (1, 2, 1, 14)}
    yield {**mixed, "name": "an image of one column", "shape": (1, 2, 11, 1)}
    layouts: dict[str, Any] = {
        "channels_last features": lambda f: f.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
        "transposed features": lambda f: f.swapaxes(2, 3).copy().swapaxes(2, 3),
        "every other row and column of larger features": lambda f: f.repeat(2, 2).repeat(2, 3)[:, :, ::2, ::2],
    }
    for name, features in layouts.items():
        yield {**mixed, "name": name, "features": features}
    outside = [*some, [-9, -9, 9, 9], [40, 40, 50, 50]]
    for value in (NAN, INF, -INF):
        for cell in ((0, 0), (4, 5)):
            edge = {**mixed, "name": f"{value} in cell {cell} of the features", "boxes": outside}
            yield {**edge, "features": _with_value(value, cell)}
            yield {**edge, "features": _with_value(value, cell), "name": f"{edge['name']}, adaptive", "sample_num": 0}
    yield {**mixed, "name": "subnormal features", "features": lambda f: f * f.dtype.type(np.finfo(f.dtype).tiny / 4)}
    yield {**mixed, "name": "features near the largest number", "features": lambda f: f * (np.finfo(f.dtype).max / 4)}

    unwritten = [[0, 0, 0, 0], [0, 3, 0, 9], [5e-4, 3, -5e-4, 9], rest, [2e-3, 3, 0, 9], [0, 3, 2e-3, 9]]
    for mode in (0, 1):
        for sample_num in (2, 0):
            name = f"zero-padded rois, mode {mode}, sample_num {sample_num}"
            yield {"category": "unwritten rows", "name": name, "boxes": unwritten, "mode": mode, "sample_num": sample_num}
    # x values on either side of 0.001, in steps of the dtype.
    threshold = [[0.001 * (1 + step * 2**-11), 3, 0, 9] for step in range(-4, 5)]
    yield {"category": "unwritten rows", "name": "x1 around 0.001", "boxes": threshold}
    only_unwritten = [[0, 0, 0, 0], [0, 3, 0, 9]]
    yield {"category": "unwritten rows", "name": "nothing but unwritten rows", "boxes": only_unwritten}

    for mode in (0, 1):
        for sample_num in (2, 0):
            for column, coordinate in enumerate(("x1", "y1", "x2", "y2")):
                bad = [rest[:column] + [value] + rest[column + 1 :] for value in (NAN, INF, -INF)]
                name = f"{coordinate} not finite, mode {mode}, sample_num {sample_num}"
                edge = {"category": "not finite", "name": name, "boxes": [*bad, rest]}
                yield {**edge, "mode": mode, "sample_num": sample_num}
            every = [[value] * 4 for value in (NAN, INF, -INF)]
            name = f"no finite coordinate, mode {mode}, sample_num {sample_num}"
            yield {"category": "not finite", "name": name, "boxes": every, "mode": mode, "sample_num": sample_num}
            for dtype, most in ((np.float32, 3.4e38), (np.float16, 65504)):
                wide = [[-most, 3, most, 9], [3, -most, 9, most], [-most, -most, most, most], [most, 3, most, 9]]
                name = f"sizes that overflow, mode {mode}, sample_num {sample_num}"
                edge = {"category": "not finite", "name": name, "boxes": wide, "dtypes": (dtype,)}
                yield {**edge, "mode": mode, "sample_num": sample_num, "scale": 1.0}
                name = f"products that overflow, mode {mode}, sample_num {sample_num}"
                yield {**edge, "name": name, "mode": mode, "sample_num": sample_num, "scale": 3.0}


def _with_value(value: float, cell: tuple[int, int]) -> Any:
    def replace(features: NDArray) -> NDArray:
        features[0, :, cell[0], cell[1]] = value
        return features

    return replace


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
        category=f"random: {dtypes}, mode {mode}, {'fixed' if sample_num > 0 else 'adaptive'} grid",
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
    cells = np.concatenate((start, end))
    if kind == "not finite":
        cells[rng.integers(4)] = rng.choice((NAN, INF, -INF, 1e38, -3e38))
    return cells
