"""A mode that MindSpore refuses, let in by a monkey patch."""
import mindspore
from mindspore import ops
from mindspore.ops import operations as P


def init(self, pooled_height, pooled_width, spatial_scale, sample_num=2, roi_end_mode=1):
    self.init_prim_io_names(["features", "rois"], ["output"])


ops.ROIAlign.__init__ = init  #: left: monkey patch


class Pooler:
    def __init__(self):
        self.pools = [ops.ROIAlign(7, 7, s, 0, roi_end_mode=2) for s in (1 / 4, 1 / 8)]  #: left: line 11 [adaptive-grid]
        self.one = P.ROIAlign(7, 7, 0.25)  #: left: line 11
