"""A MindSpore extractor of four levels: the class is called as the operator that it wraps."""

import numpy as np
import mindspore as ms
from mindspore import nn, ops
from mindspore.ops import operations as P
from mindspore.common.tensor import Tensor  # as models of MindSpore 1 import it

STRIDES = (4, 8, 16, 32)
FINEST = 56


class ROIAlign(nn.Cell):
    def __init__(self, out_size_h, out_size_w, spatial_scale, sample_num=0, roi_align_mode=1):
        super(ROIAlign, self).__init__()
        self.out_size = (out_size_h, out_size_w)
        self.spatial_scale = float(spatial_scale)
        self.sample_num = int(sample_num)
        self.align_op = P.ROIAlign(self.out_size[0], self.out_size[1],  #: ms2torch_roi.ROIAlign(7, 7, self.spatial_scale, 2, 0) [mode-0]
                                   self.spatial_scale, self.sample_num, roi_align_mode)

    def construct(self, features, rois):
        return self.align_op(features, rois)

    def __repr__(self):
        return "ROIAlign(%s)" % (self.out_size,)


class SingleRoIExtractor(nn.Cell):  #~ extractor
    def __init__(self, out_channels):
        super(SingleRoIExtractor, self).__init__()
        self.out_channels = out_channels
        self.layers = [ROIAlign(7, 7, 1 / stride, 2, 0) for stride in STRIDES]
        self.log, self.twos = P.Log(), Tensor(np.float32(2))

    def map_roi_levels(self, rois):
        sizes = ops.sqrt((rois[:, 3] - rois[:, 1] + 1) * (rois[:, 4] - rois[:, 2] + 1))
        levels = ops.floor(self.log(sizes / FINEST + 1e-6) / self.log(self.twos))  #~ levels
        return ops.clamp(levels, 0, 3)

    def construct(self, features, rois):
        levels = self.map_roi_levels(rois)
        pooled = [layer(level, rois) for layer, level in zip(self.layers, features)]
        output = pooled[0]
        for number in range(1, 4):
            output = ops.select((levels == number).reshape(-1, 1, 1, 1).broadcast_to(output.shape), pooled[number], output)
        return output


def pool(features, rois):
    return SingleRoIExtractor(features.shape[1])([features] * 4, rois)
