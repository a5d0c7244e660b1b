"""The extractor of MindSpore's detectors on torch: each roi is pooled once, on its own level of a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import levels, params, rules
from ..levels import LevelFormula
from . import ROIAlign
from .torchvision import XP


class SingleRoIExtractor(torch.nn.Module):
    """Pool each roi on one level of a feature pyramid, as MindSpore's model zoo does, bit for bit.

    The cells of that name, and their like in other projects, pool every roi on all levels and then select. Here each is
    pooled once. The level is decided by thresholds (:mod:`ms2torch_roi.levels`), as MindSpore's formula does on a CPU.

    Args:
        roi_layer: a mapping, or an object with attributes: ``out_size``, the bins along each axis; ``sample_num``;
            ``roi_end_mode``, 1 by default; ``mask_out_size`` if ``mask``. Others are ignored, such as ``type``. Each
            means what it does to :class:`ms2torch_roi.ROIAlign`.
        out_channels: of every feature map.
        featmap_strides: of the feature maps, in image pixels, the finest first.
        batch_size: ignored, as any number of rois is taken.
        finest_scale: the scale of ``formula``: 56 in most projects, where boxes of twice as many pixels and more are on
            the second level; None to leave what it has.
        mask: whether this is the extractor of a mask head, with ``mask_out_size`` bins.
        formula: which decides the level of a roi: one of those in :mod:`ms2torch_roi.levels`, or another.
        backward_roi_end_mode: as in :class:`ms2torch_roi.ROIAlign`: 1 trains as MindSpore does in mode 0.

    The model zoo's cells take a ``config`` in front, which is left out here.

    Shape:
        ``(rois, *features)``, ``(rois, features)`` or ``(features, rois)``: rois (K, 5), rows of ``(index, x1, y1, x2,
        y2)`` with the coordinates in image pixels, and a feature map (N, out_channels, H, W) for each stride, give (K,
        out_channels, out_size, out_size). ``mask``, (K,) or (K, 1), is 0 for rois that pool to 0.

    All are torch tensors on one device. The output has the dtype of the features, which is that of all of them. Levels
    are decided in float32. Where MindSpore's level depends on where in an array a roi stands, it is that of most
    places; :meth:`ambiguous` names such rois. Features have gradients, and rois have none, as in ``ROIAlign``.

    On a CPU each level pools the rows that are its own, whose numbers it has to know. On accelerators, and where the
    values of rois cannot be known (``torch.compile``, ``torch.export``, ``torch.func``), each level pools all rows,
    those of other levels to 0, in one program for all rois and without a wait; the bits are the same.

    Raises:
        TypeError: at construction, ``roi_layer`` lacks a setting, or has one that ``ROIAlign`` refuses; in a call,
            inputs that are no torch tensors.
        ValueError: no strides; in a call, another shape, or another number of feature maps or channels.
        RuntimeError: what ``ROIAlign`` raises it for.
        ImportError: the thresholds of ``formula`` are not known, and its framework is not installed to find them.

    >>> import torch
    >>> from ms2torch_roi import SingleRoIExtractor
    >>> extractor = SingleRoIExtractor({"out_size": 1, "sample_num": 2}, 1, [4, 8])
    >>> rois = torch.tensor([[0, 0, 0, 31, 31], [0, 0, 0, 127, 127.0]])
    >>> extractor(rois, torch.full((1, 1, 32, 32), 4.0), torch.full((1, 1, 16, 16), 8.0)).flatten()
    tensor([4., 8.])
    """

    def __init__(
        self,
        roi_layer: Any,
        out_channels: int,
        featmap_strides: Sequence[float],
        batch_size: int = 1,
        finest_scale: float | None = 56,
        mask: bool = False,
        *,
        formula: LevelFormula = levels.MODEL_ZOO,
        backward_roi_end_mode: int | None = None,
    ) -> None:
        super().__init__()
        if not featmap_strides:
            raise ValueError("SingleRoIExtractor: featmap_strides must hold at least one stride, got none")
        out_size = _setting(roi_layer, "mask_out_size" if mask else "out_size")
        sample_num = _setting(roi_layer, "sample_num")
        roi_end_mode = _setting(roi_layer, "roi_end_mode", 1)
        self.roi_layers = torch.nn.ModuleList(
            ROIAlign(out_size, out_size, 1 / stride, sample_num, roi_end_mode, backward_roi_end_mode)
            for stride in featmap_strides
        )
        self.out_size: int = out_size
        self.out_channels = out_channels
        self.formula = formula if finest_scale is None else formula.of_scale(finest_scale)
        # Formulas count levels from the finest, or by the logarithm of their stride.
        self.lowest_level = int(math.log2(featmap_strides[0])) if formula.level else 0
        levels.thresholds(self.formula, self.lowest_level, len(featmap_strides))  # or a first call would search them

    def map_roi_levels(self, rois: torch.Tensor) -> torch.Tensor:
        """Return the (K,) level of each roi, counted from 0; -1 for one on no level."""
        level: torch.Tensor = levels.assign(XP, self.formula, rois.detach(), len(self.roi_layers), self.lowest_level)
        return level

    def ambiguous(self, rois: torch.Tensor) -> list[int]:
        """Return the rows of rois that MindSpore puts on another level in some places of an array."""
        rows = levels.ambiguous(self.formula, rois.numpy(force=True), len(self.roi_layers), self.lowest_level)
        return [int(row) for row in rows]

    def forward(self, rois: Any, *features: Any, mask: torch.Tensor | None = None) -> torch.Tensor:
        if isinstance(rois, list | tuple) and len(features) == 1:
            (rois,), features = features, tuple(rois)
        elif len(features) == 1 and isinstance(features[0], list | tuple):
            features = tuple(features[0])
        self._check(rois, features, mask)
        level = self.map_roi_levels(rois)
        if mask is not None:
            level = torch.where(mask.reshape(-1).bool(), level, -1)
        return (self._pool_own_rows if _values_are_at_hand(rois) else self._pool_all_rows)(rois, features, level)

    def _pool_own_rows(self, rois: torch.Tensor, features: Sequence[torch.Tensor], level: torch.Tensor) -> torch.Tensor:
        index = rois[:, 0].detach().float().numpy()
        rules.check_index(rules.MINDSPORE[1], index, features[0].shape[0], "rois")
        rows = [torch.where(level == number)[0] for number in range(len(features))]
        pooled = [
            pool(of_level, rois[own]) for pool, of_level, own in zip(self.roi_layers, features, rows, strict=True)
        ]
        output: torch.Tensor = _InRows.apply(len(rois), rows, *pooled)
        return output

    def _pool_all_rows(self, rois: torch.Tensor, features: Sequence[torch.Tensor], level: torch.Tensor) -> torch.Tensor:
        output = features[0].new_zeros(())
        for number, (pool, of_level) in enumerate(zip(self.roi_layers, features, strict=True)):
            is_own = level == number
            pooled = pool(of_level, torch.where(is_own[:, None], rois, 0))  # rows of zeros are not sampled
            output = torch.where(is_own[:, None, None, None], pooled, output)
        return output

    def _check(self, rois: Any, features: Sequence[Any], mask: Any) -> None:
        if len(features) != len(self.roi_layers):
            raise ValueError(
                f"SingleRoIExtractor: there must be {len(self.roi_layers)} feature maps, one for each stride, got"
                f" {len(features)}"
            )
        named = {"rois": rois, **{f"features[{number}]": value for number, value in enumerate(features)}}
        for name, value in named.items() if mask is None else {**named, "mask": mask}.items():
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"SingleRoIExtractor: {name} must be a torch tensor, got {type(value)}")
        for number, of_level in enumerate(features):
            params.check_shapes("ROIAlign", of_level.shape, rois.shape)
            if of_level.shape[1] != self.out_channels or of_level.dtype != features[0].dtype:
                raise ValueError(
                    f"SingleRoIExtractor: features[{number}] must have {self.out_channels} channels, out_channels, and"
                    f" the dtype of features[0], {features[0].dtype}, got {of_level.shape[1]} and {of_level.dtype}"
                )
        if mask is not None and mask.numel() != rois.shape[0]:
            raise ValueError(
                f"SingleRoIExtractor: mask must have a value for each of {rois.shape[0]} rois, got {tuple(mask.shape)}"
            )

    def extra_repr(self) -> str:
        return f"out_channels={self.out_channels}, formula={self.formula}"


class _InRows(torch.autograd.Function):
    """Put what each level has pooled into its rows; torch's own gradient of that copies all rows for each level."""

    @staticmethod
    def forward(ctx: Any, count: int, rows: Sequence[torch.Tensor], *pooled: torch.Tensor) -> torch.Tensor:
        ctx.rows = rows
        output = pooled[0].new_zeros(count, *pooled[0].shape[1:])
        for own, of_level in zip(rows, pooled, strict=True):
            output.index_copy_(0, own, of_level)
        return output

    @staticmethod
    def backward(ctx: Any, of_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, None, *(of_output.index_select(0, own) for own in ctx.rows)


def _setting(roi_layer: Any, name: str, *default: Any) -> Any:
    if isinstance(roi_layer, Mapping) and (default or name in roi_layer):
        return roi_layer.get(name, *default)
    if not isinstance(roi_layer, Mapping) and (default or hasattr(roi_layer, name)):
        return getattr(roi_layer, name, *default)
    raise TypeError(
        f"SingleRoIExtractor: roi_layer must be a mapping, or an object, with {name}, got {roi_layer!r}."
        " The config that the model zoo's cells take first is left out here"
    )


def _values_are_at_hand(rois: torch.Tensor) -> bool:
    """Tell whether this runs now, on the CPU, rather than being made into a program or a transformed function."""
    return (
        rois.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch._C._are_functorch_transforms_active()
    )
