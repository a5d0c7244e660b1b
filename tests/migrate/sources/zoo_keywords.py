# Keywords, width before height, and a comment where the arguments stand.
import mindspore.nn as nn
import mindspore.ops.operations as P


class Head(nn.Cell):
    def __init__(self):
        super().__init__()
        self.stride = 16
        self.pool = P.ROIAlign(  #: ms2torch_roi.ROIAlign(6, 7, 0.0625, 3, 1)
            pooled_width=7, pooled_height=6,  # in bins
            sample_num=3,
            spatial_scale=1.0 / self.stride,
        )
        self.small = P.ROIAlign(roi_end_mode=1,spatial_scale=.5 ,pooled_width = 2,pooled_height=3)  #: ms2torch_roi.ROIAlign(3, 2, 0.5, 2, 1)

    def construct(self, features, rois):
        return self.pool(features, rois).sum(axis=(2, 3)) + self.small(features, rois).sum(axis=(2, 3))


def pool(features, rois):
    return Head()(features, rois)
