"""ROIAlign as one call of torchvision: what a program holds that runs where this package is not, and other devices."""

from __future__ import annotations

import types
from typing import Any

import torch
from torchvision.ops import roi_align

from .. import encodings, params, rules
from ..rules import Rule

BAD_INDEX = "ROIAlign: rois with an image index out of range"

# What the rules use of NumPy. torch.asarray would move a tensor to the default device, and make one of a number.
XP = types.SimpleNamespace(
    **{**vars(torch), "asarray": lambda value, dtype: value.to(dtype) if isinstance(value, torch.Tensor) else value}
)


def computed(tensor: torch.Tensor, rule: str) -> torch.Tensor:
    """Return a tensor in the dtype that a rule of ``rules.NAMED`` computes it in."""
    if tensor.dtype != torch.float16:
        return tensor
    return tensor.to(getattr(torch, rules.computed_in(rules.NAMED[rule], "float16")))


def pool(
    features: torch.Tensor,
    rois: torch.Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sample_num: int,
    rule: str,
    backward_rule: str,
) -> torch.Tensor:
    """Pool every row in one call (two for the gradient of another rule), without a look at the values of the rois."""
    rois = rois.detach()

    def call(features: torch.Tensor, rule: str) -> torch.Tensor:
        boxes, aligned = _encode(computed(rois, rule), features.shape[0], spatial_scale, rules.NAMED[rule])
        pooled = pooled_height, pooled_width
        output: torch.Tensor = roi_align(computed(features, rule), boxes, pooled, 1.0, sample_num, aligned)
        return output.to(features.dtype)

    if backward_rule == rule or not (features.requires_grad and torch.is_grad_enabled()):
        return call(features, rule)
    # Pooling is linear: pooled zeros add nothing but their gradient. (A custom one would be lost on torch.export.)
    zeros = (features - features.detach()).nan_to_num()
    return call(features.detach(), rule) + call(zeros, backward_rule)


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
    """Return the gradient of that call for features (images, C, height, width)."""
    boxes, aligned = _encode(computed(rois, rule), images, spatial_scale, rules.NAMED[rule])
    of_features: torch.Tensor = torch.ops.torchvision._roi_align_backward(
        computed(of_output, rule),
        boxes,
        1.0,
        pooled_height,
        pooled_width,
        images,
        of_output.shape[1],
        height,
        width,
        sample_num,
        aligned,
    )
    return of_features.to(of_output.dtype)


def _encode(rois: torch.Tensor, images: int, spatial_scale: float, rule: Rule) -> tuple[torch.Tensor, bool]:
    """Encode (K, 5) rois, in image pixels, as the boxes of one call with the samples of a rule of MindSpore's.

    The call is ``roi_align(features, boxes, pooled, 1.0, sample_num, aligned)``. Where the rule enlarges small boxes
    to one cell it is not aligned, and has the very samples. Otherwise it is, and adding 0.5 can cost a coordinate its
    last digits: between -0.25 and 0.5, and in the half cell below a power of two. Whole cells and the order of
    coordinates are kept, so that a box within the image stays there, with all its samples.

    Rows that pool to 0 lie outside the image, and an index that the rule refuses becomes -1, which is asserted, as
    torchvision checks it on a CPU only. A sample on a border that is outside for the rule, and not for torchvision, is
    inside.

    Returns:
        (K, 5) boxes, and ``aligned``.
    """
    has_image = rules.has_image(XP, rule, rois[:, :1], images)
    boxes, size = rules.feature_boxes(XP, rule, rois, spatial_scale)
    aligned = rule.smallest != 1
    if rule.smallest is not None:
        end = encodings.enlarged_end(XP, boxes, size, size if aligned else 0.5)
        boxes = torch.cat((boxes[:, :3], end), 1)
        size = end - boxes[:, 1:3]
    # 0 times what is not finite is NaN, which a sum keeps everywhere, and a maximum does not in ONNX Runtime.
    pool_to_0 = (size * 0).sum(1) != 0
    if rule.skips == "near 0":
        pool_to_0 = pool_to_0 | rules.near_0(XP, rois)
    if aligned:
        boxes[:, 1:].add_(0.5)
    boxes[:, 1:].masked_fill_(pool_to_0[:, None], -4)
    boxes[:, :1].masked_fill_(~has_image, -1)
    torch._assert_async(has_image.all(), BAD_INDEX)
    return boxes, aligned


def check_sizes(features: torch.Tensor, rois: torch.Tensor, pooled: tuple[int, int]) -> torch.Tensor:
    """Refuse tensors or an output that are too large, now or when the program runs, and return the rois.

    A check of a size that a program leaves open would bind it to a range of sizes, so that is up to the program.

    Raises:
        RuntimeError: one that is known to be too large.
    """
    in_strict_export = torch.compiler.is_dynamo_compiling()  # where no size is known to be open
    values: Any  # an int, or what stands for one while a program is made
    for what, values in params.sizes("ROIAlign", features.shape, rois.shape, *pooled).items():
        if isinstance(values, torch.Tensor):  # in torch.jit.trace, which keeps only what something depends on
            rois = torch._functional_assert_async(values <= params.INT32_MAX, _too_many(what), rois)
        elif isinstance(values, torch.SymInt) or in_strict_export:
            torch._assert_async(torch.scalar_tensor(values, dtype=torch.int64) <= params.INT32_MAX, _too_many(what))
        else:
            params.check_size(what, values)
    return rois


def _too_many(what: str) -> str:
    return f"ROIAlign: {what} would hold more values than the {params.INT32_MAX} that are allowed in one call"
