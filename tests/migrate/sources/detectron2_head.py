import torch
from detectron2.layers import ROIAlign, cat
from detectron2.layers.roi_align import ROIAlign as Defined
from detectron2.layers import roi_align
from detectron2.modeling.poolers import ROIPooler

NAMED = ("align",)


def pool(features, boxes):
    return torch.cat([
        ROIAlign((3, 2), 0.25, 2).forward(features, boxes),  #: ms2torch_roi.compat.detectron2.ROIAlign((3, 2), 0.25, 2, True)
        Defined((3, 2), spatial_scale=0.25, sampling_ratio=0, aligned=False)(features, boxes),  #: ms2torch_roi.compat.detectron2.ROIAlign((3, 2), 0.25, 0, False) [adaptive-grid]
        roi_align.ROIAlign((3, 2), 0.25, sampling_ratio=2,)(features, boxes),  #: ms2torch_roi.compat.detectron2.ROIAlign((3, 2), 0.25, 2, True)
        roi_align.roi_align(features, boxes, (3, 2), 0.25, 2),  #: ms2torch_roi.roi_align(features, boxes, (3, 2), 0.25, 2, False)
    ])


def more(size, config):
    pooler = ROIPooler(output_size=7, scales=(0.25,), sampling_ratio=0, pooler_type="ROIAlignV2")  #: left: level [adaptive-grid]
    several = ROIAlign(*size)  #: ms2torch_roi.compat.detectron2.ROIAlign(*size) [splat]
    Alias = ROIAlign  #: Alias = ms2torch_roi.compat.detectron2.ROIAlign
    return pooler, several, Alias(7, 0.25, 2)  #: ms2torch_roi.compat.detectron2.ROIAlign(7, 0.25, 2, True)
