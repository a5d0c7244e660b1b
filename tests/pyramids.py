"""Feature pyramids and boxes of all levels, pooled by torchvision's MultiScaleRoIAlign and by the one on MindSpore."""

import numpy as np
import torch
import torchvision

import ms2torch_roi

RNG = np.random.default_rng(0)
NAMES = ["0", "1", "2", "3"]
FEATURES = {
    name: RNG.standard_normal((2, 3, 256 // stride, 320 // stride)).astype(np.float32)
    for name, stride in zip([*NAMES, "pool"], (4, 8, 16, 32, 64), strict=True)
}
SHAPES = [(256, 300), (240, 320)]


def some_boxes(count):
    """Boxes of all levels; some inverted, without a size, and on the borders between levels."""
    rng = np.random.default_rng(count)
    centre, size = rng.uniform(0, (320, 256), (count, 2)), np.exp(rng.uniform(np.log(5), np.log(700), (count, 2)))
    boxes = np.concatenate((centre - size / 2, centre + size / 2), 1).astype(np.float32)
    boxes[::9] = boxes[::9].round()
    boxes[1::9, 2:] = boxes[1::9, :2].round() + np.float32(112)
    boxes[2::9, 2] = boxes[2::9, 0] - 20
    boxes[3::27, 2:] = boxes[3::27, :2]
    return boxes


BOXES = [some_boxes(60), some_boxes(37)]


def in_torchvision(arguments, features=FEATURES, boxes=BOXES, shapes=SHAPES, **canonical):
    module = torchvision.ops.MultiScaleRoIAlign(*arguments, **canonical)
    x = {name: torch.from_numpy(feature) for name, feature in features.items()}
    return module(x, [torch.from_numpy(part) for part in boxes], shapes).numpy()


def in_mindspore(ms, arguments, features=FEATURES, boxes=BOXES, shapes=SHAPES, **canonical):
    module = ms2torch_roi.MultiScaleRoIAlign(*arguments, **canonical)
    x = {name: ms.Tensor(feature) for name, feature in features.items()}
    return module(x, [ms.Tensor(part) for part in boxes], shapes).asnumpy()
