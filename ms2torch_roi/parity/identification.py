"""Which rule recorded calls of ``mindspore.ops.ROIAlign`` obey: what the device computed that they were recorded on.

Every rule that a device is known or believed to follow is tried on every call. A device may differ by ``ALLOWED``, and
by what some last digits of a coordinate make: its reciprocals, the order of its sums and its float16 are its own. Where
so little would move a sample across the border of the image, or change the number of samples, a row tells nothing and
is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import engine, rules
from ..rules import Rule, Samples
from .case import MindSporeCase
from .recording.calls import Call
from .rules import in_dtype, joined
from .verdicts import distance, flushed, largest, same_bits

NDArray = npt.NDArray[Any]

# What a device may differ by, by the dtype of the features: of the largest feature in a call, and of the largest value
# of a gradient, which is a sum. A difference between two rules is some tenths of the largest feature.
ALLOWED = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-4}
ALLOWED_IN_GRADIENTS = {"float16": 5e-2, "float32": 1e-3, "float64": 1e-3}

# Channels that are compared, at most: no kernel samples them differently.
_CHANNELS = 8

# How many last digits a coordinate may be off on a device.
_DIGITS = 8


@dataclass(frozen=True)
class Hypothesis:
    """What a device may compute.

    Attributes:
        name: as ``rule=`` has it, or a few words for what has none.
        outputs: the rules of the output, by ``roi_end_mode``; a mode that is not there is not explained.
        gradient: the rule of its gradient for features, which is of mode 1.
        is_named: whether ``rule=`` takes the name.
        fixed_only: whether it has no adaptive grids.
        only: the dtype of the features that it is for; None for any.
        sticky: what becomes of samples after one outside: those of its row, or all others of the box, are left out.
    """

    name: str
    outputs: Sequence[Rule]
    gradient: Rule | None = None
    is_named: bool = False
    fixed_only: bool = False
    only: str | None = None
    sticky: str | None = None


def hypotheses() -> list[Hypothesis]:
    """Return what is tried: the rules that have a name, and what sources say of other kernels."""
    named = [
        Hypothesis(device, outputs, rules.GRADIENTS[device][1], is_named=True)
        for device, outputs in rules.DEVICES.items()
        if device != "gpu"  # the same
    ]
    static_0, static_1, moved, _ = rules.DEVICES["ascend-static"]
    old = replace(static_0, smallest=None)
    half = replace(static_0, index="floor", border="[0, n)", smallest_count=1, dtype="float32")
    gpu = replace(static_0, smallest=None, index="trunc", grid="floor", border="(-1, n)")
    sticky = "Ascend, static, before December 2021"
    return [
        *named,
        Hypothesis(sticky, (static_0, static_1), sticky="row"),
        Hypothesis("Ascend 310 and 910A, float16", (half, replace(half, end=1)), fixed_only=True, only="float16"),
        Hypothesis("Ascend, dynamic, of 2021", (old, replace(old, end=1)), fixed_only=True, sticky="box"),
        Hypothesis("Ascend, roi_align_true", (replace(moved, moved=(), smallest=1), replace(moved, smallest=1))),
        Hypothesis("MindSpore's GPU of 2020", (gpu, replace(gpu, moved=(0.5,)))),
    ]


@dataclass
class Finding:
    """What came of trying a hypothesis on calls.

    Attributes:
        hypothesis: which.
        explained: the calls whose compared values it has, by name.
        refuted: why it is not the rule of others, by name.
        residual: the largest difference in the calls that it explains, relative to the largest feature.
        identical: whether no compared value differs in a bit.
        silent: how many calls have nothing to compare.
    """

    hypothesis: Hypothesis
    explained: list[str] = field(default_factory=list)
    refuted: dict[str, Refutation] = field(default_factory=dict)
    residual: float = 0.0
    identical: bool = True
    silent: int = 0


class Refutation(NamedTuple):
    """The value of a call that is furthest from what a hypothesis says."""

    difference: float
    row: int
    what: str  # the box, in a few words


class Tried(NamedTuple):
    """What was tried on calls: on outputs, and on gradients; how many calls were left out, as errors.

    ``kinds`` are those of calls that a device may have a kernel of its own for, by the names of the calls.
    """

    outputs: list[Finding]
    gradients: list[Finding]
    left_out: int
    kinds: dict[str, str]


def identify(calls: Iterable[Call], allowed: float | None = None) -> Tried:
    """Try every hypothesis on recorded calls of ``mindspore.ops.ROIAlign``.

    Args:
        calls: as :func:`ms2torch_roi.parity.recording.calls.read` reads them. Those that ended in an error tell
            nothing.
        allowed: what a device may differ by, relative to the largest feature; None for ``ALLOWED``.

    >>> from ms2torch_roi.parity import cases, operators
    >>> some = [replace(cases.random_case(0, number), rule="ascend-static") for number in range(9)]
    >>> calls = [Call(case=case, output=operators.reference(case)) for case in some if case.raises is None]
    >>> conclude(identify(calls)).call
    "ms2torch_roi.ROIAlign(..., rule='ascend-static')"
    """
    of_gradients = [Finding(one) for one in hypotheses() if one.gradient]
    tried = Tried([Finding(one) for one in hypotheses()], of_gradients, left_out=0, kinds={})
    for call in calls:
        case, output = call.case, call.output
        if not isinstance(case, MindSporeCase) or output is None:
            tried = tried._replace(left_out=tried.left_out + 1)
            continue
        kind = _kind_of_call(case)
        if case.name in tried.kinds:  # another folder of the same name
            case = replace(case, name=f"{case.name} ({len(tried.kinds) + 1})")
        tried.kinds[case.name] = kind
        _try_outputs(case, output, tried.outputs, allowed)
        if call.output_gradient is not None and call.features_gradient is not None:
            _try_gradients(case, call.output_gradient, call.features_gradient, tried.gradients, allowed)
    return tried


class Conclusion(NamedTuple):
    """What findings come to.

    Attributes:
        verdict: ``"one"`` rule explains every call, or ``"none"``, or ``"several"``.
        names: of those that do; if none, of the closest.
        sentence: for people.
        call: what computes it: the constructor, if a rule has a name.
        by_kind: if none explains every call, those that explain all calls of a kind, by the kinds.
    """

    verdict: Literal["one", "none", "several"]
    names: list[str]
    sentence: str
    call: str
    by_kind: dict[str, list[str]]


def conclude(tried: Tried) -> Conclusion:
    """Say which rule the calls obey. One without a name counts only where none that has one explains all calls.

    Raises:
        ValueError: no call has a value that tells anything.
    """
    count = max(len(finding.explained) + len(finding.refuted) for finding in tried.outputs)
    if not count:
        raise ValueError("no call has a value that tells one rule from another")
    calls = f"all {count:,} calls" if count > 1 else "the call"
    every = _explaining(tried.outputs)
    found = [finding for finding in every if finding.hypothesis.is_named] or every
    names = [finding.hypothesis.name for finding in found]
    if not found:
        closest = min(tried.outputs, key=lambda finding: (len(finding.refuted), finding.residual))
        of = f"{len(closest.explained):,} of {count:,} calls"
        sentence = f"No rule explains {calls}. The closest is {closest.hypothesis.name}, with {of}."
        return Conclusion("none", [closest.hypothesis.name], sentence, "", _by_kind(tried))
    if len(found) > 1:
        sentence = (
            f"{joined(names)} explain {calls}: they have no box that tells these apart."
            " ms2torch-roi probe writes a script for the device that does."
        )
        return Conclusion("several", names, sentence, "", {})
    (best,) = found
    how = "bit for bit" if best.identical else f"to within {best.residual:.2g} of the largest feature"
    sentence = f"{names[0]} explains {calls}, {how}."
    if not best.hypothesis.is_named:
        return Conclusion("one", names, f"{sentence} ROIAlign has no rule for it.", "", {})
    constructor = f"ms2torch_roi.ROIAlign(..., rule={names[0]!r}{_backward(tried, names[0])})"
    return Conclusion("one", names, sentence, constructor, {})


def _kind_of_call(case: MindSporeCase) -> str:
    """Return what a device may have a kernel of its own for: the dtype, the grid, and how a probe ran the call."""
    mode = next((f", {mode}" for mode in ("pynative", "graph", "dynamic") if case.name.endswith(f"-{mode}.npz")), "")
    return f"{case.features.dtype.name}, {'fixed' if case.sample_num > 0 else 'adaptive'} grid{mode}"


def _by_kind(tried: Tried) -> dict[str, list[str]]:
    """Return the names of what explains all calls of a kind, where there is more than one kind and something does."""
    found: dict[str, list[str]] = {}
    for kind in sorted(set(tried.kinds.values())):
        of_kind = {name for name, other in tried.kinds.items() if other == kind}
        every = [
            finding.hypothesis
            for finding in tried.outputs
            if of_kind & {*finding.explained} and not of_kind & {*finding.refuted}
        ]
        found[kind] = [one.name for one in every if one.is_named] or [one.name for one in every]
    return found if len(found) > 1 and any(found.values()) else {}


def _backward(tried: Tried, rule: str) -> str:
    """Return the argument for the gradient, if one was recorded and a rule explains it: the same one, if it does."""
    names = [finding.hypothesis.name for finding in _explaining(tried.gradients)]
    return f", backward_rule={(rule if rule in names else names[0])!r}" if names else ""


def _explaining(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings of what explains every call, and some value: those with the very bits, if there are."""
    every = [finding for finding in findings if finding.explained and not finding.refuted]
    return [finding for finding in every if finding.identical] or every


