"""``save_call``: make a recorded call of arrays that were saved, dumped or computed in any other way."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .. import given, remote
from ..case import MindSporeCase
from . import calls
from .capture import cleared, unwritten_rows


def save_call(
    path: str | os.PathLike[str],
    features: Any,
    rois: Any,
    output: Any,
    *,
    output_gradient: Any = None,
    features_gradient: Any = None,
    device: str = "CPU",
    versions: Mapping[str, str] | None = None,
    **arguments: Any,
) -> None:
    """Write one call of either operator to a file, as :func:`ms2torch_roi.record` would have recorded it.

    ``ms2torch-roi replay`` and ``identify`` read such files. The names of the arguments say whose call it was; what may
    be left out is as in that framework:

    - ``pooled_height``, ``pooled_width``, ``spatial_scale``, ``sample_num=2``, ``roi_end_mode=1``: a call of
      ``mindspore.ops.ROIAlign``.
    - ``output_size``, ``spatial_scale=1.0``, ``sampling_ratio=-1``, ``aligned=False``: a call of
      ``torchvision.ops.roi_align``.

    Arrays may be torch tensors, NumPy arrays or MindSpore tensors, on any device.

    Args:
        path: the file, or a URL that fsspec knows, whose name ends in ``.npz``. Its folder is made if it is not there,
            and a file of that name is replaced.
        features: (N, C, H, W), float16 or float32, as the operator got them; torchvision's ``input``.
        rois: (K, 5) rows of ``(index, x1, y1, x2, y2)``, coordinates in image pixels, float16 or float32; torchvision's
            ``boxes``, which may be a list of N arrays of (L_i, 4) too, one for each image.
        output: (K, C, pooled height, pooled width), what the operator returned. Rows that MindSpore never writes
            (``|x1|`` and ``|x2|`` below 0.001, on a CPU or GPU) are 0 in the file.
        output_gradient: of the shape of ``output``, what came into the operator's backward pass, and
        features_gradient: of the shape of ``features``, what went out of it. Both or neither.
        device: what the operator ran on: ``"CPU"``, ``"GPU"``, ``"Ascend"`` or any other name.
        versions: of the packages that ran it, by name, such as ``{"mindspore": "2.3.0"}``.
        arguments: of the operator, by name, as above.

    Raises:
        TypeError: arguments of neither operator or of both, or too few; no arrays, or of another dtype, or not all but
            ``rois`` of the dtype of ``features``; one gradient without the other; a device or version that is no str.
        ValueError, RuntimeError: what the operator refuses, or an array of another shape than the call has, or a device
            or version that is not printable. A few shapes raise AssertionError, as torchvision does.
        OSError: the file cannot be written.

    >>> import pathlib, tempfile, numpy as np
    >>> from ms2torch_roi import reference, save_call
    >>> from ms2torch_roi.parity.recording import calls
    >>> features, rois = np.ones((1, 3, 8, 8), "f4"), np.array([[0, 4, 4, 20, 28]], "f4")
    >>> output = reference.ms_roi_align(features, rois, 2, 2, 0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "000001.npz")
    ...     save_call(path, features, rois, output, pooled_height=2, pooled_width=2, spatial_scale=0.25)
    ...     calls.read(path).output.shape
    (1, 3, 2, 2)
    """
    if not remote.is_path(path):
        raise TypeError(f"save_call: path must be a path, got {path!r} ({type(path).__name__})")
    path = remote.path(path)
    if path.suffix != calls.SUFFIX:
        raise ValueError(f"save_call: the name of a recorded call ends in {calls.SUFFIX}, got {remote.name(path)}")
    if "rule" in arguments:
        raise TypeError("save_call: there is no argument rule; ms2torch-roi identify finds it")
    if "roi_end_mode" in arguments and device not in ("CPU", "GPU"):
        arguments["rule"] = "ascend-static"  # which has all modes that there are
    case = given.case("save_call", features, rois, arguments)
    if isinstance(case, MindSporeCase):
        case = replace(case, rule="cpu")
    if (output_gradient is None) != (features_gradient is None):
        raise TypeError("save_call: give output_gradient and features_gradient, or neither of them")
    versions = {} if versions is None else versions
    if not isinstance(versions, Mapping):
        raise TypeError(f"save_call: versions must be those of packages by name, got {versions!r}")
    try:
        calls.check_printable(device, versions)
    except (TypeError, ValueError) as error:
        raise type(error)(f"save_call: {error}") from error
    call = calls.Call(case=case, output=None, versions=dict(versions), device=device)
    unwritten = unwritten_rows(call)
    arrays: dict[str, Any] = {}
    for name, value, shape in (
        ("output", output, case.output_shape),
        ("output_gradient", output_gradient, case.output_shape),
        ("features_gradient", features_gradient, case.features.shape),
    ):
        if value is not None or name == "output":
            array = given.array("save_call", name, value)
            if array.shape != shape:
                raise ValueError(f"save_call: {name} has shape {array.shape}, but this call has {shape}")
            if array.dtype != case.features.dtype:
                raise TypeError(f"save_call: {name} is {array.dtype}, but features are {case.features.dtype}")
            arrays[name] = array if name == "features_gradient" else cleared(array, unwritten)
    remote.make_folder(path.parent)
    calls.write(path, replace(call, **arrays))
