"""The formulas for the level of a box as projects write them, in the manner of each, for the tests to ask."""

import numpy as np
import torch
from torchvision.ops.poolers import LevelMapper

from ms2torch_roi import levels


def model_zoo(ms, rois, count, finest_scale=56):
    """FasterRCNN's, MaskRCNN's and others of MindSpore's model zoo: a tensor for every constant, of a row each."""
    ops = ms.ops

    def column(value, dtype=np.float32):
        return ms.Tensor(np.full((len(rois), 1), value, dtype))

    rois = ms.Tensor(rois)
    width, height = rois[::, 3:4:1] - rois[::, 1:2:1], rois[::, 4:5:1] - rois[::, 2:3:1]
    size = ops.sqrt(width + column(1)) * ops.sqrt(height + column(1))
    relative = size / column(finest_scale) + column(1e-6)
    level = ops.cast(ops.floor(ops.log(relative) / ops.log(column(2))), ms.int32)
    return ops.clip_by_value(level, column(0, np.int32), column(count - 1, np.int32)).asnumpy()[:, 0]


def queryinst(ms, rois, count, finest_scale=56):
    ops, rois = ms.ops, ms.Tensor(rois)
    one = ms.Tensor(np.ones((len(rois), 1), np.float32))
    size = ops.sqrt(rois[:, 3:4] - rois[:, 1:2] + one) * ops.sqrt(rois[:, 4:5] - rois[:, 2:3] + one)
    level = ops.cast(ops.floor(ops.log2(size / (finest_scale * one) + 1e-6)), ms.int32)
    return ops.clip_by_value(level, 0, count - 1).asnumpy()[:, 0]


def mmdet_on_mindspore(ms, rois, count, finest_scale=56, one=0):
    ops, rois = ms.ops, ms.Tensor(rois)
    size = ops.sqrt((rois[:, 3] - rois[:, 1] + one) * (rois[:, 4] - rois[:, 2] + one))
    level = ops.cast(ops.floor(ops.log2(size / finest_scale + 1e-6)), ms.int32)
    return ops.clip_by_value(level, 0, count - 1).asnumpy()


def mindspore_lab(ms, rois, count, finest_scale=56):
    ops, rois = ms.ops, ms.Tensor(rois)
    size = ops.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
    logarithm = ops.log(size / finest_scale + 1e-6 + 1e-4) / ops.log(ms.Tensor(2, ms.float32))
    return ops.floor(logarithm).clamp(min=0, max=count - 1).asnumpy().astype(int)


def layoutlm(ms, rois, count, finest_scale=224):
    """mindocr's, which is detectron2's: levels 2 and up."""
    ops, rois = ms.ops, ms.Tensor(rois)
    size = ops.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
    level = ops.floor(4 + ops.log2(size / finest_scale + 1e-8))
    return (level.clamp(min=2, max=count + 1) - 2).asnumpy().astype(int)


def mmdet(ms, rois, count, finest_scale=56, one=0):
    rois = torch.from_numpy(rois)
    size = torch.sqrt((rois[:, 3] - rois[:, 1] + one) * (rois[:, 4] - rois[:, 2] + one))
    level = torch.floor(torch.log2(size / finest_scale + 1e-6)).clamp(min=0, max=count - 1).long().numpy()
    return none_if_not_a_level(level, count)


def torchvision(ms, rois, count, finest_scale=224):
    level = LevelMapper(2, count + 1, finest_scale)([torch.from_numpy(rois[:, 1:])]).numpy()
    return none_if_not_a_level(level, count)


def detectron2(ms, rois, count, finest_scale=224):
    rois = torch.from_numpy(rois)
    area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    level = torch.floor(4 + torch.log2(torch.sqrt(area) / finest_scale + 1e-8)).clamp(min=2, max=count + 1)
    return none_if_not_a_level(level.long().numpy() - 2, count)


def none_if_not_a_level(level, count):
    """Whatever number torch makes of NaN, no feature map has it."""
    return np.where((level >= 0) & (level < count), level, -1)


# Each with the formula that is to decide as it does, and what that calls its lowest level.
FORMULAS = {
    "the model zoo": (model_zoo, levels.MODEL_ZOO, 0),
    "QueryInst": (queryinst, levels.QUERYINST, 0),
    "mmdet on MindSpore": (mmdet_on_mindspore, levels.MMDET_ON_MINDSPORE, 0),
    "mmdet 1 on MindSpore": (
        lambda ms, rois, count: mmdet_on_mindspore(ms, rois, count, one=1),
        levels.MMDET_1_ON_MINDSPORE,
        0,
    ),
    "mindspore-lab": (mindspore_lab, levels.MINDSPORE_LAB, 0),
    "LayoutLMv3": (layoutlm, levels.DETECTRON2_ON_MINDSPORE, 2),
    "mmdet": (mmdet, levels.MMDET, 0),
    "mmdet 1": (lambda ms, rois, count: mmdet(ms, rois, count, one=1), levels.MMDET_1, 0),
    "torchvision": (torchvision, levels.TORCHVISION, 2),
    "detectron2": (detectron2, levels.DETECTRON2, 2),
}
