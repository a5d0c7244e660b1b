"""torchvision's rule on the engine, called back from a graph: for grids that depend on the values of the boxes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt
from mindspore import nn, ops

from .. import engine
from . import pynative
from .cells import Pooled, threads

NDArray = npt.NDArray[Any]


class OnHost(nn.Cell):  # type: ignore[misc]
    """The engine and its gradient, as operators of a graph that run Python.

    MindSpore (2.10) has them on a CPU, of inputs whose lengths are known when it compiles, and above 0.
    """

    def __init__(self, pooled: Pooled, spatial_scale: float, sampling_ratio: int, aligned: bool) -> None:
        super().__init__()

        def pool(features: NDArray, boxes: NDArray) -> NDArray:
            samples = pynative.place(boxes, features.shape, pooled, spatial_scale, sampling_ratio, aligned)
            output = np.empty((len(boxes), features.shape[1], *pooled), features.dtype)
            engine.pool(features, samples, output, threads())
            return output

        def shape_of_output(features: Sequence[int], boxes: Sequence[int]) -> tuple[int, ...]:
            return (boxes[0], features[1], *pooled)

        self.pool = ops.Custom(pool, shape_of_output, lambda features, boxes: features, func_type="pyfunc")
        self.gradient = _Gradient(pooled, spatial_scale, sampling_ratio, aligned)

    def construct(self, features: ms.Tensor, boxes: ms.Tensor) -> ms.Tensor:
        return self.pool(features, boxes)

    def bprop(
        self, features: ms.Tensor, boxes: ms.Tensor, output: ms.Tensor, gradient: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor]:
        return self.gradient(gradient, boxes, features), ops.zeros_like(boxes)


class _Gradient(nn.Cell):  # type: ignore[misc]
    """The gradient for the features, which are there for their shape."""

    def __init__(self, pooled: Pooled, spatial_scale: float, sampling_ratio: int, aligned: bool) -> None:
        super().__init__()

        def gradient(of_output: NDArray, boxes: NDArray, features: NDArray) -> NDArray:
            samples = pynative.place(boxes, features.shape, pooled, spatial_scale, sampling_ratio, aligned)
            of_features = np.empty_like(features)
            engine.gradient(of_output, samples, of_features, threads())
            return of_features

        def as_features(of_output: Any, boxes: Any, features: Any) -> Any:
            return features

        self.gradient = ops.Custom(gradient, as_features, as_features, func_type="pyfunc")

    def construct(self, of_output: ms.Tensor, boxes: ms.Tensor, features: ms.Tensor) -> ms.Tensor:
        return self.gradient(of_output, boxes, features)

    def bprop(
        self, of_output: ms.Tensor, boxes: ms.Tensor, features: ms.Tensor, output: ms.Tensor, gradient: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        raise RuntimeError("roi_align: there is no second derivative, in torchvision neither")


operator_of = functools.cache(OnHost)
