"""The engine of a CPU: what any rule samples (``rules.Samples``), compiled by Numba, with the bits of both kernels.

Sixteen channels of one image are computed side by side, a *line* of them at a time, so that the processor's vectors are
full while every value still adds up its own samples in the order of the kernels, each operation rounded to the dtype of
the features: the bits do not depend on any of this. A task is one image and one line of channels, on a thread of the
call's own and without Python's lock. Where there are few channels a line is one channel.

Numba has no float16 on a CPU: its memory is read as 16-bit integers, computed with in float32, and rounded to 11
bits after every operation, which rounds as float16 would (24 bits are more than twice 11).
"""

# mypy: disable-error-code="no-any-return, untyped-decorator, misc, no-untyped-def"
from __future__ import annotations

import functools
import itertools
import platform
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from .rules import Samples
from .threads import run

NDArray = npt.NDArray[Any]

# Channels side by side: a cache line of float32.
LANES = 16

# With fewer channels than these, each is a line of its own.
FEW_CHANNELS = 4


def can_compute_in(dtype: np.dtype[Any]) -> bool:
    """Tell whether there are kernels for a dtype: float16 needs instructions that convert it, of 2013 or later."""
    return dtype != np.float16 or _converts_float16()


@functools.cache
def _converts_float16() -> bool:
    return platform.machine() in ("aarch64", "arm64") or get_host_cpu_features().get("f16c", False)


def pool(features: NDArray, samples: Samples, output: NDArray, threads: int) -> None:
    """Pool K rows.

    Args:
        features: (N, C, H, W), float16, float32 or float64, of any strides.
        samples: where, in the dtype of ``features``.
        output: (K, C, pooled_height, pooled_width) to write to, C-contiguous, of that dtype.
        threads: on how many threads.
    """
    output[samples.image < 0] = 0
    features, output, samples = _in_memory(features), _in_memory(output), _in_numbers(samples)
    lanes = _lanes(features)
    pack, pool_rows = _pack(features.dtype), _pool(features.dtype, lanes)

    def pool_line(planes: NDArray, table: NDArray, rows: NDArray, channel: int) -> None:
        if len(rows):
            if lanes > 1:
                pack(planes, table)
                planes = table.transpose(2, 0, 1)
            pool_rows(planes, *samples[1:], rows, output, channel)

    _for_each_line(pool_line, features, samples, lanes, threads)


def gradient(of_output: NDArray, samples: Samples, of_features: NDArray, threads: int) -> None:
    """Add up the gradient for the features, in the order of the kernels on one thread.

    Args:
        of_output: (K, C, pooled_height, pooled_width), of any strides.
        samples: where, in the dtype of ``of_output``.
        of_features: (N, C, H, W) to write to, of that dtype.
        threads: on how many threads.
    """
    of_features, of_output, samples = _in_memory(of_features), _in_memory(of_output), _in_numbers(samples)
    lanes = _lanes(of_features)
    add_gradient, unpack = _add_gradient(of_features.dtype, lanes), _unpack(of_features.dtype)

    def add_up_line(planes: NDArray, table: NDArray, rows: NDArray, channel: int) -> None:
        if lanes > 1 and len(rows):
            table[:] = 0
            add_gradient(table.transpose(2, 0, 1), *samples[1:6], rows, of_output, channel)
            unpack(table, planes)
        else:
            planes[:] = 0
            add_gradient(planes, *samples[1:6], rows, of_output, channel)

    _for_each_line(add_up_line, of_features, samples, lanes, threads)


def _in_memory(array: NDArray) -> NDArray:
    """Return float16 as the integers that its memory is."""
    array = np.require(array, requirements=["ALIGNED"])
    return array.view(np.uint16) if array.dtype == np.float16 else array


def _in_numbers(samples: Samples) -> Samples:
    """Return float16 numbers as float32, which the kernels compute with."""
    if samples.start.dtype != np.float16:
        return samples
    return samples._replace(
        start=samples.start.astype(np.float32),
        bin_size=samples.bin_size.astype(np.float32),
        divisor=samples.divisor.astype(np.float32),
        border=samples.border.astype(np.float32),
    )


def _lanes(features: NDArray) -> int:
    """Return how many channels to compute side by side."""
    return LANES if features.shape[1] >= FEW_CHANNELS else 1


