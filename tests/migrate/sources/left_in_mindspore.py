"""What no port can take the place of, and what cannot be told here."""
import functools

import mindspore.ops as ops
from mindspore.ops._primitive_cache import _get_cache_prim
from mindspore.ops.operations import ROIAlign

try:
    from mindspore.ops import ROIAlign as Maybe
except ImportError:
    class Maybe:
        pass

if ops is None:
    several = ops.ROIAlign  #: left: may have another value
else:
    several = functools.partial


def roi_align(*args):
    return _get_cache_prim(ROIAlign)(*args[-5:]).set_device('CPU')(*args[:2])  #: left: used in another way


class Pools:
    passed_on = ops.ROIAlign  #: left: line 28

    def __init__(self, mode, size, *args, **kwargs):
        print(self.passed_on)
        self.two = ops.ROIAlign(7, 7, 0.25, 2, 2)  #: left: roi_end_mode=2
        self.three = ops.ROIAlign(7, 7, 0.25, roi_end_mode=3)  #: left: roi_end_mode=3
        self.either = ops.ROIAlign(7, 7, 0.25, 2, 0 if size else 2)  #: left: roi_end_mode=2 [mode-0]
        self.cut = ops.ROIAlign(7, 7, 0.25).shard(((1, 1, 1, 1), (1, 1)))  #: left: .shard
        self.later = ops.ROIAlign(7, 7, 0.25)  #: ms2torch_roi.ROIAlign(7, 7, 0.25, 2, 1)
        self.later.add_prim_attr("name", 1)
        self.one = self.other = ops.ROIAlign(7, 7, 0.25)  #: ms2torch_roi.ROIAlign(7, 7, 0.25, 2, 1)
        self.other.recompute()
        if mode:
            self.branch: ops.ROIAlign = ops.ROIAlign(7, 7, 0.25)  #: ms2torch_roi.ROIAlign(7, 7, 0.25, 2, 1)
        else:
            self.branch = ops.ROIPool(7)
        self.branch.set_device("CPU")
        self.kept = ops.ROIAlign(7, 7, 0.25)  #: left: .set_prim_instance_name
        self.kept.set_prim_instance_name("kept")
        ops.ROIAlign(7, 7, 0.25).name = mode  #: left: .name
        first = second = ops.ROIAlign  #: left: another value
        self.read = ops.ROIAlign(7, 7, 0.25)  #: ms2torch_roi.ROIAlign(7, 7, 0.25, 2, 1)
        print(self.read.pooled_height)
        self.partial = functools.partial(ops.ROIAlign, 7, 7)  #: left: used in another way
        self.unknown = Maybe(7, 7, 0.25)  #: left: something else
        self.wrong = ops.ROIAlign((7, 7), 0.25, output_size=7)  #: left: does not take output_size
        self.missing = ops.ROIAlign(7, 7)  #: left: spatial_scale is not given
        self.splat = ops.ROIAlign(*size, 0.25, 2)  #: ms2torch_roi.ROIAlign(*size, 0.25, 2) [splat]
        self.several = ops.ROIAlign(7, *size, 2, 2, *size)  #: ms2torch_roi.ROIAlign(7, *size, 2, 2, *size) [splat]
        self.all = ops.ROIAlign(*args, **kwargs)  #: ms2torch_roi.ROIAlign(*args, **kwargs) [splat]
        self.zero = ops.ROIAlign(7, 7, 0.25, 0)  #: ms2torch_roi.ROIAlign(7, 7, 0.25, 0, 1) [adaptive-grid]
        self.mode = ops.ROIAlign(7, 7, 0.25, 2, mode)  #: ms2torch_roi.ROIAlign(7, 7, 0.25, 2, mode) [mode-unknown]


class Derived(ops.ROIAlign):  #: left: used in another way
    pass
