"""The operator is made in each call, from what the features say, and called at once."""
from __future__ import annotations

import mindspore
from mindspore import nn


class Head(nn.Cell):
    def __init__(self, strides: tuple[int, ...] = (4, 8)) -> None:
        super().__init__()
        self.strides = strides
        self.size = 7

    def construct(self, features, rois):
        pooled = []
        for s in self.strides:
            op = mindspore.ops.ROIAlign(self.size, self.size, spatial_scale=1.0 / s, sample_num=2)  #: ms2torch_roi.ROIAlign(7, 7, 1.0 / s, 2, 1)
            pooled.append(op(features, rois))
        pooled.append(mindspore.ops.ROIAlign(7, 7, 0.5)(features, rois))  #: ms2torch_roi.ROIAlign(7, 7, 0.5, 2, 1)
        return mindspore.ops.concat(pooled)


def pool(features, rois):
    return Head((4, 16))(features, rois)
