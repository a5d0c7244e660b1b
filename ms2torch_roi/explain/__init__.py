"""Where MindSpore and torchvision sample one box, side by side, and how to make them agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import encodings, params, rules
from ..rules import Rule
from .placement import Box, Placement, of_mindspore, of_torchvision

NDArray = npt.NDArray[Any]

# Why a row of MindSpore has no equal in torchvision, by what MindSpore makes of it instead of an average.
_WITHOUT_EQUAL = {
    "index refused": "MindSpore refuses such an image index, and so does ms2torch_roi.ROIAlign.",
    "never written": "MindSpore never writes a row with |x1| and |x2| below 0.001: its output is whatever was in"
    " memory. ms2torch_roi.ROIAlign returns 0.",
    "NaN (no samples)": "The adaptive grid has no samples, and their average is NaN, which"
    " torchvision never returns for finite features. ms2torch_roi.ROIAlign returns NaN.",
    "0 (no samples)": "The adaptive grid is negative, so MindSpore takes no samples; torchvision refuses or does not"
    " define such boxes. ms2torch_roi.ROIAlign returns 0.",
    "0 (not finite)": "Every sample of a box that is not finite lies outside the image. torchvision may crash on it;"
    " ms2torch_roi.ROIAlign returns 0.",
    "too many samples": "So many samples take MindSpore hours. ms2torch_roi.ROIAlign refuses them.",
}
_SAMPLED = "ms2torch_roi.ROIAlign samples such a row itself."


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
            f"roi ({', '.join(map(shortest, self.roi))}) in image pixels, {self.roi.dtype}\n"
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
    rule: str = "cpu",
) -> Explanation:
    """Say where MindSpore and torchvision, given the same arguments, sample a box, and how to make torchvision agree.

    Args:
        roi: ``(index, x1, y1, x2, y2)``, coordinates in image pixels; NaN and infinity are allowed.
        pooled_height: as MindSpore's, and so are those that follow.
        pooled_width: number of bins along x.
        spatial_scale: feature cells per image pixel.
        sample_num: samples along each axis of a bin; adaptive if 0 or less.
        roi_end_mode: 0 or 1; on Ascend 2 or 3 too.
        dtype: of features and rois.
        size: height and width of the features in cells, to tell which samples are outside.
        rule: the device that MindSpore runs on, as for :class:`ms2torch_roi.ROIAlign`.

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
    params.check_mindspore_arguments(pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode, rule=rule)
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype must be float16 or float32, got {dtype!r}")
    if size is not None and (np.shape(size) != (2,) or not all(isinstance(n, int) and n > 0 for n in size)):
        raise ValueError(f"size must be a height and a width of at least 1, got {size!r}")
    with np.errstate(all="ignore"):  # overflow and NaN are part of the rules
        rois = np.asarray([roi], dtype)
        if rois.shape != (1, 5):
            raise ValueError(f"roi must be 5 numbers, (index, x1, y1, x2, y2), got {roi}")
        box = Box(rois, (pooled_height, pooled_width), spatial_scale, sample_num, size)
        mindspore = of_mindspore(box, roi_end_mode, rule)
        torchvision = of_torchvision(box, False), of_torchvision(box, True)
        call, remark = _torchvision_call(mindspore, box, roi_end_mode, rules.DEVICES[rule][roi_end_mode])
    return Explanation(rois[0], box.pooled, spatial_scale, sample_num, size, mindspore, torchvision, call, remark)


def _torchvision_call(mindspore: Placement, box: Box, roi_end_mode: int, rule: Rule) -> tuple[str | None, str]:
    """Return a call of torchvision that samples as MindSpore, if there is one, and what is to be said about it.

    A call is taken only if torchvision's own rule puts its boxes where MindSpore's rule has put them.
    """
    if mindspore.problem is not None:
        return None, _WITHOUT_EQUAL[mindspore.problem]
    rois, pooled, spatial_scale, sample_num, size = box
    if rois.dtype != rules.computed_in(rule, rois.dtype.name):
        return None, f"The kernel computes {rois.dtype} in {rule.dtype}. {_SAMPLED}"
    x, y = mindspore.grid.tolist()
    samples = x * y * pooled[0] * pooled[1]
    if not rules.rounds_alike(rois.dtype, *pooled, sample_num, *(size or ())):
        return None, (
            f"The libraries round features so large, or so many bins or samples, to {rois.dtype} in two ways."
            f" {_SAMPLED}"
        )
    if sample_num <= 0 and samples > encodings.MAX_ADAPTIVE_SAMPLES:
        return None, f"torchvision would keep a table of {samples:,} samples. {_SAMPLED}"
    feature_boxes = rules.feature_boxes(np, rule, rois, spatial_scale)
    in_pixels = rois + np.asarray((0, 0, 0, roi_end_mode, roi_end_mode), rois.dtype)
    in_pixels[:, 0] = mindspore.index
    kept = "the rois as they are" if roi_end_mode == 0 else "the rois with x2 + 1, y2 + 1"
    if mindspore.index != rois[0, 0]:
        kept += ", and the index that MindSpore rounds to"
    ratios = dict.fromkeys((x, sample_num))
    candidates = [(in_pixels, spatial_scale, ratio, False, kept) for ratio in ratios]
    for call in encodings.torchvision_calls(feature_boxes, np.zeros(1, bool), *pooled, sample_num)[0]:
        how = "the box in feature cells"
        if call.aligned:
            how += ", plus the 0.5 that aligned=True takes off"
        candidates.append((call.boxes, 1.0, call.sampling_ratio, call.aligned, how))
    for boxes, scale, ratio, aligned, how in candidates:
        same = of_torchvision(Box(boxes, pooled, scale, ratio, size), aligned).samples_as(mindspore)
        if same and np.isfinite(boxes).all():
            dtype = "" if boxes.dtype == np.float32 else f", dtype=torch.{boxes.dtype}"
            return (
                f"boxes = torch.tensor([[{', '.join(map(str, boxes[0]))}]]{dtype})\n"
                f"roi_align(features, boxes, {pooled}, {scale}, {ratio}, aligned={aligned})"
            ), how
    if x != y:
        why = f"A bin has {x} x {y} samples (width x height), and sampling_ratio is one number for both."
    elif rule not in rules.MINDSPORE:
        why = "No box of torchvision has these samples."
    else:
        why = (
            "The box is smaller than a cell. aligned=False enlarges it, and adding the 0.5 that aligned=True takes off"
            " rounds a coordinate."
        )
    return None, f"{why} {_SAMPLED}"


def shortest(value: Any) -> str:
    """Return the fewest digits that tell a number from its neighbours in its dtype."""
    return str(value).removesuffix(".0")
