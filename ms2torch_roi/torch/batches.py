"""Many calls as one: the rule of ``torch.vmap`` for an operator that pools, and for its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import params, rules
from .torchvision import BAD_INDEX, XP


def refuse_forward_mode(ctx: Any = None, *grad_inputs: Any) -> Any:
    """Raise NotImplementedError."""
    raise NotImplementedError("ROIAlign has no derivative in forward mode (jvp), only the one of backward()")


def in_front(in_dims: tuple[Any, ...], *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Move the batches of tensors to their first dimension."""
    return [tensor if dim is None else tensor.movedim(dim, 0) for dim, tensor in zip(in_dims, tensors)]  # noqa: B905


def fold(
    pool: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor],
    size: int,
    values: torch.Tensor,
    rois: torch.Tensor,
    shape: tuple[int, int, int],
    pooled: tuple[int, int],
    rule: str,
    result: tuple[int, ...],
) -> torch.Tensor:
    """Make one call of so many: the rule of ``torch.vmap`` for an operator that pools, and for its gradient.

    Args:
        pool: the operator, of values, rois and the number of images that the rois count.
        size: number of calls.
        values: features (N, C, H, W) or a gradient for outputs (K, C, pooled_height, pooled_width), which all calls
            share, or those of each, (size, ...).
        rois: (K, 5) that all calls share, or (size, K, 5).
        shape: N, H and W of the features of one call.
        pooled: number of bins.
        rule: by which, a name of ``rules.NAMED``.
        result: the shape of what a call returns.

    Returns:
        (size, ...), what each call returns.
    """
    if size == 0:  # no values, and a sum of none, for the gradient to have something to go to
        return values.new_zeros(0, *result) + values.reshape(-1)[:0].sum()
    images, height, width = shape
    rows, channels = rois.shape[-2], values.shape[-3]
    largest = max(params.sizes("ROIAlign", (images, channels, height, width), (rows, 5), *pooled).values())
    at_once = max(1, params.INT32_MAX // max(1, largest))
    if values.ndim == 5 and rois.ndim == 3:
        whole = min(2 / torch.finfo(dtype).eps for dtype in (rois.dtype, torch.float32))  # all up to that are exact
        at_once = max(1, min(at_once, int(whole) // max(1, images)))
    if size > at_once:
        parts = [slice(first, first + at_once) for first in range(0, size, at_once)]
        outputs = [
            fold(
                pool,
                min(size, part.stop) - part.start,
                values[part] if values.ndim == 5 else values,
                rois[part] if rois.ndim == 3 else rois,
                shape,
                pooled,
                rule,
                result,
            )
            for part in parts
        ]
        return torch.cat(outputs)

    if rois.ndim == 2:  # as more channels
        output = pool(values.movedim(0, 1).flatten(1, 2), rois, images)
        return output.view(output.shape[0], size, channels, *output.shape[2:]).movedim(1, 0)
    index = torch.ops.ms2torch_roi.whole_index(rois[..., 0].detach(), images, rule)
    if values.ndim == 5:  # as more images
        first = torch.arange(size, dtype=index.dtype, device=index.device) * images
        index = index + first[:, None]
        values, images = values.flatten(0, 1), size * images
    rois = torch.cat((index[..., None], rois[..., 1:]), 2)
    output = pool(values, rois.flatten(0, 1), images)
    return output.view(size, *result)


def whole_index(index: torch.Tensor, images: int, rule: str) -> torch.Tensor:
    """Return the whole image indices of a batch of rois, (..., K), where they are in range: the kernel of an operator.

    Raises:
        RuntimeError: one that is not; other devices than a CPU assert it.
    """
    has_image = rules.has_image(XP, rules.NAMED[rule], index, images)
    if index.device.type != "cpu":
        torch._assert_async(has_image.all(), BAD_INDEX)
    elif not has_image.all():
        entry = tuple((~has_image).nonzero()[0, :-1].tolist())
        name = f"rois of entry {entry[0] if len(entry) == 1 else entry} of the batch of vmap,"
        rules.check_index(rules.NAMED[rule], index[entry].numpy(), images, name)
    return rules.whole_index(XP, rules.NAMED[rule], index)  # type: ignore[no-any-return]
