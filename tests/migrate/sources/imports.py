"""Every way to import MindSpore's operator."""
import mindspore, mindspore.ops
import mindspore as ms
import mindspore.ops as F
import mindspore.ops.operations as operations
from mindspore import ops
from mindspore.ops import ROIAlign, operations as P
from mindspore.ops import ROIAlign as Align
from mindspore.ops.operations import ROIAlign as Pool
from mindspore.ops.operations.nn_ops import ROIAlign as Defined

try:
    from mindspore.ops import ROIAlign as Either
except ImportError:
    from mindspore.ops.operations import ROIAlign as Either

roi = P.ROIAlign  #: roi = ms2torch_roi.ROIAlign
SIZE = {"size": (3, 2), "scale": 2 ** -2}
ARGUMENTS = (*(), 3, 2)


class Holder:
    operator = ops.ROIAlign  #: operator = ms2torch_roi.ROIAlign

    def __init__(self):
        self.made = self.operator(3, 2, 0.25)  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)


def pool(features, rois):
    from mindspore.ops.operations import ROIAlign as Local

    size = (3, 2)
    made = [
        mindspore.ops.ROIAlign(3, 2, 0.25),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        mindspore.ops.operations.ROIAlign(3, 2, 0.25),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        ms.ops.ROIAlign(3, 2, 0.25),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        F.ROIAlign(3, 2, 0.25),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        operations.ROIAlign(3, 2, 0.25),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        ops.ROIAlign(3, 2, 0.25),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        ROIAlign(3, 2, 0.25), P.ROIAlign(3, 2, 0.5),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1); ms2torch_roi.ROIAlign(3, 2, 0.5, 2, 1)
        Align(3, 2, 0.25),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        Pool(3, 2, 0.25),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        Defined(3, 2, 0.25),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        Either(3, 2, 0.25),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        Local(3, 2, 0.25),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        roi(3, 2, 0.25),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        (P.ROIAlign)(*size, SIZE["scale"]),  #: ms2torch_roi.ROIAlign(3, 2, 0.25, 2, 1)
        P.ROIAlign(*ARGUMENTS, **{"spatial_scale": 0.25}),  #: ms2torch_roi.ROIAlign(*ARGUMENTS, **{"spatial_scale": 0.25}) [splat]
        Holder().made,
    ]
    return ops.concat([op(features, rois) for op in made])
