"""MindSpore's ROIAlign on torch: its constructor and call, computed by ``torchvision.ops.roi_align``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import roi_align

from . import boxes as _boxes
from . import params, sampling

NDArray = npt.NDArray[Any]

_DTYPES = (torch.float16, torch.float32, torch.float64)


class ROIAlign(torch.nn.Module):
    """Region of interest align, as ``mindspore.ops.ROIAlign`` computes it on a CPU, bit for bit.

    Each box is scaled to the feature map, cut into ``pooled_height`` x ``pooled_width`` bins, and every bin is the
    average of bilinear samples in it. A sample more than one cell outside the map counts as 0.

    Args:
        pooled_height: number of bins along y, at least 1.
        pooled_width: number of bins along x, at least 1.
        spatial_scale: feature cells per image pixel, 1/16 for a stride of 16. A float.
        sample_num: samples along each axis of a bin. With 0 or less there are ``floor(size / pooled)``, for each box
            and axis; a box where that is 0 pools to NaN, as in MindSpore.
        roi_end_mode: with 1, ``x2, y2`` is the last pixel of the box, which ends at ``x2 + 1``, and boxes may be
            smaller than a feature cell. With 0 the box ends at ``x2``, and is enlarged to one cell at least. (Neither
            is torchvision's ``aligned=True``; MAPPING.md has the details.)

    Shape:
        ``features`` (N, C, H, W) and ``rois`` (K, 5), rows of ``(index, x1, y1, x2, y2)`` with the coordinates in
        image pixels, give (K, C, pooled_height, pooled_width).

    The computation runs in the dtype of the tensors, float16, float32 or (an extension to MindSpore) float64; float16
    and float32 mixed are computed in float32 and returned in the dtype of ``features``. On CPU in float16 and float32
    every row that MindSpore defines has the same bits. Rows that MindSpore leaves unwritten, those with ``|x1|`` and
    ``|x2|`` below 0.001, pool to 0. The gradient for ``features`` is the true gradient; ``rois`` get none.

    Raises:
        TypeError: at construction, an argument that is not an int (``spatial_scale``: a float); in a call, inputs
            that are not tensors, or of another dtype.
        ValueError: ``roi_end_mode`` neither 0 nor 1; in a call, another shape, or inputs on different devices.
        RuntimeError: a pooled size below 1; in a call, an image index outside ``[0, N - 1]``, or an adaptive grid of
            more than 2**20 samples.

    Example, the one of MindSpore's documentation:

    >>> import torch
    >>> from ms2torch_roi import ROIAlign
    >>> features = torch.tensor([[[[1., 2.], [3., 4.]]]])
    >>> rois = torch.tensor([[0, 0.2, 0.3, 0.2, 0.3]])
    >>> ROIAlign(3, 3, 0.25, 2, 0)(features, rois)
    tensor([[[[1.7000, 2.0333, 2.3667],
              [2.3667, 2.7000, 3.0333],
              [3.0333, 3.3667, 3.7000]]]])
    """

    def __init__(
        self, pooled_height: int, pooled_width: int, spatial_scale: float, sample_num: int = 2, roi_end_mode: int = 1
    ) -> None:
        super().__init__()
        params.check_mindspore_arguments(pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode)
        self.pooled_height = pooled_height
        self.pooled_width = pooled_width
        self.spatial_scale = float(spatial_scale)
        self.sample_num = sample_num
        self.roi_end_mode = roi_end_mode

    def extra_repr(self) -> str:
        return (
            f"pooled_height={self.pooled_height}, pooled_width={self.pooled_width},"
            f" spatial_scale={self.spatial_scale}, sample_num={self.sample_num}, roi_end_mode={self.roi_end_mode}"
        )

    # A compiler would trace the NumPy code below as torch, and round where it likes.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        dtype = _compute_dtype(features, rois)
        params.check_shapes("ROIAlign", features.shape, rois.shape, self.pooled_height, self.pooled_width)
        pixels = rois.detach().to(dtype).numpy(force=True)
        params.check_index(pixels[:, 0], features.shape[0], "rois", nan_is_0=True)
        return self._pool(features.to(dtype), pixels).to(features.dtype)

    def _pool(self, features: torch.Tensor, rois: NDArray) -> torch.Tensor:
        pooled = (self.pooled_height, self.pooled_width)
        height, width = features.shape[2:]
        # Where a sample is outside the image, torchvision adds 0 * the first pixel: NaN, unless that pixel is finite.
        expressible = _boxes.rounds_alike(rois.dtype, height, width, *pooled, self.sample_num) and bool(
            features[:, :, 0, 0].isfinite().all()
        )
        with np.errstate(all="ignore"):  # overflow and NaN are part of the rule
            feature_boxes = _boxes.mindspore_boxes(np, rois, self.spatial_scale, self.roi_end_mode)
            zero = _boxes.mindspore_unwritten(np, rois)
            if expressible:
                calls, sampled = _boxes.torchvision_calls(feature_boxes, zero, *pooled, self.sample_num)
            else:
                calls, sampled = [], np.flatnonzero(~zero)

        def pool_in_torchvision(call: _boxes.TorchvisionCall) -> torch.Tensor:
            boxes = torch.from_numpy(call.boxes).to(features.device)
            part: torch.Tensor = roi_align(features, boxes, pooled, 1.0, call.sampling_ratio, call.aligned)
            return part

        if calls and calls[0].rows is None:
            output = pool_in_torchvision(calls.pop(0))
        else:
            output = features.new_zeros((rois.shape[0], features.shape[1], *pooled))
            # No row at all, but it ties the output to the graph of features even when every row pools to 0.
            calls.append(_boxes.TorchvisionCall(np.arange(0), feature_boxes[0][:0], 1, aligned=False))
        parts = [(call.rows, pool_in_torchvision(call)) for call in calls]
        ops = sampling.ArrayOps(
            take=lambda table, columns: table.index_select(1, columns),
            lift=lambda array: torch.from_numpy(array).to(features.device),
            where=torch.where,
        )
        with np.errstate(all="ignore"):
            parts += sampling.pool_as_mindspore(features, feature_boxes, sampled, pooled, self.sample_num, ops)
        if parts:
            rows = ops.lift(np.concatenate([rows for rows, _ in parts]))
            output.index_copy_(0, rows, torch.cat([values for _, values in parts]))
        return output


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, torch.Tensor):
        found = f"{type(value).__module__}.{type(value).__qualname__}"  # MindSpore's is called Tensor as well
        raise TypeError(f"ROIAlign: {name} must be a torch.Tensor, got {found}")
    if value.dtype not in _DTYPES:
        raise TypeError(f"ROIAlign: {name} must be float16, float32 or float64, got {value.dtype}")


def _compute_dtype(features: torch.Tensor, rois: torch.Tensor) -> torch.dtype:
    """Check the tensors, and return the dtype to compute in."""
    _check_tensor("features", features)
    _check_tensor("rois", rois)
    if features.device != rois.device:
        raise ValueError(f"ROIAlign: features are on {features.device} but rois on {rois.device}")
    if features.dtype == rois.dtype:
        return features.dtype
    if torch.float64 in (features.dtype, rois.dtype):
        raise TypeError(f"ROIAlign: float64 does not mix, got features {features.dtype} and rois {rois.dtype}")
    return torch.float32
