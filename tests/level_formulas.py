"""The formulas for the level of a box as projects write them, in the manner of each, for the tests to ask."""

import functools

import numpy as np
import torch
from torchvision.ops.poolers import LevelMapper

from ms2torch_roi import levels


def on_tensors(formula):
    """Let a formula of MindSpore tensors take and return arrays as well."""

    @functools.wraps(formula)
    def on_either(ms, rois, count, *arguments, **settings):
        if not isinstance(rois, np.ndarray):
            return formula(ms.ops, rois, count, *arguments, **settings)
        level = formula(ms.ops, ms.Tensor(rois), count, *arguments, **settings)
        return level.asnumpy().astype(int).reshape(-1)

    return on_either


def columns(ms, rows, count, finest_scale=56):
    """The constants of the model zoo's extractor, each a tensor with a row for each roi."""
    numbers = {"ones": 1, "finest_scale": finest_scale, "epsilon": 1e-6, "twos": 2}
    floats = {name: ms.Tensor(np.full((rows, 1), number, np.float32)) for name, number in numbers.items()}
    return floats, ms.Tensor(np.zeros((rows, 1), np.int32)), ms.Tensor(np.full((rows, 1), count - 1, np.int32))


def model_zoo_level(ops, rois, ones, finest_scale, epsilon, twos, zeros, last):
    """FasterRCNN's, MaskRCNN's and others of MindSpore's model zoo."""
    size = ops.sqrt(rois[::, 3:4:1] - rois[::, 1:2:1] + ones) * ops.sqrt(rois[::, 4:5:1] - rois[::, 2:3:1] + ones)
    logarithm = ops.log(size / finest_scale + epsilon) / ops.log(twos)
    return ops.clip_by_value(ops.cast(ops.floor(logarithm), zeros.dtype), zeros, last)


def model_zoo(ms, rois, count, finest_scale=56):
    floats, zeros, last = columns(ms, len(rois), count, finest_scale)
    return model_zoo_level(ms.ops, ms.Tensor(rois), **floats, zeros=zeros, last=last).asnumpy()[:, 0]


@on_tensors
def queryinst(ops, rois, count, finest_scale=56):
    one = ops.ones_like(rois[:, :1])
    size = ops.sqrt(rois[:, 3:4] - rois[:, 1:2] + one) * ops.sqrt(rois[:, 4:5] - rois[:, 2:3] + one)
    return ops.clip_by_value(ops.floor(ops.log2(size / (finest_scale * one) + 1e-6)).int(), 0, count - 1)


@on_tensors
def mmdet_on_mindspore(ops, rois, count, finest_scale=56, one=0):
    size = ops.sqrt((rois[:, 3] - rois[:, 1] + one) * (rois[:, 4] - rois[:, 2] + one))
    return ops.clip_by_value(ops.floor(ops.log2(size / finest_scale + 1e-6)).int(), 0, count - 1)


@on_tensors
def mindspore_lab(ops, rois, count, finest_scale=56):
    size = ops.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
    logarithm = ops.log(size / finest_scale + 1e-6 + 1e-4) / ops.log(ops.full((), 2, dtype=size.dtype))
    return ops.floor(logarithm).clamp(min=0, max=count - 1)


@on_tensors
def layoutlm(ops, rois, count, finest_scale=224):
    """mindocr's, which is detectron2's: levels 2 and up."""
    size = ops.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
    return ops.floor(4 + ops.log2(size / finest_scale + 1e-8)).clamp(min=2, max=count + 1) - 2


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