def _for_each_line(
    task: Callable[[NDArray, NDArray, NDArray, int], None],
    features: NDArray,
    samples: Samples,
    lanes: int,
    threads: int,
) -> None:
    """Call ``task(planes, table, rows, channel)`` for each image and line of channels.

    ``planes``, (lanes or fewer, H, W), are these channels, from ``channel`` on, of an image, whose boxes are the
    ``rows``; ``table`` is memory for (H, W, lanes).
    """
    images, channels, height, width = features.shape
    order = np.argsort(samples.image, kind="stable")
    ends = np.searchsorted(samples.image[order], np.arange(images + 1)).tolist()
    idle_tables: list[NDArray] = []  # in the end as many as threads

    def run_task(image: int, channel: int) -> None:
        try:
            table = idle_tables.pop()
        except IndexError:
            table = np.empty((height, width, lanes), features.dtype)
        rows = order[ends[image] : ends[image + 1]]
        task(features[image, channel : channel + lanes], table, rows, channel)
        idle_tables.append(table)

    lines = itertools.product(range(images), range(0, channels, lanes))
    run([functools.partial(run_task, *line) for line in lines], threads)


class Line(types.Type):
    """Numba's type of the values of some channels, side by side in the processor's vectors."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Line({dtype}, {lanes})")


def _vector(line: Line, of: ir.Type | None = None) -> ir.VectorType:
    number = ir.DoubleType() if line.dtype == types.float64 else ir.FloatType()
    return ir.VectorType(number if of is None else of, line.lanes)


@register_model(Line)
class _LineModel(models.PrimitiveModel):
    def __init__(self, manager: Any, line: Line) -> None:
        super().__init__(manager, line, _vector(line))


def _rounded(builder: Any, value: Any, dtype: Any) -> Any:
    """Emit the rounding to float16, if ``dtype`` is that of its memory."""
    if dtype != types.uint16:
        return value
    half: ir.Type = ir.HalfType()
    if isinstance(value.type, ir.VectorType):
        half = ir.VectorType(half, value.type.count)
    return builder.fpext(builder.fptrunc(value, half), value.type)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any, of: ir.Type) -> Any:
    """Emit the address ``at`` bytes into an array."""
    data = context.make_array(array_type)(context, builder, array).data
    byte = builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [at])
    return builder.bitcast(byte, of.as_pointer())


@intrinsic(prefer_literal=True)
def _zeros(_: Any, array: Any, lanes: Any) -> Any:
    """Return a line of zeros, to compute with the values of an array."""
    line = Line(array.dtype, lanes.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(_vector(line), None)

    return line(array, lanes), codegen


@intrinsic
def _load(_: Any, array: Any, at: Any, line: Any) -> Any:
    """Return the line that begins ``at`` bytes into an array, of the type of another."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        half = array.dtype == types.uint16
        in_memory = _vector(line, ir.HalfType() if half else None)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], in_memory)
        value = builder.load(pointer, align=array.dtype.bitwidth // 8)
        return builder.fpext(value, _vector(line)) if half else value

    return line(array, types.intp, line), codegen


@intrinsic
def _store(_: Any, array: Any, at: Any, line: Any) -> Any:
    """Write a line ``at`` bytes into an array."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = arguments[2]
        if array.dtype == types.uint16:
            value = builder.fptrunc(value, _vector(line, ir.HalfType()))
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], value.type)
        builder.store(value, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, line), codegen


@intrinsic
def _fill(_: Any, number: Any, line: Any) -> Any:
    """Return a line of one number, of the type of another."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = _vector(line)
        nothing = ir.Constant(vector, ir.Undefined)
        first = builder.insert_element(nothing, arguments[0], ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), line.lanes), None)
        return builder.shuffle_vector(first, nothing, zeros)

    return line(number, line), codegen


def _operation(name: str) -> Any:
    @intrinsic
    def operation(_: Any, left: Any, right: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _rounded(builder, getattr(builder, name)(*arguments), left.dtype)

        return left(left, right), codegen

    return operation


# Without flags: LLVM neither joins a multiplication and an addition nor changes their order.
_add, _multiply, _divide = _operation("fadd"), _operation("fmul"), _operation("fdiv")


@intrinsic
def _round(_: Any, number: Any, array: Any) -> Any:
    """Round a number to the dtype of an array."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _rounded(builder, arguments[0], array.dtype)

    return number(number, array), codegen


@intrinsic
def _float_like(_: Any, number: Any, like: Any) -> Any:
    """Return an integer as a number of the dtype of another."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[0], number, like)

    return like(number, like), codegen


_jit = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True)


