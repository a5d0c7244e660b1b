"""Both operators in plain NumPy, bit-true to the CPU kernels of MindSpore and torchvision in float16 and float32.

They are oracles for places where a framework is not installed, not fast. float64 works as well, as the same rule; in
MindSpore it does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import params, rules, sampling

NDArray = npt.NDArray[Any]


def ms_roi_align(
    features: NDArray,
    rois: NDArray,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sample_num: int = 2,
    roi_end_mode: int = 1,
    rule: str = "cpu",
) -> NDArray:
    """Compute ``mindspore.ops.ROIAlign(pooled_height, ..., roi_end_mode)(features, rois)``.

    Args:
        features: (N, C, H, W), float16, float32 or float64.
        rois: (K, 5) rows of ``(index, x1, y1, x2, y2)``, coordinates in image pixels. float16 and float32 mixed
            are computed in float32.
        pooled_height: number of bins along y.
        pooled_width: number of bins along x.
        spatial_scale: feature cells per image pixel.
        sample_num: samples along each axis of a bin; with 0 or less, ``floor(size / pooled)``.
        roi_end_mode: 1 to count the pixel of ``x2, y2`` in; 0 not to, and to enlarge boxes to one cell.
        rule: the device, as for :class:`ms2torch_roi.ROIAlign`.

    Returns:
        (K, C, pooled_height, pooled_width) in the dtype of ``features``. Rows that MindSpore leaves unwritten
        (``|x1|`` and ``|x2|`` below 0.001) are 0.

    Raises:
        TypeError, ValueError, RuntimeError: as :class:`ms2torch_roi.ROIAlign`.

    >>> features = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> rois = np.array([[0, 0.5, 0.5, 2.5, 1.5]], np.float32)
    >>> ms_roi_align(features, rois, 1, 2, 1.0, roi_end_mode=0)
    array([[[[3.625, 1.875]]]], dtype=float32)
    """
    params.check_mindspore_arguments(pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode, rule=rule)
    named = rules.DEVICES[rule][roi_end_mode]
    dtype = rules.computed_in(named, _compute_dtype({"features": features, "rois": rois}).name)
    pooled = (pooled_height, pooled_width)
    params.check_shapes("ROIAlign", features.shape, rois.shape)
    params.check_sizes("ROIAlign", features.shape, rois.shape, *pooled, sample_num)
    rois = rois.astype(dtype)
    rules.check_index(named, rois[:, 0], features.shape[0], "rois")
    samples = rules.place_checked("ROIAlign", named, rois, spatial_scale, pooled, sample_num, features.shape)
    return sampling.pool(features.astype(dtype), samples, pooled).astype(features.dtype)


def tv_roi_align(
    input: NDArray,
    boxes: NDArray | Sequence[NDArray],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> NDArray:
    """Compute ``torchvision.ops.roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)``.

    Args:
        input: (N, C, H, W), float16, float32 or float64.
        boxes: (K, 5) rows of ``(index, x1, y1, x2, y2)``, coordinates in image pixels, or N arrays of (L_i, 4), one
            for each image; of the dtype of ``input``.
        output_size: number of bins, ``(height, width)`` or an int for both.
        spatial_scale: feature cells per image pixel.
        sampling_ratio: samples along each axis of a bin; with 0 or less, ``ceil(size / output_size)``.
        aligned: True to move boxes by half a cell; False not to, and to enlarge boxes to one cell.

    Returns:
        (K, C, height, width). Boxes that are not finite, on which torchvision's kernel crashes or is undefined, pool
        to 0.

    Raises:
        TypeError: another kind of array or dtype.
        AssertionError: boxes of another shape.
        ValueError: no boxes at all in a list.
        RuntimeError: another argument or shape of the input, two dtypes, an image index outside ``[0, N - 1]``, or an
            adaptive grid that torchvision refuses: a negative one (a box inverted along one axis), or more samples than
            can be pooled in 12 minutes, or in a box than 4 GiB hold, by an estimate.

    >>> features = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> boxes = np.array([[0, 0.5, 0.5, 2.5, 1.5]], np.float32)
    >>> tv_roi_align(features, boxes, (1, 2), 1.0, 2)
    array([[[[3.625, 1.875]]]], dtype=float32)
    """
    pooled, spatial_scale, sampling_ratio, aligned = params.torchvision_arguments(
        output_size, spatial_scale, sampling_ratio, aligned
    )
    if isinstance(boxes, np.ndarray):
        rois = boxes
    else:
        params.check_boxes_of_images([np.shape(part) for part in boxes])
        rois = rules.boxes_of_images(np, boxes)
    _compute_dtype({"input": input, "boxes": rois})
    if input.dtype != rois.dtype:
        raise RuntimeError(f"roi_align: input and boxes must have the same dtype, got {input.dtype} and {rois.dtype}")
    params.check_shapes("roi_align", input.shape, rois.shape)
    params.check_sizes("roi_align", input.shape, rois.shape, *pooled, sampling_ratio)
    rule = rules.TORCHVISION[aligned]
    rules.check_index(rule, rois[:, 0], input.shape[0], "boxes")
    samples = rules.place_checked("roi_align", rule, rois, spatial_scale, pooled, sampling_ratio, input.shape)
    return sampling.pool(input, samples, pooled)


def _compute_dtype(arrays: dict[str, NDArray]) -> np.dtype[Any]:
    """Check two arrays, and return the dtype to compute in."""
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(
                f"{name} must be a numpy.ndarray, got {type(array).__name__}{params.hint_of_list(name, array)}"
            )
        if array.dtype not in (np.float16, np.float32, np.float64):
            raise TypeError(f"{name} must be float16, float32 or float64, got {array.dtype}")
    first, second = (array.dtype for array in arrays.values())
    if first != second and np.float64 in (first, second):
        raise TypeError(f"float64 does not mix, got {' and '.join(f'{n} {a.dtype}' for n, a in arrays.items())}")
    return np.result_type(first, second)
