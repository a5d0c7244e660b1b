"""What tests of programs pool, and how they are traced."""

import numpy as np
import torch

FEATURES = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 20, 30)).astype(np.float32))


def some_rois(count, seed=0):
    """Return boxes of a hundredth to sixty feature cells at a scale of 1/4."""
    rng = np.random.default_rng(seed)
    start, size = rng.uniform(-20, 120, (count, 2)), 10 ** rng.uniform(-1.4, 2.4, (count, 2))
    return torch.from_numpy(np.hstack((rng.integers(0, 2, (count, 1)), start, start + size)).astype(np.float32))


def traced(op, *tensors):
    return torch.jit.trace(op, tensors, check_trace=False)
