"""torchvision's operator by every name of it."""

import torch
import torchvision
import torchvision.models
import torchvision.ops as vision_ops
from torch import nn, ops as torch_ops
from torchvision import ops
from torchvision.ops import RoIAlign, roi_align as align
from torchvision.ops.roi_align import RoIAlign as Defined

POOLED = (3, 2)


class Head(nn.Module):
    def __init__(self, scale: float = 0.25):
        super().__init__()
        self.made = [
            RoIAlign(POOLED, scale, 2),  #: ms2torch_roi.RoIAlign((3, 2), 1.0, 2, False)
            ops.RoIAlign(POOLED, spatial_scale=0.25, sampling_ratio=2, aligned=True),  #: ms2torch_roi.RoIAlign((3, 2), 0.25, 2, True)
            torchvision.ops.RoIAlign(output_size=POOLED, sampling_ratio=-1, spatial_scale=1 / 4),  #: ms2torch_roi.RoIAlign((3, 2), 0.25, -1, False) [adaptive-grid]
            Defined(POOLED, 0.5, 1),  #: ms2torch_roi.RoIAlign((3, 2), 0.5, 1, False)
        ]

    def forward(self, features, boxes):
        pooled = [made(features, boxes) for made in self.made]
        pooled.append(align(features, boxes, POOLED))  #: ms2torch_roi.roi_align(features, boxes, (3, 2), 1.0, -1, False) [adaptive-grid]
        pooled.append(torchvision.ops.roi_align(features, boxes, POOLED, 0.25, 2, True).mul(1.0))  #: ms2torch_roi.roi_align(features, boxes, (3, 2), 0.25, 2, True)
        pooled += [vision_ops.roi_align(boxes=boxes, input=features, output_size=POOLED, sampling_ratio=2)]  #: ms2torch_roi.roi_align(features, boxes, (3, 2), 1.0, 2, False)
        return torch.cat(pooled)


def pool(features, boxes):
    return Head(1.0)(features, boxes)
