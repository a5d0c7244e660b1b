"""What the tests on MindSpore pool, and what torchvision gives for it."""

import numpy as np
import torch
import torchvision

FEATURES = np.random.default_rng(0).standard_normal((2, 3, 11, 14)).astype(np.float32)
BOXES = np.array([[0, 2, 3, 17, 14], [1, 4.5, 0.1, 9.3, 21.7], [1, -3, 5, 25, 9], [0, 6, 6, 7.2, 6.8]], np.float32)


def in_torchvision(features, rois, *arguments):
    rois = [torch.from_numpy(part) for part in rois] if isinstance(rois, list) else torch.from_numpy(rois)
    return torchvision.ops.roi_align(torch.from_numpy(features), rois, *arguments).numpy()
