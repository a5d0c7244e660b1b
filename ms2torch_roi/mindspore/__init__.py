"""torchvision's RoIAlign on MindSpore: its constructor and call, on the engine, or in graphs on its operator."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import mindspore.rewrite
from mindspore import nn

from .. import params
from . import graph, pynative, tensors


class RoIAlign(nn.Cell):  # type: ignore[misc]
    """Region of interest align, as ``torchvision.ops.RoIAlign`` computes it on a CPU, as a MindSpore cell.

    It holds torchvision's arguments, as they were given, and calls :func:`ms2torch_roi.roi_align`, which describes
    them, the inputs, and how exact the result is. There are no parameters.

    Args:
        output_size: number of bins, ``(height, width)`` or an int for both.
        spatial_scale: feature cells per image pixel, 1/16 for a stride of 16.
        sampling_ratio: samples along each axis of a bin; with 0 or less, ``ceil(size / output_size)``.
        aligned: True to move boxes by half a cell; False not to, and to enlarge boxes to one cell.

    Raises:
        RuntimeError: an argument that is not such a number, or a size below 1. torchvision raises it in the call.

    Example, the one of MindSpore's documentation:

    >>> import mindspore
    >>> from ms2torch_roi import RoIAlign
    >>> input = mindspore.Tensor([[[[1., 2.], [3., 4.]]]])
    >>> boxes = mindspore.Tensor([[0, 0.2, 0.3, 0.2, 0.3]])
    >>> print(RoIAlign((3, 3), 0.25, 2, aligned=False)(input, boxes))
    [[[[1.7       2.0333333 2.3666668]
       [2.3666668 2.7       3.0333335]
       [3.0333333 3.3666668 3.7      ]]]]
    """

    def __init__(
        self, output_size: int | Sequence[int], spatial_scale: float, sampling_ratio: int, aligned: bool = False
    ) -> None:
        super().__init__()
        params.torchvision_arguments(output_size, spatial_scale, sampling_ratio, aligned)
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def construct(self, input: ms.Tensor, rois: ms.Tensor | Sequence[ms.Tensor]) -> ms.Tensor:
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def forward(self, input: ms.Tensor, rois: ms.Tensor | Sequence[ms.Tensor]) -> ms.Tensor:
        """Call the cell, as code written for torch may."""
        if graph.is_compiling(roi_align):
            return self.construct(input, rois)  # there a cell cannot call itself
        return self(input, rois)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(output_size={self.output_size}, spatial_scale={self.spatial_scale},"
            f" sampling_ratio={self.sampling_ratio}, aligned={self.aligned})"
        )


# MindSpore's mixed precision O1 copies the source of every cell in a model but those listed here.
getattr(mindspore.rewrite.common.namespace, "_subtree_black_list", []).append(RoIAlign)


def roi_align(
    input: ms.Tensor,
    boxes: ms.Tensor | Sequence[ms.Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> ms.Tensor:
    """Compute ``torchvision.ops.roi_align`` on MindSpore tensors.

    On a CPU in PyNative mode the result has the bits of torchvision's CPU operator, in float32 and float16, for every
    box on which that does not crash; boxes that are not finite, on which it does, pool to 0. The gradient for ``input``
    has the bits of torchvision's as well; ``boxes`` get none (zeros).

    In graph mode and inside ``mindspore.jit`` a fixed grid has the same bits, but for a few rows; an adaptive one calls
    Python back, on a CPU and where all lengths are known when the graph is compiled. MAPPING.md, which is in the
    package, names the rows, and says what holds under ``mindspore.vmap``, mixed precision and in ONNX.

    Args:
        input: (N, C, H, W) features, float16 or float32.
        boxes: (K, 5) rows of ``(index, x1, y1, x2, y2)``, coordinates in image pixels, or a list or tuple of N tensors
            of (L_i, 4), one for each image. float16 with float32 is computed in float32.
        output_size: number of bins, ``(height, width)`` or an int for both.
        spatial_scale: feature cells per image pixel.
        sampling_ratio: samples along each axis of a bin; with 0 or less, ``ceil(size / output_size)`` for each box and
            axis.
        aligned: True to move boxes by half a cell; False not to, and to enlarge boxes to one cell.

    Returns:
        (K, C, height, width), in the dtype of ``input``.

    Raises:
        TypeError: ``input`` is no MindSpore tensor, or a tensor is neither float16 nor float32.
        AssertionError: ``boxes`` is not one of the above, or of another shape.
        ValueError: ``boxes`` is an empty list.
        RuntimeError: another argument or shape, an image index outside ``[0, N - 1]``, an adaptive grid that
            torchvision refuses (a box inverted along one axis), or one in a graph that is exported or whose lengths are
            open, or more samples than can be pooled in 12 minutes, or in a box than 4 GiB hold, by an estimate.

    >>> import mindspore
    >>> from ms2torch_roi import roi_align
    >>> input = mindspore.ops.arange(1.0, 5.0).reshape(1, 1, 2, 2)
    >>> print(roi_align(input, [mindspore.Tensor([[0.5, 0.5, 2.5, 1.5]])], (1, 2), 1.0, 2))
    [[[[3.625 1.875]]]]
    """

    # MindSpore's mixed precision O1 copies the source of what a model calls, unless there is a function within.
    def nothing() -> None:
        """Do nothing. This is what ``graph.is_compiling`` is asked about."""

    pooled, scale, samples, half_a_cell = graph.arguments(output_size, spatial_scale, sampling_ratio, aligned)
    if graph.is_compiling(nothing):
        tensors.check(input, boxes)
        features, boxes = tensors.in_one_dtype(input, boxes)
        return tensors.cast(graph.pool(features, boxes, pooled, scale, samples, half_a_cell), input.dtype)
    return pynative.pool(input, boxes, pooled, scale, samples, half_a_cell)
