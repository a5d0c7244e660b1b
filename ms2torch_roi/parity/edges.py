"""The catalogue of edges: every behaviour on which a port can go wrong, by name, in float32 and float16.

Each is a call of MindSpore's operator, of torchvision's, or of both: mode 0 is then ``aligned=False``, mode 1
``aligned=True``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .case import Case, MindSporeCase, TorchvisionCase

NDArray = npt.NDArray[Any]
Boxes = Sequence[Sequence[float]]
Kind = type[Case]

NAN, INF = float("nan"), float("inf")
MODES = (0, 1)


@dataclass(frozen=True)
class _Edge:
    """One edge, for each of ``dtypes``: by default 11 x 14 cells, half a cell per pixel, 3 x 4 bins of 2 x 2 samples.

    ``boxes`` are rows of 4 numbers (for image 0) or 5, in image pixels; ``features`` turns standard normal features
    into what the edge needs.
    """

    category: str
    name: str
    boxes: Boxes
    shape: tuple[int, int, int, int] = (2, 3, 11, 14)
    pooled: tuple[int, int] = (3, 4)
    scale: float = 0.5
    sample_num: int = 2
    mode: int = 1
    dtypes: tuple[type[np.floating[Any]], ...] = (np.float32, np.float16)
    rois_dtype: type[np.floating[Any]] | None = None
    features: Callable[[NDArray], NDArray] = lambda features: features
    raises: type[Exception] | None = None

    def cases(self, kind: Kind) -> Iterator[Case]:
        rows = [box if len(box) == 5 else (0, *box) for box in self.boxes]
        rois = np.asarray(rows, np.float64).reshape(-1, 5)
        for dtype in self.dtypes:
            name = f"{'torchvision: ' if kind is TorchvisionCase else ''}{self.name}, {np.dtype(dtype).name}"
            with np.errstate(over="ignore"):
                typed_rois = rois.astype(self.rois_dtype or dtype)
            common: dict[str, Any] = {
                "name": name,
                "category": f"edge: {self.category}",
                "source": f"edges.edge_case({name!r})",
                "features": self.features(np.random.default_rng(0).standard_normal(self.shape).astype(dtype)),
                "rois": typed_rois,
                "spatial_scale": self.scale,
                "raises": self.raises,
            }
            if kind is TorchvisionCase:
                yield TorchvisionCase(
                    **common, output_size=self.pooled, sampling_ratio=self.sample_num, aligned=self.mode == 1
                )
            else:
                yield MindSporeCase(
                    **common,
                    pooled_height=self.pooled[0],
                    pooled_width=self.pooled[1],
                    sample_num=self.sample_num,
                    roi_end_mode=self.mode,
                )


def edge_cases() -> Iterator[Case]:
    """Yield the whole catalogue, MindSpore's calls first."""
    catalogue = (_boxes, _border, _grids, _scales, _indices, _errors, _inputs, _unwritten_rows, _not_finite, _batches)
    for kind in (MindSporeCase, TorchvisionCase):
        for category in catalogue:
            for edge in category(kind):
                yield from edge.cases(kind)


def edge_case(name: str) -> Case:
    """Return the edge case of that name."""
    return next(case for case in edge_cases() if case.name == name)


ONE_BOX = (2, 3, 17, 14)
SOME_BOXES = (ONE_BOX, (4.5, 0.1, 9.3, 21.7), (-3, 5, 25, 9), (6, 6, 7.2, 6.8))


def _mode_name(kind: Kind, mode: int) -> str:
    return f"mode {mode}" if kind is MindSporeCase else ("not aligned", "aligned")[mode]


def _in_both_modes(kind: Kind, edge: _Edge) -> Iterator[_Edge]:
    for mode in MODES:
        yield replace(edge, name=f"{edge.name}, {_mode_name(kind, mode)}", mode=mode)


