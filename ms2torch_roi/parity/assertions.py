"""``assert_parity``: one call of either operator, compared with its port, for tests of any kind."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import PACKAGES
from . import adapters, diagnosis, given, operators, verdicts
from .case import Case, MindSporeCase
from .verdicts import Tolerance, Verdict

NDArray = npt.NDArray[Any]

# Rows shown, of those that differ most.
WORST_ROWS = 3


def assert_parity(
    features: Any,
    rois: Any,
    *,
    expected: Any = None,
    actual: Any = None,
    adapter: str | Callable[..., Any] | None = None,
    atol: float = 0.0,
    rtol: float = 0.0,
    max_differing: int = 0,
    **arguments: Any,
) -> None:
    """Raise AssertionError unless a call of one framework's operator, and its port to the other, give the same.

    The names of the arguments say whose call it is; what may be left out is as in that framework:

    - ``pooled_height``, ``pooled_width``, ``spatial_scale``, ``sample_num=2``, ``roi_end_mode=1``: a call of
      ``mindspore.ops.ROIAlign``, which is ported to torch, as :class:`ms2torch_roi.ROIAlign`.
    - ``output_size``, ``spatial_scale=1.0``, ``sampling_ratio=-1``, ``aligned=False``: a call of
      ``torchvision.ops.roi_align``, which is ported to MindSpore, as :class:`ms2torch_roi.RoIAlign`.

    Arrays may be torch tensors, NumPy arrays or MindSpore tensors, on any device. The original runs on the CPU, and
    so does the port, unless ``features`` is a torch tensor on another device. A call of MindSpore may have a ``rule``,
    as :class:`ms2torch_roi.ROIAlign` has: on Ascend ``expected`` is what the device gave, or by default what the NumPy
    reference gives by that rule. Rows that the original does not define are not compared. NaN equals NaN, and 0
    equals -0.

    Args:
        features: (N, C, H, W), float16 or float32; torchvision's ``input``.
        rois: (K, 5) rows of ``(index, x1, y1, x2, y2)``, coordinates in image pixels, float16 or float32; torchvision's
            ``boxes``, which may be a list of N arrays of (L_i, 4) too, one for each image.
        expected: (K, C, pooled height, pooled width), the right result, such as one saved elsewhere. By default the
            original is run or, where its framework is not installed, its bit-true NumPy reference.
        actual: the result to test, such as the output of a model. By default the port is run.
        adapter: a port of your own to run instead: a function of ``features``, ``rois`` and the arguments, or a class
            that makes one, or its name, ``"package.module:name"``. It takes torch tensors, or if it is a MindSpore cell
            MindSpore's.
        atol: how much a value may differ, and
        rtol: how much more for each unit of the expected value. By default every bit counts.
        max_differing: how many values may differ by more.
        arguments: of the operator, by name, as above.

    Raises:
        AssertionError: they differ. The message says what was called, on which versions; how many values differ, by how
            much and in which rows; and which rule the values follow, if a known one explains them.
        TypeError: arguments of neither operator or of both, or too few; no arrays, or arrays of another dtype.
        ImportError: the port is to be run, but its framework is not installed.
        ValueError, RuntimeError: arguments or inputs that the operators refuse, ``expected`` of another shape, or rois
            of which the original defines no row. A few shapes raise AssertionError, as torchvision does.

    >>> import numpy as np
    >>> from ms2torch_roi.parity.assertions import assert_parity
    >>> features = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    >>> rois = np.array([[0, 0.5, 0.5, 1.5, 1.5]], np.float32)
    >>> output = np.array([[[[7.0, 8.0]]]], np.float32)  # of a model
    >>> call = {"pooled_height": 1, "pooled_width": 2, "spatial_scale": 1.0}
    >>> assert_parity(features, rois, actual=output, **call)
    >>> assert_parity(features, rois, actual=output + 0.5, **call)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: mindspore.ops.ROIAlign differs
    ...
    """
    __tracebackhide__ = True
    case = given.case("assert_parity", features, rois, arguments)
    wanted: NDArray | Exception
    with kept_context():
        if adapter is not None:
            if actual is not None:
                raise TypeError("assert_parity: give actual or an adapter, not both")
            got, got_from = _without_undefined(case, adapters.call(adapter, case)), f"the adapter {_named(adapter)}"
        elif actual is None:
            device = _device_of(features)
            on = "the CPU" if device == "cpu" else device
            got, got_from = operators.on_device(operators.port, device)(case), f"ms2torch_roi.{case.operator} on {on}"
        else:
            got, got_from = _without_undefined(case, given.array("assert_parity", "actual", actual)), "as given"
        if expected is None:
            wanted, wanted_from = _run_original(case)
        else:
            wanted, wanted_from = (
                _checked_expected(case, given.array("assert_parity", "expected", expected)),
                "as given",
            )
    if isinstance(wanted, Exception) and actual is not None:  # no port was there to refuse the inputs
        raise wanted
    tolerance = Tolerance(atol, rtol, max_differing)
    verdict = verdicts.judge(case, wanted, got, tolerance=tolerance)
    if verdict.is_skipped:
        raise ValueError(f"assert_parity: nothing can be compared: all {len(case.rois)} rows {case.undefined_reason}")
    if not verdict.passed:
        lines = _call_lines(case, wanted_from, got_from)
        raise AssertionError("\n".join([*lines, "", *_difference_lines(case, wanted, got, verdict, tolerance)]))


@contextlib.contextmanager
def kept_context() -> Iterator[None]:
    """Give MindSpore its mode and device back: ``operators`` runs it in PyNative mode on a CPU, a test need not."""
    ms = sys.modules.get("mindspore")
    if ms is None:
        yield
        return
    kept = {name: ms.get_context(name) for name in ("mode", "device_target")}
    try:
        yield
    finally:
        for name, value in kept.items():
            if ms.get_context(name) != value:
                ms.set_context(**{name: value})


def _named(adapter: str | Callable[..., Any]) -> str:
    return adapter if isinstance(adapter, str) else getattr(adapter, "__qualname__", repr(adapter))


def _device_of(features: Any) -> str:
    """Return the device of a torch tensor; that of other arrays is the CPU to torch."""
    torch = sys.modules.get("torch")
    return str(features.device) if torch is not None and isinstance(features, torch.Tensor) else "cpu"


def _without_undefined(case: Case, actual: NDArray) -> NDArray:
    """Return the result with 0 in the rows that no operator but the port promises anything for."""
    if actual.shape[:1] != case.rois.shape[:1]:
        return actual
    defined = ~case.undefined.reshape(-1, *[1] * (actual.ndim - 1))
    return np.where(defined, actual, actual.dtype.type(0))


def _checked_expected(case: Case, expected: NDArray) -> NDArray:
    if expected.shape != case.output_shape:
        raise ValueError(f"assert_parity: expected has shape {expected.shape}, but this call gives {case.output_shape}")
    return expected


def _run_original(case: Case) -> tuple[NDArray | Exception, str]:
    """Return what the original gives, or its reference where it is not installed, and which of them it was."""
    if isinstance(case, MindSporeCase) and case.rule not in ("cpu", "gpu"):
        return operators.outcome(operators.reference, case), f"the NumPy reference of rule={case.rule!r}"
    needed = PACKAGES["mindspore" if isinstance(case, MindSporeCase) else "torch"]
    if {*needed} <= operators.versions().keys():
        return operators.outcome(operators.original, case), f"{case.name} on the CPU"
    return operators.outcome(operators.reference, case), f"the NumPy reference, WITHOUT {case.original}"


def _call_lines(case: Case, wanted_from: str, got_from: str) -> list[str]:
    """Say what was called, and on what."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in case.arguments.items())
    versions = ", ".join(f"{name} {version}" for name, version in operators.versions().items())
    inputs = (("features", case.features), ("rois", case.rois))
    return [
        f"{case.name} differs",
        f"arguments: {arguments}",
        f"inputs:    {', '.join(f'{name} {array.dtype} {array.shape}' for name, array in inputs)}",
        f"expected:  {wanted_from}",
        f"actual:    {got_from}",
        f"versions:  {versions}",
    ]


