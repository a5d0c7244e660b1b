"""Models around a pool, in a file of their own, which is where MindSpore's O1 can read them."""

import mindspore
from mindspore import nn, ops

import ms2torch_roi.mindspore as ours
from ms2torch_roi.mindspore import RoIAlign, roi_align


def in_mixed_precision(model, level):
    """Return the model, which has a pool, as one of ``helpers.MIXED_PRECISION``."""
    if level == "to_float of the model":
        return model.to_float(mindspore.float16)
    if level == "to_float of the pool":
        next(cell for name, cell in model.cells_and_names() if name.endswith("pool")).to_float(mindspore.float16)
        return model
    return mindspore.amp.auto_mixed_precision(model, level)


class Calls(nn.Cell):
    """It calls a pool that is a cell, or MindSpore's operator."""

    def __init__(self, pool):
        super().__init__()
        self.pool = pool

    def construct(self, features, rois):
        return self.pool(features, rois)


class CallsTheFunction(nn.Cell):
    def construct(self, features, rois):
        return roi_align(features, rois, (3, 4), 0.5, 2, True)


class CallsTheFunctionOfTheModule(nn.Cell):
    def construct(self, features, rois):
        return ours.roi_align(features, rois, (3, 4), 0.5, 2, True)


class CallsOneOfAList(nn.Cell):
    def __init__(self):
        super().__init__()
        self.pools = nn.CellList([RoIAlign((3, 4), 0.5, 2, True)])

    def construct(self, features, rois):
        for pool in self.pools:
            features = pool(features, rois)
        return features


class Backbone(nn.Cell):
    """A convolution, whose output most levels of mixed precision make float16, and a pool."""

    def __init__(self, pool):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, pad_mode="pad", padding=1, has_bias=True)
        self.pool = pool

    def construct(self, images, rois):
        features = self.convolution(images)
        return self.pool(features, rois)


class Model(nn.Cell):
    def __init__(self, pool):
        super().__init__()
        self.backbone = Backbone(pool)
        self.linear = nn.Dense(3 * 3 * 4, 5)

    def construct(self, images, rois):
        pooled = self.backbone(images, rois)
        return self.linear(ops.reshape(ops.cast(pooled, mindspore.float32), (-1, 36)))
