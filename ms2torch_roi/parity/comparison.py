"""``compare``: what a whole head or model gives in both frameworks, and the first place where they part."""

from __future__ import annotations

import contextlib
import itertools
import numbers
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from .. import arrays, rules
from . import verdicts
from .verdicts import Tolerance, Verdict

NDArray = npt.NDArray[Any]

UNWRITTEN = "mean nothing: they depend on rows that MindSpore never writes (|x1| and |x2| < 0.001)"
UNSTEADY = "mean nothing: they differ from run to run for another reason"
OTHER_LEVEL = "are of rois on another level"

# Rows that are listed of those that are left out.
_LISTED = 8


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; printed, it says so in words.

    Attributes:
        outputs: a verdict on each output, named as its ``case``, in the order of the outputs.
        left_out: for each output, the rows that were not compared, as a whole or in part, by the reason.
        other_levels: what is known of each roi that is on another level of the pyramid, by its row.
    """

    outputs: tuple[Verdict, ...]
    left_out: Mapping[str, Mapping[str, tuple[int, ...]]]
    other_levels: Mapping[int, str]

    @property
    def passed(self) -> bool:
        """Tell whether all outputs agree, and all rois are on the same level."""
        return self.parts_at is None

    @property
    def parts_at(self) -> str | None:
        """The first place where they part: "levels", or the name of an output; None if they do not."""
        return "levels" if self.other_levels else next((o.case for o in self.outputs if not o.passed), None)

    def __str__(self) -> str:
        compared = sum(output.values for output in self.outputs)
        if self.passed:
            lines = [f"THE SAME: {compared:,} values of {len(self.outputs)} outputs."]
        else:
            differing = sum(not output.passed for output in self.outputs)
            lines = [f"DIFFERENT: they part at {self.parts_at}, and {differing} of {len(self.outputs)} outputs differ."]
        if self.other_levels:
            lines.append(f"  {len(self.other_levels):,} rois are on another level, such as:")
            lines += [f"    roi {row} {known}" for row, known in list(self.other_levels.items())[:_LISTED]]
        for output in self.outputs:
            if output.passed and not output.differing:
                found = [f"{output.values:,} values, all the same" if output.values else "nothing to compare"]
            else:
                found = verdicts.describe(output)
            found += [f"not compared: {_listed(rows)}, which {why}" for why, rows in self.left_out[output.case].items()]
            lines += [f"  {output.case}: {found[0]}", *(f"    {line}" for line in found[1:])]
        return "\n".join(lines)


def compare(
    expected: Any,
    actual: Any,
    *,
    rois: Any = None,
    levels: tuple[Any, Any] | None = None,
    atol: float = 0.0,
    rtol: float = 0.0,
    max_differing: int = 0,
) -> Comparison:
    """Compare what a head or a model gives in two frameworks, and find the first place where they part.

    MindSpore's operator leaves some rows, such as those of rois that are zero padding, as they were in memory. What a
    model makes of them means nothing, and differs from run to run. It is left out, by one of two ways: by ``rois``, or
    by running the model.

    Args:
        expected: the outputs of the model that was ported: an array of any library, on any device, or a list, tuple or
            dict of outputs, in the order in which they are computed. Or a function without arguments that returns them,
            with MindSpore in PyNative mode: it is called once more for each of several fillings of the rows that
            MindSpore's operator does not write, and what depends on them is left out, wherever it stands.
        actual: those of the port, by the same names or in the same order; or such a function.
        rois: (K, 5), (K, 4) or (N, R, 4), coordinates in image pixels last, or a list of arrays of (L_i, 4): those that
            were pooled. In each output that has a row for each roi (its first axes are K, or N and R) the rows that
            MindSpore does not write on a CPU or GPU are left out. Not for models without MindSpore's operator.
        levels: two arrays of (K,) ints, the levels of the pyramid on which the two models pooled each roi, such as
            ``map_roi_levels`` of extractors gives. Rois on another level are named, and the rest is compared.
        atol: how much a value may differ, and
        rtol: how much more for each unit of the expected value. By default every bit counts; the layers around the
            operator rarely have the same bits in both frameworks.
        max_differing: how many values of an output may differ by more.

    Returns:
        a :class:`Comparison`, with ``passed``, ``parts_at`` and, printed, all that was found.

    Raises:
        TypeError: an output is no array, or ``rois`` are none.
        ValueError: the two have other outputs; ``rois`` or ``levels`` are of another shape.

    >>> import numpy as np
    >>> from ms2torch_roi import compare
    >>> rois = np.array([[0, 0, 0, 0, 0], [0, 8, 8, 24, 24]], np.float32)  # the first is padding
    >>> in_mindspore = {"pooled": np.array([[7.5], [1.0]]), "scores": np.array([[3.0], [0.25]])}
    >>> in_torch = {"pooled": np.array([[0.0], [1.0]]), "scores": np.array([[0.0], [0.5]])}
    >>> compare(in_mindspore, in_torch, rois=rois).parts_at
    'scores'
    """
    tolerance = Tolerance(atol, rtol, max_differing)
    boxes = None if rois is None else _boxes(rois)
    other_levels = {} if levels is None else _other_levels(levels, boxes)
    (wanted, unsteady), (got, unsteady_too) = _outputs("expected", expected), _outputs("actual", actual)
    if wanted.keys() != got.keys():
        raise ValueError(f"compare: expected has the outputs {', '.join(wanted)}, actual has {', '.join(got)}")
    outputs, left_out = [], {}
    for name, array in wanted.items():
        masks = {why: np.zeros(array.shape, bool) for why in (UNSTEADY, UNWRITTEN, OTHER_LEVEL)}
        for why, mask in (*unsteady.get(name, {}).items(), *unsteady_too.get(name, {}).items()):
            if mask.shape == array.shape:
                masks[why] |= mask
        rows = _rows(array, boxes)
        if boxes is not None and rows == len(boxes):
            masks[UNWRITTEN] |= _of_rows(rules.near_0(np, boxes), array)
            masks[OTHER_LEVEL] |= _of_rows(np.isin(np.arange(rows), list(other_levels)), array)
        outputs.append(_judge(name, array, got[name], np.logical_or.reduce([*masks.values()]), boxes, tolerance))
        left_out[name] = {
            why: tuple(np.flatnonzero(mask.reshape(rows, -1).any(1)).tolist())
            for why, mask in masks.items()
            if mask.any()
        }
    return Comparison(tuple(outputs), left_out, other_levels)


def _boxes(rois: Any) -> NDArray:
    """Return rois of any form as (K, 5)."""
    if isinstance(rois, list | tuple):
        rois = np.concatenate([_array("rois", part).reshape(-1, 4) for part in rois] or [np.zeros((0, 4))])
    array = _array("rois", rois)
    if array.ndim < 2 or array.shape[-1] not in (4, 5):
        raise ValueError(f"compare: rois must be (K, 5), (K, 4) or (N, R, 4), got {array.shape}")
    rows = array.reshape(-1, array.shape[-1])
    return rows if rows.shape[1] == 5 else np.pad(rows, ((0, 0), (1, 0)))


def _other_levels(levels: tuple[Any, Any], boxes: NDArray | None) -> dict[int, str]:
    """Say of each roi that is on another level which two these are."""
    expected, actual = (_array("levels", of_model).reshape(-1) for of_model in levels)
    if boxes is None or not len(expected) == len(actual) == len(boxes):
        found = "no rois" if boxes is None else f"{len(boxes)} rois"
        raise ValueError(f"compare: levels must be two for each roi, got {len(expected)}, {len(actual)} and {found}")
    return {
        int(row): f"{_coordinates(boxes, row)}: level {expected[row]}, and in actual {actual[row]}"
        for row in np.flatnonzero(expected != actual)
    }


def _outputs(name: str, model: Any) -> tuple[dict[str, NDArray], dict[str, dict[str, NDArray]]]:
    """Return the outputs of a model, and masks of what means nothing in each of them, by the reason."""
    if not callable(model):
        return dict(_named_arrays(name, model, "")), {}
    filled, outputs = _run(name, model, None)
    if not filled:
        return outputs, {}
    (_, otherwise), (_, again) = _run(name, model, np.random.default_rng(0)), _run(name, model, None)
    masks = {}
    for output, array in outputs.items():
        is_unsteady = _differing(array, again.get(output))
        masks[output] = {UNSTEADY: is_unsteady, UNWRITTEN: _differing(array, otherwise.get(output)) & ~is_unsteady}
    return outputs, masks


def _run(name: str, model: Callable[[], Any], rng: np.random.Generator | None) -> tuple[int, dict[str, NDArray]]:
    """Run a model with the rows that MindSpore does not write filled, by 0 or at random; return how many, and all."""
    with _filled_rows(rng) as filled:
        outputs = dict(_named_arrays(name, model(), ""))
    return sum(filled), outputs


@contextlib.contextmanager
def _filled_rows(rng: np.random.Generator | None) -> Iterator[list[int]]:
    """Fill the rows that MindSpore's operator does not write, which are counted for each call."""
    filled: list[int] = []
    ms = sys.modules.get("mindspore")
    if ms is None or ms.get_context("device_target") == "Ascend":  # which writes all rows
        yield filled
        return
    original = ms.ops.ROIAlign.__call__

    def call(self: Any, features: Any, rois: Any) -> Any:
        output = original(self, features, rois)
        if ms.ops.primitive.jit_context():  # there are no values while mindspore.jit traces
            return output
        rows = np.flatnonzero(rules.near_0(np, rois.asnumpy()))
        filled.append(len(rows))
        if not len(rows):
            return output
        values = output.asnumpy().copy()
        values[rows] = 0 if rng is None else rng.standard_normal(values[rows].shape) * np.abs(features.asnumpy()).max()
        return ms.Tensor(values)

    with mock.patch.object(ms.ops.ROIAlign, "__call__", call):
        yield filled