def explanation(call: Call) -> str:
    """Say in a sentence which other device's rule than the case's has the values of a call, or nothing."""
    found = [finding.hypothesis for finding in _explaining(identify([call]).outputs)]
    names = [one.name for one in found]
    asked = getattr(call.case, "rule", "")
    if not names or ("cpu" if asked == "gpu" else asked) in names:  # which are the same
        return ""
    named = [one.name for one in found if one.is_named]
    if not named:
        return f"MindSpore's values are those of {joined(names, 'or')}."
    return f"MindSpore's values are those of rule={joined([repr(name) for name in named], 'or')}, not of {asked!r}."


def _try_outputs(case: MindSporeCase, output: NDArray, findings: list[Finding], allowed: float | None) -> None:
    features = case.features[:, :_CHANNELS]
    recorded = flushed(output[:, :_CHANNELS])
    most = largest(case.features)
    pooled: dict[bytes, NDArray] = {}
    for finding in findings:
        placed = _placed(finding.hypothesis, case, recorded)
        if isinstance(placed, str):
            finding.refuted[case.name] = Refutation(math.inf, 0, placed)
            continue
        samples, telling, may_be_off = placed
        rows = np.flatnonzero(telling)
        if not len(rows):
            finding.silent += 1
            continue
        samples = samples.of_rows(rows)
        key = b"".join(np.asarray(array).tobytes() for array in (rows, *samples)) + samples.start.dtype.char.encode()
        if key not in pooled:
            pooled[key] = np.empty((len(rows), features.shape[1], *case.pooled), samples.start.dtype)
            engine.pool(features.astype(samples.start.dtype), samples, pooled[key])
        expected = flushed(pooled[key].astype(case.features.dtype))
        bound = np.full(len(rows), ALLOWED[case.features.dtype.name] if allowed is None else allowed)
        if allowed is None:
            bound += may_be_off[rows]
        difference = distance(expected, recorded[rows]).max((1, 2, 3))
        finding.identical &= bool(same_bits(expected, recorded[rows]).all())
        worst = int((difference - bound * most).argmax())
        if difference[worst] > bound[worst] * most:
            what = _kind_of_box(case, int(rows[worst]))
            finding.refuted[case.name] = Refutation(float(difference[worst]), int(rows[worst]), what)
        else:
            finding.explained.append(case.name)
            finding.residual = max(finding.residual, float(difference.max()) / (most or 1))


