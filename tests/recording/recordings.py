"""What the tests of recording pool, and how they read what was recorded."""

import numpy as np
import torch
import torchvision
from torchvision.ops import roi_align

from ms2torch_roi.parity.recording import calls

RNG = np.random.default_rng(0)
FEATURES = torch.from_numpy(RNG.standard_normal((2, 3, 16, 20)).astype(np.float32))
ROIS = torch.tensor([[0, 1.0, 2.0, 30.0, 28.0], [1, 0.0, 0.0, 79.0, 63.0], [1, 40.5, 3.25, 41.0, 60.0]])
MADE_BEFORE = torchvision.ops.RoIAlign((3, 2), 0.25, 2, aligned=True)
OPERATOR = torch.ops.torchvision.roi_align

# With 4 x 4 bins, nothing is rounded: MindSpore adds gradients up in an order that changes from run to run.
MS_FEATURES = RNG.integers(-8, 9, (2, 3, 16, 20)).astype(np.float32)
MS_ROIS = np.array([[0, 4, 8, 35, 39], [1, 8, 4, 39, 35]], np.float32)


def read(recording):
    """The calls of a recording, in order; nothing else is in the directory."""
    assert sorted(recording.paths) == sorted(recording.directory.iterdir())
    return [calls.read(path) for path in sorted(recording.paths)]


def pool(features=FEATURES, rois=ROIS, ratio=2):
    return roi_align(features, rois, (3, 2), 0.25, ratio)