@_jit
def _position(start, bin_size, p, i, grid, memory):
    """Return where sample ``i`` of bin ``p`` lies along an axis, in cells."""
    half = _float_like(1, start) / _float_like(2, start)
    first = _round(start + _round(_round(_float_like(p, start), memory) * bin_size, memory), memory)
    middle = _round(_float_like(i, start) + half, memory)
    offset = _round(_round(middle * bin_size, memory) / _round(_float_like(grid, start), memory), memory)
    return _round(first + offset, memory)


@_jit
def _inside(start, bin_size, p, grid, border, memory):
    """Return the first sample of bin ``p`` that is inside the image, and the first after those: they follow each other.

    Positions never turn back along a bin, so that both are found by halving, whatever the number of samples. From some
    sample on they may be NaN, which is not inside.
    """
    rising = bin_size >= 0
    entering, high = 0, grid
    while entering < high:
        middle = (entering + high) // 2
        at = _position(start, bin_size, p, middle, grid, memory)
        if not (at < border[0] if rising else at > border[1]):
            high = middle
        else:
            entering = middle + 1
    leaving, high = entering, grid
    while leaving < high:
        middle = (leaving + high) // 2
        at = _position(start, bin_size, p, middle, grid, memory)
        if not (at <= border[1] if rising else at >= border[0]):
            high = middle
        else:
            leaving = middle + 1
    return entering, leaving


@_jit
def _place(start, bin_size, grid, border, length, stride, ends, cells, weights, memory):
    """Place the samples of a box along an axis of ``length`` cells that are ``stride`` bytes apart.

    Returns:
        ``cells``, (samples, 2) bytes to the two neighbours of each sample inside the image, and their ``weights``: the
        arrays given, or larger ones. ``ends`` gets where the samples of each bin end.
    """
    one = _float_like(1, start)
    last = length - 1
    end = 0
    for p in range(len(ends)):
        if grid > 0:
            first_sample, last_sample = _inside(start, bin_size, p, grid, border, memory)
            if end + last_sample - first_sample > len(cells):
                cells = _grown(cells, end + last_sample - first_sample)
                weights = _grown(weights, len(cells))
            for i in range(first_sample, last_sample):
                at = max(_position(start, bin_size, p, i, grid, memory), _float_like(0, start))
                low = np.int64(at)
                high = low + 1
                high_weight = _float_like(0, start)
                if low >= last:
                    low = high = last
                else:
                    high_weight = _round(at - _float_like(low, start), memory)
                cells[end, 0], cells[end, 1] = low * stride, high * stride
                weights[end, 0], weights[end, 1] = _round(one - high_weight, memory), high_weight
                end += 1
        ends[p] = end
    return cells, weights


@_jit
def _grown(array, length):
    larger = np.empty((2 * length, 2), array.dtype)
    larger[: len(array)] = array
    return larger


@_jit
def _corner(planes, at, weight, zeros, memory):
    """Return the values of a cell, weighted."""
    return _multiply(_fill(_round(weight, memory), zeros), _load(planes, at, zeros))


