"""MindSpore cells that hold what a gradient of its own needs: its operator, the engine, and what is there already."""

from __future__ import annotations

import functools
import os
import sys
from types import FrameType
from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt
from mindspore import nn, ops
from mindspore.ops.operations._grad_ops import ROIAlignGrad

from .. import engine
from ..rules import Samples

NDArray = npt.NDArray[Any]
Pooled = tuple[int, int]


class Operator(nn.Cell):  # type: ignore[misc]
    """MindSpore's ROIAlign with the gradient of other rois: of its own, it has the gradient of mode 1 in mode 0 too.

    It is for graphs: PyNative mode takes some operators for others, such as 11 x 2 bins for 1 x 12.
    """

    def __init__(self, pooled: Pooled, sample_num: int, roi_end_mode: int, scale: float) -> None:
        super().__init__()
        self.pool = ops.ROIAlign(*pooled, scale if roi_end_mode else 1.0, sample_num, roi_end_mode)
        self.gradient = ROIAlignGrad(*pooled, scale, sample_num)

    def construct(self, features: ms.Tensor, rois: ms.Tensor, gradient_rois: ms.Tensor) -> ms.Tensor:
        return self.pool(features, rois)

    def bprop(
        self, features: ms.Tensor, rois: ms.Tensor, gradient_rois: ms.Tensor, output: ms.Tensor, gradient: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        of_features = self.gradient(gradient, gradient_rois, features.shape)
        return of_features, ops.zeros_like(rois), ops.zeros_like(gradient_rois)


operator_of = functools.cache(Operator)


class Engine(nn.Cell):  # type: ignore[misc]
    """The engine, on the memory of MindSpore's tensors."""

    def __init__(self, samples: Samples, pooled: Pooled) -> None:
        super().__init__()
        self.samples = samples
        self.pooled = pooled

    def construct(self, features: ms.Tensor) -> ms.Tensor:
        values = features.asnumpy()
        output = np.empty((len(self.samples.image), values.shape[1], *self.pooled), values.dtype)
        engine.pool(values, self.samples, output, threads())
        return ms.Tensor.from_numpy(output)

    def bprop(self, features: ms.Tensor, output: ms.Tensor, gradient: ms.Tensor) -> tuple[ms.Tensor]:
        return (_EngineGradient(self.samples, features.shape)(gradient),)


class _EngineGradient(nn.Cell):  # type: ignore[misc]
    """The gradient of ``Engine``: a cell, so as to refuse a second derivative rather than take it for 0."""

    def __init__(self, samples: Samples, shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.samples = samples
        self.shape = shape

    def construct(self, gradient: ms.Tensor) -> ms.Tensor:
        of_output = gradient.asnumpy()
        of_features = np.empty(self.shape, of_output.dtype)
        engine.gradient(of_output, self.samples, of_features, threads())
        return ms.Tensor.from_numpy(of_features)

    def bprop(self, gradient: ms.Tensor, output: ms.Tensor, of_output: ms.Tensor) -> tuple[ms.Tensor]:
        raise RuntimeError("roi_align: there is no second derivative, in torchvision neither")


def threads() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def call(cell: nn.Cell, *inputs: ms.Tensor) -> ms.Tensor:
    """Call a cell outside of graphs.

    With graph mode set, calling a cell would compile it, and no gradient is recorded outside of graphs.
    """
    return cell.construct(*inputs) if ms.get_context("mode") == ms.GRAPH_MODE else cell(*inputs)


def without_gradient(array: NDArray, features: ms.Tensor, operator: str) -> ms.Tensor:
    """Return the tensor of an array that another framework has computed from ``features``, without a gradient.

    MindSpore would take the gradient for 0. Computing it raises RuntimeError instead, and inside a graph this does.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "eval_script":  # by which MindSpore's graphs run Python
            raise RuntimeError(f"{operator}: inside a MindSpore graph its gradient would be 0; use it in PyNative mode")
        frame = frame.f_back
    return call(_Computed(array, operator), features)


class _Computed(nn.Cell):  # type: ignore[misc]
    """An output that is there already."""

    def __init__(self, output: NDArray, operator: str) -> None:
        super().__init__()
        self.output = output
        self.operator = operator

    def construct(self, features: ms.Tensor) -> ms.Tensor:
        return ms.Tensor.from_numpy(self.output)

    def bprop(self, features: ms.Tensor, output: ms.Tensor, gradient: ms.Tensor) -> tuple[ms.Tensor]:
        raise RuntimeError(
            f"{self.operator}: torch cannot give the gradient of a MindSpore tensor; stop_gradient it first"
        )
