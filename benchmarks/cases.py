"""What is pooled: features of one size of image at different strides, and boxes of random size and place in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

HEIGHT, WIDTH = 800, 1216  # of an image, in pixels


class Level(NamedTuple):
    """A feature map, (N, C, HEIGHT / stride, WIDTH / stride), and the (K, 5) rois that are pooled from it."""

    features: torch.Tensor
    rois: torch.Tensor
    stride: int


@dataclass(frozen=True)
class Case:
    """Calls of one kind, one for each stride.

    Args:
        name: what ``--case`` takes.
        rois: the number of rois, of all strides together.
        images: the number of images.
        strides: pixels per feature cell. With several, each box goes where it has 14 to 28 cells along a side.
        channels: of the features.
        pooled: bins along each axis.
        samples: along each axis of a bin; 0 for the adaptive grids of each library.
        sizes: the smallest and the largest side of a box, in pixels; sides are spread evenly over their logarithms.
        below_one_cell: the share of boxes whose sides are shorter than a feature cell instead.
        mode: MindSpore's ``roi_end_mode``.
        channels_last: whether the features have that memory format.
        way_back: torchvision's call on MindSpore, instead of MindSpore's on torchvision.
        aligned: of torchvision's call, on the way back.
        dtypes: in which it is timed.
        backward: whether the gradient for the features is timed too.
        busy: whether other processes keep all cores busy meanwhile.
        one_thread: whether the port is timed on one thread too.
        mindspore: whether MindSpore's operator is timed too, which takes ten times as long as all others together.
        by_default: whether it is timed where no case is asked for, or with ``--all`` only.
    """

    name: str
    rois: int = 1000
    images: int = 2
    strides: tuple[int, ...] = (16,)
    channels: int = 256
    pooled: int = 7
    samples: int = 2
    sizes: tuple[float, float] = (16, 600)
    below_one_cell: float = 0
    mode: int = 0
    channels_last: bool = False
    way_back: bool = False
    aligned: bool = False
    dtypes: tuple[str, ...] = ("float32",)
    backward: bool = True
    busy: bool = False
    one_thread: bool = False
    mindspore: bool = True
    by_default: bool = True

    def levels(self, dtype: str) -> list[Level]:
        """Return the inputs, the same ones each time."""
        rng = np.random.default_rng(0)
        rois = self._random_rois(rng)
        side = np.sqrt((rois[:, 3:] - rois[:, 1:3]).prod(1))
        # The rule of feature pyramid networks: 224 pixels have a stride of 16, and half of that half of it.
        fitting = np.floor(np.log2(side / 224 * 16 + 1e-6))
        octaves = np.log2(self.strides)
        level_of_roi = np.searchsorted(octaves[1:], fitting, side="right")
        return [
            Level(
                self._random_features(rng, stride).to(getattr(torch, dtype)),
                torch.from_numpy(rois[level_of_roi == level]).to(getattr(torch, dtype)),
                stride,
            )
            for level, stride in enumerate(self.strides)
        ]

    def _random_rois(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Return boxes within the image, none of which MindSpore leaves unwritten: they start at pixel 1 or later."""
        smallest, largest = self.sizes
        size = smallest * (largest / smallest) ** rng.uniform(size=(self.rois, 2))
        small = rng.uniform(size=self.rois) < self.below_one_cell
        if small.any():
            size[small] = rng.uniform(0, min(self.strides) - 2, (small.sum(), 2))
        corner = 1 + rng.uniform(size=(self.rois, 2)) * ((WIDTH, HEIGHT) - size - 1)
        return np.concatenate((rng.integers(0, self.images, (self.rois, 1)), corner, corner + size), axis=1)

    def _random_features(self, rng: np.random.Generator, stride: int) -> torch.Tensor:
        shape = (self.images, self.channels, math.ceil(HEIGHT / stride), math.ceil(WIDTH / stride))
        features = torch.from_numpy(rng.standard_normal(shape, np.float32))
        return features.to(memory_format=torch.channels_last) if self.channels_last else features


# 7 cells of stride 16 are the smallest box that MindSpore's adaptive grids, which are rounded down, pool to numbers.
_LARGE = (7 * 16, 600)

# What torchvision takes twenty to thirty times as long for: by default, in few rois only.
_FLOAT16 = ("float16",)

CASES = (
    Case("stride-4", strides=(4,), one_thread=True),
    Case("stride-16", one_thread=True),
    Case("stride-4-14x14", strides=(4,), rois=200, pooled=14, one_thread=True),
    Case("channels-last", channels_last=True, mindspore=False),
    Case("adaptive", samples=0, sizes=_LARGE, mindspore=False),
    Case("rois-8", rois=8, dtypes=("float32", "float16")),
    Case("half", rois=64, dtypes=_FLOAT16, mindspore=False),
    Case("one-roi", rois=1, channels=8),
    Case("one-channel", rois=200_000, channels=1, mindspore=False),
    # The targets of mask training: a mask for each object, cut out at the proposals. MindSpore's grids need 28 pixels.
    Case(
        "masks",
        rois=512,
        images=20,
        strides=(1,),
        channels=1,
        pooled=28,
        samples=0,
        sizes=(29, 600),
        backward=False,
        mindspore=False,
    ),
    Case("busy", busy=True, mindspore=False),
    Case("fpn", rois=512, strides=(4, 8, 16, 32), mindspore=False),
    Case("way-back", way_back=True),
    Case("mode-1", mode=1, by_default=False),
    Case("mode-1-small", mode=1, below_one_cell=0.4, by_default=False),
    Case("rois-1", rois=1, backward=False, by_default=False),
    *(
        Case(f"rois-{count}", rois=count, backward=False, one_thread=True, by_default=False)
        for count in (64, 200, 4000, 10_000)
    ),
    Case("stride-4-half", strides=(4,), dtypes=_FLOAT16, by_default=False),
    Case("stride-16-half", dtypes=_FLOAT16, by_default=False),
    Case("stride-4-14x14-half", strides=(4,), rois=200, pooled=14, dtypes=_FLOAT16, by_default=False),
    Case("way-back-half", way_back=True, dtypes=_FLOAT16, by_default=False),
    Case("way-back-aligned", way_back=True, aligned=True, by_default=False),
    Case("way-back-aligned-small", way_back=True, aligned=True, below_one_cell=0.4, by_default=False),
    Case("way-back-adaptive", way_back=True, samples=0, sizes=_LARGE, by_default=False),
)
