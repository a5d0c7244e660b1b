"""The rules that ports and devices are known to follow: what each does with a box, and what it is called.

They are a few independent choices: what is added to a box, how it is moved, the smallest size, the rounding of an
adaptive grid, the dtype of the computation.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import boxes as _boxes
from .. import params, sampling
from .cases import Case, MindSporeCase

NDArray = npt.NDArray[Any]

# A rule further from the one asked for fits by chance rather than by mistake.
_MOST_DEVIATIONS = 4

_NOT, _HALF_A_CELL, _THERE_AND_BACK = "not", "by half a cell", "half a cell there and back"

# Where some rows are sampled: their feature boxes, sizes, (R, 2) grids and (R,) divisors.
Samples = tuple[NDArray, NDArray, NDArray, NDArray]


@dataclass(frozen=True)
class Rule:
    """How rois become values, in the order in which sentences speak of it.

    ``end`` and ``start`` are added to x2, y2 and to x1, y1, in image pixels; ``smallest`` is the size in cells that
    smaller boxes are enlarged to; the last five are what is done as in one library or the other.
    """

    moved: str
    end: int
    start: int
    smallest: int | None
    dtype: str
    grid: str
    count: str
    index: str
    border: str
    outside: str

    def samples(self, case: Case, rows: NDArray) -> Samples:
        """Return where the rule samples some rows."""
        dtype = np.dtype(self.dtype)
        added = np.asarray((0, self.start, self.start, self.end, self.end), dtype)
        rois, scale = case.rois[rows].astype(dtype) + added, case.arguments["spatial_scale"]
        moved, _ = _boxes.torchvision_boxes(np, rois, scale, aligned=self.moved == _HALF_A_CELL)
        index = moved[:, :1] if self.index == "torchvision" else _boxes.mindspore_boxes(np, rois, scale, 0)[0][:, :1]
        corners = moved[:, 1:]
        if self.moved == _THERE_AND_BACK:
            corners = corners + dtype.type(0.5) - dtype.type(0.5)
        size = corners[:, 2:] - corners[:, :2]
        if self.smallest is not None:
            smallest = dtype.type(self.smallest)
            size = np.where(~(size > smallest) if case.original == "MindSpore" else size < smallest, smallest, size)
        rounding = np.floor if self.grid == "MindSpore" else np.ceil
        grid = _boxes.sampling_grid(rounding, size, *case.pooled, case.samples)
        too_many = sampling.samples_of_boxes(grid, case.pooled, case.features.shape[2:]) > params.MAX_SAMPLES_OF_A_BOX
        grid = np.where(too_many[:, None], -1, grid)
        count = (_boxes.mindspore_count if self.count == "MindSpore" else _boxes.torchvision_count)(grid, dtype)
        return np.concatenate((index, corners), 1), size, grid, count

    @property
    def pooling(self) -> tuple[str, str, str]:
        """What values depend on beside the samples."""
        return self.dtype, self.border, self.outside

    def key(self, case: Case) -> bytes:
        """Return what is the same for rules that give the same values."""
        boxes, *rest = self.samples(case, np.flatnonzero(~case.undefined))
        samples = b"".join(array.tobytes() for array in (boxes[:, :3], *rest))
        return samples + repr(self.pooling).encode()

    def pool(self, case: Case, features: NDArray, samples: Samples, rows: NDArray) -> Iterator[sampling.Part]:
        """Pool some of the ``samples``, and yield rows of them and their values, in the dtype of the features."""
        boxes, size, grid, count = samples
        blocks = sampling.pool(
            features.astype(self.dtype, copy=False),
            (boxes, size),
            rows,
            case.pooled,
            grid,
            count,
            self._borders(case),
            sampling.NUMPY,
            outside_adds_0=self.outside == "torchvision",
        )
        for part, channels, values in blocks:
            yield part, channels, values.astype(features.dtype, copy=False)

    def gradient(self, case: Case, output_gradient: NDArray) -> NDArray:
        """Return the gradient for the features, given that for the output."""
        boxes, size, grid, count = self.samples(case, np.arange(len(case.rois)))
        rows = np.flatnonzero(~case.undefined & (grid > 0).all(1))
        shape, borders = case.features.shape, self._borders(case)
        return sampling.gradient_of_pool(
            output_gradient[rows], shape, (boxes, size), rows, case.pooled, grid, count, borders
        )

    def _borders(self, case: Case) -> list[float]:
        border = _boxes.mindspore_border if self.border == "MindSpore" else _boxes.torchvision_border
        return [border(length, np.dtype(self.dtype)) for length in case.features.shape[2:]]


# What is said of a rule that has this value where the rule asked for has another.
_PHRASES: dict[tuple[str, Any], str] = {
    ("moved", _NOT): "without moving boxes by half a cell",
    ("moved", _HALF_A_CELL): "with aligned=True (boxes moved by half a cell)",
    ("moved", _THERE_AND_BACK): "with half a cell added to boxes and taken off again (which rounds them)",
    ("end", 0): "without the 1 added to x2 and y2",
    ("end", 1): "with 1 added to x2 and y2",
    ("start", 1): "with 1 added to x1 and y1",
    ("smallest", None): "without enlarging small boxes to one cell",
    ("smallest", 0): "with negative sizes raised to 0",
    ("smallest", 1): "with small boxes enlarged to one cell",
    ("dtype", "float16"): "in float16 instead of float32",
    ("dtype", "float32"): "in float32 instead of float16",
    ("grid", "MindSpore"): "with adaptive grids rounded down (floor instead of ceil)",
    ("grid", "torchvision"): "with adaptive grids rounded up (ceil instead of floor)",
    ("count", "MindSpore"): "with NaN instead of 0 for empty adaptive grids",
    ("count", "torchvision"): "with 0 instead of NaN for empty adaptive grids",
    ("index", "MindSpore"): "with the image index rounded instead of truncated",
    ("index", "torchvision"): "with the image index truncated instead of rounded",
    ("border", "MindSpore"): "with MindSpore's border (the height and width rounded to float16)",
    ("border", "torchvision"): "with torchvision's border (the height and width not rounded to float16)",
    ("outside", "MindSpore"): "with samples outside the image that add nothing",
    ("outside", "torchvision"): "with samples outside the image that add 0 times its first pixel",
}
_PHRASES_OF_BOTH = {
    "MindSpore": "with MindSpore's adaptive grids (rounded down, NaN where empty)",
    "torchvision": "with torchvision's adaptive grids (rounded up, 0 where empty)",
}

# Rules that people know by another name: what was asked for, what of the rule must be so, and the name.
_KNOWN: tuple[tuple[str, dict[str, Any], str], ...] = (
    (
        "roi_end_mode=1",
        {"moved": _HALF_A_CELL, "end": 0, "start": 0, "smallest": None},
        "aligned for roi_end_mode, as MindSpore's documentation suggests",
    ),
    (
        "roi_end_mode=1",
        {"moved": _NOT, "end": 0, "start": 0, "smallest": 1},
        "aligned=False on unchanged boxes does the same",
    ),
    (
        "roi_end_mode=1",
        {"moved": _NOT, "end": 1, "start": 0, "smallest": 1},
        "aligned=False on boxes that end at x2 + 1 and y2 + 1 does the same",
    ),
    ("roi_end_mode=1", {"moved": _NOT, "end": 1, "start": 1}, "as the newest published kernel for Ascend does"),
    (
        "roi_end_mode=1",
        {"moved": _NOT, "end": 1, "start": 0, "smallest": 0},
        "as the older published kernels for Ascend do",
    ),
    (
        "aligned=True",
        {"moved": _NOT, "end": 1, "start": 0, "smallest": None},
        "that is roi_end_mode=1, which is not aligned=True",
    ),
)


class Candidate(NamedTuple):
    """A rule, on how many counts it is not the one asked for, and what it is called."""

    rule: Rule
    deviations: int
    description: str


def candidates_of(case: Case) -> list[Candidate]:
    """Return the rules to try, those with the fewest deviations first: the first is the one that was asked for."""
    return _candidates(tuple(rules_by_name(case).items()), _options(case))


def rules_by_name(case: Case) -> dict[str, Rule]:
    """Return the rule that was asked for, and then that of the other mode, or of the other value of ``aligned``."""
    library = case.original
    rest = (str(case.dtype), library, library, library, library, library)
    if isinstance(case, MindSporeCase):
        modes = (case.roi_end_mode, 1 - case.roi_end_mode)
        return {f"roi_end_mode={mode}": Rule(_NOT, mode, 0, None if mode else 1, *rest) for mode in modes}
    choices = (case.arguments["aligned"], not case.arguments["aligned"])
    return {
        f"aligned={aligned}": Rule(_HALF_A_CELL if aligned else _NOT, 0, 0, None if aligned else 1, *rest)
        for aligned in choices
    }


def _options(case: Case) -> tuple[tuple[Any, ...], ...]:
    """Return the values that each field of a rule may have, if it makes a difference in this case."""
    asked = next(iter(rules_by_name(case).values()))
    libraries = ("MindSpore", "torchvision")
    dtypes = {case.features.dtype.name, case.rois.dtype.name}
    if "float16" in dtypes:
        dtypes.add("float32")
    index = case.rois[:, 0]
    relevant: dict[str, Any] = {
        "moved": (_NOT, _HALF_A_CELL) if asked.moved == _HALF_A_CELL else (_NOT, _HALF_A_CELL, _THERE_AND_BACK),
        "end": (0, 1),
        "start": (0, 1),
        "smallest": (None, 0, 1),
        "dtype": sorted(dtypes),
        "grid": libraries if case.samples <= 0 else (),
        "count": libraries if case.samples <= 0 else (),
        "index": libraries if (index != np.trunc(index)).any() else (),
        "border": () if _boxes.rounds_alike(case.dtype, *case.features.shape[2:]) else libraries,
        "outside": () if np.isfinite(case.features[:, :, 0, 0]).all() else libraries,
    }
    return tuple(tuple(values) or (getattr(asked, name),) for name, values in relevant.items())


@functools.lru_cache(maxsize=64)
def _candidates(names: tuple[tuple[str, Rule], ...], options: tuple[tuple[Any, ...], ...]) -> list[Candidate]:
    (asked_name, asked), (other_name, other) = names
    found = []
    for values in itertools.product(*options):
        rule = Rule(*values)
        phrases, name = _deviations(asked, rule), asked_name
        deviations = len(phrases)
        from_other = _deviations(other, rule)
        if len(from_other) + 1 < deviations:
            phrases, name = from_other, f"{other_name}, not the {asked_name} asked for"
            deviations = len(from_other) + 1
        if deviations > _MOST_DEVIATIONS:
            continue
        description = name
        if phrases:
            description += f"{',' if name != asked_name else ''} computed {joined(phrases)}"
        for label, values_of_known, known in _KNOWN:
            if label == asked_name and all(getattr(rule, field) == value for field, value in values_of_known.items()):
                description += f": {known}"
        found.append((len(_changed(asked, rule)), Candidate(rule, deviations, description)))
    return [candidate for _, candidate in sorted(found, key=lambda entry: (entry[1].deviations, entry[0]))]


def _deviations(asked: Rule, rule: Rule) -> list[str]:
    """Return a phrase for each choice that a rule makes otherwise."""
    names = _changed(asked, rule)
    phrases = [_PHRASES[name, getattr(rule, name)] for name in names]
    if "grid" in names and "count" in names:
        at = names.index("grid")
        phrases[at : at + 2] = [_PHRASES_OF_BOTH[rule.grid]]
    return phrases


def _changed(asked: Rule, rule: Rule) -> list[str]:
    return [field.name for field in fields(Rule) if getattr(rule, field.name) != getattr(asked, field.name)]


def joined(parts: Sequence[str]) -> str:
    """List in a sentence."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
