"""``compare``: what a whole head or model gives in both frameworks, and the first place where they part."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt

from .. import arrays, rules
from . import verdicts
from .verdicts import Tolerance, Verdict

NDArray = npt.NDArray[Any]

UNWRITTEN = "depend on rows that MindSpore never writes (|x1| and |x2| < 0.001), and mean nothing"
OTHER_LEVEL = "are of rois on another level"
UNSTEADY = (
    "differ from run to run, whatever the rows that MindSpore never writes hold: only a model that gives the same"
)
UNSTEADY += " again can be compared (no dropout, a fixed seed)"
UNSEEN = (
    "No call of MindSpore's ROIAlign was seen, as Python makes none in graphs and under mindspore.jit. If there are"
)
UNSEEN += " any, the rows that they do not write are compared too: give rois, or run the model in PyNative mode."

# Rows that are listed of those that are left out.
_LISTED = 8


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; printed, it says so in words.

    Attributes:
        outputs: a verdict on each output, named as its ``case``, in the order of the outputs.
        left_out: for each output, the rows that were not compared, as a whole or in part, by the reason.
        other_levels: what is known of each roi that is on another level of the pyramid, by its row.
        notes: what may have been compared that means nothing.
    """

    outputs: tuple[Verdict, ...]
    left_out: Mapping[str, Mapping[str, tuple[int, ...]]]
    other_levels: Mapping[int, str]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Tell whether values were compared, they agree, and all rois are on the same level."""
        return self.parts_at is None and any(output.values for output in self.outputs)

    @property
    def parts_at(self) -> str | None:
        """The first place where they part: "levels", or the name of an output; None if they do not."""
        return "levels" if self.other_levels else next((o.case for o in self.outputs if not o.passed), None)

    @property
    def not_compared(self) -> tuple[str, ...]:
        """The names of the outputs of which no value means anything."""
        return tuple(o.case for o in self.outputs if not o.values and self.left_out[o.case] and o.passed)

    def __str__(self) -> str:
        compared = sum(output.values for output in self.outputs)
        if self.parts_at is not None:
            differing = sum(not output.passed for output in self.outputs)
            lines = [f"DIFFERENT: they part at {self.parts_at}, and {differing} of {len(self.outputs)} outputs differ."]
        elif self.passed:
            same = len(self.outputs) - len(self.not_compared)
            lines = [f"THE SAME: {compared:,} values of {same} output{'s' * (same != 1)}."]
        else:
            lines = ["NOTHING COMPARED: no value means anything."]
        if self.passed and self.not_compared:
            lines[0] += f" NOT COMPARED: {', '.join(self.not_compared)}."
        if self.other_levels:
            lines.append("  on another level:")
            lines += [f"    roi {row} {known}" for row, known in list(self.other_levels.items())[:_LISTED]]
            if len(self.other_levels) > _LISTED:
                lines.append(f"    and {len(self.other_levels) - _LISTED:,} more")
        for output in self.outputs:
            if output.passed and not output.differing:
                found = [
                    "not compared" if output.case in self.not_compared else f"{output.values:,} values, all the same"
                ]
            else:
                found = verdicts.describe(output)
            found += [f"not compared: {_listed(rows)}: they {why}" for why, rows in self.left_out[output.case].items()]
            lines += [f"  {output.case}: {found[0]}", *(f"    {line}" for line in found[1:])]
        return "\n".join([*lines, *self.notes])


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
            with MindSpore in PyNative mode: if its operator leaves rows unwritten, the function runs three times, with
            zeros, random numbers and zeros in them, and what depends on them is left out, wherever it stands.
        actual: those of the port, by the same names or in the same order; or such a function.
        rois: (K, 5), (K, 4) or (N, R, 4), coordinates in image pixels last, or a list of arrays of (L_i, 4): those that
            were pooled. In each output whose first axis is K, or whose first two are N and R, the rows that MindSpore
            does not write on a CPU or GPU are left out: also if that is so by chance, which the result shows. Not for
            models without MindSpore's operator.
        levels: two arrays of (K,) ints, the levels of the pyramid on which the two models pooled each roi, such as
            ``map_roi_levels`` of extractors gives. Rois on another level are named, and the rest is compared.
        atol: how much a value may differ, and
        rtol: how much more for each unit of the expected value. By default every bit counts; the layers around the
            operator rarely have the same bits in both frameworks.
        max_differing: how many values of an output may differ by more.

    Returns:
        a :class:`Comparison`, with ``passed``, ``parts_at`` and, printed, all that was found.

    Raises:
        TypeError: an output is no array of numbers, or ``rois`` are none.
        ValueError: the two have other outputs, or two of one name; ``rois`` or ``levels`` are of another shape.

    >>> import numpy as np
    >>> from ms2torch_roi import compare
    >>> rois = np.array([[0, 0, 0, 0, 0], [0, 8, 8, 24, 24]], np.float32)  # the first is padding
    >>> in_mindspore = {"pooled": np.array([[7.5], [1.0]]), "scores": np.array([[3.0], [0.25]])}
    >>> in_torch = {"pooled": np.array([[0.0], [1.0]]), "scores": np.array([[0.0], [0.5]])}
    >>> compare(in_mindspore, in_torch, rois=rois).parts_at
    'scores'
    """
    tolerance = Tolerance(atol, rtol, max_differing)
    boxes, grid = (None, ()) if rois is None else _boxes(rois)
    other_levels = {} if levels is None else _other_levels(levels, boxes)
    wanted, got = _run("expected", expected, tolerance), _run("actual", actual, tolerance)
    if wanted.outputs.keys() != got.outputs.keys():
        raise ValueError(f"compare: expected has the outputs {_names(wanted)}, and actual {_names(got)}")
    outputs, left_out = [], {}
    for name, output in wanted.outputs.items():
        shape = output.array.shape
        of_rois = None if boxes is None or (shape[: len(grid)] != grid and shape[:1] != (len(boxes),)) else boxes
        masks = {UNWRITTEN: wanted.meaningless(name, shape) | got.meaningless(name, shape)}
        if of_rois is not None:
            masks[UNWRITTEN] |= _of_rows(rules.near_0(np, of_rois), shape)
            masks[OTHER_LEVEL] = _of_rows(np.isin(np.arange(len(of_rois)), list(other_levels)), shape)
        problem = wanted.unsteady.get(name) or got.unsteady.get(name) or ""
        is_left_out = np.logical_or.reduce([*masks.values()])
        outputs.append(_judge(name, output, got.outputs[name], is_left_out, of_rois, tolerance, problem))
        rows = (*shape, 1)[0] if of_rois is None else len(of_rois)
        left_out[name] = {
            why: tuple(np.flatnonzero(mask.reshape(rows, -1).any(1)).tolist())
            for why, mask in masks.items()
            if mask.any()
        }
    seen = boxes is not None or wanted.calls or got.calls or not (wanted.is_run or got.is_run)
    notes = () if seen or "mindspore" not in sys.modules else (UNSEEN,)
    return Comparison(tuple(outputs), left_out, other_levels, notes)


