"""ROIAlign on a CPU: MindSpore's rule on the engine, and on torchvision's operator where that is as fast."""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision.ops  # noqa: F401  (which registers its operators)

from .. import encodings, engine, params, rules, sampling
from ..encodings import TorchvisionCall
from ..rules import Rule, Samples

_roi_align = torch.ops.torchvision.roi_align.default
_gradient_of_roi_align = torch.ops.torchvision._roi_align_backward.default

NDArray = npt.NDArray[Any]
Pooled = tuple[int, int]

# The engine copies the channels of an image before it samples them. Below so many samples of a channel in all, or so
# many for each cell that is copied, torchvision is as fast, and nobody has to wait for the compiler.
_MANY_VALUES = 2**20
_SAMPLES_OF_A_CELL = 1 / 16

# So few rows are looked at one by one, in a tenth of the time of an encoding.
_FEW_ROWS = 64
_LAST_PIXELS = {
    dtype: torch.tensor([0.0, 0, 0, 1, 1], dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)
}

# As NumPy does it for its arrays of so many bytes; torch does not. Where it fails, pages are small.
_HUGE = 2**22
_MADVISE: Callable[[int, int, int], int] | None = None
if sys.platform == "linux":
    _MADVISE = ctypes.CDLL(None).madvise
    _MADVISE.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def pool(
    features: torch.Tensor,
    rois: torch.Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sample_num: int,
    rule: str,
) -> torch.Tensor:
    """Pool (N, C, H, W) features by a rule of ``rules.NAMED``: (K, C, pooled_height, pooled_width), all of one dtype.

    Raises:
        RuntimeError: an image index that the rule refuses, or a call that is too large.
    """
    pooled = (pooled_height, pooled_width)
    params.check_sizes("ROIAlign", features.shape, rois.shape, *pooled, sample_num)
    plain = _plain_boxes(rois, features.shape, pooled, spatial_scale, sample_num, rule)
    if plain is not None and math.isfinite(features.select(3, 0).select(2, 0).sum().item()):
        return _roi_align(features, plain, spatial_scale, *pooled, sample_num, False)  # type: ignore[no-any-return]
    named, pixels = rules.NAMED[rule], as_numpy(rois)
    rules.check_index(named, pixels[:, 0], features.shape[0], "rois")
    samples = rules.place_checked("ROIAlign", named, pixels, spatial_scale, pooled, sample_num, features.shape)
    if _is_worth_the_engine(samples, features.shape, pooled):
        output = _empty((len(pixels), features.shape[1], *pooled), features)
        engine.pool(as_numpy(features), samples, as_numpy(output), torch.get_num_threads())
        return output
    calls: list[TorchvisionCall] = []
    rest = np.flatnonzero(samples.image >= 0)
    if _first_pixels_are_finite(features):
        calls, rest = _torchvision_calls(named, pixels, features.shape, pooled, spatial_scale, sample_num)
    if calls and len(calls[0].rows) == len(pixels):
        return _call(features, pooled, calls[0])
    output = features.new_zeros(len(pixels), features.shape[1], *pooled)
    of_rows = as_numpy(output)
    for call in calls:
        of_rows[call.rows] = _call(features, pooled, call).numpy()
    of_rows[rest] = sampling.pool(as_numpy(features), samples.of_rows(rest), pooled)
    return output


def gradient(
    of_output: torch.Tensor,
    rois: torch.Tensor,
    images: int,
    height: int,
    width: int,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sample_num: int,
    rule: str,
) -> torch.Tensor:
    """Return the gradient of ``pool`` for features (images, C, height, width), in the order of MindSpore's kernel."""
    pooled, shape = (pooled_height, pooled_width), (images, of_output.shape[1], height, width)
    plain = _plain_boxes(rois, shape, pooled, spatial_scale, sample_num, rule)
    if plain is not None:
        return _gradient_of_roi_align(  # type: ignore[no-any-return]
            of_output, plain, spatial_scale, *pooled, *shape, sample_num, False
        )
    named, pixels = rules.NAMED[rule], as_numpy(rois)
    # Indices are not checked: the rule of a gradient may refuse one that the rule of the output takes.
    samples = rules.place_checked("ROIAlign", named, pixels, spatial_scale, pooled, sample_num, shape)
    if not _is_worth_the_engine(samples, shape, pooled):
        calls, _ = _torchvision_calls(named, pixels, shape, pooled, spatial_scale, sample_num)
        if calls and len(calls[0].rows) == len(pixels):
            return _gradient_of_call(of_output, shape, pooled, calls[0])
    of_features = _empty(shape, of_output)
    engine.gradient(as_numpy(of_output), samples, as_numpy(of_features), torch.get_num_threads())
    return of_features


def check_grids(
    shape: Sequence[int],
    rois: torch.Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sample_num: int,
    rule: str,
) -> None:
    """Raise RuntimeError if the adaptive grids of a rule are too large; ``shape`` is that of the features."""
    pooled = (pooled_height, pooled_width)
    rules.place_checked("ROIAlign", rules.NAMED[rule], as_numpy(rois), spatial_scale, pooled, sample_num, shape)