def _boxes(kind: Kind) -> Iterator[_Edge]:
    below_1 = float(np.nextafter(np.float32(1), np.float32(0)))
    kinds: dict[str, Boxes] = {
        "boxes of several cells": ((2, 3, 17, 14), (4.5, 0.1, 9.3, 21.7)),
        "boxes of exactly one cell": ((4, 6, 6, 8), (4, 6, 5, 7), (3, 3, 5, 9)),
        "boxes just below one cell": ((4, 6, 4 + 2 * below_1, 8), (4, 6, 4 + below_1, 7), (4.1, 6.2, 5.05, 7.1)),
        "boxes of a hundredth of a cell": ((4, 6, 3.02, 5.02), (7.3, 9.1, 6.32, 8.12), (0.3, 0.2, -0.65, -0.7)),
        "boxes without a size": ((4, 6, 4, 6), (4, 6, 3, 5), (20.7, 13.3, 19.7, 12.3)),
        "boxes inverted on both axes": ((14, 12, 3, 2), (5.3, 7.7, 4.2, 1.1)),
        "boxes inverted on one axis": ((14, 2, 3, 12), (2, 12, 14, 3)),
        "boxes partly outside": ((-5, -6, 9, 8), (20, 15, 40, 33), (-7, 10, 40, 12)),
        "boxes wholly outside": ((-30, 3, -9, 9), (40, 3, 60, 9), (3, -30, 9, -9), (3, 40, 9, 60)),
        "boxes that cover the image": ((0, 0, 27, 21), (0, 0, 28, 22), (-2, -2, 28, 22)),
        "boxes a thousand times the image": ((-3e4, -3e4, 3e4, 3e4), (3, 4, 3e4, 2e4)),
        "small boxes near 0": ((0.3, 0.2, 0.31, 0.22), (0.011, 0.7, 0.03, 0.71), (-0.4, 1e-3, -0.6, 2e-3)),
        "boxes far away": ((3e4, 3e4, 3.1e4, 3.2e4), (-3e4, 3, -2.9e4, 9)),
    }
    for name, boxes in kinds.items():
        yield from _in_both_modes(kind, _Edge("boxes", name, boxes))


def _border(kind: Kind) -> Iterator[_Edge]:
    # One sample in the middle of one bin: a box of one cell puts it wherever wanted.
    for mode in MODES:
        # In mode 1, x2 + 1 is the end; an aligned box is moved by half a cell.
        extra, shift = (mode, 0.0) if kind is MindSporeCase else (0, mode / 2)
        for where, corner in {"-1": (-1, -1), "the height and width": (11, 14)}.items():
            for side, step in {"on": 0.0, "just inside": -(2**-6), "just outside": 2**-6}.items():
                y, x = (at + np.sign(at) * step + shift for at in corner)
                both = (x - 0.5, y - 0.5, x + 0.5 - extra, y + 0.5 - extra)
                only_x = (x - 0.5, 3, x + 0.5 - extra, 4 - extra)
                name = f"samples {side} {where}, {_mode_name(kind, mode)}"
                yield _Edge("border", name, (both, only_x), pooled=(1, 1), scale=1.0, sample_num=1, mode=mode)
        around = [
            (x - 0.05 + shift, y - 0.05 + shift, x + 0.05 - extra + shift, y + 0.05 - extra + shift)
            for x, y in ((-1, -1), (14, 11))
        ]
        name = f"small boxes around the border, {_mode_name(kind, mode)}"
        yield _Edge("border", name, around, pooled=(1, 1), scale=1.0, sample_num=1, mode=mode)
    beyond = [(0.5, y - 1, 0.5, y) for y in (2048.0, 2050.0, 2052.0, 2054.0)]
    edge = _Edge("border", "a height that float16 rounds up", beyond, shape=(1, 1, 2051, 2), pooled=(1, 1), mode=0)
    yield replace(edge, scale=1.0, sample_num=1, dtypes=(np.float16,))
    if kind is TorchvisionCase:
        # Taken to MindSpore's mode 1, the ends of these lose their last bit in float16, and so do their values.
        lossy = ((-0.36597, 1.67676, -0.49121, -0.49756), (0.45508, 1.51074, 0.82422, -0.49561))
        edge = _Edge("border", "small boxes whose ends need every bit", lossy, pooled=(1, 1), scale=1.0, sample_num=1)
        yield replace(edge, dtypes=(np.float16,))
        # From 0 to a power of two, which some scale of mode 1 takes to 0: MindSpore would not write the row.
        powers = [(0.5, 3, 0.5 + 2.0**exponent, 3.5 + 2.0**exponent) for exponent in range(-12, 2)]
        yield from _in_both_modes(kind, replace(edge, name="boxes from 0 to a power of two", boxes=powers))
        return
    # Moved by half a cell and back, as torchvision's aligned=True does, these lose a bit, and with it a sample.
    flipping = ((7.958036, 3, 7.0139885, 2.5), (7.587897, 3, 7.137368, 2.5))
    edge = _Edge("border", "small boxes with a sample on the width", flipping, shape=(1, 2, 8, 8), pooled=(2, 2))
    yield replace(edge, scale=1.0, sample_num=1, dtypes=(np.float32,))


