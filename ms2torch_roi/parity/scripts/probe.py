"""Ask a device what its ROIAlign computes: one file, for NumPy and MindSpore 1.5 or later. It takes some minutes.

    python probe.py

calls mindspore.ops.ROIAlign, and its gradient, on small inputs that tell apart what devices are known to compute: in
float32 and float16, in PyNative mode, in graph mode, and there with an unknown number of rois. All goes to probe.zip,
what fails too; it holds nothing but these calls, the versions and the chip. Please send it to the authors of
ms2torch_roi, whose command "ms2torch-roi identify probe.zip" says what it means, and which has written this file.
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .files import ARGUMENTS, ERRORS, save, write
from .inputs import CALLS, features, output_gradient

# Devices may have other kernels for shapes that are not known when a graph is compiled, which are those of "dynamic".
MODES = ("pynative", "graph", "dynamic")
DTYPES = ("float32", "float16")


def main() -> int:
    """Make all calls, and return the exit status: 0 if one of them came to an output."""
    parser = argparse.ArgumentParser(description="Ask a device what its ROIAlign computes.")
    parser.add_argument("--device", metavar="NAME", help="Ascend, GPU or CPU (default: MindSpore's own choice)")
    parser.add_argument("--out", type=Path, default=Path("probe.zip"), metavar="FILE", help="(default: %(default)s)")
    parser.add_argument("--note", default="", metavar="TEXT", help="about the device, such as: 910B, CANN 8.0.RC1")
    options = parser.parse_args()
    try:
        from mindspore import context, nn

        if options.device is not None:
            context.set_context(device_target=options.device)
        with options.out.open("ab"):  # which fails now rather than later
            pass
    except Exception as problem:  # MindSpore may be broken in any way
        parser.error(_in_a_line(problem))
    more = {"chip": _chip(), "note": options.note}
    zipped, outputs, gradients = io.BytesIO(), 0, 0
    for mode in MODES if hasattr(nn.Cell, "set_inputs") else MODES[:2]:
        context.set_context(mode=context.PYNATIVE_MODE if mode == "pynative" else context.GRAPH_MODE)
        for number, (arguments, rois) in enumerate(CALLS, 1):
            for dtype in DTYPES:
                arrays, error, error_of_gradient = _call(arguments, np.array(rois, dtype), mode)
                name = f"{number:02}-{dtype}-{mode}"
                print(f"{name}: {_in_a_line(error or error_of_gradient) or 'ok'}", flush=True)
                outputs += "output" in arrays
                gradients += "features_gradient" in arrays
                more.update(mode=mode, error_of_gradient=_in_a_line(error_of_gradient))
                file = io.BytesIO()
                save(file, dict(zip(ARGUMENTS, arguments)), arrays, error, more)
                with zipfile.ZipFile(zipped, "a", zipfile.ZIP_DEFLATED) as archive:
                    archive.writestr(f"{name}.npz", file.getvalue())
                # The next call may end the process: then there is a file with all calls before.
                write(options.out, lambda file: file.write(zipped.getvalue()))
    print(f"{outputs} outputs and {gradients} gradients are in {options.out}")
    return 0 if outputs else 1


def _in_a_line(error: Exception | None) -> str:
    """Return an error without what MindSpore adds on its own source, and on the machine."""
    return "" if error is None else f"{type(error).__name__}: {error}".strip().splitlines()[0]


def _chip() -> str:
    """Return what MindSpore calls the chip, in the versions that do."""
    import mindspore

    try:
        return str(mindspore.hal.get_device_name(0))
    except Exception:
        return ""


def _call(
    arguments: tuple[Any, ...], rois: np.ndarray[Any, Any], mode: str
) -> tuple[dict[str, np.ndarray[Any, Any]], Exception | None, Exception | None]:
    """Make one call; return its arrays, what the operator raised, and what its gradient raised."""
    dtype = rois.dtype.name
    arrays = {"features": features(dtype), "rois": rois}
    of_output = output_gradient(len(rois), arguments[0], arguments[1], dtype)
    pool, gradient = _cells(arguments)
    try:
        arrays["output"] = _run(pool, (arrays["features"], rois), mode)
    except Exception as error:
        kind, _, message = _in_a_line(error).partition(": ")
        return arrays, type(error)(message) if kind in ERRORS else RuntimeError(f"{kind}: {message}"), None
    try:
        of_features = _run(gradient, (arrays["features"], rois, of_output), mode)
    except Exception as error:
        return arrays, None, error
    arrays.update(output_gradient=of_output, features_gradient=of_features)
    return arrays, None, None


def _cells(arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return a cell of features and rois with the operator; and one with its gradient, given that for the output."""
    from mindspore import nn, ops

    class Pool(nn.Cell):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.pool = ops.ROIAlign(*arguments)

        def construct(self, features: Any, rois: Any) -> Any:
            return self.pool(features, rois)

    class Weighted(nn.Cell):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.pool = ops.ROIAlign(*arguments)
            self.sum = ops.ReduceSum()

        def construct(self, features: Any, rois: Any, weights: Any) -> Any:
            return self.sum(self.pool(features, rois) * weights)

    class Gradient(nn.Cell):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weighted = Weighted()
            self.gradient = ops.GradOperation()

        def construct(self, features: Any, rois: Any, weights: Any) -> Any:
            return self.gradient(self.weighted)(features, rois, weights)

    return Pool(), Gradient()


def _run(cell: Any, arrays: tuple[np.ndarray[Any, Any], ...], mode: str) -> np.ndarray[Any, Any]:
    """Run a cell. In the dynamic mode it is compiled for any length of its inputs but the first."""
    from mindspore import Tensor

    tensors = [Tensor(array) for array in arrays]
    if mode == "dynamic":
        unknown = [Tensor(shape=(None, *tensor.shape[1:]), dtype=tensor.dtype) for tensor in tensors[1:]]
        cell.set_inputs(tensors[0], *unknown)
    result: np.ndarray[Any, Any] = cell(*tensors).asnumpy()
    return result


if __name__ == "__main__":
    sys.exit(main())
