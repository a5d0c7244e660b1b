"""torchvision's MultiScaleRoIAlign on MindSpore: each box is pooled on its own level of a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mindspore as ms
import mindspore.rewrite
import numpy as np
from mindspore import nn, ops

from .. import arrays, levels, params, rules
from . import graph, pynative, roi_align, tensors

Pooled = tuple[int, int]

# So that MindSpore's compiler reads the fields of a formula.
ms.jit_class(levels.LevelFormula)


class MultiScaleRoIAlign(nn.Cell):  # type: ignore[misc]
    """Pool each box on one level of a feature pyramid, as ``torchvision.ops.MultiScaleRoIAlign`` does, as a cell.

    Levels are those of torchvision on a CPU, by thresholds (:mod:`ms2torch_roi.levels`); the values are those of
    :func:`ms2torch_roi.roi_align`, which says how exact they are in PyNative mode, where each box is pooled once, and
    in graph mode, where each level pools all boxes, those of others to 0. There are no parameters.

    Args:
        featmap_names: of the feature maps to pool from, the finest first.
        output_size: number of bins, ``(height, width)`` or an int for both.
        sampling_ratio: samples along each axis of a bin; with 0 or less, ``ceil(size / output_size)``.
        canonical_scale: the size in image pixels of a box on ``canonical_level``.
        canonical_level: the logarithm of the stride of that level. Thresholds of other than 224 pixels, times a power
            of two, and level 4 are searched in torch, which must be installed.

    The call is ``(x, boxes, image_shapes)``: a dict of features (N, C, H, W) by name, of which others are left out; a
    list of N tensors of (L_i, 4), rows of ``(x1, y1, x2, y2)`` in image pixels; and a list of ``(height, width)`` of
    the images, from which a first call infers the scales, powers of two. The result is (K, C, height, width), in the
    dtype of the first features. A box of a size that is NaN, such as an inverted one, pools to 0, as in torchvision.

    Raises:
        TypeError: ``x`` is no dict, ``boxes`` no list, or a tensor of another dtype than float16 and float32.
        ValueError: no ``image_shapes`` or boxes, or feature maps that are not in order.
        IndexError: no feature map of such a name.
        RuntimeError, AssertionError: what ``roi_align`` raises them for.

    >>> import mindspore
    >>> from ms2torch_roi import MultiScaleRoIAlign
    >>> pool = MultiScaleRoIAlign(["fine", "coarse"], 1, 2)
    >>> x = {"fine": 4.0 * mindspore.ops.ones((1, 1, 64, 64)), "coarse": 8.0 * mindspore.ops.ones((1, 1, 32, 32))}
    >>> boxes = [mindspore.Tensor([[0, 0, 30, 30], [0, 0, 250, 250]], mindspore.float32)]
    >>> print(pool(x, boxes, [(256, 256)]).flatten())
    [4. 8.]
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | Sequence[int],
        sampling_ratio: int,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        pooled, *_ = params.torchvision_arguments(output_size, 1.0, sampling_ratio, False)
        self.featmap_names = featmap_names
        self.output_size = pooled
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.scales: tuple[float, ...] | None = None

    def construct(
        self, x: Mapping[str, ms.Tensor], boxes: Sequence[ms.Tensor], image_shapes: Sequence[tuple[int, int]]
    ) -> ms.Tensor:
        # What MindSpore's mixed precision O1 needs: see roi_align.
        def nothing() -> None:
            """Do nothing. This is what ``graph.is_compiling`` is asked about."""

        _check(isinstance(x, dict), isinstance(boxes, (list, tuple)))
        features = []
        for name, feature in x.items():
            if name in self.featmap_names:
                features.append(feature)
        shapes = [feature.shape for feature in features]
        scales, thresholds = _levels(shapes, image_shapes, self.scales, self.canonical_scale, self.canonical_level)
        if graph.is_compiling(nothing):
            return _pool_all_rows(features, boxes, self.output_size, self.sampling_ratio, scales, thresholds)
        _keep_scales(self, scales)
        return _pool_own_rows(features, boxes, self.output_size, self.sampling_ratio, scales, thresholds)

    def forward(
        self, x: Mapping[str, ms.Tensor], boxes: Sequence[ms.Tensor], image_shapes: Sequence[tuple[int, int]]
    ) -> ms.Tensor:
        """Call the cell, as code written for torch may."""
        if graph.is_compiling(roi_align):
            return self.construct(x, boxes, image_shapes)  # there a cell cannot call itself
        return self(x, boxes, image_shapes)

    def __repr__(self) -> str:
        return (
            f"MultiScaleRoIAlign(featmap_names={self.featmap_names}, output_size={self.output_size},"
            f" sampling_ratio={self.sampling_ratio})"
        )