def _plain_boxes(
    rois: torch.Tensor,
    shape: Sequence[int],
    pooled: Pooled,
    spatial_scale: float,
    sample_num: int,
    rule: str,
) -> torch.Tensor | None:
    """Return the boxes of a small call that torchvision, not aligned, samples where MindSpore does, if that is plain.

    It is where every box is one of an image, has no number that is not finite, is not skipped and, in mode 1, not
    enlarged, by so much that no rounding of float32 can change it. Then ``x2 + 1`` and ``y2 + 1`` is all there is.
    """
    images, _, height, width = shape
    adds_1 = rules.NAMED[rule] is rules.MINDSPORE[1]
    if (
        not (adds_1 or rules.NAMED[rule] is rules.MINDSPORE[0])
        or len(rois) > _FEW_ROWS
        or sample_num <= 0
        or rois.dtype not in _LAST_PIXELS
        or not 1e-5 < spatial_scale < 1e5
        or max(height, width, *pooled, sample_num) > 2**24
        or _is_large(len(rois) * sample_num**2 * pooled[0] * pooled[1], shape)
    ):
        return None
    largest = 1e5 / max(spatial_scale, 1)
    smallest = 1.05 / spatial_scale - 1 if adds_1 else -math.inf
    for index, x1, y1, x2, y2 in rois.tolist():
        if not (
            0 <= index < images
            and index.is_integer()
            and max(abs(x1), abs(x2)) > 0.0011
            and -largest < x1 < largest
            and -largest < y1 < largest
            and -largest < x2 < largest
            and -largest < y2 < largest
            and x2 - x1 >= smallest
            and y2 - y1 >= smallest
        ):
            return None
    return rois + _LAST_PIXELS[rois.dtype] if adds_1 else rois


def _is_worth_the_engine(samples: Samples, shape: Sequence[int], pooled: Pooled) -> bool:
    of_channel = int(samples.grid.clip(0).prod(1).sum()) * pooled[0] * pooled[1]
    return _is_large(of_channel, shape) and engine.is_compiled(samples.start.dtype)


def _is_large(of_channel: int, shape: Sequence[int]) -> bool:
    """Tell whether so many samples of a channel are worth the engine; ``shape`` is that of the features."""
    images, channels, height, width = shape
    return of_channel * channels >= _MANY_VALUES and of_channel >= _SAMPLES_OF_A_CELL * images * height * width


def _torchvision_calls(
    rule: Rule, rois: NDArray, shape: Sequence[int], pooled: Pooled, spatial_scale: float, sample_num: int
) -> tuple[list[TorchvisionCall], NDArray]:
    """Return the calls of torchvision that sample where MindSpore does on a CPU, and the rows that have none."""
    with np.errstate(all="ignore"):  # overflow and NaN are part of the rule
        boxes = rules.feature_boxes(np, rule, rois, spatial_scale)
        skipped = rules.skipped_rows(rule, rois, boxes)
        rounds_alike = rules.rounds_alike(rois.dtype, *shape[2:], *pooled, sample_num)
        if not (rounds_alike and any(rule is one for one in rules.MINDSPORE)):
            return [], np.flatnonzero(~skipped)
        return encodings.torchvision_calls(boxes, skipped, *pooled, sample_num)


def _call(features: torch.Tensor, pooled: Pooled, call: TorchvisionCall) -> torch.Tensor:
    boxes = torch.from_numpy(call.boxes)
    values: torch.Tensor = _roi_align(features, boxes, 1.0, *pooled, call.sampling_ratio, call.aligned)
    return values


def _gradient_of_call(
    of_output: torch.Tensor, shape: tuple[int, int, int, int], pooled: Pooled, call: TorchvisionCall
) -> torch.Tensor:
    boxes = torch.from_numpy(call.boxes)
    of_features: torch.Tensor = _gradient_of_roi_align(
        of_output, boxes, 1.0, *pooled, *shape, call.sampling_ratio, call.aligned
    )
    return of_features


def _first_pixels_are_finite(features: torch.Tensor) -> bool:
    """Tell whether torchvision adds 0 for samples outside the image: it adds 0 * the first pixel, which can be NaN."""
    return bool(np.isfinite(as_numpy(features)[:, :, 0, 0]).all())


def as_numpy(tensor: torch.Tensor) -> NDArray:
    """Return an array in the memory of a tensor on the CPU, where ``Tensor.numpy`` would forbid to resize it."""
    tensor = tensor.resolve_neg()
    itemsize = tensor.element_size()
    dtype = np.dtype(f"f{itemsize}")
    if not tensor.numel():  # it has no address
        return np.empty(tensor.shape, dtype)
    holder = types.SimpleNamespace(
        tensor=tensor,
        __array_interface__={
            "version": 3,
            "data": (tensor.data_ptr(), False),
            "typestr": dtype.str,
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * itemsize for stride in tensor.stride()),
        },
    )
    return np.asarray(holder)


def _empty(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Return a tensor to fill. On Linux it asks for huge pages, which are filled in a quarter of the time."""
    output = like.new_empty(shape)
    if _MADVISE is not None and output.nbytes >= _HUGE:
        skipped = -output.data_ptr() % mmap.PAGESIZE
        _MADVISE(output.data_ptr() + skipped, output.nbytes - skipped, mmap.MADV_HUGEPAGE)
    return output
