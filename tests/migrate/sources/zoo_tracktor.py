"""tracktor's extractor: a list of cells, constants for a fixed number of rois, and its settings in a config."""

import types

import mindspore.nn as nn
import numpy as np
from mindspore.common.tensor import Tensor
from mindspore.nn import layer as L
from mindspore.ops import composite as C
from mindspore.ops import operations as P

CONFIG = types.SimpleNamespace(roi_layer=types.SimpleNamespace(out_size=7, sample_num=2), roi_sample_num=20)


class ROIAlign(nn.Cell):
    def __init__(self, out_size_h, out_size_w, spatial_scale, sample_num=0):
        super(ROIAlign, self).__init__()
        self.out_size = (out_size_h, out_size_w)
        self.spatial_scale = float(spatial_scale)
        self.sample_num = int(sample_num)
        self.align_op = P.ROIAlign(self.out_size[0], self.out_size[1],  #: ms2torch_roi.ROIAlign(self.out_size[0], self.out_size[1], self.spatial_scale, self.sample_num, 1)
                                   self.spatial_scale, self.sample_num)

    def construct(self, features, rois):
        return self.align_op(features, rois)


class SingleRoIExtractor(nn.Cell):  #~ extractor
    def __init__(self, config, roi_layer, out_channels, featmap_strides, batch_size=1, finest_scale=56):
        super(SingleRoIExtractor, self).__init__()
        self.out_size = config.roi_layer.out_size
        self.sample_num = config.roi_layer.sample_num
        self.roi_layers = L.CellList(self.build_roi_layers(featmap_strides))
        self.log, self.clamp, self.select = P.Log(), C.clip_by_value, P.Select()
        rows, last = batch_size * config.roi_sample_num, len(featmap_strides) - 1
        self.ones, self.epsilon, self.twos, self.finest_scale = (
            Tensor(np.full((rows, 1), number, np.float32)) for number in (1, 1e-6, 2, finest_scale)
        )
        self.zeros, self.max_levels = (Tensor(np.full((rows, 1), number, np.int32)) for number in (0, last))
        self.result = Tensor(np.zeros((rows, out_channels, self.out_size, self.out_size), np.float32))

    def log2(self, value):
        return self.log(value) / self.log(self.twos)

    def build_roi_layers(self, featmap_strides):
        layers = []
        for s in featmap_strides:
            layers.append(ROIAlign(self.out_size, self.out_size, spatial_scale=1 / s, sample_num=self.sample_num))
        return layers

    def _c_map_roi_levels(self, rois):
        scale = P.Sqrt()(rois[::, 3:4:1] - rois[::, 1:2:1] + self.ones) * \
            P.Sqrt()(rois[::, 4:5:1] - rois[::, 2:3:1] + self.ones)
        levels = P.Floor()(self.log2(scale / self.finest_scale + self.epsilon))  #~ levels
        return self.clamp(P.Cast()(levels, self.zeros.dtype), self.zeros, self.max_levels)

    def construct(self, rois, feat1, feat2, feat3, feat4):
        result, levels = self.result, self._c_map_roi_levels(rois)
        for i, features in enumerate((feat1, feat2, feat3, feat4)):
            mask = P.Tile()(P.Equal()(levels, i).reshape(-1, 1, 1, 1), (1, *result.shape[1:]))
            result = self.select(mask, self.roi_layers[i](features, rois), result)
        return result


def pool(features, rois):
    extractor = SingleRoIExtractor(CONFIG, CONFIG.roi_layer, features.shape[1], [4, 8, 16, 32])
    return extractor(rois, *[features] * 4)