def _difference_lines(
    case: Case, wanted: NDArray | Exception, got: NDArray, verdict: Verdict, tolerance: Tolerance
) -> list[str]:
    """Say how the results differ, where most, and why."""
    if isinstance(wanted, Exception):
        return verdicts.describe(replace(verdict, call=""))  # which the message has said
    lines = verdicts.describe(replace(verdict, call="", explanation=diagnosis.explain(case, wanted, got)))
    if verdict.problem:
        return lines
    worst = _worst_rows(case, wanted, got, tolerance)
    lines.append(f"{len(worst):,} of {len(case.rois):,} rows differ, most of all:")
    for row, of_row in worst[:WORST_ROWS]:
        box = ", ".join(map(str, case.rois[row]))
        count = f"{of_row.differing:,} of {of_row.values:,} values"
        lines.append(f"  row {row} ({box}): {count}, by {of_row.largest_difference:.6g} at most")
    lines += [f"not compared: {rows:,} rows {reason}" for reason, rows in verdict.left_out.items()]
    allowed = f"atol={tolerance.atol}, rtol={tolerance.rtol}, max_differing={tolerance.max_differing}"
    lines.append(f"tolerance: {'none' if tolerance == verdicts.EXACT else allowed}")
    return lines


def _worst_rows(case: Case, wanted: NDArray, got: NDArray, tolerance: Tolerance) -> list[tuple[int, Verdict]]:
    """Judge row by row, and return the rows that differ, the largest difference first."""
    rows = [
        (row, verdicts.judge(replace(case, rois=case.rois[[row]]), wanted[[row]], got[[row]], tolerance=tolerance))
        for row in range(len(case.rois))
    ]
    return sorted((item for item in rows if item[1].differing), key=lambda item: -item[1].largest_difference)
