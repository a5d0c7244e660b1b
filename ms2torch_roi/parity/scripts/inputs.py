"""The calls of the probe. All arithmetic on them is exact, in float16 too, whatever the rule and the order."""

from __future__ import annotations

from typing import Any

import numpy as np

CHANNELS, HEIGHT, WIDTH = 8, 6, 8


def features(dtype: str) -> np.ndarray[Any, Any]:
    """Return the features (2, 8, 6, 8) of all calls, up to 8: those of the second image are the first's times -1.

    The first channel is 1, which tells how many samples are inside; then come the column and the row, which tell where
    they are on average; and patterns, which tell them apart.
    """
    row, column = np.mgrid[1 : HEIGHT + 1, 1 : WIDTH + 1]
    patterns = [(a * row**2 + (8 - a) * column**2 + row * column) % 17 - 8 for a in range(1, CHANNELS - 2)]
    image = np.stack([np.ones_like(row), column, row, *patterns]).astype(dtype)
    return np.stack((image, -image))


def output_gradient(rois: int, pooled_height: int, pooled_width: int, dtype: str) -> np.ndarray[Any, Any]:
    """Return the gradient for the output of a call: of each roi for a channel of its own, as far as there are any."""
    of_bins = np.arange(1, pooled_height * pooled_width + 1).reshape(pooled_height, pooled_width)
    of_channels = np.eye(CHANNELS)[np.arange(rois) % CHANNELS]
    of_output: np.ndarray[Any, Any] = of_channels[:, :, None, None] * of_bins
    return of_output.astype(dtype)


# pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode; and rois. Written by tools/probes.py.
CALLS: tuple[tuple[tuple[Any, ...], tuple[tuple[float, ...], ...]], ...] = (
    (
        (2, 2, 1.0, 2, 0),
        (
            (0, 1.5, 1.5, 5.5, 5.5),
            (0, -2.75, 3.25, 1.25, 3.5),
            (0.5, -0.25, 3.5, -0.75, 3.25),
            (0.25, 5.25, 2.5, 6, 9.5),
            (1, 5.75, 5, 6.5, 13),
            (0, 0, 4.5, 0, 5.25),
            (1, 0, -1.5, 9, 2.5),
        ),
    ),
    (
        (1, 2, 0.25, 1, 0),
        (
            (0, 6, 6, 22, 22),
            (0.5, 5, 8, 3, 27),
            (0.25, 2, 14, -4, 8),
            (0, 19, -3, 19, -7),
            (0, 22, 8, 26, 40),
            (0, 0, -6, 0, -6),
        ),
    ),
    (
        (2, 1, 0.5, 4, 0),
        (
            (0, 3, 3, 11, 11),
            (0.25, 12, -2, 12, -3),
            (1, 14.5, -1.5, 26.5, -5),
        ),
    ),
    (
        (1, 1, 1.0, 0, 0),
        (
            (0, 1.5, 1.5, 5.5, 5.5),
            (0.5, -0.75, 4.5, -1.5, 5.75),
            (0, 5.5, 1, 5, 2.5),
        ),
    ),
    (
        (2, 2, 0.5, 0, 0),
        (
            (0, 3, 3, 11, 11),
            (1, 10.5, -1.5, 11.5, 1.5),
            (0, 8.5, 6.5, 15.5, 12.5),
            (1, 0, -2.5, 0, -3.5),
        ),
    ),
    (
        (1, 2, 0.25, 0, 0),
        (
            (0, 6, 6, 22, 22),
            (0, -11, 8, 3, 10),
            (0, 32, 32, 35, 54),
        ),
    ),
    (
        (2, 2, 1.0, 2, 1),
        (
            (0, 1.5, 1.5, 4.5, 4.5),
            (0, -0.5, -1.75, -3.5, 2.5),
            (0.5, -1.75, 4.25, -1.75, 4.25),
            (0, 0, -1.5, 0, -2.5),
            (0.25, 6, 4.75, 13.25, 12),
            (0, 4.5, 5.75, 9.75, 6.75),
            (0, 6.25, -3, 12.25, 2.75),
            (1, 0, 5, 0, 2),
        ),
    ),
    (
        (1, 2, 0.25, 1, 1),
        (
            (0, 6, 6, 21, 21),
            (0, -11, 11, 0, 3),
            (0.25, 22, -3, 42, 27),
            (1, 16, 11, 15, 36),
            (0, 14, 15, 15, 31),
            (0, 0, 17, 0, 12),
            (1, 3, -6, -6, -3),
        ),
    ),
    (
        (2, 1, 0.5, 4, 1),
        (
            (0, 0, 15.5, 0, 16),
            (0, 3, -1.5, -1, -1),
            (0.75, -1, 5, -3, 14.5),
            (0.25, -1, 7.5, -3, 8.5),
            (0, 14.5, 7, 25.5, 16.5),
            (1, -0.5, 4, -4.5, 20),
            (0, 0, 0, 0, -4.5),
            (0, -2, 7.5, -3.5, 6.5),
        ),
    ),
    (
        (1, 1, 1.0, 0, 1),
        (
            (0.5, 0, 4.25, 0, 2.25),
            (0.5, 1.5, 3.75, 1.75, 4),
            (1, 1.75, 5, 1.25, 5.5),
            (1, 4.75, -1.25, 4.75, -1.75),
            (0, -1.75, -2.5, 0, -2.75),
            (1, -1.25, 5.25, -0.25, 5.75),
        ),
    ),
    (
        (2, 2, 0.5, 0, 1),
        (
            (1, 0, 5.5, 0, 1),
            (1, 6, 9, 9, 9.5),
            (1, 14.5, 9.5, 18, 16),
        ),
    ),
    (
        (1, 2, 0.25, 0, 1),
        (
            (0, 0, 19, 0, 12),
            (0, 33, 23, 38, 48),
            (0, 19, -4, 33, -1),
        ),
    ),
)