def _grids(kind: Kind) -> Iterator[_Edge]:
    for sample_num in (1, 3, 7):
        edge = _Edge("grids", f"{sample_num} x {sample_num} samples", SOME_BOXES, sample_num=sample_num)
        yield from _in_both_modes(kind, edge)
    adaptive: dict[str, Boxes] = {
        "as wide as high": ((1, 1, 22, 17), (-20, -10, 30, 25)),
        "wider than high": ((1, 1, 26, 9), (-20, 2, 50, 12)),
        "higher than wide": ((1, 1, 9.5, 20), (2, -20, 12, 50)),
        "of zero": ((1, 1, 4, 4), (1, 1, 26, 3), (5, 6, 5, 6)),
        "negative": ((26, 20, 1, 1), (5, 7, 3, 6.9)),
        "of hundreds": ((-3000, -2000, 3000, 2000), (-900, 3, 900, 17)),
    }
    if kind is MindSporeCase:  # torchvision refuses them, see _errors
        adaptive["negative along one axis"] = ((26, 1, 1, 20), (4, 20, 1, 1), (20, 3, 1, 3))
    for name, boxes in adaptive.items():
        yield from _in_both_modes(kind, _Edge("grids", f"adaptive grids {name}", boxes, sample_num=0))
    yield _Edge("grids", "a negative sample_num", adaptive["wider than high"], sample_num=-3)
    # The first two pairs are what MindSpore's PyNative cache takes for each other (seen in 2.7 to 2.10).
    for pooled in ((1, 12), (11, 2), (3, 31), (33, 1), (1, 1), (7, 7), (14, 14)):
        yield _Edge("grids", f"{pooled[0]} x {pooled[1]} bins", SOME_BOXES, pooled=pooled, dtypes=(np.float32,))


def _scales(kind: Kind) -> Iterator[_Edge]:
    # The second is rounded to 1 in float16 by way of float32, and up without.
    for scale in (1.0, 1 + 2**-11 + 2**-40, 0.0625, 1 / 3, 0.37, 1e-3, 0.0, -0.5, INF, NAN, 1e39):
        yield from _in_both_modes(kind, _Edge("scales", f"spatial_scale {scale:.9g}", SOME_BOXES, scale=scale))


def _indices(kind: Kind) -> Iterator[_Edge]:
    series: dict[str, Sequence[float]] = {
        "images in any order": (1, 0, 1, 1, 0),
        "fractional indices": (0.4, 0.49, 0.5, 0.51, 0.99),
        "indices around the rounding": (0.4998, 0.49993, 0.49994, 0.5, 0.50007),
    }
    if kind is MindSporeCase:
        series["NaN as an index"] = (NAN, 1)
    else:
        series["indices truncated up to the number of images"] = (1, 1.3, 1.99, 0.999, -0.0)
    for name, indices in series.items():
        yield _Edge("indices", name, [(index, *ONE_BOX) for index in indices])


def _errors(kind: Kind) -> Iterator[_Edge]:
    for index in (2, -1, -0.1, INF, -INF, *((1.3,) if kind is MindSporeCase else (NAN,))):
        rois = ((0, *ONE_BOX), (index, *ONE_BOX))
        yield _Edge("errors", f"index {index} of 2 images", rois, raises=RuntimeError)
    yield _Edge("errors", "a box but no image", (ONE_BOX,), shape=(0, 3, 11, 14), raises=RuntimeError)
    if kind is TorchvisionCase:
        refused: dict[str, _Edge] = {
            "a box inverted along one axis": _Edge("errors", "", (ONE_BOX, (26, 1, 1, 20))),
            "a box far too large": _Edge("errors", "", (ONE_BOX, (0, 0, 1e8, 1e8)), dtypes=(np.float32,)),
        }
        for name, edge in refused.items():
            yield replace(edge, name=f"{name}, adaptive, aligned", sample_num=0, raises=RuntimeError)


