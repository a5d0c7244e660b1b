"""MindSpore's ROIAlign on torch: its constructor and call, computed by the operator of ``operator.py``."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.fx

from .. import arrays, params, rules
from . import operator, torchvision
from .batches import refuse_forward_mode

NDArray = npt.NDArray[Any]

_DTYPES = (torch.float16, torch.float32, torch.float64, torch.bfloat16)


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
            is torchvision's ``aligned=True``.) Rules of Ascend have 2 and 3 too, which MindSpore refuses.
        backward_roi_end_mode: the mode whose gradient ``features`` get; None for ``roi_end_mode``, the true gradient.
            MindSpore's own gradient of mode 0 is that of mode 1. If the losses of a port agree at the first step and
            diverge from the second, this is why: 1 trains as MindSpore does.
        rule: the device whose operator is reproduced: ``"cpu"``, ``"gpu"``, which is the same, or one of Ascend's
            kernels, ``"ascend-static"``, ``"ascend-dynamic"`` and, from one source only, ``"ascend-950"``, of which a
            device differs in the last digits. ``ms2torch-roi identify`` finds out from recorded calls.
        backward_rule: the device whose kernel for the gradient, of mode 1 unless ``backward_roi_end_mode`` says
            otherwise, is reproduced; None for the gradient of what is computed, or the device of ``rule`` if
            ``backward_roi_end_mode`` is given. On Ascend it need not be the kernel that ``rule`` names.

    Shape:
        ``features`` (N, C, H, W) and ``rois`` (K, 5), rows of ``(index, x1, y1, x2, y2)`` with the coordinates in
        image pixels, give (K, C, pooled_height, pooled_width).

    Both inputs may be torch tensors (DTensors too), NumPy arrays or MindSpore tensors, in any mix; the output is of the
    kind and the dtype of ``features``. Only torch features have a gradient, and ``rois`` have none. The computation
    runs in the dtype of the tensors, float16, float32 or (an extension to MindSpore) float64, with autocast or without;
    two of float16, float32 and bfloat16 mixed, and bfloat16 alone, are computed in float32.

    On a CPU, in float16 and float32, every row that MindSpore defines has its bits, and so has the gradient of mode 1.
    Rows that MindSpore leaves unwritten, those with ``|x1|`` and ``|x2|`` below 0.001, pool to 0, without a gradient.
    MAPPING.md, which is in the package, has the evidence for all of this, and what holds under ``torch.func``,
    compiled, exported, and on accelerators.

    Raises:
        TypeError: at construction, an argument that is not an int (``spatial_scale``: a float); in a call, inputs
            that are not such arrays, or of another dtype.
        ValueError: another rule, or a mode that it does not have; in a call, another shape, inputs on different
            devices, or a DTensor beside what is none.
        RuntimeError: a pooled size below 1; in a call, an image index outside ``[0, N - 1]`` (on an accelerator a
            device-side assertion, as of torch's own indexing), more samples than can be pooled in 12
            minutes, or in a box than 4 GiB hold, by an estimate; an adaptive grid in what is exported or traced.

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
        self,
        pooled_height: int,
        pooled_width: int,
        spatial_scale: float,
        sample_num: int = 2,
        roi_end_mode: int = 1,
        backward_roi_end_mode: int | None = None,
        rule: str = "cpu",
        backward_rule: str | None = None,
    ) -> None:
        super().__init__()
        params.check_mindspore_arguments(
            pooled_height,
            pooled_width,
            spatial_scale,
            sample_num,
            roi_end_mode,
            backward_roi_end_mode,
            rule,
            backward_rule,
        )
        self.pooled_height = pooled_height
        self.pooled_width = pooled_width
        self.spatial_scale = float(spatial_scale)
        self.sample_num = sample_num
        self.roi_end_mode = roi_end_mode
        self.backward_roi_end_mode = backward_roi_end_mode
        self.rule = rule
        self.backward_rule = backward_rule

    def extra_repr(self) -> str:
        names = ["pooled_height", "pooled_width", "spatial_scale", "sample_num", "roi_end_mode"]
        if self.backward_roi_end_mode is not None:
            names.append("backward_roi_end_mode")
        if self.rule != "cpu":
            names.append("rule")
        if self.backward_rule is not None:
            names.append("backward_rule")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    # What MindSpore's operators have, and code that makes them chains to the constructor.

    def add_prim_attr(self, name: str, value: Any) -> ROIAlign:
        """Return the module: attributes of MindSpore's compiler mean nothing here."""
        return self

    def recompute(self, mode: bool = True) -> ROIAlign:
        """Return the module: it keeps nothing for the gradient but the rois, so there is nothing to compute again."""
        return self

    def set_device(self, device_target: str) -> ROIAlign:
        """Return the module, which computes on the device of the tensors that it is called with."""
        return self

    def shard(self, *args: Any, **kwargs: Any) -> ROIAlign:
        """Raise NotImplementedError: in torch, tensors say how they are distributed.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "ROIAlign: torch has no shard strategies; call the module with DTensors, of features sharded by channel or"
            " rois by row (torch.distributed.tensor), and leave shard out"
        )

    def forward(self, features: Any, rois: Any) -> Any:
        return _roi_align(
            features,
            rois,
            self.pooled_height,
            self.pooled_width,
            self.spatial_scale,
            self.sample_num,
            *rules.names(self.rule, self.roi_end_mode, self.backward_rule, self.backward_roi_end_mode),
        )


# One node to torch.fx, so that what it traces stays as exact as this is.
@torch.fx.wrap
def _roi_align(features: Any, rois: Any, *arguments: Any) -> Any:
    """Compute ``ROIAlign(pooled_height, ...)(features, rois)``: the arguments are those of the operator."""
    if type(features) is not torch.Tensor or type(rois) is not torch.Tensor:
        distributed = sys.modules.get("torch.distributed.tensor")
        if distributed is not None and any(isinstance(value, distributed.DTensor) for value in (features, rois)):
            from .sharding import check

            check(features, rois)
        if not (isinstance(features, torch.Tensor) and isinstance(rois, torch.Tensor)):
            return _pool_arrays(features, rois, arguments)
    return _pool(features, rois, arguments)


def _pool(features: torch.Tensor, rois: torch.Tensor, arguments: tuple[Any, ...]) -> torch.Tensor:
    """Pool tensors by the operator, or by torchvision's in a program that must run without it."""
    dtype = _compute_dtype(features, rois)
    if not (features.dtype == rois.dtype == dtype):
        return _pool(features.to(dtype), rois.to(dtype), arguments).to(features.dtype)
    params.check_shapes("ROIAlign", features.shape, rois.shape)
    _refuse_forward_mode(features, rois)
    pool = operator.pool
    if _is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        pool = _pool_in_exported_program
    device = features.device.type
    if dtype == torch.float16 and _has_autocast(device) and torch.is_autocast_enabled(device):
        # It would compute float16 in float32, which is what it does of torchvision's operator.
        with torch.autocast(device, enabled=False):
            return pool(features, rois, *arguments)
    return pool(features, rois, *arguments)


