"""detectron2's ``ROIAlign`` on MindSpore."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms

from ..mindspore import RoIAlign, roi_align, tensors


class ROIAlign(RoIAlign):
    """``detectron2.layers.ROIAlign``, which is torchvision's ``roi_align``, aligned by default, as a MindSpore cell.

    Args:
        output_size: number of bins, ``(height, width)`` or an int for both.
        spatial_scale: feature cells per image pixel, 1/16 for a stride of 16.
        sampling_ratio: samples along each axis of a bin; with 0 or less, ``ceil(size / output_size)``.
        aligned: True to move boxes by half a cell; False not to, and to enlarge boxes to one cell.

    The call is ``(input, rois)``, features (N, C, H, W) and boxes (K, 5), which are cast to the dtype of the features.
    :func:`ms2torch_roi.roi_align` says how exact the result is, and what is raised.

    >>> import mindspore
    >>> from ms2torch_roi.compat.detectron2 import ROIAlign
    >>> input = mindspore.ops.arange(1.0, 5.0).reshape(1, 1, 2, 2)
    >>> print(ROIAlign((1, 2), 1.0, 2)(input, mindspore.Tensor([[0, 0.5, 0.5, 2.5, 1.5]])))
    [[[[2.5 3. ]]]]
    """

    def __init__(
        self, output_size: int | Sequence[int], spatial_scale: float, sampling_ratio: int, aligned: bool = True
    ) -> None:
        super().__init__(output_size, spatial_scale, sampling_ratio, aligned)

    def construct(self, input: ms.Tensor, rois: ms.Tensor) -> ms.Tensor:
        if isinstance(rois, ms.Tensor) and isinstance(input, ms.Tensor):
            rois = tensors.cast(rois, input.dtype)
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
