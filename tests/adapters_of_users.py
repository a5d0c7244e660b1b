"""Ports as users write them, right and wrong: what the tests of ``--adapter`` run."""

import os
import signal
import time

import numpy as np
import torch
import torchvision.ops

import ms2torch_roi


class OfMindSpore(torch.nn.Module):
    """A right port, in MindSpore's words."""

    def __init__(self, pooled_height, pooled_width, spatial_scale, sample_num=2, roi_end_mode=1):
        super().__init__()
        self.op = ms2torch_roi.ROIAlign(pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode)

    def forward(self, features, rois):
        return self.op(features, rois)


def naive(features, rois, pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode):
    """What MindSpore's page suggests."""
    pooled = (pooled_height, pooled_width)
    if not torch.isfinite(rois).all():  # on which torchvision crashes
        raise ValueError("not finite")
    return torchvision.ops.roi_align(features, rois, pooled, spatial_scale, sample_num, aligned=roi_end_mode == 1)


def of_torchvision(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    return torchvision.ops.roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)


class OfMmcv:
    """In mmcv's old words."""

    def __init__(self, out_size, spatial_scale, sample_num=0, pool_mode="avg", aligned=True):
        self.arguments = out_size, spatial_scale, sample_num, aligned

    def __call__(self, features, rois):
        return torchvision.ops.roi_align(features, rois, *self.arguments)


def in_numpy(features, rois, pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode):
    return ms2torch_roi.reference.ms_roi_align(
        features, rois, pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode
    )


class Killed(OfMindSpore):
    def forward(self, features, rois):
        os.kill(os.getpid(), signal.SIGSEGV)


class Exits(OfMindSpore):
    def forward(self, features, rois):
        os._exit(3)


class Hangs(OfMindSpore):
    def forward(self, features, rois):
        time.sleep(3600)


class Prints(OfMindSpore):
    def forward(self, features, rois):
        print("nothing that anybody wants to see")
        os.system("echo nor this")
        return super().forward(features, rois)


class Raises(OfMindSpore):
    def forward(self, features, rois):
        raise KeyError("features")


class OfAnotherShape(OfMindSpore):
    def forward(self, features, rois):
        return super().forward(features, rois).swapaxes(0, 1)


class OfText(OfMindSpore):
    def forward(self, features, rois):
        return "no array"


def of_nothing(x):
    return x


NOT_A_FUNCTION = 3


class Masked(OfMindSpore):
    def forward(self, features, rois):
        output = super().forward(features, rois).numpy()
        return np.ma.masked_array(output, output > 0)
