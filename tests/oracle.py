"""Both operators and their gradients in scalar loops, as the CPU kernels have them: to judge all other code by.

It shares no code with the package, neither the ports nor the reference. Numba compiles it, without ``fastmath``: each
operation is rounded by itself. What is float16 is held in float32, and rounded to float16 after every operation; as
float32 has more than twice the digits, that is what float16 arithmetic gives. A plain number in an expression would
make it float64, so each is wrapped in ``F``.
"""

import numba
import numpy as np

F = np.float32
HALF, ONE = F(0.5), F(1)
compiled = numba.njit(cache=True, error_model="numpy")  # 0 / 0 is NaN


def output(case):
    """Return what the original of a case returns; rows that it does not define are 0."""
    half = case.dtype == np.float16
    features = _in_float32(case, case.features)
    placed, outside_adds_0 = _placed(case, case.arguments.get("roi_end_mode")), not _of_mindspore(case)
    return pool(features, *placed, *case.pooled, half, outside_adds_0).astype(case.features.dtype)


def gradient(case, of_output, roi_end_mode=1):
    """Return the gradient for the features; MindSpore's own is that of mode 1 in mode 0 too."""
    placed = _placed(case, roi_end_mode)
    of_features = gradient_of_pool(
        _in_float32(case, of_output), case.features.shape, *placed, *case.pooled, case.dtype == np.float16
    )
    return of_features.astype(case.features.dtype)


def _of_mindspore(case):
    return case.original == "MindSpore"


def _in_float32(case, array):
    return np.ascontiguousarray(array).astype(case.dtype).astype(F)


def _placed(case, roi_end_mode):
    """Return images, starts, sizes, grids, divisors and last coordinates: all that a pool needs of the boxes."""
    half, height, width = case.dtype == np.float16, *case.features.shape[2:]
    with np.errstate(over="ignore"):
        rois, scale = _in_float32(case, case.rois), F(case.arguments["spatial_scale"])
    of_boxes = (rois, to_half(scale) if half else scale, *case.pooled, case.samples)
    if _of_mindspore(case):
        border = [to_half(F(length)) if half else F(length) for length in (height, width)]
        return (*place_as_mindspore(*of_boxes, roi_end_mode, half), *border)
    return (*place_as_torchvision(*of_boxes, case.aligned, half), F(height), F(width))


@compiled
def to_half(x):
    """Round a float32 to the nearest float16, of two the even one."""
    if x != x or abs(x) < F(2**-14):  # below, float16 has fixed steps
        return F(np.rint(x * F(2**24)) * F(2**-24))
    if abs(x) >= F(65520):
        return F(np.inf) if x > F(0) else F(-np.inf)
    bits = np.int64(F(x).view(np.uint32))
    bits = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    return np.uint32(bits).view(np.float32)


@compiled
def t(x, half):
    """Round to the dtype of the computation."""
    return to_half(x) if half else x


@compiled
def whole(x):
    """Return the integer that C makes of a float, on x86: the smallest one of what does not fit 32 bits, or is NaN."""
    return int(x) if abs(x) < F(2**31) else -(2**31)


@compiled
def place_as_mindspore(rois, scale, pooled_height, pooled_width, sample_num, roi_end_mode, half):
    count = len(rois)
    image, keep = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    start, size, grid, divisor = (
        np.zeros((count, 2), F), np.zeros((count, 2), F), np.zeros((count, 2), np.int64), np.zeros(count, F)
    )  # fmt: skip
    near_0 = t(F(0.001), half)
    for k in range(count):
        index = rois[k, 0]
        image[k] = 0 if index != index else int(np.rint(index + F(7e-5)))
        keep[k] = not (abs(rois[k, 1]) < near_0 and abs(rois[k, 3]) < near_0)
        for axis, pooled in ((0, pooled_width), (1, pooled_height)):
            low = t(rois[k, 1 + axis] * scale, half)
            high = rois[k, 3 + axis]
            if roi_end_mode == 1:
                high = t(high + ONE, half)
            length = t(t(high * scale, half) - low, half)
            if roi_end_mode == 0 and not length > ONE:
                length = ONE
            start[k, axis], size[k, axis] = low, length
            grid[k, axis] = sample_num if sample_num > 0 else whole(np.floor(t(length / F(pooled), half)))
        divisor[k] = t(t(F(grid[k, 1]), half) * t(F(grid[k, 0]), half), half)
    return image, keep, start, size, grid, divisor