def _inputs(kind: Kind) -> Iterator[_Edge]:
    if kind is MindSporeCase:
        mixed = _Edge("inputs", "features float16 and rois float32", SOME_BOXES, dtypes=(np.float16,))
        yield from _in_both_modes(kind, replace(mixed, rois_dtype=np.float32))
        mixed = _Edge("inputs", "features float32 and rois float16", SOME_BOXES, dtypes=(np.float32,))
        yield from _in_both_modes(kind, replace(mixed, rois_dtype=np.float16))
    yield _Edge("inputs", "no boxes", ())
    yield _Edge("inputs", "no boxes, adaptive", (), sample_num=0)
    yield _Edge("inputs", "neither images nor boxes", (), shape=(0, 3, 11, 14))
    yield _Edge("inputs", "an image of one cell", SOME_BOXES, shape=(1, 2, 1, 1))
    yield _Edge("inputs", "an image of one row", SOME_BOXES, shape=(1, 2, 1, 14))
    yield _Edge("inputs", "an image of one column", SOME_BOXES, shape=(1, 2, 11, 1))
    layouts: dict[str, Callable[[NDArray], NDArray]] = {
        "channels_last features": lambda f: f.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
        "transposed features": lambda f: f.swapaxes(2, 3).copy().swapaxes(2, 3),
        "every other row and column of larger features": lambda f: f.repeat(2, 2).repeat(2, 3)[:, :, ::2, ::2],
        "subnormal features": lambda f: f * f.dtype.type(np.finfo(f.dtype).tiny / 4),
        "features near the largest number": lambda f: f * (np.finfo(f.dtype).max / 4),
    }
    for name, features in layouts.items():
        yield _Edge("inputs", name, SOME_BOXES, features=features)
    # torchvision adds 0 times the first pixel for every sample outside; MindSpore adds nothing.
    boxes = (*SOME_BOXES, (-9, -9, 9, 9), (40, 40, 50, 50), (40, 40, 40, 50))
    for value in (NAN, INF, -INF):
        for cell in ((0, 0), (4, 5)):
            name = f"{value} in cell {cell} of the features"
            yield _Edge("inputs", name, boxes, features=_with_value(value, cell))
            yield _Edge("inputs", f"{name}, adaptive", boxes, features=_with_value(value, cell), sample_num=0)


def _with_value(value: float, cell: tuple[int, int]) -> Callable[[NDArray], NDArray]:
    def replace_cell(features: NDArray) -> NDArray:
        features[0, :, cell[0], cell[1]] = value
        return features

    return replace_cell


def _unwritten_rows(kind: Kind) -> Iterator[_Edge]:
    padded = ((0, 0, 0, 0), (0, 3, 0, 9), (5e-4, 3, -5e-4, 9), ONE_BOX, (2e-3, 3, 0, 9), (0, 3, 2e-3, 9))
    for sample_num in (2, 0):
        edge = _Edge("unwritten rows", f"zero-padded rois, sample_num {sample_num}", padded, sample_num=sample_num)
        yield from _in_both_modes(kind, edge)
    # On both sides of 0.001, in steps of float16.
    around = [(0.001 * (1 + step * 2**-11), 3, 0, 9) for step in range(-4, 5)]
    yield _Edge("unwritten rows", "x1 around 0.001", around)
    yield _Edge("unwritten rows", "nothing but unwritten rows", ((0, 0, 0, 0), (0, 3, 0, 9)))


def _not_finite(kind: Kind) -> Iterator[_Edge]:
    values = (NAN, INF, -INF)
    for sample_num in (2, 0):
        for column, coordinate in enumerate(("x1", "y1", "x2", "y2")):
            boxes = [(*ONE_BOX[:column], value, *ONE_BOX[column + 1 :]) for value in values]
            edge = _Edge("not finite", f"{coordinate} not finite, sample_num {sample_num}", [*boxes, ONE_BOX])
            yield from _in_both_modes(kind, replace(edge, sample_num=sample_num))
        edge = _Edge("not finite", f"no finite coordinate, sample_num {sample_num}", [(v, v, v, v) for v in values])
        yield from _in_both_modes(kind, replace(edge, sample_num=sample_num))
        for dtype, most in ((np.float32, 3.4e38), (np.float16, 65504.0)):
            wide = ((-most, 3, most, 9), (3, -most, 9, most), (-most, -most, most, most), (most, 3, most, 9))
            for what, scale in {"sizes": 1.0, "products": 3.0}.items():
                edge = _Edge("not finite", f"{what} that overflow, sample_num {sample_num}", wide, scale=scale)
                yield from _in_both_modes(kind, replace(edge, sample_num=sample_num, dtypes=(dtype,)))


def _batches(kind: Kind) -> Iterator[_Edge]:
    # Along the bins of the last boxes the first samples are outside the image, and those after them inside.
    # No call of the other library has any of them, as the first pixel of another image is not finite.
    entering = (1, -400.128662109375, 896.8827514648438, 61.48917770385742, 348.4419860839844)
    others = [(1, 9 + 3 * row, 20, 75, 30 + row) for row in range(8)]
    edge = _Edge("batches", "boxes that enter the image after others", [*others, *[entering] * 5], sample_num=3)
    shape, of_first_pixel = (2, 115, 28, 13), _with_value(NAN, (0, 0))
    yield replace(edge, shape=shape, pooled=(14, 4), scale=1 / 32, features=of_first_pixel)