def _try_gradients(
    case: MindSporeCase,
    output_gradient: NDArray,
    features_gradient: NDArray,
    findings: list[Finding],
    allowed: float | None,
) -> None:
    of_output, recorded = output_gradient[:, :_CHANNELS], features_gradient[:, :_CHANNELS]
    most = largest(features_gradient)
    for finding in findings:
        assert finding.hypothesis.gradient is not None
        as_output = replace(finding.hypothesis, outputs=[finding.hypothesis.gradient] * 4)
        placed = _placed(as_output, case, of_output)
        if isinstance(placed, str):
            continue
        samples, telling, may_be_off = placed
        # A row that tells nothing leaves nothing to compare in the channels that it has a part in.
        channels = ~of_output[~telling & (samples.image >= 0)].any((0, 2, 3))
        if not of_output[:, channels].any():
            finding.silent += 1
            continue
        of_features = np.empty(recorded.shape, samples.start.dtype)
        engine.gradient(of_output.astype(samples.start.dtype), samples, of_features)
        expected, found = flushed(of_features[:, channels].astype(case.features.dtype)), flushed(recorded[:, channels])
        of_cells = distance(expected, found)
        bound = allowed
        if bound is None:
            bound = ALLOWED_IN_GRADIENTS[case.features.dtype.name] + float(may_be_off.max(initial=0))
        finding.identical &= bool(same_bits(expected, found).all())
        if of_cells.max(initial=0) > bound * most:
            finding.refuted[case.name] = Refutation(float(of_cells.max()), 0, "a gradient")
        else:
            finding.explained.append(case.name)
            finding.residual = max(finding.residual, float(of_cells.max(initial=0)) / (most or 1))