@_jit
def _pool_rows(zeros, planes, start, bin_size, grid, divisors, border, outside_adds_0, rows, output, channel, lanes):
    _, height, width = planes.shape
    _, stride_y, stride_x = planes.strides
    _, channels, pooled_height, pooled_width = output.shape
    channels = min(lanes, channels - channel)
    ends_y, ends_x = np.empty(pooled_height, np.int64), np.empty(pooled_width, np.int64)
    cells_y, cells_x = np.empty((16, 2), np.int64), np.empty((16, 2), np.int64)
    weights_y, weights_x = np.empty((16, 2), start.dtype), np.empty((16, 2), start.dtype)
    bins = np.empty((pooled_height, pooled_width, lanes), planes.dtype)
    bin_bytes = lanes * bins.itemsize
    for row in rows:
        cells_y, weights_y = _place(
            start[row, 1],
            bin_size[row, 1],
            grid[row, 1],
            border[1],
            height,
            stride_y,
            ends_y,
            cells_y,
            weights_y,
            planes,
        )
        cells_x, weights_x = _place(
            start[row, 0],
            bin_size[row, 0],
            grid[row, 0],
            border[0],
            width,
            stride_x,
            ends_x,
            cells_x,
            weights_x,
            planes,
        )
        of_bin = max(grid[row, 0], 0) * max(grid[row, 1], 0)
        divisor = _fill(divisors[row], zeros)
        first_y, at = 0, 0
        for p in range(pooled_height):
            first_x = 0
            for q in range(pooled_width):
                total = zeros
                for y in range(first_y, ends_y[p]):
                    upper, lower = cells_y[y, 0], cells_y[y, 1]
                    of_upper, of_lower = weights_y[y, 0], weights_y[y, 1]
                    for x in range(first_x, ends_x[q]):
                        left, right = cells_x[x, 0], cells_x[x, 1]
                        of_left, of_right = weights_x[x, 0], weights_x[x, 1]
                        value = _corner(planes, upper + left, of_upper * of_left, zeros, planes)
                        value = _add(value, _corner(planes, upper + right, of_upper * of_right, zeros, planes))
                        value = _add(value, _corner(planes, lower + left, of_lower * of_left, zeros, planes))
                        value = _add(value, _corner(planes, lower + right, of_lower * of_right, zeros, planes))
                        total = _add(total, value)
                if outside_adds_0 and (ends_y[p] - first_y) * (ends_x[q] - first_x) < of_bin:
                    total = _add(total, _multiply(zeros, _load(planes, 0, zeros)))
                _store(bins, at, _divide(total, divisor))
                at += bin_bytes
                first_x = ends_x[q]
            first_y = ends_y[p]
        for c in range(channels):
            for p in range(pooled_height):
                for q in range(pooled_width):
                    output[row, channel + c, p, q] = bins[p, q, c]


@_jit
def _add_term(table, at, of_bin, weight, divisor, inverse, zeros):
    """Add a weighted share of the gradient of a bin to a cell."""
    term = _multiply(of_bin, _fill(_round(weight, table), zeros))
    term = _multiply(term, _fill(inverse, zeros)) if inverse != 0 else _divide(term, _fill(divisor, zeros))
    _store(table, at, _add(_load(table, at, zeros), term))


@_jit
def _add_gradient_of_rows(zeros, table, start, bin_size, grid, divisors, border, rows, of_output, channel, lanes):
    _, height, width = table.shape
    _, stride_y, stride_x = table.strides
    _, channels, pooled_height, pooled_width = of_output.shape
    channels = min(lanes, channels - channel)
    ends_y, ends_x = np.empty(pooled_height, np.int64), np.empty(pooled_width, np.int64)
    cells_y, cells_x = np.empty((16, 2), np.int64), np.empty((16, 2), np.int64)
    weights_y, weights_x = np.empty((16, 2), start.dtype), np.empty((16, 2), start.dtype)
    bins = np.zeros((pooled_height, pooled_width, lanes), table.dtype)
    bin_bytes = lanes * bins.itemsize
    for row in rows:
        cells_y, weights_y = _place(
            start[row, 1],
            bin_size[row, 1],
            grid[row, 1],
            border[1],
            height,
            stride_y,
            ends_y,
            cells_y,
            weights_y,
            table,
        )
        cells_x, weights_x = _place(
            start[row, 0], bin_size[row, 0], grid[row, 0], border[0], width, stride_x, ends_x, cells_x, weights_x, table
        )
        for c in range(channels):
            for p in range(pooled_height):
                for q in range(pooled_width):
                    bins[p, q, c] = of_output[row, channel + c, p, q]
        divisor = divisors[row]
        inverse = _inverse_of_power_of_2(divisor)
        first_y, at = 0, 0
        for p in range(pooled_height):
            first_x = 0
            for q in range(pooled_width):
                of_bin = _load(bins, at, zeros)
                at += bin_bytes
                for y in range(first_y, ends_y[p]):
                    upper, lower = cells_y[y, 0], cells_y[y, 1]
                    of_upper, of_lower = weights_y[y, 0], weights_y[y, 1]
                    for x in range(first_x, ends_x[q]):
                        left, right = cells_x[x, 0], cells_x[x, 1]
                        of_left, of_right = weights_x[x, 0], weights_x[x, 1]
                        _add_term(table, upper + left, of_bin, of_upper * of_left, divisor, inverse, zeros)
                        _add_term(table, upper + right, of_bin, of_upper * of_right, divisor, inverse, zeros)
                        _add_term(table, lower + left, of_bin, of_lower * of_left, divisor, inverse, zeros)
                        _add_term(table, lower + right, of_bin, of_lower * of_right, divisor, inverse, zeros)
                first_x = ends_x[q]
            first_y = ends_y[p]


