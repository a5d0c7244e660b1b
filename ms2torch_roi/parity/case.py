"""What is run on both sides: one call of an operator, and the direction in which it is ported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """One call of an operator, and the direction in which it is ported.

    ``rois`` are (K, 5), also where torchvision calls them boxes. ``printed`` holds the values that MindSpore's
    documentation prints for the call, if any; ``raises`` the type of the error that it ends in, if it does; ``threads``
    the number of torch's threads that it is ported on, if it matters; ``source`` the Python expression that makes the
    case again.
    """

    direction: ClassVar[str]
    original: ClassVar[str]  # the library that is to be reproduced
    operator: ClassVar[str]

    name: str
    category: str
    source: str
    features: NDArray
    rois: NDArray
    printed: NDArray | None = None
    raises: type[Exception] | None = None
    threads: int | None = None

    @property
    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The constructor arguments by name, in the operator's order."""

    @property
    @abstractmethod
    def pooled(self) -> tuple[int, int]:
        """The numbers of bins along y and x."""

    @property
    @abstractmethod
    def samples(self) -> int:
        """The number of samples along each axis of a bin; the grid is adaptive if it is 0 or less."""

    @property
    @abstractmethod
    def setting(self) -> str:
        """What picks the rule, ``roi_end_mode`` or ``aligned``, in a word or two."""

    @property
    @abstractmethod
    def undefined(self) -> NDArray:
        """(K,) bool: the rows for which the original has no result of its own. They must be 0 in the port.

        Those of an index that is NaN are made 0 by ``operators``: the port has image 0 there. The ports have these
        rules too. They are stated again here, or a fault in one would hide the rows that show it.
        """

    @property
    @abstractmethod
    def undefined_reason(self) -> str:
        """What the undefined rows are, to be said after "rows"."""

    @property
    @abstractmethod
    def crashes(self) -> NDArray:
        """(K,) bool: those of the undefined rows that can crash the original, which it is never given."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that both operators compute in."""
        dtype: np.dtype[Any] = np.result_type(self.features, self.rois)
        return dtype

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the output, (K, C, pooled_height, pooled_width)."""
        return (len(self.rois), self.features.shape[1], *self.pooled)

    @property
    def call(self) -> str:
        """The call as a person would write it, with the dtypes and shapes of its arrays."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        arrays = {"features": self.features, "rois": self.rois}
        of = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
        return f"{self.operator}({arguments}) of {of}"

    @property
    def kind(self) -> str:
        """The setting and the kind of grid, in a few words."""
        return f"{self.setting}, {'fixed' if self.samples > 0 else 'adaptive'}"


@dataclass(frozen=True, kw_only=True)
class MindSporeCase(Case):
    """A call of MindSpore's ROIAlign, to be ported to torch. ``rule`` is that of the device that it is a call on."""

    direction = "to-torch"
    original = "MindSpore"
    operator = "ROIAlign"

    pooled_height: int
    pooled_width: int
    spatial_scale: float
    sample_num: int = 2
    roi_end_mode: int = 1
    rule: str = "cpu"

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "pooled_height": self.pooled_height,
            "pooled_width": self.pooled_width,
            "spatial_scale": self.spatial_scale,
            "sample_num": self.sample_num,
            "roi_end_mode": self.roi_end_mode,
        }

    @property
    def pooled(self) -> tuple[int, int]:
        return self.pooled_height, self.pooled_width

    @property
    def samples(self) -> int:
        return self.sample_num

    @property
    def setting(self) -> str:
        return f"mode {self.roi_end_mode}"

    @property
    def undefined(self) -> NDArray:
        undefined: NDArray = self.crashes | self.unwritten
        return undefined

    @property
    def undefined_reason(self) -> str:
        unwritten, crashes = self.unwritten.any(), self.crashes.any()
        reasons = ["never written by MindSpore (|x1| and |x2| < 0.001)"] if unwritten or not crashes else []
        return " or ".join([*reasons, "whose index is NaN, on which MindSpore can crash"] if crashes else reasons)

    @property
    def crashes(self) -> NDArray:
        # With images of an odd number of values, MindSpore reads far out of bounds.
        crashes: NDArray = np.isnan(self.rois[:, 0]) & (not self.rule.startswith("ascend"))
        return crashes

    @property
    def unwritten(self) -> NDArray:
        """(K,) bool: those of the undefined rows that MindSpore leaves as they were in memory."""
        if self.rule.startswith("ascend"):
            return np.zeros(len(self.rois), bool)
        x1, x2 = np.abs(self.rois[:, [1, 3]].astype(self.dtype)).T
        threshold = self.dtype.type(0.001)
        unwritten: NDArray = (x1 < threshold) & (x2 < threshold)
        return unwritten


@dataclass(frozen=True, kw_only=True)
class TorchvisionCase(Case):
    """A call of torchvision's roi_align, to be ported to MindSpore."""

    direction = "to-mindspore"
    original = "torchvision"
    operator = "RoIAlign"

    output_size: tuple[int, int]
    spatial_scale: float
    sampling_ratio: int = 2
    aligned: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "output_size": self.output_size,
            "spatial_scale": self.spatial_scale,
            "sampling_ratio": self.sampling_ratio,
            "aligned": self.aligned,
        }

    @property
    def pooled(self) -> tuple[int, int]:
        return self.output_size

    @property
    def samples(self) -> int:
        return self.sampling_ratio

    @property
    def setting(self) -> str:
        return "aligned" if self.aligned else "unaligned"

    @property
    def undefined(self) -> NDArray:
        return self.crashes

    @property
    def undefined_reason(self) -> str:
        return "that are not finite, on which torchvision crashes"

    @property
    def crashes(self) -> NDArray:
        with np.errstate(all="ignore"):
            cells = self.rois[:, 1:] * self.dtype.type(self.spatial_scale) - self.dtype.type(self.aligned / 2)
            start, size = cells[:, :2], cells[:, 2:] - cells[:, :2]
            crashes: NDArray = ~np.isfinite(start).all(1) | np.isnan(size).any(1) | (size == np.inf).any(1)
            if self.aligned:  # otherwise a box that ends at minus infinity is enlarged to one cell
                crashes |= (size == -np.inf).any(1)
        return crashes
