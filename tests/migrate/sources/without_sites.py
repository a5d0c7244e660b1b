"""ROIAlign, RoIAlign and roi_align of other origin: from mindspore.ops import ROIAlign stands in no code here."""
import logging
from mindspore import nn as ms_nn, ops as ms_ops
from mindspore.ops import operations as P
from torch import nn
from torchvision import ops
from torchvision.ops import RoIPool, box_iou, nms, roi_pool
from .layers import ROIAlign as Relative, roi_align as relative
from layers.roi_align import RoIAlign as Elsewhere
from detectron2.layers import ShapeSpec, cat

log = logging.getLogger("roi_align")
ROI_ALIGN = "P.ROIAlign(7, 7, 0.25)"


class ROIAlign(nn.Module):
    """ROIAlign(7, 7, 0.25) of this file's own."""

    def __init__(self, size):
        super(ROIAlign, self).__init__()
        self.roi_align = ROI_ALIGN
        self.relative = Relative(size)

    def forward(self, features, rois, roi_align=None):
        roi_align = roi_align or self.roi_align  # P.ROIAlign(7, 7, 0.25)
        levels = log.log(1, "level")
        return roi_align(features, rois), levels, Elsewhere(7)(features), relative(features)


class Head(ms_nn.Cell):
    def __init__(self, config):
        super().__init__()
        self.roi_align = ROIAlign(7)
        self.crop = P.CropAndResize()
        self.from_config = config.ROIAlign(7, 7, 0.25)
        self.other = ms_ops.make().ROIAlign(7), P.models[0].ROIAlign(7, 7, 0.25)
        self.zeros = ms_ops.zeros((3, 5))

    def construct(self, x, ROIAlign):
        return ROIAlign(self.roi_align(x), dict(kind="RoIAlign", RoIAlign=7)), self.roi_align.shard


def roi_align(features, ops):
    def RoIAlign(size):
        return size

    return RoIAlign(7), ops.RoIAlign(7), ops.ROIAlign(7, 7, 0.25)


boxes = roi_align(roi_pool, RoIPool), nms(box_iou, cat(ShapeSpec), 0.5)