@_jit
def _inverse_of_power_of_2(number):
    """Return 1 / number, by which to multiply is the same as to divide, to the bit; 0 if it is not."""
    is_power = 1 <= number <= 2**14 and (np.int64(number) & (np.int64(number) - 1)) == 0 and number == np.int64(number)
    return _float_like(1, number) / number if is_power else _float_like(0, number)


def _compiled(memory: np.dtype[Any], *arguments: str) -> Callable[..., Any]:
    """Return a decorator that compiles a function for these arguments, or loads what was compiled before.

    Args:
        memory: dtype of the features, float16 as uint16.
        arguments: names of ``_types``.
    """
    number, value = types.float64 if memory == np.float64 else types.float32, numba.from_dtype(memory)

    def array(of: Any, dimensions: int, layout: str = "A", *, readonly: bool = True) -> Any:
        return types.Array(of, dimensions, layout, readonly)

    of_names = {
        "planes": array(value, 3),
        "of_planes": array(value, 3, readonly=False),
        "table": array(value, 3, "C", readonly=False),
        "start": array(number, 2),
        "bin_size": array(number, 2),
        "grid": array(types.int64, 2),
        "divisors": array(number, 1),
        "border": array(number, 2),
        "outside_adds_0": types.bool_,
        "rows": array(types.int64, 1),
        "output": array(value, 4, "C", readonly=False),
        "of_output": array(value, 4),
        "channel": types.int64,
    }
    signature = types.void(*(of_names[name] for name in arguments))
    compile_for = functools.partial(njit, signature, nogil=True, error_model="numpy")

    def decorate(function: Any) -> Any:
        try:
            return compile_for(cache=True)(function)
        except RuntimeError:  # there is no folder that Numba could write to
            return compile_for()(function)

    return decorate


@functools.cache
def _pack(memory: np.dtype[Any]) -> Callable[..., None]:
    @_compiled(memory, "planes", "table")
    def pack(planes, table):
        """Copy (C, H, W) values to a (H, W, lanes) table."""
        channels, height, width = planes.shape
        side_by_side = planes.strides[0] == planes.itemsize
        for y in range(height):
            if side_by_side:
                for x in range(width):
                    for c in range(channels):
                        table[y, x, c] = planes[c, y, x]
            else:
                for c in range(channels):
                    for x in range(width):
                        table[y, x, c] = planes[c, y, x]

    return pack


@functools.cache
def _unpack(memory: np.dtype[Any]) -> Callable[..., None]:
    @_compiled(memory, "table", "of_planes")
    def unpack(table, planes):
        """Copy a (H, W, lanes) table to (C, H, W) values."""
        channels, height, width = planes.shape
        for y in range(height):
            for c in range(channels):
                for x in range(width):
                    planes[c, y, x] = table[y, x, c]

    return unpack


# Fields of ``Samples``.
_PLACED = ("start", "bin_size", "grid", "divisors", "border")


@functools.cache
def _pool(memory: np.dtype[Any], lanes: int) -> Callable[..., None]:
    @_compiled(memory, "planes", *_PLACED, "outside_adds_0", "rows", "output", "channel")
    def pool(planes, start, bin_size, grid, divisors, border, outside_adds_0, rows, output, channel):
        """Pool rows of one image from (lanes, H, W) planes: the channels from ``channel`` on, lying side by side."""
        zeros = _zeros(planes, lanes)
        _pool_rows(zeros, planes, start, bin_size, grid, divisors, border, outside_adds_0, rows, output, channel, lanes)

    return pool


@functools.cache
def _add_gradient(memory: np.dtype[Any], lanes: int) -> Callable[..., None]:
    @_compiled(memory, "of_planes", *_PLACED, "rows", "of_output", "channel")
    def add_gradient(of_planes, start, bin_size, grid, divisors, border, rows, of_output, channel):
        """Add the gradient of rows of one image to (lanes, H, W) planes; as above."""
        zeros = _zeros(of_planes, lanes)
        _add_gradient_of_rows(
            zeros, of_planes, start, bin_size, grid, divisors, border, rows, of_output, channel, lanes
        )

    return add_gradient
