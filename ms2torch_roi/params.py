"""The arguments of the two operators, validated as the frameworks validate them, but early and in the user's words.

Types of errors follow ``mindspore.ops.ROIAlign`` and ``torchvision.ops.roi_align``. What the frameworks find late
(a pooled height of 0) or not at all (features without a height, which both read out of bounds) is refused here.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

# Both kernels address pixels and outputs in 32-bit integers that wrap around silently.
INT32_MAX = 2**31 - 1

# What a call may take, by a rough estimate: on one core 1e8 samples of a channel a second, where each sample costs as
# much as some channels more, and 64 bytes for each sample of the box that has the most. The frameworks' own kernels do
# less in a minute on two cores, unless one box has more samples than that.
MAX_MINUTES = 12
MAX_SAMPLES_OF_A_BOX = 2**26
_VALUES_OF_A_MINUTE = 6e9
_CHANNELS_OF_A_SAMPLE = 8
_SAMPLES_OF_A_GIB = 2**24

Value = TypeVar("Value")

# Which devices' rules there are, and how many modes each has; ``rules.DEVICES`` has the rules themselves.
MODES = {"cpu": 2, "gpu": 2, "ascend-static": 4, "ascend-dynamic": 4, "ascend-950": 4}

# What each operator calls its two inputs, and raises when one has another shape.
_INPUTS = {
    "ROIAlign": (("features", ValueError), ("rois", ValueError)),
    "roi_align": (("input", RuntimeError), ("boxes", AssertionError)),
}


def check_mindspore_arguments(
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sample_num: int,
    roi_end_mode: int,
    backward_roi_end_mode: int | None = None,
    rule: str = "cpu",
    backward_rule: str | None = None,
) -> None:
    """Validate the constructor arguments of ``mindspore.ops.ROIAlign``, and those that only its port has.

    Raises:
        TypeError: an argument is not of the type that MindSpore takes.
        ValueError: a rule that is not known, or a mode that it does not have; MindSpore has 0 and 1.
        RuntimeError: a pooled size below 1, or more samples for each box than can be pooled in reason. MindSpore
            raises it too, but only when the operator is called, and only for more than 32 bits can count.
    """
    for name, value, wanted in (
        ("pooled_height", pooled_height, int),
        ("pooled_width", pooled_width, int),
        ("spatial_scale", spatial_scale, float),
        ("sample_num", sample_num, int),
        ("roi_end_mode", roi_end_mode, int),
        *([] if backward_roi_end_mode is None else [("backward_roi_end_mode", backward_roi_end_mode, int)]),
        ("rule", rule, str),
        *([] if backward_rule is None else [("backward_rule", backward_rule, str)]),
    ):
        if not isinstance(value, wanted) or isinstance(value, bool):
            got = f"{value!r} ({type(value).__name__})"
            hint = _hint_of_calls(pooled_height, list | tuple) or _hint_of_calls(pooled_width, float)
            raise TypeError(f"ROIAlign: {name} must be of type {wanted.__name__}, got {got}{hint}")
    _check_mode("rule", rule, "roi_end_mode", roi_end_mode)
    if backward_rule is not None or backward_roi_end_mode is not None:
        of_gradient = ("backward_roi_end_mode", 1 if backward_roi_end_mode is None else backward_roi_end_mode)
        if backward_rule is None:
            _check_mode("rule", rule, *of_gradient)
        else:
            _check_mode("backward_rule", backward_rule, *of_gradient)
    check_pooled_size(pooled_height, pooled_width, sample_num, "ROIAlign")


def _check_mode(name_of_rule: str, rule: str, name: str, mode: int) -> None:
    if rule not in MODES:
        allowed = ", ".join(map(repr, MODES))
        raise ValueError(f"ROIAlign: {name_of_rule} must be one of {allowed}, got {rule!r}")
    if not 0 <= mode < MODES[rule]:
        allowed = f"{'None, ' * name.startswith('backward')}{'0 or 1' if MODES[rule] == 2 else '0, 1, 2 or 3'}"
        got = f"{name} must be {allowed}, got {mode}"
        kernels = ", ".join(repr(other) for other, modes in MODES.items() if modes > MODES[rule])
        hint = f"; modes 2 and 3 are those of Ascend's kernels: rule = {kernels}" if mode in (2, 3) else ""
        raise ValueError(f"ROIAlign: {got} with {name_of_rule}={rule!r}{hint}")


def torchvision_arguments(
    output_size: Any, spatial_scale: Any, sampling_ratio: Any, aligned: Any
) -> tuple[tuple[int, int], float, int, bool]:
    """Validate the arguments of ``torchvision.ops.roi_align``, and return them as Python's own numbers.

    As torchvision does, this takes NumPy's numbers, and one int for a square ``output_size``.

    Returns:
        ``((pooled_height, pooled_width), spatial_scale, sampling_ratio, aligned)``.

    Raises:
        RuntimeError: an argument that is no number where one is wanted, an ``output_size`` of another length than 2 or
            below 1, or more samples for each box than can be pooled in reason.
    """
    pooled_height, pooled_width = _converted(_pair, output_size, "output_size", "an int or a pair of ints")
    scale = _converted(_real, spatial_scale, "spatial_scale", "a number")
    ratio = _converted(
        operator.index, sampling_ratio, "sampling_ratio", "an int", _hint_of_calls(sampling_ratio, float)
    )
    is_aligned = _converted(_bool, aligned, "aligned", "a bool")
    check_pooled_size(pooled_height, pooled_width, ratio, "roi_align")
    return (pooled_height, pooled_width), scale, ratio, is_aligned


def _converted(convert: Callable[[Any], Value], value: Any, name: str, wanted: str, hint: str = "") -> Value:
    try:
        return convert(value)
    except (TypeError, ValueError):
        got = f"{value!r} ({type(value).__name__})"
        raise RuntimeError(f"roi_align: {name} must be {wanted}, got {got}{hint}") from None


def _pair(value: Any) -> tuple[int, int]:
    height, width = (value, value) if hasattr(value, "__index__") and not np.ndim(value) else value
    return operator.index(height), operator.index(width)


def _real(value: Any) -> float:
    if not isinstance(value, numbers.Real):
        raise TypeError
    return float(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool | int | np.bool_):
        raise TypeError
    return bool(value)


def _hint_of_calls(value: Any, kind: Any) -> str:
    """Return both calls if an argument is what the other operator has in its place."""
    if not isinstance(value, kind):
        return ""
    return (
        ". MindSpore's call is ROIAlign(pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode),"
        " torchvision's is RoIAlign(output_size, spatial_scale, sampling_ratio, aligned)"
    )


def hint_of_list(name: str, value: Any) -> str:
    """Return what to do with a list of boxes for each image, if that is what ROIAlign was given for rois."""
    if name != "rois" or not isinstance(value, list | tuple):
        return ""
    return (
        ": concatenate to (K, 5), rows of (index, x1, y1, x2, y2); only torchvision's call, RoIAlign, takes a list of"
        " boxes for each image"
    )


def check_pooled_size(pooled_height: int, pooled_width: int, sample_num: int, name: str) -> None:
    """Raise RuntimeError unless a box of this pooled size has at least one bin, and can be pooled in reason."""
    if pooled_height < 1 or pooled_width < 1:
        raise RuntimeError(
            f"{name}: pooled height and width must be at least 1, got {pooled_height} and {pooled_width}"
        )
    samples = float(min(pooled_height * pooled_width * max(sample_num, 1) ** 2, 10**300))
    check_cost(lambda: f"{name}: {_grid(pooled_height, pooled_width, sample_num)}", samples, samples, 1)


def _grid(pooled_height: int, pooled_width: int, sample_num: int) -> str:
    samples = f" of {sample_num} x {sample_num} samples" if sample_num > 0 else ""
    return f"{pooled_height} x {pooled_width} bins{samples}"


def check_cost(what: Callable[[], str], samples_of_a_box: float, samples: float, channels: int) -> None:
    """Raise RuntimeError if it would take too long to pool, or too much memory, whatever computes it.

    Args:
        what: returns what to pool, for the message.
        samples_of_a_box: of the box that has the most.
        samples: of all boxes.
        channels: of the features.
    """
    minutes = samples * (channels + _CHANNELS_OF_A_SAMPLE) / _VALUES_OF_A_MINUTE
    if minutes > MAX_MINUTES or samples_of_a_box > MAX_SAMPLES_OF_A_BOX:
        raise RuntimeError(
            f"{what()} would take about {minutes:.2g} minutes and {samples_of_a_box / _SAMPLES_OF_A_GIB:.2g} GiB:"
            f" samples x channels are {samples:.3g} x {channels}, and one box has {samples_of_a_box:.3g}; allowed are"
            f" {MAX_MINUTES} minutes, and {MAX_SAMPLES_OF_A_BOX / _SAMPLES_OF_A_GIB:.2g} GiB for the samples of a box"
        )


def check_shapes(name: str, features: Sequence[int], rois: Sequence[int]) -> None:
    """Raise unless ``features`` is the shape of a (N, C, H, W) array and ``rois`` of a (K, 5) one.

    Args:
        name: ``"ROIAlign"`` for the argument names and the types of errors of MindSpore, ``"roi_align"`` for
            torchvision's.
        features: shape of the features.
        rois: shape of the boxes.

    Raises:
        ValueError, or for ``"roi_align"`` RuntimeError or AssertionError: another number of dimensions or columns, or
            a height or width of 0.
        RuntimeError: no channels.
    """
    (features_name, features_error), (rois_name, rois_error) = _INPUTS[name]
    if len(features) != 4:
        raise features_error(f"{features_name} must have 4 dimensions (N, C, H, W), got shape {tuple(features)}")
    if len(rois) != 2 or rois[1] != 5:
        raise rois_error(f"{rois_name} must have shape (K, 5), rows of (index, x1, y1, x2, y2), got {tuple(rois)}")
    _, channels, height, width = features
    if not height or not width:
        raise features_error(f"{features_name} must be at least 1 cell high and wide, got shape {tuple(features)}")
    if not channels:
        raise RuntimeError(f"{features_name} must have at least one channel, got shape {tuple(features)}")


def check_sizes(
    name: str, features: Sequence[int], rois: Sequence[int], pooled_height: int, pooled_width: int, sample_num: int
) -> None:
    """Raise RuntimeError if the inputs or the output would hold 2**31 values or more, or a fixed grid takes too long.

    The cost of an adaptive grid depends on the boxes: ``rules.place_checked`` adds it up. Arguments as above.
    """
    for what, values in sizes(name, features, rois, pooled_height, pooled_width).items():
        check_size(what, values)
    of_a_box = pooled_height * pooled_width * max(sample_num, 1) ** 2
    check_cost(
        lambda: f"{name}: {rois[0]} boxes with {_grid(pooled_height, pooled_width, sample_num)}",
        of_a_box,
        rois[0] * of_a_box,
        features[1],
    )


def sizes(
    name: str, features: Sequence[int], rois: Sequence[int], pooled_height: int, pooled_width: int
) -> dict[str, int]:
    """Return how many values each input and the output hold, by what to call it; arguments as above."""
    (features_name, _), (rois_name, _) = _INPUTS[name]
    outputs = rois[0] * features[1] * pooled_height * pooled_width
    return {features_name: math.prod(features), "the output": outputs, rois_name: math.prod(rois)}


def check_size(what: str, values: int) -> None:
    """Raise RuntimeError if these are 2**31 values or more."""
    if values > INT32_MAX:
        raise RuntimeError(f"{what} would hold {values} values; at most {INT32_MAX} are allowed in one call")


def check_boxes_of_images(shapes: Sequence[Sequence[int]]) -> None:
    """Raise unless these are the shapes of torchvision's list of boxes: (L, 4), one for each image.

    Raises:
        ValueError: there is none.
        AssertionError: another number of dimensions or columns.
    """
    if not shapes:
        raise ValueError("boxes must hold the boxes of at least one image, got an empty sequence")
    for image, shape in enumerate(shapes):
        if len(shape) != 2 or shape[1] != 4:
            raise AssertionError(f"boxes[{image}] must have shape (L, 4), rows of (x1, y1, x2, y2), got {tuple(shape)}")