# MindSpore's mixed precision O1 copies the source of every cell in a model but those listed here.
getattr(mindspore.rewrite.common.namespace, "_subtree_black_list", []).append(MultiScaleRoIAlign)


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def _check(x_is_dict: bool, boxes_is_list: bool) -> None:
    if not x_is_dict:
        raise TypeError("MultiScaleRoIAlign: x must be a dict of feature maps by name")
    if not boxes_is_list:
        raise TypeError("MultiScaleRoIAlign: boxes must be a list of tensors (L, 4), one for each image")


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def _levels(
    shapes: Sequence[Sequence[int]],
    image_shapes: Sequence[Sequence[int]],
    scales: Sequence[float] | None,
    canonical_scale: float,
    canonical_level: int,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the scales, inferred if there are none, and the smallest area of a box on each level but the first."""
    if not shapes:
        raise IndexError("MultiScaleRoIAlign: x must hold at least one of featmap_names")
    channels = [shape[1] for shape in shapes if len(shape) == 4]
    if len({number for number in channels if number is not None and number >= 0}) > 1:
        raise RuntimeError(f"MultiScaleRoIAlign: feature maps must have the same number of channels, got {channels}")
    if scales is None:
        if not image_shapes:
            raise ValueError("MultiScaleRoIAlign: image_shapes must hold the (height, width) of at least one image")
        height = max(shape[0] for shape in image_shapes)
        scales = [_nearest_power_of_2(shape[2] / height) for shape in shapes]
    if len(scales) == 1:
        return tuple(scales), ()
    lowest, highest = -round(math.log2(scales[0])), -round(math.log2(scales[-1]))
    if lowest > highest:
        raise ValueError(f"MultiScaleRoIAlign: feature maps must be in order, the finest first, got scales {scales}")
    formula = levels.LevelFormula(
        framework="torch", scale=float(canonical_scale), level=canonical_level, inside=(), outside=(1e-6,)
    )
    decided, _ = levels.thresholds(formula, lowest, highest - lowest + 1)
    return tuple(scales), decided


def _nearest_power_of_2(ratio: float) -> float:
    return 2.0 ** round(float(np.float32(math.log2(np.float32(ratio)))))  # as torch rounds, in float32


def _keep_scales(cell: MultiScaleRoIAlign, scales: tuple[float, ...]) -> None:
    """Keep the scales of a first call; in ``construct`` itself this would make them unknown to MindSpore's compiler."""
    cell.scales = scales


def _level(xp: Any, boxes: Any, thresholds: Sequence[float]) -> Any:
    return levels.reached(levels.quantity(xp, levels.TORCHVISION, boxes), thresholds, True)


def _pool_own_rows(
    features: Sequence[ms.Tensor],
    boxes: Sequence[ms.Tensor],
    pooled: Pooled,
    sampling_ratio: int,
    scales: Sequence[float],
    thresholds: Sequence[float],
) -> ms.Tensor:
    tensors.refuse_tracing_of_cells("MultiScaleRoIAlign")
    if len(features) == 1:
        return roi_align(features[0], boxes, pooled, scales[0], sampling_ratio)
    first = features[0]
    features, boxes = ([pynative.as_tensor(value) for value in values] for values in (features, boxes))
    for of_level in features:
        tensors.check(of_level, boxes)
    params.check_boxes_of_images([part.shape for part in boxes])
    rois = rules.boxes_of_images(np, [part.asnumpy() for part in boxes])
    with np.errstate(all="ignore"):  # overflow and NaN are part of the formula
        level = _level(np, rois, thresholds)
    parts, rows = [], []
    for number, (of_level, scale) in enumerate(zip(features, scales, strict=True)):
        own = np.flatnonzero(level == number)
        if len(own):
            rows.append(own)
            output = roi_align(of_level, ms.Tensor(rois[own]), pooled, scale, sampling_ratio)
            parts.append(tensors.cast(output, features[0].dtype))
    on_none = np.flatnonzero((level < 0) | (level >= len(features)))
    if len(on_none) or not parts:
        rows.append(on_none)
        parts.append(ops.zeros((len(on_none), features[0].shape[1], *pooled), features[0].dtype))
    place = np.argsort(np.concatenate(rows))
    output = ops.gather(ops.cat(parts), ms.Tensor(place), 0)
    return output if isinstance(first, ms.Tensor) else arrays.from_numpy(output.asnumpy(), first, "MultiScaleRoIAlign")


def _pool_all_rows(
    features: Sequence[ms.Tensor],
    boxes: Sequence[ms.Tensor],
    pooled: Pooled,
    sampling_ratio: int,
    scales: Sequence[float],
    thresholds: Sequence[float],
) -> ms.Tensor:
    """Pool without a look at the values of the boxes. MindSpore's compiler reads this."""
    if len(features) == 1:
        return roi_align(features[0], boxes, pooled, scales[0], sampling_ratio)
    graph.check_boxes_of_images([part.shape for part in boxes])
    rois = rules.boxes_of_images(graph.XP, boxes)
    # MindSpore (2.10) dies of slicing a tensor without rows.
    padded = graph.may_be_0(rois.shape[0])
    if padded:
        rois = ops.cat((ops.zeros((1, 5), rois.dtype), rois), 0)
    level = ops.reshape(_level(graph.XP, rois, thresholds), (-1, 1))
    result = ops.zeros((1, 1, 1, 1), features[0].dtype)
    for number in range(len(features)):
        # A box that is not finite pools to 0.
        own = ops.cat((rois[:, :1], ops.where(level == number, rois[:, 1:], math.inf)), 1)
        output = roi_align(features[number], own, pooled, scales[number], sampling_ratio)
        result = result + ops.cast(output, features[0].dtype)
    return result[1:] if padded else result
