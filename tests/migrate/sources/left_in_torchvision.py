import torch
from torch.ops import torchvision as raw
from torchvision.ops import MultiScaleRoIAlign, RoIAlign, roi_align, ps_roi_align


class Head(torch.nn.Module):
    def __init__(self, box_pool: RoIAlign = None):
        super().__init__()
        if not callable(box_pool or RoIAlign):  #: left: used in another way
            box_pool = MultiScaleRoIAlign(["0", "1"], 7, 2)  #: ms2torch_roi.MultiScaleRoIAlign(['0', '1'], 7, 2, canonical_scale=224, canonical_level=4)
        self.pool = RoIAlign(7, 0.25, 2).to("cuda")  #: left: .to is the original's own
        self.called = RoIAlign(7, 0.25, 2)  #: ms2torch_roi.RoIAlign(7, 0.25, 2, False)
        self.function = torch.vmap(roi_align)  #: left: used in another way

    def forward(self, features, boxes):
        features = self.called.forward(features, boxes)
        features = ps_roi_align(features, boxes, 7)
        return torch.ops.torchvision.roi_align(features, boxes, 0.25, 7, 7, 2, False)  #: left: another order