def _named_arrays(name: str, outputs: Any, path: str) -> Iterator[tuple[str, NDArray]]:
    """Yield the arrays in nested outputs, named by where they are."""
    if isinstance(outputs, Mapping):
        parts = [(f"{path}.{key}" if path else str(key), value) for key, value in outputs.items()]
    elif isinstance(outputs, list | tuple):
        parts = [(f"{path}[{number}]", value) for number, value in enumerate(outputs)]
    else:
        yield path or "output", _array(f"{name}{path and f' {path}'}", outputs)
        return
    for part, value in parts:
        yield from _named_arrays(name, value, part)


def _array(name: str, value: Any) -> NDArray:
    """Return the values of an array of any library, device and dtype."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value  # NumPy has none
    array = arrays.to_numpy(value, "compare")
    if array is None and isinstance(value, numbers.Number):
        array = np.asarray(value)
    if array is None:
        raise TypeError(f"compare: {name} must be an array, or a list, tuple or dict of such, got {type(value)}")
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


def _rows(array: NDArray, boxes: NDArray | None) -> int:
    """Return how many rows an output has: as many as rois, if its first axes have, or what its first axis has."""
    if boxes is not None and len(boxes) in itertools.accumulate(array.shape, operator.mul):
        return len(boxes)
    return len(array) if array.ndim else 1


def _of_rows(is_left_out: NDArray, array: NDArray) -> NDArray:
    """Return a mask of an output that has a row for each roi."""
    mask = np.zeros((len(is_left_out), array.size // max(len(is_left_out), 1)), bool)
    mask[is_left_out] = True
    return mask.reshape(array.shape)


def _differing(array: NDArray, again: NDArray | None) -> NDArray:
    if again is None or again.shape != array.shape:  # such as the boxes that are left of another number
        return np.ones(array.shape, bool)
    return ~verdicts.same_bits(verdicts.flushed(array), verdicts.flushed(again))


def _judge(
    name: str, expected: NDArray, actual: NDArray, left_out: NDArray, boxes: NDArray | None, tolerance: Tolerance
) -> Verdict:
    if left_out.all() and left_out.size:
        return Verdict(name, "", "")
    problem = ""
    if expected.shape != actual.shape:
        problem = f"expected has shape {expected.shape}, actual {actual.shape}"
    elif expected.dtype != actual.dtype and "f" in (expected.dtype.kind, actual.dtype.kind):
        problem = f"expected is {expected.dtype}, actual {actual.dtype}"
    if problem:
        return Verdict(name, "", "", problem=problem)

    def where(at: Sequence[int]) -> str:
        if boxes is None or _rows(expected, boxes) != len(boxes):
            return f"at {list(at)}"
        row = int(np.ravel_multi_index(tuple(at), expected.shape)) // (expected.size // len(boxes))
        return f"roi {row} {_coordinates(boxes, row)}, at {list(at)}"

    wanted, got = (np.atleast_1d(np.where(left_out, 0, verdicts.flushed(array))) for array in (expected, actual))
    found = verdicts.compare_values(wanted, got, tolerance, where)
    return Verdict(name, "", "", **{**found, "values": int((~left_out).sum())})


def _coordinates(boxes: NDArray, row: int) -> str:
    return f"({', '.join(map(str, boxes[row, 1:]))})"


def _listed(rows: Sequence[int]) -> str:
    more = f" and {len(rows) - _LISTED:,} more" if len(rows) > _LISTED else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:_LISTED]))}{more}"
