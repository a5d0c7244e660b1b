"""Extractors on MindSpore as projects write them, in the manner of each: all levels are pooled, and one is selected."""

import numpy as np
from level_formulas import columns, layoutlm, mindspore_lab, mmdet_on_mindspore, model_zoo_level, queryinst

from ms2torch_roi.parity import operators

ms = operators.import_mindspore()
ops, nn = ms.ops, ms.nn


def roi_layers(size, strides, *arguments):
    """An operator for each level; by the name, PyNative mode keeps those of other arguments apart."""
    return [
        ops.ROIAlign(size, size, 1 / stride, *arguments).add_prim_attr("name", f"{size} {stride} {arguments}")
        for stride in strides
    ]


def select(mask, pooled, result):
    return ops.select(ops.tile(mask.reshape(-1, 1, 1, 1), (1, *pooled.shape[1:])), pooled, result)


class ModelZoo(nn.Cell):
    """FasterRCNN's, and in mode 0 MaskRCNN's: constants for a fixed number of rois, (rois, *features)."""

    def __init__(self, config, roi_layer, out_channels, featmap_strides, batch_size=1, finest_scale=56, mask=False):
        super().__init__()
        size = roi_layer["mask_out_size" if mask else "out_size"]
        self.layers = roi_layers(size, featmap_strides, roi_layer["sample_num"], config["mode"])
        rows = batch_size * config["roi_sample_num"]
        self.floats, self.zeros, self.last = columns(ms, rows, len(featmap_strides), finest_scale)
        self.result = ms.Tensor(np.zeros((rows, out_channels, size, size), np.float32))

    def construct(self, rois, feat1, feat2, feat3, feat4):
        floats = self.floats
        level = model_zoo_level(
            ops,
            rois,
            floats["ones"],
            floats["finest_scale"],
            floats["epsilon"],
            floats["twos"],
            self.zeros,
            self.last,
        )
        features = (feat1, feat2, feat3, feat4)
        result = self.result
        for i in range(4):
            result = select(ops.equal(level, i), self.layers[i](features[i], rois), result)
        return result


class OfLevels(nn.Cell):
    """QueryInst's, and with another formula that of ports of mmdet: (features, rois)."""

    def __init__(self, roi_layer, out_channels, featmap_strides, finest_scale=56, formula=queryinst):
        super().__init__()
        self.layers = roi_layers(roi_layer["out_size"], featmap_strides, roi_layer["sample_num"])
        self.shape = (out_channels, roi_layer["out_size"], roi_layer["out_size"])
        self.formula, self.finest_scale = formula, finest_scale

    def construct(self, features, rois):
        level = self.formula(ms, rois, len(features), self.finest_scale)
        result = ops.zeros((rois.shape[0], *self.shape), rois.dtype)
        for i, (layer, of_level) in enumerate(zip(self.layers, features, strict=True)):
            result = select(ops.equal(level, i), layer(of_level, rois), result)
        return result


class WithMask(nn.Cell):
    """mindspore-lab's, and with another formula LayoutLMv3's: boxes of each image, some of them invalid."""

    def __init__(self, resolution, featmap_strides, sample_num=2, finest_scale=56, formula=mindspore_lab):
        super().__init__()
        self.layers = roi_layers(resolution, featmap_strides, sample_num, 0)
        self.resolution, self.finest_scale, self.formula = resolution, finest_scale, formula
        self.dummy = ms.Tensor([[0, 0, featmap_strides[-1] + 1, featmap_strides[-1] + 1]], ms.float32)

    def construct(self, features, rois, rois_mask):
        images, count, _ = rois.shape
        index = ops.repeat_elements(ops.arange(images).astype(rois.dtype), count, 0).reshape(-1, 1)
        is_valid = rois_mask.reshape(-1, 1).astype(ms.bool_)
        rois = ops.select(ops.tile(is_valid, (1, 4)), rois.reshape(-1, 4), ops.tile(self.dummy, (images * count, 1)))
        rois = ops.concat((index, rois), 1)
        level = self.formula(ms, rois, len(features), self.finest_scale).reshape(-1, 1)
        channels = features[0].shape[1]
        result = ops.zeros((images * count, channels, self.resolution, self.resolution), features[0].dtype)
        for i, (layer, of_level) in enumerate(zip(self.layers, features, strict=True)):
            result = select(ops.logical_and(level == i, is_valid), layer(of_level, rois), result)
        return result.reshape(images, count, channels, self.resolution, self.resolution)


FORMULAS_OF_PORTS = {"QueryInst": queryinst, "mmdet": mmdet_on_mindspore, "LayoutLMv3": layoutlm}