class _Placed(NamedTuple):
    """Samples of a call; (K,) bool, the rows that tell; and (K,) what a value may be off for the last digits."""

    samples: Samples
    telling: NDArray
    may_be_off: NDArray


def _placed(hypothesis: Hypothesis, case: MindSporeCase, values: NDArray) -> _Placed | str:
    """Place the samples of a call, or say why the hypothesis does not have it. ``values`` are of its rows."""
    if case.roi_end_mode >= len(hypothesis.outputs):
        return f"roi_end_mode={case.roi_end_mode}, which it does not have"
    if hypothesis.fixed_only and case.sample_num <= 0:
        return "an adaptive grid, which it does not have"
    if hypothesis.only not in (None, case.features.dtype.name):
        return f"{case.features.dtype.name} features, which it does not take"
    rule = in_dtype(hypothesis.outputs[case.roi_end_mode], str(case.dtype))
    with np.errstate(all="ignore"):
        samples = rule.samples(case)
        exact = in_dtype(rule, "float64").samples(replace(case, rois=case.rois.astype(np.float64)))
        in_float16 = hypothesis.only == "float16" or samples.start.dtype == np.float16
        digit = np.finfo(np.float16 if in_float16 else np.float32).eps
        pooled = np.array(case.pooled[::-1])
        start, bin_size, grid = samples.start.astype(float), samples.bin_size.astype(float), samples.grid
        furthest = np.maximum(np.abs(start), np.abs(start + bin_size * pooled))
        off = _DIGITS * digit * (furthest + 1)
        is_exact = (exact.start == start) & (exact.bin_size == bin_size) & _is_power_of_2(pooled * grid)
        step = np.where(grid > 0, bin_size / np.maximum(grid, 1), 0)
        first, last = start + step / 2, start + bin_size * pooled - step / 2
        fragile = np.zeros(len(start), bool)
        for border in (0 if "0" in rule.border else -1, np.array(case.features.shape[:1:-1])):
            number = np.clip(np.rint((border - start) / step - 0.5), 0, pooled * grid - 1)
            apart = np.abs(start + (np.where(np.isfinite(number), number, 0) + 0.5) * step - border)
            fragile |= ((apart <= off) & ~(is_exact & (apart == 0)) & (grid > 0)).any(1)
        if case.sample_num <= 0:
            fragile |= ((np.abs(bin_size - np.rint(bin_size)) <= off) & ~is_exact).any(1)
        image = samples.image
        if hypothesis.sticky is not None:
            low, high = samples.border.astype(float).T
            before = first < low
            image = np.where(before[:, 0] if hypothesis.sticky == "row" else before.any(1), -1, image)
            if hypothesis.sticky == "box":
                fragile |= (image >= 0) & ((last < low) | (last > high) | (first > high)).any(1)
        undefined = ~np.isfinite(case.rois[:, 1:]).all(1) | ~np.isfinite(furthest).all(1)
        undefined |= ~rules.has_image(np, rule, case.rois[:, 0].astype(samples.start.dtype), len(case.features))
        # What is skipped was never written, and what was recorded on a CPU has 0 there.
        undefined |= rules.near_0(np, case.rois) & ((rule.skips == "near 0") | ~values.any((1, 2, 3)))
        undefined |= (samples.divisor == 0) if rule.skips is None else False
    may_be_off = off.max(1) + np.finfo(case.features.dtype).eps
    return _Placed(samples._replace(image=image), ~undefined & ~fragile, may_be_off)


def _is_power_of_2(number: NDArray) -> NDArray:
    return np.logical_and(number > 0, np.bitwise_and(number, number - 1) == 0)


def _kind_of_box(case: MindSporeCase, row: int) -> str:
    """Say in a few words what is particular about a box."""
    index, *corners = case.rois[row].astype(np.float64)
    if index != np.trunc(index):
        return "an image index that is not whole"
    if rules.near_0(np, case.rois[row : row + 1]).all():
        return "x1 and x2 near 0"
    x1, y1, x2, y2 = np.array(corners) * case.spatial_scale
    if x2 < x1 or y2 < y1:
        return "an inverted box"
    if min(x2 - x1, y2 - y1) + case.roi_end_mode % 2 * case.spatial_scale < 1:
        return "a box below one cell"
    height, width = case.features.shape[2:]
    if min(x1, y1) < -1 or x2 >= width or y2 >= height:
        return "a box across the border of the image"
    return "an adaptive grid" if case.sample_num <= 0 else "a box of one cell or more"