@compiled
def place_as_torchvision(boxes, scale, pooled_height, pooled_width, sampling_ratio, aligned, half):
    count = len(boxes)
    image, keep = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    start, size, grid, divisor = (
        np.zeros((count, 2), F), np.zeros((count, 2), F), np.zeros((count, 2), np.int64), np.zeros(count, F)
    )  # fmt: skip
    offset = HALF if aligned else F(0)
    for k in range(count):
        image[k], keep[k] = int(boxes[k, 0]), True
        for axis, pooled in ((0, pooled_width), (1, pooled_height)):
            low = t(t(boxes[k, 1 + axis] * scale, half) - offset, half)
            high = t(t(boxes[k, 3 + axis] * scale, half) - offset, half)
            length = t(high - low, half)
            if not aligned and length < ONE:
                length = ONE
            start[k, axis], size[k, axis] = low, length
            keep[k] &= np.isfinite(low) and np.isfinite(length)  # torchvision crashes on what is not
            grid[k, axis] = sampling_ratio if sampling_ratio > 0 else whole(np.ceil(t(length / F(pooled), half)))
        divisor[k] = t(F(max(grid[k, 1] * grid[k, 0], 1)), half)
    return image, keep, start, size, grid, divisor


@compiled
def place_samples(start, size, pooled, samples, length, border, half):
    """Return, for each sample of each bin of an axis, whether it is inside, its two cells, and their weights."""
    count = pooled * max(samples, 0)
    inside, cells, weights = np.zeros(count, np.bool_), np.zeros((count, 2), np.int64), np.zeros((count, 2), F)
    step = t(size / F(pooled), half)
    for p in range(pooled):
        of_bin = t(start + t(t(F(p), half) * step, half), half)
        for i in range(samples):
            within = t(t(t(F(i) + HALF, half) * step, half) / t(F(samples), half), half)
            at = t(of_bin + within, half)
            if not (at >= -ONE and at <= border):
                continue
            at = max(at, F(0))
            low = int(at)
            high = low + 1
            if low >= length - 1:
                low = high = length - 1
                at = t(F(low), half)
            of_high = t(at - t(F(low), half), half)
            n = p * samples + i
            inside[n] = True
            cells[n, 0], cells[n, 1] = low, high
            weights[n, 0], weights[n, 1] = t(ONE - of_high, half), of_high
    return inside, cells, weights


@compiled
def pool(
    features, image, keep, start, size, grid, divisor, border_y, border_x, pooled_height, pooled_width, half,
    outside_adds_0,
):  # fmt: skip
    _, channels, height, width = features.shape
    result = np.zeros((len(image), channels, pooled_height, pooled_width), F)
    for k in range(len(image)):
        if not keep[k]:
            continue
        grid_x, grid_y = grid[k]
        in_y, ys, of_y = place_samples(start[k, 1], size[k, 1], pooled_height, grid_y, height, border_y, half)
        in_x, xs, of_x = place_samples(start[k, 0], size[k, 0], pooled_width, grid_x, width, border_x, half)
        for c in range(channels):
            plane = features[image[k], c]
            for p in range(pooled_height):
                for q in range(pooled_width):
                    total = F(0)
                    for y in range(p * grid_y, (p + 1) * grid_y):
                        for x in range(q * grid_x, (q + 1) * grid_x):
                            if in_y[y] and in_x[x]:
                                value = F(0)
                                for j in range(2):
                                    for i in range(2):
                                        weight = t(of_y[y, j] * of_x[x, i], half)
                                        term = t(weight * plane[ys[y, j], xs[x, i]], half)
                                        value = t(value + term, half)
                                total = t(total + value, half)
                            elif outside_adds_0:
                                total = t(total + F(0) * plane[0, 0], half)
                    result[k, c, p, q] = t(total / divisor[k], half)
    return result


@compiled
def gradient_of_pool(
    of_output, shape, image, keep, start, size, grid, divisor, border_y, border_x, pooled_height, pooled_width, half
):
    _, channels, height, width = shape
    result = np.zeros(shape, F)
    for k in range(len(image)):
        if not keep[k]:
            continue
        grid_x, grid_y = grid[k]
        in_y, ys, of_y = place_samples(start[k, 1], size[k, 1], pooled_height, grid_y, height, border_y, half)
        in_x, xs, of_x = place_samples(start[k, 0], size[k, 0], pooled_width, grid_x, width, border_x, half)
        for c in range(channels):
            plane = result[image[k], c]
            for p in range(pooled_height):
                for q in range(pooled_width):
                    of_bin = of_output[k, c, p, q]
                    for y in range(p * grid_y, (p + 1) * grid_y):
                        for x in range(q * grid_x, (q + 1) * grid_x):
                            if in_y[y] and in_x[x]:
                                for j in range(2):
                                    for i in range(2):
                                        weight = t(of_y[y, j] * of_x[x, i], half)
                                        term = t(t(of_bin * weight, half) / divisor[k], half)
                                        cell = ys[y, j], xs[x, i]
                                        plane[cell] = t(plane[cell] + term, half)
    return result
