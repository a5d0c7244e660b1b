"""Record the golden calls: what each supported MindSpore returns for a few small calls of ROIAlign.

``python tools/golden.py`` makes an environment for each supported version in turn, with uv, and runs itself there with
``--record``, which writes the calls of the MindSpore installed to ``ms2torch_roi/parity/golden/mindspore-<version>/``.
Nothing in them depends on the machine or the day: the same versions of MindSpore and NumPy write the same bytes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ms2torch_roi.parity import cases, operators
from ms2torch_roi.parity.campaign import GOLDEN
from ms2torch_roi.parity.case import MindSporeCase
from ms2torch_roi.parity.recording import calls

NDArray = npt.NDArray[Any]

ROOT = Path(__file__).parent.parent

# Every release since 2.7. All of them have wheels for this Python.
MINDSPORE_VERSIONS = ("2.7.0", "2.7.1", "2.7.2", "2.8.0", "2.9.0", "2.10.0")
PYTHON = "3.11"

DTYPES = (np.float32, np.float16)
NAN, INF = np.nan, np.inf

# Boxes in image pixels, two to a feature cell, on features of 4 x 6 cells. Rows of 4 numbers are boxes of image 0.
SOME = [(1, 1, 9, 8), (1, 2.3, 0.7, 7.1, 9.2), (2.9, 3.1, 11.2, 6.3), (4, 6, 5, 7)]
EDGES: dict[str, list[tuple[float, ...]]] = {
    "below-one-cell": [(4, 6, 5, 7), (7.3, 5.1, 6.3, 4.2), (1, 3, 3, 2.98, 4.98), (2.4, 1.7, 2.4, 1.7)],
    "outside": [(-5, -6, 9, 8), (8, 7, 25, 19), (-30, 3, -9, 9), (1, 3, 40, 9, 60), (-2, -2, 12, 10)],
    "adaptive": [(0, 0, 11, 7), (1, 0, 0, 11, 3), (0, 1, 5, 9), (4, 4, 5, 5), (9, 8, 2, 1)],
    "fractional-indices": [(0.4, 1, 1, 9, 8), (0.5, 1, 1, 9, 8), (0.6, 1, 1, 9, 8), (0.49994, 1, 1, 9, 8)],
    "zero-padded": [(1, 1, 9, 8), (0, 0, 0, 0), (1, 2, 2, 9, 8), (0, 0, 0, 0), (1, 0, 0, 0, 0)],
    "not-finite": [(1, NAN, 9, 8), (NAN, 1, 9, 8), (1, 1, INF, 8), (-INF, 1, 9, 8), (NAN, 1, 1, 9, 8)],
}
# MindSpore's gradient of mode 0 is that of mode 1, which the port has by name only: the calls have none.
WITH_GRADIENT = ("mode-1", "mixed", "below-one-cell", "zero-padded")


def golden_cases() -> Iterator[tuple[str, MindSporeCase]]:
    """Yield each call by the name of its file."""
    for case in cases.documented_cases():
        if isinstance(case, MindSporeCase):
            yield f"documented-mode-{case.roi_end_mode}", case
    for dtype in DTYPES:
        dtype_name = np.dtype(dtype).name
        for mode in (0, 1):
            yield f"mode-{mode}-{dtype_name}", _case(SOME, dtype, roi_end_mode=mode)
        for name, boxes in EDGES.items():
            samples = 0 if name == "adaptive" else 2
            yield f"{name}-{dtype_name}", _case(boxes, dtype, sample_num=samples)
        (other,) = set(DTYPES) - {dtype}
        yield f"mixed-{dtype_name}-features", _case(SOME, dtype, rois_dtype=other)
    yield "index-out-of-range", _case([(2, 1, 1, 9, 8)], np.float32, raises=RuntimeError)


def _case(boxes: Sequence[Sequence[float]], dtype: type, rois_dtype: type | None = None, **facts: Any) -> MindSporeCase:
    rows = [box if len(box) == 5 else (0, *box) for box in boxes]
    features: NDArray = np.random.default_rng(0).standard_normal((2, 2, 4, 6)).astype(dtype)
    return MindSporeCase(
        name="",
        category="",
        source="",
        features=features,
        rois=np.array(rows, rois_dtype or dtype),
        pooled_height=2,
        pooled_width=3,
        spatial_scale=0.5,
        **facts,
    )


def golden_calls() -> Iterator[tuple[str, calls.Call]]:
    """Run each call on the MindSpore that is installed, and yield what came of it by the name of its file."""
    ms = operators.import_mindspore()
    versions = {"mindspore": ms.__version__, "numpy": np.__version__}
    for name, case in golden_cases():
        result = operators.outcome(operators.mindspore, case)
        if isinstance(result, Exception):
            if type(result) is not case.raises:
                raise result
            # What follows the first line is about MindSpore's own source.
            message = str(result).strip().splitlines()[0]
            yield name, calls.Call(case=case, output=None, error_message=message, versions=versions)
            continue
        # MindSpore never writes these rows, and leaves in them what was in that memory.
        result[case.undefined] = 0
        weights = gradient = None
        if name.startswith(WITH_GRADIENT):
            weights = np.random.default_rng(1).standard_normal(result.shape).astype(result.dtype)
            gradient = operators.original_gradient(case, weights)
        yield (
            name,
            calls.Call(
                case=case, output=result, output_gradient=weights, features_gradient=gradient, versions=versions
            ),
        )


def record() -> Path:
    """Write the golden calls of the MindSpore that is installed, in place of any there were; return their folder."""
    results = dict(golden_calls())
    folder = GOLDEN / f"mindspore-{operators.import_mindspore().__version__}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, call in results.items():
        calls.write(folder / f"{name}{calls.SUFFIX}", call)
    return folder


def make_environment(folder: Path, *requirements: str, extras: str = "", python: str = PYTHON) -> Path:
    """Make a virtual environment with this checkout (editable) and the requirements, and return its Python.

    Raises:
        FileNotFoundError: uv is neither beside this Python nor on the path.
        subprocess.CalledProcessError: it could not be made; ``stderr`` says why.
    """
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise FileNotFoundError("uv is not installed. Install it with: pip install uv")
    new_python = folder / "bin" / "python"
    install = ("--python", str(new_python), "--editable", f"{ROOT}{extras}", *requirements)
    for command in (("venv", "--python", python, str(folder)), ("pip", "install", *install)):
        subprocess.run([uv, "--quiet", *command], check=True, capture_output=True, text=True)
    return new_python


def main() -> None:
    """Record the golden calls of every supported version, or of the one installed here."""
    parser = argparse.ArgumentParser(description="Record what MindSpore's ROIAlign returns for a few small calls.")
    parser.add_argument("--record", action="store_true", help="only those of the MindSpore that is installed here")
    if parser.parse_args().record:
        print(record())
        return
    for version in MINDSPORE_VERSIONS:
        with tempfile.TemporaryDirectory() as folder:
            python = make_environment(Path(folder), f"mindspore=={version}", "numpy<2")
            subprocess.run([python, "-I", __file__, "--record"], check=True)


if __name__ == "__main__":
    main()
