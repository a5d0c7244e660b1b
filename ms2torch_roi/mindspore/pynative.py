"""torchvision's rule on the engine, in PyNative mode, where the values of the boxes are there to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt

from .. import arrays, params, rules
from ..rules import Samples
from . import tensors
from .cells import Engine, Pooled, call

NDArray = npt.NDArray[Any]


def pool(
    input: Any,
    boxes: Any,
    pooled: Pooled,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Any:
    """Pool in PyNative mode, where NumPy arrays and torch tensors are taken too, and return the kind of ``input``."""
    features = _as_operator_sees(input)
    boxes = (
        [_as_operator_sees(part) for part in boxes] if isinstance(boxes, (list, tuple)) else _as_operator_sees(boxes)
    )
    tensors.check(features, boxes)
    output = tensors.cast(
        _pool(*tensors.in_one_dtype(features, boxes), pooled, spatial_scale, sampling_ratio, aligned), features.dtype
    )
    return output if isinstance(input, ms.Tensor) else arrays.from_numpy(output.asnumpy(), input, "roi_align")


def as_tensor(value: Any) -> Any:
    """Return the MindSpore tensor of an array of any library, and what is no array as it is.

    Raises:
        RuntimeError: a MindSpore tensor that is traced, or a torch tensor on another device than the CPU.
        TypeError: an array of a dtype that MindSpore lacks.
    """
    if isinstance(value, ms.Tensor):
        tensors.refuse_tracing_of_cells("roi_align")
        return value
    array = arrays.to_numpy(value, "roi_align")
    if array is None:
        return value
    try:
        return ms.Tensor.from_numpy(array)
    except (RuntimeError, TypeError, ValueError):  # no dtype of MindSpore's
        dtype = array.dtype
        raise TypeError(f"roi_align: MindSpore's operator takes float16 and float32, got {dtype}") from None


def _as_operator_sees(value: Any) -> Any:
    tensor = as_tensor(value)
    return tensors.as_operator_sees(tensor) if isinstance(tensor, ms.Tensor) else tensor


def _pool(
    input: ms.Tensor,
    boxes: ms.Tensor | Sequence[ms.Tensor],
    pooled: Pooled,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> ms.Tensor:
    if isinstance(boxes, ms.Tensor):
        pixels = boxes.asnumpy()
    else:
        params.check_boxes_of_images([part.shape for part in boxes])
        pixels = rules.boxes_of_images(np, [part.asnumpy() for part in boxes])
    params.check_shapes("roi_align", input.shape, pixels.shape)
    params.check_sizes("roi_align", input.shape, pixels.shape, *pooled, sampling_ratio)
    samples = place(pixels, input.shape, pooled, spatial_scale, sampling_ratio, aligned)
    return call(Engine(samples, pooled), input)


def place(
    pixels: NDArray,
    shape: Sequence[int],
    pooled: Pooled,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Samples:
    """Place the samples of (K, 5) boxes on features of this shape.

    Raises:
        RuntimeError: an image index that torchvision refuses, or grids that are too large.
    """
    rule = rules.TORCHVISION[aligned]
    rules.check_index(rule, pixels[:, 0], shape[0], "boxes")
    return rules.place_checked("roi_align", rule, pixels, spatial_scale, pooled, sampling_ratio, shape)
