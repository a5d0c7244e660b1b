"""The arguments of the two operators, validated as the frameworks validate them, but early and in the user's words.

Types of errors follow ``mindspore.ops.ROIAlign`` and ``torchvision.ops.roi_align``. What the frameworks find late
(a pooled height of 0) or not at all (features without a height, which both read out of bounds) is refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Both kernels count samples, and address pixels and outputs, in 32-bit integers that wrap around silently.
INT32_MAX = 2**31 - 1


def check_mindspore_arguments(
    pooled_height: int, pooled_width: int, spatial_scale: float, sample_num: int, roi_end_mode: int
) -> None:
    """Validate the constructor arguments of ``mindspore.ops.ROIAlign``.

    Raises:
        TypeError: an argument is not of the type that MindSpore takes.
        ValueError: ``roi_end_mode`` is neither 0 nor 1.
        RuntimeError: a pooled size below 1, or more samples for each box than 32 bits can count. MindSpore raises
            it too, but only when the operator is called.
    """
    for name, value, wanted in (
        ("pooled_height", pooled_height, int),
        ("pooled_width", pooled_width, int),
        ("spatial_scale", spatial_scale, float),
        ("sample_num", sample_num, int),
        ("roi_end_mode", roi_end_mode, int),
    ):
        if not isinstance(value, wanted) or isinstance(value, bool):
            got = f"{value!r} ({type(value).__name__})"
            raise TypeError(f"ROIAlign: {name} must be of type {wanted.__name__}, got {got}")
    if roi_end_mode not in (0, 1):
        raise ValueError(f"ROIAlign: roi_end_mode must be 0 or 1, got {roi_end_mode}")
    check_pooled_size(pooled_height, pooled_width, sample_num, "ROIAlign")


def torchvision_output_size(output_size: int | Sequence[int], sampling_ratio: int) -> tuple[int, int]:
    """Return ``(pooled_height, pooled_width)`` for torchvision's ``output_size``, an int or a pair of ints.

    Raises:
        TypeError: ``output_size`` is neither an int nor a pair of ints.
        RuntimeError: a size below 1, or more samples for each box than 32 bits can count.
    """
    size = tuple(output_size) if isinstance(output_size, Sequence) else (output_size, output_size)
    if len(size) != 2 or not all(isinstance(length, int) for length in size):
        raise TypeError(f"roi_align: output_size must be an int or a pair of ints, got {output_size!r}")
    check_pooled_size(*size, sampling_ratio, "roi_align")
    return size


def check_pooled_size(pooled_height: int, pooled_width: int, sample_num: int, operator: str) -> None:
    """Raise RuntimeError unless a box of this pooled size has at least one bin and fewer than 2**31 samples."""
    if pooled_height < 1 or pooled_width < 1:
        raise RuntimeError(
            f"{operator}: pooled height and width must be at least 1, got {pooled_height} and {pooled_width}"
        )
    samples = pooled_height * pooled_width * max(sample_num, 1) ** 2
    if samples > INT32_MAX:
        raise RuntimeError(
            f"{operator}: {pooled_height} x {pooled_width} bins of {max(sample_num, 1)} x {max(sample_num, 1)} samples"
            f" are {samples} samples for each box; at most {INT32_MAX} are allowed"
        )


def check_shapes(
    features: Sequence[int], rois: Sequence[int], pooled_height: int, pooled_width: int, names: tuple[str, str]
) -> None:
    """Raise unless ``features`` is the shape of a (N, C, H, W) array and ``rois`` of a (K, 5) one.

    Raises:
        ValueError: another number of dimensions or columns, or a height or width of 0.
        RuntimeError: no channels, or features or an output of 2**31 values or more.
    """
    if len(features) != 4:
        raise ValueError(f"{names[0]} must have 4 dimensions (N, C, H, W), got shape {tuple(features)}")
    if len(rois) != 2 or rois[1] != 5:
        raise ValueError(f"{names[1]} must have shape (K, 5), rows of (index, x1, y1, x2, y2), got {tuple(rois)}")
    images, channels, height, width = features
    if not height or not width:
        raise ValueError(f"{names[0]} must be at least 1 cell high and wide, got shape {tuple(features)}")
    if not channels:
        raise RuntimeError(f"{names[0]} must have at least one channel, got shape {tuple(features)}")
    outputs = rois[0] * channels * pooled_height * pooled_width
    for what, values in ((names[0], images * channels * height * width), ("the output", outputs)):
        if values > INT32_MAX:
            raise RuntimeError(f"{what} would hold {values} values; at most {INT32_MAX} are allowed in one call")


def check_index(index: npt.NDArray[Any], images: int, name: str, *, nan_is_0: bool) -> None:
    """Raise RuntimeError naming the first row whose image index lies outside ``[0, images - 1]``.

    MindSpore compares the index as given, before rounding, and takes NaN as 0 (``nan_is_0``); torchvision truncates
    towards zero afterwards, so that anything below ``images`` will do, and refuses NaN.
    """
    if nan_is_0:
        bad = (index < 0) | (index > images - 1) | (np.isnan(index) & (images == 0))
    else:
        bad = ~((index >= 0) & (index < images))
    if bad.any():
        row = int(bad.argmax())
        allowed = f"[0, {images - 1}]" if images else "empty: there are no images"
        raise RuntimeError(f"{name} row {row}: image index {index[row]} is out of range, allowed is {allowed}")
