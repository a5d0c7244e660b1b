"""A call as calls of the other library's operator with the same samples (``encodings.py``), as cases of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import encodings, rules
from .case import Case, MindSporeCase, TorchvisionCase

NDArray = npt.NDArray[Any]


class Encoded(NamedTuple):
    """Cases that compute some rows of another, and those rows of it that are left to its own port."""

    calls: list[tuple[NDArray, Case]]
    rest: NDArray


def encode(case: Case) -> Encoded:
    """Encode a call of either library, in the dtype that it is computed in."""
    case = replace(case, features=case.features.astype(case.dtype), rois=case.rois.astype(case.dtype))
    *_, height, width = case.features.shape
    rounds_alike = rules.rounds_alike(case.dtype, height, width, *case.pooled, case.samples)
    # Where a sample is outside, torchvision adds 0 times the first pixel, and MindSpore nothing.
    if not (rounds_alike and np.isfinite(case.features[:, :, 0, 0]).all()):
        return Encoded([], np.flatnonzero(~case.undefined))
    with np.errstate(all="ignore"):
        if isinstance(case, MindSporeCase):
            return _of_mindspore(case)
        assert isinstance(case, TorchvisionCase)
        return _of_torchvision(case)


def _of_mindspore(case: MindSporeCase) -> Encoded:
    rule = rules.MINDSPORE[case.roi_end_mode]
    boxes = rules.feature_boxes(np, rule, case.rois, case.spatial_scale)
    skipped = rules.skipped_rows(rule, case.rois, boxes)
    calls, rest = encodings.torchvision_calls(boxes, skipped, *case.pooled, case.sample_num)
    return Encoded(
        [
            (
                call.rows,
                TorchvisionCase(
                    **_names(case),
                    features=case.features,
                    rois=call.boxes,
                    output_size=case.pooled,
                    spatial_scale=1.0,
                    sampling_ratio=call.sampling_ratio,
                    aligned=call.aligned,
                ),
            )
            for call in calls
        ],
        rest,
    )


def _of_torchvision(case: Case) -> Encoded:
    aligned = case.arguments["aligned"]
    boxes = rules.feature_boxes(np, rules.TORCHVISION[aligned], case.rois, case.arguments["spatial_scale"])
    scale = encodings.mindspore_scale(case.dtype.name, *case.features.shape[2:])
    calls, rest = encodings.mindspore_calls(boxes, aligned, *case.pooled, case.samples, scale)
    return Encoded(
        [
            (
                call.rows,
                MindSporeCase(
                    **_names(case),
                    features=case.features,
                    rois=call.rois,
                    pooled_height=case.pooled[0],
                    pooled_width=case.pooled[1],
                    spatial_scale=scale if call.roi_end_mode == 1 else 1.0,
                    sample_num=call.sample_num,
                    roi_end_mode=call.roi_end_mode,
                ),
            )
            for call in calls
        ],
        rest,
    )


def _names(case: Case) -> dict[str, Any]:
    return {"name": case.name, "category": case.category, "source": case.source}
