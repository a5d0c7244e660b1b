'''A plain list of operators, one for each level.'''
import mindspore as ms


def make(strides=(4, 8, 16)):
    return [ms.ops.ROIAlign(7, 5, 1 / stride, 2) for stride in strides]  #: ms2torch_roi.ROIAlign(7, 5, 1 / stride, 2, 1)


def pool(features, rois):
    return ms.ops.concat([op(features, rois) for op in make()])
