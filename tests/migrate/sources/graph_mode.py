"""What trains a model: graph mode is set far from the operator."""
import mindspore as ms
from mindspore import context, jit

PADDED = 5
context.set_context(mode=context.GRAPH_MODE, device_target="CPU")  #~ graph-mode
ms.set_context(ms.GRAPH_MODE)  #~ graph-mode
ms.set_context(mode=0)  #~ graph-mode
ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_context(device_id=0)
op = ms.ops.ROIAlign(7, 7, 0.25)  #: ms2torch_roi.ROIAlign(7, 7, 0.25, 2, 1)


@jit  #~ graph-mode
def pool(features, rois):
    rois = ms.ops.concat((rois, ms.ops.zeros((PADDED, 5), rois.dtype)))  #~ padded-rois
    return op(features, rois)


compiled = ms.jit(pool)  #~ graph-mode
