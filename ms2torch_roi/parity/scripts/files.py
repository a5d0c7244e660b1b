"""How a call of ``mindspore.ops.ROIAlign`` becomes a file that ms2torch_roi reads."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import IO, Any, Callable

import numpy as np

ARGUMENTS = ("pooled_height", "pooled_width", "spatial_scale", "sample_num", "roi_end_mode")
ERRORS = ("AssertionError", "IndexError", "RuntimeError", "TypeError", "ValueError")


def save(
    file: IO[bytes],
    arguments: dict[str, Any],
    arrays: dict[str, np.ndarray[Any, Any]],
    error: Exception | None = None,
    more: dict[str, Any] | None = None,
) -> None:
    """Write one call to an open file.

    Args:
        file: which.
        arguments: of the operator's constructor.
        arrays: ``features`` and ``rois``, and what there is of ``output``, ``output_gradient``, ``features_gradient``.
        error: what the call raised.
        more: what else to say of it.
    """
    import mindspore
    from mindspore import context

    device = context.get_context("device_target")
    if "output" in arrays and device in ("CPU", "GPU"):
        # The operator never writes these rows there: they hold whatever was in memory before.
        dtype = np.result_type(arrays["features"], arrays["rois"])
        near_0 = (np.abs(arrays["rois"][:, [1, 3]].astype(dtype)) < 0.001).all(1)
        output = arrays["output"]
        arrays = dict(arrays, output=np.where(near_0[:, None, None, None], output.dtype.type(0), output))
    facts = {
        "format": 1,
        "operator": "mindspore.ops.ROIAlign",
        "arguments": arguments,
        "versions": {
            "mindspore": mindspore.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": device,
    }
    facts.update(more or {})
    if error is not None:
        facts["error"] = {"type": type(error).__name__, "message": str(error)}
    np.savez(file, call=np.array(json.dumps(facts)), **arrays)


def write(path: Path, fill: Callable[[IO[bytes]], Any]) -> None:
    """Write a file, which is there in full or not at all, however the process ends."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            fill(file)
        partial.replace(path)
    except BaseException:
        if partial.exists():
            partial.unlink()
        raise