class _Output(NamedTuple):
    """An output, with the name of its dtype in its framework."""

    array: NDArray
    dtype: str


class _Run(NamedTuple):
    """The outputs of a model.

    ``masks`` are of what depends on rows that MindSpore does not write, and ``unsteady`` says of what differs
    otherwise from run to run; ``calls`` of MindSpore's operator were seen, if it ``is_run`` here.
    """

    outputs: dict[str, _Output]
    masks: Mapping[str, NDArray] = {}
    unsteady: Mapping[str, str] = {}
    calls: int = 0
    is_run: bool = False

    def meaningless(self, name: str, shape: tuple[int, ...]) -> NDArray:
        """Return a mask of an output of this shape; if it has another one here, it counts only as a whole."""
        mask = self.masks.get(name, np.zeros(shape, bool))
        return mask.copy() if mask.shape == shape else np.full(shape, bool(mask.size and mask.all()))


def _run(name: str, model: Any, tolerance: Tolerance) -> _Run:
    """Return the outputs of a model, which is run if it is a function, and what means nothing in them."""
    if not callable(model):
        return _Run(_outputs(name, model))
    filled, outputs = _filled_run(name, model, None)
    if not any(filled):
        return _Run(outputs, calls=len(filled), is_run=True)
    (_, otherwise), (_, again) = _filled_run(name, model, np.random.default_rng(0)), _filled_run(name, model, None)
    unsteady = {}
    for output, (array, _) in outputs.items():
        if (mask := _differing(array, again.get(output), tolerance)).any():
            unsteady[output] = f"{int(mask.sum()):,} values of {name} {UNSTEADY}"
    masks = {output: _differing(array, otherwise.get(output), tolerance) for output, (array, _) in outputs.items()}
    return _Run(outputs, masks, unsteady, len(filled), is_run=True)


