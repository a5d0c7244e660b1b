import torch
from mmcv import ops
from mmcv.ops import RoIAlign, roi_align

SAMPLES = 2


def pool(features, boxes):
    return torch.cat([
        RoIAlign((3, 2))(features, boxes),  #: ms2torch_roi.compat.mmcv.RoIAlign((3, 2), 1.0, 0, 'avg', True, False) [adaptive-grid]
        RoIAlign((3, 2), 0.25, SAMPLES)(features, boxes),  #: ms2torch_roi.compat.mmcv.RoIAlign((3, 2), 0.25, 2, 'avg', True, False)
        RoIAlign((3, 2), 0.25, 2, 'avg', False, True)(features, boxes),  #: ms2torch_roi.compat.mmcv.RoIAlign((3, 2), 0.25, 2, 'avg', False, True)
        RoIAlign(pool_mode="avg", use_torchvision=True, out_size=(3, 2), sample_num=2)(features, boxes),  #: ms2torch_roi.compat.mmcv.RoIAlign((3, 2), 1.0, 2, 'avg', True, True)
        ops.RoIAlign(output_size=(3, 2), spatial_scale=0.25, sampling_ratio=2, use_torchvision=False, aligned=True)(features, boxes),  #: ms2torch_roi.compat.mmcv.RoIAlign((3, 2), 0.25, 2, 'avg', True, False)
        roi_align(features, boxes, (3, 2), 0.25, 2, 'avg', True),  #: ms2torch_roi.roi_align(features, boxes, (3, 2), 0.25, 2, True)
        ops.roi_align(features, rois=boxes, output_size=(3, 2), sampling_ratio=2),  #: ms2torch_roi.roi_align(features, boxes, (3, 2), 1.0, 2, True)
    ])


def more(mode):
    return [
        RoIAlign(7, 0.25, 2, "max"),  #: left: pool_mode='max'
        RoIAlign(7, 0.25, 2, mode),  #: ms2torch_roi.compat.mmcv.RoIAlign(7, 0.25, 2, mode, True, False) [pool-mode-unknown]
        roi_align(None, None, 7, pool_mode=mode),  #: left: pool_mode cannot be told [adaptive-grid, pool-mode-unknown]
    ]