# What the compiler of torch 2.7 cannot trace, or takes to be true whatever it compiles: asked of torch itself.


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_exporting() -> bool:
    translator = getattr(getattr(sys.modules.get("torch._dynamo.symbolic_convert"), "tls", None), "current_tx", None)
    return torch.compiler.is_exporting() or getattr(translator, "export", False)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def _pool_in_exported_program(features: torch.Tensor, rois: torch.Tensor, *arguments: Any) -> torch.Tensor:
    pooled_height, pooled_width, _, sample_num, _, _ = arguments
    if sample_num <= 0:
        raise RuntimeError(
            "ROIAlign: an adaptive grid (sample_num <= 0) depends on the values of the rois, which a program of"
            " torchvision's operator cannot branch on; give a sample_num above 0, or leave the module out of what is"
            " exported or traced"
        )
    rois = torchvision.check_sizes(features, rois, (pooled_height, pooled_width))
    return torchvision.pool(features, rois, *arguments)


def _refuse_forward_mode(*tensors: torch.Tensor) -> None:
    if torch.compiler.is_dynamo_compiling() or not torch._C._are_functorch_transforms_active():
        for tensor in tensors:  # batches of torch.vmap cannot be asked
            if torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
                refuse_forward_mode()


def _pool_arrays(features: Any, rois: Any, arguments: tuple[Any, ...]) -> Any:
    """Pool NumPy arrays and MindSpore tensors, in any mix with torch's, and return the kind of ``features``."""
    features_array, rois_array = (
        None if isinstance(value, torch.Tensor) else arrays.to_numpy(value, "ROIAlign") for value in (features, rois)
    )
    output = _pool(
        features if features_array is None else _as_tensor("features", features_array),
        rois if rois_array is None else _as_tensor("rois", rois_array),
        arguments,
    )
    if features_array is None:
        return output
    if output.dtype == torch.bfloat16:
        output_array = output.detach().cpu().view(torch.int16).numpy().view(features_array.dtype)
    else:
        output_array = output.numpy(force=True)
    return arrays.from_numpy(output_array, features, "ROIAlign")


def _as_tensor(name: str, array: NDArray) -> torch.Tensor:
    """Return a tensor in the memory of an array, which may be of bfloat16 as ml_dtypes and MindSpore define it."""
    if array.dtype.name == "bfloat16":
        return _as_tensor(name, array.view(np.int16)).view(torch.bfloat16)
    try:
        if array.flags.writeable:
            return torch.from_numpy(array)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing here writes to it
            return torch.from_numpy(array)
    except TypeError:
        raise _dtype_error(name, array.dtype) from None


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, torch.Tensor):
        found = f"{type(value).__module__}.{type(value).__qualname__}"  # MindSpore's is called Tensor as well
        if isinstance(value, np.ma.MaskedArray):
            found += ": a mask would be lost"
        found += params.hint_of_list(name, value)
        raise TypeError(f"ROIAlign: {name} must be a tensor of torch or MindSpore or a NumPy array, got {found}")
    if value.dtype not in _DTYPES:
        raise _dtype_error(name, value.dtype)


def _dtype_error(name: str, dtype: Any) -> TypeError:
    return TypeError(f"ROIAlign: {name} must be float16, float32, float64 or bfloat16, got {dtype}")


def _compute_dtype(features: torch.Tensor, rois: torch.Tensor) -> torch.dtype:
    """Check the tensors, and return the dtype to compute in."""
    _check_tensor("features", features)
    _check_tensor("rois", rois)
    if features.device != rois.device:
        raise ValueError(f"ROIAlign: features are on {features.device} but rois on {rois.device}")
    if features.dtype == rois.dtype != torch.bfloat16:
        return features.dtype
    if torch.float64 in (features.dtype, rois.dtype):
        raise TypeError(f"ROIAlign: float64 does not mix, got features {features.dtype} and rois {rois.dtype}")
    return torch.float32
