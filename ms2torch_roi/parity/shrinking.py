"""Make a case that fails small, and write it down as Python."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .case import Case, MindSporeCase

NDArray = npt.NDArray[Any]

EVALUATIONS = 200

# Values of features and output of all cases that are tried, so that large ones take half a minute at most.
VALUES = 2**26

# More numbers are not worth writing down: the case as it was is made again by a short expression.
MOST_NUMBERS = 2000


def shrink(case: Case, fails: Callable[[Case], bool], evaluations: int = EVALUATIONS) -> Case:
    """Return a case as small and plain as can be found that still fails.

    Rows, images, channels, bins, samples and feature cells are taken away, and numbers made round, one step at a time,
    as long as the case fails. Image indices stay within the images, and sizes above 0. Of large cases fewer are tried.

    Args:
        case: one that fails.
        fails: tells whether a case fails; best in the same way, or an error may be what is left in the end.
        evaluations: how often it is asked at most.

    Returns:
        The case, whose ``source`` makes it again with nothing but ``cases`` and NumPy as ``np``; or the given one
        itself, if it does not fail again (its memory layout is not kept, and may be the reason), is minimal, or has
        more than ``MOST_NUMBERS`` numbers to write down in the end.

    >>> from ms2torch_roi.parity import cases
    >>> small = shrink(cases.random_case(seed=0, number=1), lambda case: case.rois[:, 4].max() > 1.5)
    >>> small.features.shape, small.rois
    ((1, 1, 1, 1), array([[0., 1., 1., 2., 2.]], dtype=float32))
    """
    smallest = _plain(case)
    tried = {_key(smallest)}
    if evaluations < 1 or not fails(smallest):
        return case
    evaluations -= 1
    values = VALUES - _values(smallest)
    started_from = smallest
    progress = True
    while progress:
        progress = False
        for simpler in _STEPS:
            found: Case | None = smallest
            while found is not None:
                found = None
                for candidate in simpler(smallest):
                    key = _key(candidate)
                    if key in tried:
                        continue
                    tried.add(key)
                    if not evaluations or values < 0:
                        break
                    evaluations -= 1
                    values -= _values(candidate)
                    if fails(candidate):
                        smallest = found = candidate
                        progress = True
                        break
    if smallest is started_from or _numbers(smallest) > MOST_NUMBERS:
        return case
    return replace(smallest, source=source(smallest))


def source(case: Case) -> str:
    """Return a Python expression that makes a case again, given ``cases`` and NumPy as ``np``.

    Its own ``source`` is left out of it, and arrays lose their memory layout.

    >>> from ms2torch_roi.parity import cases
    >>> features, rois = np.arange(1, 7, dtype=np.float32).reshape(1, 1, 2, 3), np.array([[0, 0.1, 2, np.nan, 3]])
    >>> case = cases.TorchvisionCase(
    ...     name="a", category="b", source="", features=features, rois=rois, output_size=(1, 2), spatial_scale=0.5
    ... )
    >>> print(source(case))
    cases.TorchvisionCase(name='a', category='b', source='',
    features=np.arange(1, 7, dtype=np.float32).reshape(1, 1, 2, 3),
    rois=np.array([[0.0, 0.1, 2.0, np.nan, 3.0]], np.float64), output_size=(1, 2), spatial_scale=0.5,
    sampling_ratio=2, aligned=False)
    """
    arguments = []
    for field in fields(case):
        value = getattr(case, field.name)
        if field.name == "source":
            text = "''"
        elif field.name in ("printed", "raises", "threads") and value is None:
            continue
        elif isinstance(value, np.ndarray):
            text = _array(value)
        elif isinstance(value, type):
            text = value.__name__
        else:
            text = _number(value) if isinstance(value, float) else repr(value)
        arguments.append(f"{field.name}={text}")
    return f"cases.{type(case).__name__}({', '.join(arguments)})"


def _array(array: NDArray) -> str:
    dtype = f"np.{array.dtype.name}"
    if not array.size:
        return f"np.zeros({array.shape}, {dtype})"
    ramp = _ramp(array.shape, array.dtype)
    if array.size > 2 and _same(array, ramp):
        return f"np.arange(1, {array.size + 1}, dtype={dtype}).reshape{array.shape}"

    def nested(part: NDArray) -> str:
        return f"[{', '.join(map(nested, part))}]" if part.ndim else _number(part[()])

    return f"np.array({nested(array)}, {dtype})"


def _number(value: Any) -> str:
    """Write a float, of whatever precision, with as few digits as it takes."""
    if not np.isfinite(value):
        return "np.nan" if np.isnan(value) else "np.inf" if value > 0 else "-np.inf"
    return str(value)


def _values(case: Case) -> int:
    return case.features.size + math.prod(case.output_shape)


def _numbers(case: Case) -> int:
    """Return how many numbers the arrays of a case take to be written."""
    features = 0 if _same(case.features, _ramp(case.features.shape, case.features.dtype)) else case.features.size
    return features + case.rois.size


def _plain(case: Case) -> Case:
    """Return a case with arrays of plain layout, and a name of its own."""
    return replace(
        case,
        name=f"{case.name}, shrunk",
        category="shrunk",
        printed=None,
        features=np.ascontiguousarray(case.features),
        rois=np.ascontiguousarray(case.rois),
    )


def _key(case: Case) -> bytes:
    """Tell cases apart that were tried from those that were not."""
    facts = (case.features.shape, case.rois.shape, case.arguments, case.threads)
    return hashlib.sha256(repr(facts).encode() + case.features.tobytes() + case.rois.tobytes()).digest()


def _same(left: NDArray, right: NDArray) -> bool:
    return left.shape == right.shape and left.tobytes() == right.tobytes()


def _ramp(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
    return np.arange(1, np.prod(shape) + 1).astype(dtype).reshape(shape)


def _parts(length: int) -> Iterator[slice | NDArray]:
    """Yield ever larger parts of so many things to do with: halves, and then all but a quarter, an eighth, ..."""
    every = np.arange(length)
    pieces = 2
    while length > 1 and pieces <= min(8, 2 * length):
        for piece in np.array_split(every, pieces):
            keep = piece if pieces == 2 else np.setdiff1d(every, piece)
            if 0 < len(keep) < length:
                yield keep
        pieces *= 2


def _any_threads(case: Case) -> Iterator[Case]:
    if case.threads is not None:
        yield replace(case, threads=None)


def _fewer_rows(case: Case) -> Iterator[Case]:
    for part in _parts(len(case.rois)):
        yield replace(case, rois=case.rois[part])


def _fewer_channels(case: Case) -> Iterator[Case]:
    for part in _parts(case.features.shape[1]):
        yield replace(case, features=case.features[:, part])


def _fewer_images(case: Case) -> Iterator[Case]:
    """Keep one image, or the two around a fractional index."""
    index = case.rois[:, 0]
    if not len(index) or not np.isfinite(index).all():
        return
    images = len(case.features)
    for first in range(images if images > 1 else 0):
        yield replace(case, features=case.features[first : first + 1], rois=_with_column(case, 0, np.zeros_like(index)))
    first, last = int(np.floor(index.min())), int(np.ceil(index.max()))
    if first >= 0 and last - first + 1 < images:
        features = case.features[first : last + 1]
        yield replace(case, features=features, rois=_with_column(case, 0, index - first))


def _fewer_bins(case: Case) -> Iterator[Case]:
    height, width = case.pooled
    for pooled in (
        (1, 1), (1, width), (height, 1), (height // 2, width), (height, width // 2), (height - 1, width),
        (height, width - 1),
    ):  # fmt: skip
        if min(pooled) >= 1 and pooled != (height, width):
            if isinstance(case, MindSporeCase):
                yield _with(case, pooled_height=pooled[0], pooled_width=pooled[1])
            else:
                yield _with(case, output_size=pooled)


def _fewer_samples(case: Case) -> Iterator[Case]:
    name = "sample_num" if isinstance(case, MindSporeCase) else "sampling_ratio"
    for fewer in (1, 2) if case.samples <= 0 else range(1, case.samples):
        yield _with(case, **{name: fewer})
    if case.samples < 0:
        yield _with(case, **{name: 0})


def _plain_scale(case: Case) -> Iterator[Case]:
    """Put the boxes where they were with a scale of 1, or leave their numbers and take a scale of fewer digits."""
    scale = case.arguments["spatial_scale"]
    if scale == 1 or not np.isfinite(scale):
        return
    with np.errstate(all="ignore"):
        yield _with(case, spatial_scale=1.0, rois=_with_corners(case, case.rois[:, 1:] * case.rois.dtype.type(scale)))
    if scale not in _PLAIN_SCALES:
        for plain in _PLAIN_SCALES:
            if plain < scale:  # a larger one could make adaptive grids too large
                yield _with(case, spatial_scale=plain)


_PLAIN_SCALES = (0.5, 0.25, 0.125, 0.0625)


def _fewer_cells(case: Case) -> Iterator[Case]:
    """Crop the features at either end; at the low one, boxes move along."""
    scale = case.arguments["spatial_scale"]
    for axis, length in ((2, case.features.shape[2]), (3, case.features.shape[3])):
        for kept in dict.fromkeys((1, 2, 3, 4, 6, 8, length // 2, length - 1)):
            if not 0 < kept < length:
                continue
            yield replace(case, features=case.features.take(np.arange(kept), axis))
            if np.isfinite(scale) and scale:
                rois = case.rois.copy()
                with np.errstate(all="ignore"):
                    rois[:, [4 - axis, 6 - axis]] -= rois.dtype.type((length - kept) / scale)
                yield replace(case, features=case.features.take(np.arange(length - kept, length), axis), rois=rois)


def _usual_boxes(case: Case) -> Iterator[Case]:
    """Try boxes that are easy to think about."""
    if len(case.rois) != 1:
        return
    for box in _USUAL_BOXES:
        if np.array_equal(case.rois[0, 1:], np.asarray(box, case.rois.dtype)):
            return
        yield replace(case, rois=_with_corners(case, np.asarray([box])))


_USUAL_BOXES = (
    (0, 0, 1, 1),
    (1, 1, 2, 2),
    (0, 0, 2, 2),
    (1, 1, 3, 3),
    (0.5, 0.5, 1, 1),
    (1, 1, 1.5, 1.5),
    (1, 2, 3, 4),
)


def _round_boxes(case: Case) -> Iterator[Case]:
    """Round all the numbers of the boxes, and then one column at a time, to as few digits as will do."""
    if case.rois.size > MOST_NUMBERS:
        return
    with np.errstate(all="ignore"):
        steps = [np.round(case.rois * unit) / unit + 0.0 for unit in (1, 2, 4, 10, 100, 1000)]  # no -0
    for rounded in steps:
        rounded[:, 0] = np.where(rounded[:, 0] < len(case.features), rounded[:, 0], case.rois[:, 0])
    for columns in ([1, 2, 3, 4], [0], [1], [2], [3], [4]):
        for rounded in steps:
            rois = case.rois.copy()
            rois[:, columns] = rounded[:, columns]
            if _digits(rois) < _digits(case.rois):
                yield replace(case, rois=rois)


def _plain_features(case: Case) -> Iterator[Case]:
    """Count up, or round to as few digits as will do."""
    features = case.features
    ramp = _ramp(features.shape, features.dtype)
    if _same(features, ramp):
        return
    yield replace(case, features=ramp)
    if features.size > MOST_NUMBERS:
        return
    for digits in (0, 1, 2):
        rounded = np.round(features, digits)
        if _digits(rounded) < _digits(features):
            yield replace(case, features=rounded)


def _digits(array: NDArray) -> int:
    """Return how long numbers are when they are written."""
    return sum(len(_number(value)) for value in array.ravel())


def _with(case: Case, **changes: Any) -> Case:
    return replace(case, **changes)


def _with_column(case: Case, column: int, values: NDArray) -> NDArray:
    rois = case.rois.copy()
    rois[:, column] = values
    return rois


def _with_corners(case: Case, corners: NDArray) -> NDArray:
    rois: NDArray = np.concatenate((case.rois[:, :1], corners), 1).astype(case.rois.dtype)
    return rois


_STEPS: tuple[Callable[[Case], Iterator[Case]], ...] = (
    _fewer_rows,
    _fewer_channels,
    _fewer_images,
    _fewer_samples,
    _fewer_bins,
    _plain_scale,
    _fewer_cells,
    _any_threads,
    _usual_boxes,
    _plain_features,
    _round_boxes,
)
