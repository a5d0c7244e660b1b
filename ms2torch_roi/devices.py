"""Which of MindSpore's kernels a run most likely used, and so which rule of ``ROIAlign`` reproduces it.

From what the sources of MindSpore and of Ascend's toolkit say of how an operator is compiled; nothing of it was seen on
a device. ``ms2torch-roi identify`` tells from recorded calls.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

CHIPS = ("CPU", "GPU", "310", "310B", "310P", "910A", "910B", "910_93", "950")
Mode = Literal["pynative", "graph"]
Shapes = Literal["static", "dynamic"]

# Chips for which kernels are compiled ahead, for any shape.
_PRECOMPILED = ("310P",)

# Before that, MindSpore compiled every operator for its shapes; from then on only whole graphs.
_FIRST_WITHOUT_STATIC_OPERATORS = (2, 1)

# Graph mode was compiled as a whole (O2) on all chips up to this one; from then on by default on the 910A only.
_LAST_OF_WHOLE_GRAPHS = (2, 3)


class Likely(NamedTuple):
    """The rule that a run most likely obeyed, None if no rule has a name; in a sentence; and how sure that is."""

    rule: str | None
    sentence: str
    confidence: Literal["high", "medium", "low"]


def likely_rule(
    chip: str,
    mindspore: str | None = None,
    mode: Mode = "pynative",
    shapes: Shapes = "static",
    dtype: Literal["float32", "float16"] = "float32",
) -> Likely:
    """Return the rule that ``mindspore.ops.ROIAlign`` most likely obeyed in a run.

    Args:
        chip: one of ``CHIPS``, in any case, with or without "Ascend" before it.
        mindspore: its version, such as ``"2.3"``; None for the newest.
        mode: ``"pynative"`` or ``"graph"``.
        shapes: whether those of the features and rois were known when the model was compiled.
        dtype: of the features.

    Raises:
        ValueError: another chip, or no version.

    >>> likely_rule("910B", "2.3", "pynative").rule
    'ascend-dynamic'
    >>> likely_rule("Ascend910A", "1.8", "graph").rule
    'ascend-static'
    """
    found = chip.upper().removeprefix("ASCEND").strip()
    if found == "910":
        found = "910A"
    if found not in CHIPS:
        raise ValueError(f"chip must be one of {', '.join(CHIPS)}, got {chip!r}")
    version = _version(mindspore)
    if found == "CPU":
        return Likely("cpu", "MindSpore has one kernel for a CPU.", "high")
    if found == "GPU":
        if version < (1, 2):
            return Likely(None, "MindSpore 1.0 and 1.1 had another kernel on a GPU, which has no rule here.", "high")
        return Likely("gpu", "MindSpore's kernel for a GPU has the rule of the CPU.", "high")
    if found == "950":
        return Likely("ascend-950", "The kernel of Ascend 950 is its own; one source describes it.", "low")
    if shapes == "dynamic":
        return Likely(
            "ascend-dynamic",
            "Of open shapes Ascend runs its dynamic kernel; one of before 2023 was another, which has no rule here.",
            "high",
        )
    if found in _PRECOMPILED:
        return Likely("ascend-dynamic", f"On the {found} Ascend runs its dynamic kernel for all shapes.", "high")
    in_static_kernels = version < _FIRST_WITHOUT_STATIC_OPERATORS
    by_whole_graph = mode == "graph" and (version <= _LAST_OF_WHOLE_GRAPHS or found == "910A")
    if not (in_static_kernels or by_whole_graph):
        what = "operator by operator, with the dynamic kernel whatever the shapes"
        sentence = f"MindSpore from 2.1 on runs {'PyNative mode' if mode == 'pynative' else 'this graph'} {what}."
        return Likely("ascend-dynamic", sentence, "medium")
    how = (
        "MindSpore up to 2.0 compiles operators for their shapes" if in_static_kernels else "A graph is compiled whole"
    )
    if dtype == "float16" and found in ("310", "310B", "910A"):
        sentence = f"{how}; in float16 that is a kernel of its own on the {found}, which has no rule here."
        return Likely(None, sentence, "medium")
    return Likely("ascend-static", f"{how}: the static kernel.", "high")


def _version(mindspore: str | None) -> tuple[int, int]:
    if mindspore is None:
        return (99, 0)
    found = re.match(r"(\d+)\.(\d+)", mindspore)
    if found is None:
        raise ValueError(f"mindspore must be a version such as 2.3, got {mindspore!r}")
    return int(found[1]), int(found[2])
