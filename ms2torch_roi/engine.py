"""Run what any rule samples (``rules.Samples``) on a CPU: by Numba's kernels, or by NumPy's definition without Numba.

Both have the same bits; importing Numba waits until it is first needed.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from . import sampling
from .rules import Samples

NDArray = npt.NDArray[Any]


@functools.cache
def _compiled() -> ModuleType | None:
    try:
        from . import compiled
    except ImportError:
        return None
    return compiled


def is_compiled(dtype: np.dtype[Any]) -> bool:
    """Tell whether Numba is installed and can compute in this dtype here."""
    compiled = _compiled()
    return compiled is not None and compiled.can_compute_in(dtype)


def pool(features: NDArray, samples: Samples, output: NDArray, threads: int = 1) -> None:
    """Pool K rows.

    Args:
        features: (N, C, H, W), float16, float32 or float64.
        samples: where, in the dtype of ``features``.
        output: (K, C, pooled_height, pooled_width) to write to, C-contiguous, of that dtype.
        threads: on how many threads.
    """
    compiled = _compiled()
    if compiled is not None and compiled.can_compute_in(features.dtype):
        compiled.pool(features, samples, output, threads)
    else:
        output[:] = sampling.pool(features, samples, output.shape[2:])


def gradient(of_output: NDArray, samples: Samples, of_features: NDArray, threads: int = 1) -> None:
    """Add up the gradient for the features, in the order of both kernels on one thread.

    Args:
        of_output: (K, C, pooled_height, pooled_width), of the dtype of ``samples``.
        samples: where.
        of_features: (N, C, H, W) to write to, of that dtype.
        threads: on how many threads.
    """
    compiled = _compiled()
    if compiled is not None and compiled.can_compute_in(of_features.dtype):
        compiled.gradient(of_output, samples, of_features, threads)
    else:
        of_features[:] = sampling.gradient(of_output, samples, of_features.shape)