def _filled_run(
    name: str, model: Callable[[], Any], rng: np.random.Generator | None
) -> tuple[list[int], dict[str, _Output]]:
    """Run a model with the rows that MindSpore does not write filled, by 0 or at random; return how many in each call.

    The operator is MindSpore's for all that follows, gradients included.
    """
    filled: list[int] = []
    ms = sys.modules.get("mindspore")
    if ms is None or ms.get_context("device_target") == "Ascend":  # which writes all rows
        return filled, _outputs(name, model())
    original = ms.ops.ROIAlign.__call__

    def call(self: Any, features: Any, rois: Any) -> Any:
        output = original(self, features, rois)
        if ms.ops.primitive.jit_context():  # there are no values while mindspore.jit traces
            return output
        unwritten = rules.near_0(np, rois.asnumpy())
        filled.append(int(unwritten.sum()))
        if not filled[-1]:
            return output
        values = features.asnumpy()
        filling = np.zeros(output.shape, values.dtype)
        if rng is not None:
            filling += (rng.standard_normal(output.shape) * np.abs(values).max()).astype(values.dtype)
        return ms.ops.where(ms.Tensor(unwritten.reshape(-1, 1, 1, 1)), ms.Tensor(filling), output)

    with mock.patch.object(ms.ops.ROIAlign, "__call__", call):
        return filled, _outputs(name, model())


def _outputs(name: str, found: Any) -> dict[str, _Output]:
    """Return the arrays in nested outputs, named by where they are."""
    outputs: dict[str, _Output] = {}
    for path, output in _named_outputs(name, found, ""):
        if path in outputs:
            raise ValueError(f"compare: {name} has two outputs that are called {path}")
        outputs[path] = output
    return outputs


def _named_outputs(name: str, found: Any, path: str) -> Iterator[tuple[str, _Output]]:
    if isinstance(found, Mapping):
        parts = [(f"{path}.{key}" if path else str(key), value) for key, value in found.items()]
    elif isinstance(found, list | tuple):
        parts = [(f"{path}[{number}]", value) for number, value in enumerate(found)]
    elif found is None:
        return
    else:
        yield path or "output", _output(f"{name} {path}".strip(), found)
        return
    for part, value in parts:
        yield from _named_outputs(name, value, part)


def _output(name: str, value: Any) -> _Output:
    """Return the values of an array of any library and device, of integers, booleans or floats of any width."""
    torch = sys.modules.get("torch")
    dtype = str(getattr(value, "dtype", "")).lower().removeprefix("torch.")
    if torch is not None and isinstance(value, torch.Tensor):
        if value.layout != torch.strided:
            raise TypeError(f"compare: {name} must be a dense tensor, got {value.layout}")
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value  # NumPy has none
    array = np.asarray(value) if isinstance(value, numbers.Number) else arrays.to_numpy(value, "compare")
    if array is not None and dtype == "bfloat16":
        array = array.astype(np.float32)
    if array is None or array.dtype.kind not in "biuf":
        found = f"{type(value).__name__}{'' if array is None else f' of {array.dtype}'}"
        raise TypeError(f"compare: {name} must be an array of numbers, or a list, tuple or dict of such, got {found}")
    return _Output(array, dtype or array.dtype.name)


