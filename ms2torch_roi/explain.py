"""Where MindSpore and torchvision sample one box, side by side: the command ``ms2torch-roi explain``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from . import boxes as _boxes
from . import params, sampling

if TYPE_CHECKING:
    from rich.console import Console

NDArray = npt.NDArray[Any]

PLOT_SUFFIXES = (".pdf", ".png", ".svg")

DESCRIPTION = {
    "description": "Print where MindSpore's ROIAlign and torchvision's roi_align, given the same arguments, sample one"
    " box: its edges in feature cells, bins, samples and where they are; and the call of torchvision that returns the"
    " bits of MindSpore's, if there is one. Neither framework is needed.",
    "epilog": "Exit status: 0, or 2 for arguments that are not allowed or a file that cannot be written.",
}

# Samples of a box along one axis, above which their positions are not computed.
MAX_POSITIONS = 2**20

# What is shown of bins, and of the samples in a bin: all of up to so many, else the first two and the last.
SHOWN_BINS, SHOWN_SAMPLES = 4, 4

# Why a row of MindSpore has no equal in torchvision, by what MindSpore makes of it instead of an average.
_WITHOUT_EQUAL = {
    "index refused": "MindSpore refuses such an image index, and so does ms2torch_roi.ROIAlign.",
    "never written": "MindSpore never writes a row with |x1| and |x2| below 0.001: its output is whatever was in"
    " memory. ms2torch_roi.ROIAlign returns 0.",
    "NaN (no samples)": "The adaptive grid, floor(size / bins), has no samples, and their average is NaN, which"
    " torchvision never returns for finite features. ms2torch_roi.ROIAlign returns NaN.",
    "0 (no samples)": "The adaptive grid is negative, so MindSpore takes no samples; torchvision refuses or does not"
    " define such boxes. ms2torch_roi.ROIAlign returns 0.",
    "0 (not finite)": "Every sample of a box that is not finite lies outside the image. torchvision may crash on it;"
    " ms2torch_roi.ROIAlign returns 0.",
    "too many samples": f"More than {sampling.MAX_GRID:,} samples along one axis of a bin take MindSpore hours."
    " ms2torch_roi.ROIAlign refuses them.",
}
_SAMPLED = "ms2torch_roi.ROIAlign samples such a row itself."


@dataclass(frozen=True)
class Placement:
    """Where one library samples one box. Pairs are along x, then along y, in feature cells and the dtype of the box.

    Attributes:
        library: ``"MindSpore"`` or ``"torchvision"``.
        setting: the argument that picks the rule, ``"roi_end_mode=1"`` or ``"aligned=False"``.
        index: the image, as the library takes it from the index of the box.
        start: pair, where the box starts.
        end: pair, where it ends.
        size: pair, ``end - start``.
        used_size: pair, ``size`` or the smallest size allowed.
        bin: pair, the size of a bin.
        grid: pair of ints, the samples in a bin.
        count: what the sum of the samples in a bin is divided by.
        positions: where the samples are, (pooled_width, grid x) and (pooled_height, grid y); None for a box that is not
            finite, or has none or too many.
        outside: how many samples of the box are outside the image; None if its size or the positions are not known.
        problem: what comes of the box, if bins are not the average of their samples.
    """

    library: str
    setting: str
    index: float
    start: NDArray
    end: NDArray
    size: NDArray
    used_size: NDArray
    bin: NDArray
    grid: NDArray
    count: float
    positions: tuple[NDArray, NDArray] | None
    outside: int | None
    problem: str | None

    def samples_as(self, other: Placement) -> bool:
        """Tell whether both average the same samples of the same image, so that they pool to the same bits."""
        return (
            self.problem is None
            and other.problem is None
            and (self.index, self.count, self.outside) == (other.index, other.count, other.outside)
            and all(
                np.array_equal(getattr(self, pair), getattr(other, pair)) for pair in ("start", "used_size", "grid")
            )
        )

    def distance_to(self, other: Placement) -> float | None:
        """Return the largest distance of two samples along an axis, in cells; None if they have no counterpart."""
        if self.positions is None or other.positions is None or (self.grid != other.grid).any():
            return None
        return max(float(np.abs(a - b).max()) for a, b in zip(self.positions, other.positions, strict=True))


@dataclass(frozen=True)
class Explanation:
    """One box in both libraries.

    Attributes:
        roi: (5,), the box as given, ``(index, x1, y1, x2, y2)`` in image pixels, rounded to its dtype.
        pooled: number of bins, ``(height, width)``.
        spatial_scale: feature cells per image pixel.
        sample_num: as given; ``sampling_ratio`` to torchvision.
        size: height and width of the features, if given.
        mindspore: MindSpore's, with the mode as given.
        torchvision: torchvision's with the same arguments, not aligned and aligned.
        call: Python lines that compute MindSpore's result with ``torchvision.ops.roi_align``; None if there is no such
            call. They use ``features``, ``torch`` and ``roi_align``.
        remark: how the call comes about, or why there is none.
    """

    roi: NDArray
    pooled: tuple[int, int]
    spatial_scale: float
    sample_num: int
    size: tuple[int, int] | None
    mindspore: Placement
    torchvision: tuple[Placement, Placement]
    call: str | None
    remark: str

    @property
    def placements(self) -> tuple[Placement, ...]:
        """MindSpore's and torchvision's."""
        return (self.mindspore, *self.torchvision)

    @property
    def title(self) -> str:
        """The box and the arguments, in two lines."""
        height, width = self.pooled
        samples = f"{self.sample_num} x {self.sample_num}" if self.sample_num > 0 else "adaptive"
        return (
            f"roi ({', '.join(map(_number, self.roi))}) in image pixels, {self.roi.dtype}\n"
            f"{height} x {width} bins (height x width), {samples} samples in a bin, spatial_scale {self.spatial_scale}"
        )


def explain(
    roi: Sequence[float],
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sample_num: int = 2,
    roi_end_mode: int = 1,
    *,
    dtype: Literal["float16", "float32"] = "float32",
    size: tuple[int, int] | None = None,
) -> Explanation:
    """Say where MindSpore and torchvision, given the same arguments, sample a box, and how to make torchvision agree.

    Args:
        roi: ``(index, x1, y1, x2, y2)``, coordinates in image pixels; NaN and infinity are allowed.
        pooled_height: as MindSpore's, and so are those that follow.
        pooled_width: number of bins along x.
        spatial_scale: feature cells per image pixel.
        sample_num: samples along each axis of a bin; adaptive if 0 or less.
        roi_end_mode: 0 or 1.
        dtype: of features and rois.
        size: height and width of the features in cells, to tell which samples are outside.

    Raises:
        TypeError, ValueError, RuntimeError: as :class:`ms2torch_roi.ROIAlign` for its arguments; ValueError for the
            others.

    >>> explanation = explain((0, 0, 4, 24, 20), 2, 2, 0.25)
    >>> explanation.mindspore.positions[0].tolist()  # along x: 2 samples in each of 2 bins
    [[0.78125, 2.34375], [3.90625, 5.46875]]
    >>> explanation.torchvision[1].positions[0].tolist()  # aligned=True
    [[0.25, 1.75], [3.25, 4.75]]
    >>> print(explanation.call)
    boxes = torch.tensor([[0.0, 0.0, 4.0, 25.0, 21.0]])
    roi_align(features, boxes, (2, 2), 0.25, 2, aligned=False)
    """
    params.check_mindspore_arguments(pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode)
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype must be float16 or float32, got {dtype!r}")
    if size is not None and (np.shape(size) != (2,) or not all(isinstance(n, int) and n > 0 for n in size)):
        raise ValueError(f"size must be a height and a width of at least 1, got {size!r}")
    pooled = (pooled_height, pooled_width)
    with np.errstate(all="ignore"):  # overflow and NaN are part of the rules
        rois = np.asarray([roi], dtype)
        if rois.shape != (1, 5):
            raise ValueError(f"roi must be 5 numbers, (index, x1, y1, x2, y2), got {roi}")
        mindspore = _mindspore(rois, pooled, spatial_scale, sample_num, roi_end_mode, size)
        torchvision = tuple(
            _torchvision(rois, pooled, spatial_scale, sample_num, aligned, size) for aligned in (False, True)
        )
        call, remark = _torchvision_call(mindspore, rois, pooled, spatial_scale, sample_num, roi_end_mode, size)
    return Explanation(
        rois[0], pooled, spatial_scale, sample_num, size, mindspore, (torchvision[0], torchvision[1]), call, remark
    )


def _mindspore(
    rois: NDArray,
    pooled: tuple[int, int],
    spatial_scale: float,
    sample_num: int,
    roi_end_mode: int,
    size: tuple[int, int] | None,
) -> Placement:
    feature_boxes = boxes, used_size = _boxes.mindspore_boxes(np, rois, spatial_scale, roi_end_mode)
    end = boxes[:, 3:]
    if roi_end_mode == 0:
        # The end of an enlarged box is its start there. A box from x2, y2 starts where this one ends.
        end = _boxes.mindspore_boxes(np, rois[:, [0, 3, 4, 1, 2]], spatial_scale, roi_end_mode)[0][:, 1:3]
    grid = _boxes.mindspore_grid(used_size, *pooled, sample_num)
    (count,) = _boxes.mindspore_count(grid, rois.dtype)
    problem = None
    if not _boxes.mindspore_has_image(np, rois[:, 0], params.INT32_MAX).all():
        problem = "index refused"
    elif _boxes.mindspore_unwritten(np, rois).any():
        problem = "never written"
    elif (grid <= 0).any():
        problem = "NaN (no samples)" if count == 0 else "0 (no samples)"
    elif not _boxes.is_finite(np, *feature_boxes).all():
        problem = "0 (not finite)"
    elif sample_num <= 0 and grid.max() > sampling.MAX_GRID:
        problem = "too many samples"
    borders = None if size is None else [_boxes.mindspore_border(length, rois.dtype) for length in size]
    setting = f"roi_end_mode={roi_end_mode}"
    return _placement("MindSpore", setting, feature_boxes, end, pooled, grid, count, borders, problem)


def _torchvision(
    rois: NDArray,
    pooled: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    size: tuple[int, int] | None,
) -> Placement:
    feature_boxes = boxes, used_size = _boxes.torchvision_boxes(np, rois, spatial_scale, aligned)
    problem = None
    try:
        grid = _boxes.torchvision_grid(used_size, *pooled, sampling_ratio)
    except RuntimeError:  # of both axes together
        grid = _boxes.torchvision_grid(np.diag(used_size[0]), *pooled, sampling_ratio).diagonal()[None]
        problem = "refused: negative"
    (count,) = _boxes.torchvision_count(grid, rois.dtype)
    if not _boxes.torchvision_has_image(rois[:, 0], params.INT32_MAX).all():
        problem = "index refused"
    elif not _boxes.is_finite(np, *feature_boxes).all():
        problem = "undefined, may crash"
    elif problem is None and (grid <= 0).any():
        problem = "0 (no samples)"
    elif sampling_ratio <= 0 and grid.max() > sampling.MAX_GRID:
        problem = "too many samples"
    borders = None if size is None else [_boxes.torchvision_border(length, rois.dtype) for length in size]
    setting = f"aligned={aligned}"
    return _placement("torchvision", setting, feature_boxes, boxes[:, 3:], pooled, grid, count, borders, problem)


def _placement(
    library: str,
    setting: str,
    feature_boxes: _boxes.FeatureBoxes,
    end: NDArray,
    pooled: tuple[int, int],
    grid: NDArray,
    count: float,
    borders: list[float] | None,
    problem: str | None,
) -> Placement:
    boxes, used_size = feature_boxes
    along_x_and_y = pooled[::-1]
    positions = outside = None
    few = all(
        0 < samples * bins <= MAX_POSITIONS for samples, bins in zip(grid[0].tolist(), along_x_and_y, strict=True)
    )
    if few and _boxes.is_finite(np, boxes, used_size).all():
        x, y = (
            sampling.sample_positions(
                boxes[:, 1 + axis], used_size[:, axis], grid[:, axis], bins, np.arange(grid[0, axis])
            )[0]
            for axis, bins in enumerate(along_x_and_y)
        )
        positions = x, y
        if borders is not None:
            inside_x, inside_y = (
                int(sampling.inside_image(at, border).sum())
                for at, border in zip(positions, reversed(borders), strict=True)
            )
            outside = x.size * y.size - inside_x * inside_y
    return Placement(
        library,
        setting,
        index=float(boxes[0, 0]),
        start=boxes[0, 1:3],
        end=end[0],
        size=end[0] - boxes[0, 1:3],
        used_size=used_size[0],
        bin=used_size[0] / np.asarray(along_x_and_y, boxes.dtype),
        grid=grid[0],
        count=float(count),
        positions=positions,
        outside=outside,
        problem=problem,
    )


def _torchvision_call(
    mindspore: Placement,
    rois: NDArray,
    pooled: tuple[int, int],
    spatial_scale: float,
    sample_num: int,
    roi_end_mode: int,
    size: tuple[int, int] | None,
) -> tuple[str | None, str]:
    """Return a call of torchvision that samples as MindSpore, if there is one, and what is to be said about it.

    A call is taken only if torchvision's own rule puts its boxes where MindSpore's rule has put them.
    """
    if mindspore.problem is not None:
        return None, _WITHOUT_EQUAL[mindspore.problem]
    x, y = mindspore.grid.tolist()
    samples = x * y * pooled[0] * pooled[1]
    if not _boxes.rounds_alike(rois.dtype, *pooled, sample_num, *(size or ())):
        return None, (
            f"The libraries round features so large, or so many bins or samples, to {rois.dtype} in two ways."
            f" {_SAMPLED}"
        )
    if sample_num <= 0 and samples > _boxes.MAX_ADAPTIVE_SAMPLES:
        return None, f"torchvision would keep a table of {samples:,} samples. {_SAMPLED}"
    feature_boxes = _boxes.mindspore_boxes(np, rois, spatial_scale, roi_end_mode)
    in_pixels = rois + np.asarray((0, 0, 0, roi_end_mode, roi_end_mode), rois.dtype)
    in_pixels[:, 0] = mindspore.index
    kept = "the rois as they are" if roi_end_mode == 0 else "the rois with x2 + 1, y2 + 1"
    if mindspore.index != rois[0, 0]:
        kept += ", and the index that MindSpore rounds to"
    ratios = dict.fromkeys((x, sample_num))
    candidates = [(in_pixels, spatial_scale, ratio, False, kept) for ratio in ratios]
    for call in _boxes.torchvision_calls(feature_boxes, np.zeros(1, bool), *pooled, sample_num)[0]:
        how = "the box in feature cells"
        if call.aligned:
            how += ", plus the 0.5 that aligned=True takes off"
        candidates.append((call.boxes, 1.0, call.sampling_ratio, call.aligned, how))
    for boxes, scale, ratio, aligned, how in candidates:
        same = _torchvision(boxes, pooled, scale, ratio, aligned, size).samples_as(mindspore)
        if same and np.isfinite(boxes).all():
            dtype = "" if boxes.dtype == np.float32 else f", dtype=torch.{boxes.dtype}"
            return (
                f"boxes = torch.tensor([[{', '.join(map(str, boxes[0]))}]]{dtype})\n"
                f"roi_align(features, boxes, {pooled}, {scale}, {ratio}, aligned={aligned})"
            ), how
    if x != y:
        why = f"A bin has {x} x {y} samples (width x height), and sampling_ratio is one number for both."
    else:
        why = (
            "The box is smaller than a cell. aligned=False enlarges it, and adding the 0.5 that aligned=True takes off"
            " rounds a coordinate."
        )
    return None, f"{why} {_SAMPLED}"


def print_explanation(explanation: Explanation, console: Console) -> None:
    """Print the numbers as a table, and the call of torchvision that is the same as MindSpore's."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    line(explanation.title, "bold")
    line("Lengths and positions are in feature cells.")
    if explanation.size is not None:
        line("The features have {} x {} cells (height x width).".format(*explanation.size))
    line("")
    table = Table(box=box.SIMPLE, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column()
    for placement in explanation.placements:
        table.add_column(f"{placement.library}\n{placement.setting}")
    for name, cells in _rows(explanation):
        table.add_row(
            Text(name, style="" if cells else "bold"),
            *(Text(cell, style="yellow" if cell != cells[0] else "") for cell in cells),
        )
    console.print(table)
    line("")
    if explanation.call is None:
        line("No call of torchvision is the same as MindSpore's:", "bold")
        console.print(Text(explanation.remark))
        return
    limit = ""
    if explanation.size is None and explanation.roi.dtype == np.float16:
        limit = " of at most 2048 x 2048 cells"
    line("The same bits as MindSpore's, on a CPU:", "bold")
    console.print(Text(f"(for finite features{limit}; boxes: {explanation.remark})"))
    line("")
    line(explanation.call)


def _rows(explanation: Explanation) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of the table: a name, and what each library has there; nothing for a heading."""
    placements = explanation.placements
    yield "image index", [_number(placement.index) for placement in placements]
    for axis, name in enumerate("xy"):
        yield f"along {name}", []
        yield "  start", [_number(placement.start[axis]) for placement in placements]
        yield "  end", [_number(placement.end[axis]) for placement in placements]
        yield "  end - start", [_number(placement.size[axis]) for placement in placements]
        yield "  size", [_used_size(placement, axis) for placement in placements]
        yield "  bin", [_number(placement.bin[axis]) for placement in placements]
        yield "  samples", [str(placement.grid[axis]) for placement in placements]
        for number in _some(explanation.pooled[1 - axis], SHOWN_BINS):
            if number is None:
                yield "  ...", []
            else:
                yield f"  bin {number} at", [_positions(placement, axis, number) for placement in placements]
    if explanation.size is not None:
        yield "outside", [_outside(placement) for placement in placements]
    yield "result", [placement.problem or f"mean of {placement.count:g}" for placement in placements]
    yield "samples are", ["", *(agreement(explanation.mindspore, other) or "-" for other in explanation.torchvision)]


def _number(value: Any) -> str:
    """Return the fewest digits that tell a number from its neighbours in its dtype."""
    return str(value).removesuffix(".0")


def _used_size(placement: Placement, axis: int) -> str:
    used = placement.used_size[axis]
    smallest = "" if used == placement.size[axis] or np.isnan(used) else ", enlarged"
    return f"{_number(used)}{smallest}"


def _positions(placement: Placement, axis: int, number: int) -> str:
    if placement.positions is None:
        return "-"
    at = placement.positions[axis][number]
    return ", ".join("..." if i is None else _number(at[i]) for i in _some(at.size, SHOWN_SAMPLES))


def _some(count: int, shown: int) -> list[int | None]:
    """Return the numbers up to a count, or of many the first two and the last with None between them."""
    return [*range(count)] if count <= shown else [0, 1, None, count - 1]


def _outside(placement: Placement) -> str:
    if placement.outside is None or placement.positions is None:
        return "-"
    x, y = placement.positions
    return f"{placement.outside:,} of {x.size * y.size:,}"


def agreement(mindspore: Placement, torchvision: Placement) -> str | None:
    """Say what the samples of the two are to each other, as in "samples are ...", or None if one has no result."""
    if mindspore.problem is not None or torchvision.problem is not None:
        return None
    if torchvision.samples_as(mindspore):
        return "the same"
    if (torchvision.grid != mindspore.grid).any():
        return "of another number"
    distance = torchvision.distance_to(mindspore)
    return f"up to {distance:.3g} apart" if distance else "not the same"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ms2torch-roi explain``; ``run`` is to be called with what the parser makes of them."""
    parser.set_defaults(parser=parser)
    # argparse knows -1 and -0.5 as numbers, but takes -1e3 and -inf for options.
    parser._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)
    parser.add_argument(
        "--roi",
        type=float,
        nargs=5,
        required=True,
        metavar=("INDEX", "X1", "Y1", "X2", "Y2"),
        help="the box, in image pixels",
    )
    parser.add_argument("--pooled", type=int, nargs=2, required=True, metavar=("H", "W"), help="numbers of bins")
    parser.add_argument("--scale", type=float, required=True, metavar="S", help="feature cells per image pixel")
    parser.add_argument(
        "--samples",
        type=int,
        default=2,
        metavar="N",
        help="along each axis of a bin; 0 is adaptive (default: %(default)s)",
    )
    parser.add_argument(
        "--mode", type=int, choices=(0, 1), default=1, help="MindSpore's roi_end_mode (default: %(default)s)"
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="(default: %(default)s)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="of the features, to count the samples outside"
    )
    parser.add_argument("--plot", type=_plot_file, metavar="FILE", help="draw both boxes (.png, .svg or .pdf)")


def _plot_file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(PLOT_SUFFIXES[:-1])} or .svg")
    return path


def run(options: argparse.Namespace, console: Console) -> int:
    """Run ``ms2torch-roi explain``, and return its exit status: 0, unless it exits with a line on what is wrong."""
    parser: argparse.ArgumentParser = options.parser
    try:
        explanation = explain(
            options.roi,
            options.pooled[0],
            options.pooled[1],
            options.scale,
            options.samples,
            options.mode,
            dtype=options.dtype,
            size=None if options.size is None else tuple(options.size),
        )
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    if options.plot is not None:
        try:
            from . import plot

            plot.save(explanation, options.plot)
        except (ImportError, OSError) as error:
            parser.error(f"--plot: {error}")
    print_explanation(explanation, console)
    return 0
