"""The rules that ports and devices are known to follow: what each does with a box, and what it is called.

They are a few independent choices: what is added to a box, how it is moved, the smallest size, the rounding of an
adaptive grid, the dtype of the computation.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import params, rules, sampling
from ..rules import DEVICES, TORCHVISION, Samples
from .case import Case, MindSporeCase

NDArray = npt.NDArray[Any]

# A rule further from the one asked for fits by chance rather than by mistake.
_MOST_DEVIATIONS = 4

_NOT, _HALF_A_CELL, _THERE_AND_BACK = (), (0.5,), (-0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class Rule(rules.Rule):
    """How rois become values: by a rule, computed in a dtype."""

    dtype: str

    def samples(self, case: Case, rows: NDArray | slice = slice(None)) -> Samples:
        """Return where the rule samples some rows."""
        rois, scale = case.rois[rows].astype(self.dtype), case.arguments["spatial_scale"]
        samples = rules.place(self, rois, scale, case.pooled, case.samples, case.features.shape[2:])
        of_boxes = rules.samples_of_boxes(samples.grid, case.pooled, case.features.shape[2:])
        return samples._replace(
            # The other way to make an index whole can lead past the last image.
            image=np.where(samples.image < len(case.features), samples.image, -1),
            grid=np.where((of_boxes > params.MAX_SAMPLES_OF_A_BOX)[:, None], -1, samples.grid),
        )

    def key(self, case: Case) -> bytes:
        """Return what is the same for rules that give the same values."""
        *samples, outside_adds_0 = self.samples(case, ~case.undefined)
        return b"".join(array.tobytes() for array in samples) + repr((self.dtype, outside_adds_0)).encode()

    def pool(self, case: Case, features: NDArray, rows: NDArray) -> NDArray:
        """Return what some rows of a case pool to in these features, in their dtype."""
        return pool(self.samples(case, rows), features, case.pooled)

    def gradient(self, case: Case, output_gradient: NDArray) -> NDArray:
        """Return the gradient for the features, given that for the output."""
        samples = self.samples(case)
        samples = samples._replace(image=np.where(case.undefined, -1, samples.image))
        return sampling.gradient(output_gradient.astype(self.dtype), samples, case.features.shape)


def in_dtype(rule: rules.Rule, dtype: str) -> Rule:
    """Return a rule for tensors of a dtype, which are computed in it if the rule does not say otherwise."""
    return Rule(**{**vars(rule), "dtype": rules.computed_in(rule, dtype)})


def pool(samples: Samples, features: NDArray, pooled: tuple[int, int]) -> NDArray:
    """Pool samples of whatever dtype, and return the dtype of the features."""
    dtype = samples.start.dtype
    return sampling.pool(features.astype(dtype, copy=False), samples, pooled).astype(features.dtype, copy=False)


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
    ("grid", "floor"): "with adaptive grids rounded down (floor instead of ceil)",
    ("grid", "ceil"): "with adaptive grids rounded up (ceil instead of floor)",
    ("smallest_count", None): "with NaN instead of 0 for empty adaptive grids",
    ("smallest_count", 1): "with 0 instead of NaN for empty adaptive grids",
    ("index", "round"): "with the image index rounded instead of truncated",
    ("index", "trunc"): "with the image index truncated instead of rounded",
    ("rounds_lengths", True): "with MindSpore's border (the height and width rounded to float16)",
    ("rounds_lengths", False): "with torchvision's border (the height and width not rounded to float16)",
    ("outside_adds_0", False): "with samples outside the image that add nothing",
    ("outside_adds_0", True): "with samples outside the image that add 0 times its first pixel",
}
_PHRASES_OF_BOTH = {
    "floor": "with MindSpore's adaptive grids (rounded down, NaN where empty)",
    "ceil": "with torchvision's adaptive grids (rounded up, 0 where empty)",
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
    ("roi_end_mode=1", {"moved": _NOT, "end": 1, "start": 1, "smallest": 1}, "as rule='ascend-950' does"),
    (
        "roi_end_mode=1",
        {"moved": _NOT, "end": 1, "start": 0, "smallest": 0},
        "as rule='ascend-static' does within the image",
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
    options = tuple((name, tuple(values)) for name, values in _options(case).items())
    return _candidates(tuple(rules_by_name(case).items()), options)


def rules_by_name(case: Case) -> dict[str, Rule]:
    """Return the rule that was asked for, and then that of the other mode, or of the other value of ``aligned``."""
    if isinstance(case, MindSporeCase):
        name, of_library, asked = "roi_end_mode", DEVICES[case.rule], case.roi_end_mode
    else:
        name, of_library, asked = "aligned", TORCHVISION, case.arguments["aligned"]
    return {
        f"{name}={setting}": in_dtype(of_library[setting], str(case.dtype))
        for setting in (asked, type(asked)(not asked))
    }


def _options(case: Case) -> dict[str, Sequence[Any]]:
    """Return the values that fields of a rule may have, in the order of sentences, if they make a difference here."""
    asked = next(iter(rules_by_name(case).values()))
    dtypes = {case.features.dtype.name, case.rois.dtype.name}
    if "float16" in dtypes:
        dtypes.add("float32")
    index = case.rois[:, 0]
    adaptive = case.samples <= 0
    options: dict[str, Sequence[Any]] = {
        "moved": (_NOT, _HALF_A_CELL) if asked.moved == _HALF_A_CELL else (_NOT, _HALF_A_CELL, _THERE_AND_BACK),
        "end": (0, 1),
        "start": (0, 1),
        "smallest": (None, 0, 1),
        "dtype": sorted(dtypes),
        "grid": ("floor", "ceil") if adaptive else (),
        "smallest_count": (None, 1) if adaptive else (),
        "index": ("round", "trunc") if (index != np.trunc(index)).any() else (),
        "rounds_lengths": () if rules.rounds_alike(case.dtype, *case.features.shape[2:]) else (True, False),
        "outside_adds_0": () if np.isfinite(case.features[:, :, 0, 0]).all() else (True, False),
    }
    return {name: values for name, values in options.items() if values}


@functools.lru_cache(maxsize=64)
def _candidates(
    names: tuple[tuple[str, Rule], ...], options: tuple[tuple[str, tuple[Any, ...]], ...]
) -> list[Candidate]:
    (asked_name, asked), (other_name, other) = names
    fields_of_options, values_of_options = zip(*options, strict=True)
    found = []
    for values in itertools.product(*values_of_options):
        rule = replace(asked, **dict(zip(fields_of_options, values, strict=True)))
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
    if "grid" in names and "smallest_count" in names:
        at = names.index("grid")
        phrases[at : at + 2] = [_PHRASES_OF_BOTH[rule.grid]]
    return phrases


def _changed(asked: Rule, rule: Rule) -> list[str]:
    names = dict.fromkeys(name for name, _ in _PHRASES)
    return [name for name in names if getattr(rule, name) != getattr(asked, name)]


def joined(parts: Sequence[str], conjunction: str = "and") -> str:
    """List in a sentence."""
    return f" {conjunction} ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
