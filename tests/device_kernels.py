"""Kernels of Ascend, one formula after the other as their sources have them, in scalar Python that shares no code."""

import math
from itertools import product

import numpy as np


def static_kernel(features, roi, pooled, scale, sample_num, mode):
    """Return (C, *pooled) of the static kernel in float32 (``impl/roi_align.py``), modes 0 and 1."""
    index, x1, y1, x2, y2 = map(float, roi)
    image = features[math.ceil(index)]
    axes = []
    for start, end, bins, length in ((y1, y2, pooled[0], image.shape[1]), (x1, x2, pooled[1], image.shape[2])):
        start, end = start * scale, (end + mode) * scale
        size = max(end - start, 1 - mode)
        bin_size = size * (1 / bins)
        samples = sample_num if sample_num > 0 else math.ceil(bin_size)
        grid = bin_size / samples
        positions = [k * grid + (0.5 * grid + start) for k in range(samples * bins)]
        axes.append([_two_cells(at, length, -1 <= math.floor(at) < length) for at in positions])
    (of_y, of_x), (along_y, along_x) = axes, (len(axes[0]) // pooled[0], len(axes[1]) // pooled[1])
    output = np.zeros((len(image), *pooled))
    for k, m in product(range(len(of_y)), range(len(of_x))):
        output[:, k // along_y, m // along_x] += _value(image, of_y[k], of_x[m])
    return output * (1 / (along_y * along_x))


def dynamic_kernel(features, roi, pooled, scale, sample_num, mode):
    """Return (C, *pooled) of the dynamic kernel of 2023 (``impl/dynamic/roi_align.py``), modes 0 to 3."""
    index, x1, y1, x2, y2 = map(float, roi)
    image = features[math.floor(index)]
    axes = []
    for start, end, bins, length in ((y1, y2, pooled[0], image.shape[1]), (x1, x2, pooled[1], image.shape[2])):
        start, end = start * scale, end * scale
        if mode == 1:
            end += scale
        if mode >= 2:
            start, end = start - 0.5, end - 0.5
        size = end - start if mode >= 2 else max(end - start, 1)
        bin_size = size * (1 / bins)
        samples = sample_num if sample_num > 0 else math.ceil(bin_size)
        grid = bin_size / samples if samples > 0 else 0
        cells = []
        for k in range(samples * bins):
            at = (k + 0.5) * grid + start
            low, high, of_low, of_high = _two_cells(at, length, -1 <= at <= length)
            cells.append((low, high, of_low / samples, of_high / samples))
        axes.append((cells, samples))
    (of_y, along_y), (of_x, along_x) = axes
    output = np.zeros((len(image), *pooled))
    for k, m in product(range(len(of_y)), range(len(of_x))):
        output[:, k // along_y, m // along_x] += _value(image, of_y[k], of_x[m])
    return output


def kernel_of_950(features, roi, pooled, scale, sample_num, mode):
    """Return (C, *pooled) of the kernel of Ascend 950 (``arch35``), modes 0 to 3."""
    index, x1, y1, x2, y2 = map(float, roi)
    image = features[int(index)]
    axes = []
    for start, end, bins, length in ((y1, y2, pooled[0], image.shape[1]), (x1, x2, pooled[1], image.shape[2])):
        if mode == 1:
            start, end = start + 1, end + 1
        start, end = start * scale, end * scale
        if mode >= 2:
            start, end = start - 0.5, end - 0.5
        size = end - start if mode >= 2 else max(end - start, 1)
        samples = sample_num if sample_num > 0 else math.ceil(size / bins)
        cells = []
        for p, i in product(range(bins), range(samples)):
            at = start + p * (size / bins) + (i + 0.5) * (size / bins) / samples
            cells.append(_two_cells(at, length, -1 <= at <= length))
        axes.append((cells, samples))
    (of_y, along_y), (of_x, along_x) = axes
    output = np.zeros((len(image), *pooled))
    for k, m in product(range(len(of_y)), range(len(of_x))):
        output[:, k // along_y, m // along_x] += _value(image, of_y[k], of_x[m])
    return output / max(along_y * along_x, 1)


KERNELS = {"ascend-static": static_kernel, "ascend-dynamic": dynamic_kernel, "ascend-950": kernel_of_950}


def _two_cells(at, length, is_inside):
    """Return the cells next to a position and their weights, which are 0 if it is outside."""
    at = min(max(at, 0), length - 1)
    low = math.floor(at)
    high = min(low + 1, length - 1)
    return low, high, (1 - (at - low)) * is_inside, (at - low) * is_inside


def _value(image, of_y, of_x):
    (top, bottom, of_top, of_bottom), (left, right, of_left, of_right) = of_y, of_x
    return (
        of_top * of_left * image[:, top, left]
        + of_top * of_right * image[:, top, right]
        + of_bottom * of_left * image[:, bottom, left]
        + of_bottom * of_right * image[:, bottom, right]
    )
