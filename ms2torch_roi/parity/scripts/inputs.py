"""The calls of the probe. All arithmetic on them is exact, in float16 too, whatever the rule and the order."""

from __future__ import annotations

from typing import Any

import numpy as np

IMAGES, CHANNELS, HEIGHT, WIDTH = 2, 4, 6, 8


def features(dtype: str) -> np.ndarray[Any, Any]:
    """Return the features (2, 4, 6, 8) of all calls: of the second image they are those of the first times -1.

    The channels are 1, which tells how many samples are inside; the column and the row, which tell where they are on
    average; and a pattern, which tells where they are.
    """
    row, column = np.mgrid[1 : HEIGHT + 1, 1 : WIDTH + 1]
    pattern = (3 * row**2 + 5 * column**2 + row * column) % 17 - 8
    image = np.stack((np.ones_like(row), column, row, pattern))
    return np.stack((image, -image)).astype(dtype)


def output_gradient(rois: int, pooled_height: int, pooled_width: int, dtype: str) -> np.ndarray[Any, Any]:
    """Return the gradient for the output of a call: of each roi for a channel of its own, as far as there are any."""
    of_bins = 1 + np.arange(pooled_height * pooled_width).reshape(pooled_height, pooled_width)
    of_channels = np.eye(CHANNELS)[np.arange(rois) % CHANNELS]
    return (of_channels[:, :, None, None] * of_bins).astype(dtype)


# pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode; and rois. Written by tools/probes.py.
CALLS: tuple[tuple[tuple[Any, ...], tuple[tuple[float, ...], ...]], ...] = (
    ((1, 1, 1.0, 1, 0), ((0, 5, 5, 7, 7), (0, -1, -1, 0, 0), (0, 2, 2, 2.25, 2.25))),
    ((2, 2, 0.5, 2, 1), ((0, 3, 3, 1, 1), (1, 2, 2, 6, 6))),
)
