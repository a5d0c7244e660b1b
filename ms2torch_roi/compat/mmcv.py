"""mmcv's ``RoIAlign`` on MindSpore."""

from __future__ import annotations

from collections.abc import Sequence

from ..mindspore import RoIAlign as _RoIAlign


class RoIAlign(_RoIAlign):
    """``mmcv.ops.RoIAlign`` of ``pool_mode="avg"``, which samples as torchvision does, as a MindSpore cell.

    Args:
        output_size: number of bins, ``(height, width)`` or an int for both.
        spatial_scale: feature cells per image pixel, 1/16 for a stride of 16.
        sampling_ratio: samples along each axis of a bin; with 0 or less, ``ceil(size / output_size)``.
        pool_mode: "avg"; the maximum of the samples is not computed here.
        aligned: True to move boxes by half a cell; False not to, and to enlarge boxes to one cell.
        use_torchvision: kept, and without effect.
        out_size: the former name of ``output_size``.
        sample_num: the former name of ``sampling_ratio``.

    The call is ``(input, rois)``, features (N, C, H, W) and boxes (K, 5). :func:`ms2torch_roi.roi_align` says how exact
    the result is, and what is raised.

    Raises:
        TypeError: there is no ``output_size``.
        AssertionError: an argument by both its names, or another ``pool_mode``.
        NotImplementedError: ``pool_mode="max"``.

    >>> import mindspore
    >>> from ms2torch_roi.compat.mmcv import RoIAlign
    >>> input = mindspore.ops.arange(1.0, 5.0).reshape(1, 1, 2, 2)
    >>> print(RoIAlign(out_size=(1, 2), sample_num=2)(input, mindspore.Tensor([[0, 0.5, 0.5, 2.5, 1.5]])))
    [[[[2.5 3. ]]]]
    """

    def __init__(
        self,
        output_size: int | Sequence[int] | None = None,
        spatial_scale: float = 1.0,
        sampling_ratio: int | None = None,
        pool_mode: str = "avg",
        aligned: bool = True,
        use_torchvision: bool = False,
        *,
        out_size: int | Sequence[int] | None = None,
        sample_num: int | None = None,
    ) -> None:
        for name, value, former_name, former in (
            ("output_size", output_size, "out_size", out_size),
            ("sampling_ratio", sampling_ratio, "sample_num", sample_num),
        ):
            if value is not None and former is not None:
                raise AssertionError(f"RoIAlign: {former_name} is the former name of {name}; give one of them")
        output_size = out_size if output_size is None else output_size
        if output_size is None:
            raise TypeError("RoIAlign: output_size is missing")
        if pool_mode == "max":
            raise NotImplementedError(
                'RoIAlign: pool_mode="max" is not computed here, only "avg", the average of the samples'
            )
        if pool_mode != "avg":
            raise AssertionError(f'RoIAlign: pool_mode must be "avg" or "max", got {pool_mode!r}')
        ratios = (ratio for ratio in (sampling_ratio, sample_num, 0) if ratio is not None)
        super().__init__(output_size, spatial_scale, next(ratios), aligned)
        self.pool_mode = pool_mode
        self.use_torchvision = use_torchvision

    def __repr__(self) -> str:
        return (
            f"RoIAlign(output_size={self.output_size}, spatial_scale={self.spatial_scale},"
            f" sampling_ratio={self.sampling_ratio}, pool_mode={self.pool_mode}, aligned={self.aligned},"
            f" use_torchvision={self.use_torchvision})"
        )