def _boxes(rois: Any) -> tuple[NDArray, tuple[int, ...]]:
    """Return rois of any form as (K, 5), and the axes that they had: (K,) or (N, R)."""
    parts = rois if isinstance(rois, list | tuple) else None
    if parts is None or all(isinstance(part, numbers.Number | list | tuple) for part in parts):
        array = _numbers("rois", rois).reshape(-1, 4) if parts == [] else _numbers("rois", rois)
        if array.ndim not in (2, 3) or array.shape[-1] not in (4, 5)[: 4 - array.ndim]:
            raise ValueError(f"compare: rois must be (K, 5), (K, 4) or (N, R, 4), got {array.shape}")
    else:
        of_images = [_numbers(f"rois[{image}]", part) for image, part in enumerate(parts)]
        for image, of_image in enumerate(of_images):
            if of_image.ndim != 2 or of_image.shape[1] != 4:
                raise ValueError(f"compare: rois[{image}] must be (L, 4), got {of_image.shape}")
        array = np.concatenate(of_images)
    rows = array.reshape(-1, array.shape[-1])
    return rows if rows.shape[1] == 5 else np.pad(rows, ((0, 0), (1, 0))), array.shape[:-1]


def _numbers(name: str, value: Any) -> NDArray:
    """Return an array of any library, or nested lists of numbers, as NumPy's."""
    return _output(name, np.asarray(value) if isinstance(value, list | tuple) else value).array


def _other_levels(levels: Any, boxes: NDArray | None) -> dict[int, str]:
    """Say of each roi that is on another level which two these are."""
    if not isinstance(levels, list | tuple) or len(levels) != 2:
        raise ValueError("compare: levels must be a pair: the levels of expected, and those of actual")
    expected, actual = (_numbers("levels", of_model).reshape(-1) for of_model in levels)
    if boxes is None or not len(expected) == len(actual) == len(boxes):
        found = "no rois" if boxes is None else f"{len(boxes)} rois"
        raise ValueError(f"compare: levels must be two for each roi, got {len(expected)}, {len(actual)} and {found}")
    return {
        int(row): f"{_coordinates(boxes, row)}: level {expected[row]}, and in actual {actual[row]}"
        for row in np.flatnonzero(expected != actual)
    }


def _of_rows(is_left_out: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Return a mask of an output of this shape, which has a row for each roi."""
    return np.repeat(is_left_out, math.prod(shape) // max(len(is_left_out), 1)).reshape(shape)


def _differing(array: NDArray, again: _Output | None, tolerance: Tolerance) -> NDArray:
    if again is None or again.array.shape != array.shape:  # such as the boxes that are left of another number
        return np.ones(array.shape, bool)
    values = verdicts.flushed(array)
    return verdicts.differing(values, verdicts.distance(values, verdicts.flushed(again.array)), tolerance)


def _judge(
    name: str,
    expected: _Output,
    actual: _Output,
    left_out: NDArray,
    boxes: NDArray | None,
    tolerance: Tolerance,
    problem: str,
) -> Verdict:
    shape = expected.array.shape
    is_nothing = bool(left_out.size and left_out.all())
    if expected.dtype != actual.dtype and "f" in (expected.array.dtype.kind, actual.array.dtype.kind):
        problem = problem or f"expected is {expected.dtype}, and actual {actual.dtype}"
    elif shape != actual.array.shape and not is_nothing:  # how many there are may depend on what means nothing, too
        problem = problem or f"expected has the shape {shape}, and actual {actual.array.shape}"
    if problem or is_nothing:
        return Verdict(name, "", "", problem=problem)

    def where(at: Sequence[int]) -> str:
        at = tuple(at)[: len(shape)]
        if boxes is None:
            return f"at {list(at)}"
        row = int(np.ravel_multi_index(at, shape)) // (left_out.size // len(boxes))
        return f"roi {row} {_coordinates(boxes, row)}, at {list(at)}"

    wanted, got = (np.where(left_out, 0, verdicts.flushed(array)) for array in (expected.array, actual.array))
    found = verdicts.compare_values(np.atleast_1d(wanted), np.atleast_1d(got), tolerance, where)
    return Verdict(name, "", "", **{**found, "values": int((~left_out).sum())})


def _names(run: _Run) -> str:
    return ", ".join(run.outputs) or "none"


def _coordinates(boxes: NDArray, row: int) -> str:
    return f"({', '.join(map(str, boxes[row, 1:]))})"


def _listed(rows: Sequence[int]) -> str:
    more = f" and {len(rows) - _LISTED:,} more" if len(rows) > _LISTED else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:_LISTED]))}{more}"
