"""torchvision's extractor, and a module whose forward is called by name."""

from collections import OrderedDict

import torchvision
from torchvision.ops import MultiScaleRoIAlign, RoIAlign
from torchvision.ops.poolers import MultiScaleRoIAlign as Defined

NAMES = ["0", "1"]
box_pool = MultiScaleRoIAlign(featmap_names=NAMES, output_size=3, sampling_ratio=2)  #: ms2torch_roi.MultiScaleRoIAlign(['0', '1'], 3, 2, canonical_scale=224, canonical_level=4)
mask_pool = torchvision.ops.MultiScaleRoIAlign(NAMES, (3, 3), 0, canonical_scale=112)  #: ms2torch_roi.MultiScaleRoIAlign(['0', '1'], (3, 3), 0, canonical_scale=112, canonical_level=4) [adaptive-grid]
key_pool = Defined(["0"], 3, 2)  #: ms2torch_roi.MultiScaleRoIAlign(['0'], 3, 2, canonical_scale=224, canonical_level=4)
fine_pool = RoIAlign(3, 0.25, 2, aligned=True)  #: ms2torch_roi.RoIAlign(3, 0.25, 2, True)


def pool(features, boxes):
    pyramid = OrderedDict((("0", features), ("1", features[:, :, ::2, ::2])))
    corners = [boxes[boxes[:, 0] == image][:, 1:] for image in range(2)]
    sizes = [(96, 128)] * 2
    pools = [made(pyramid, corners, sizes) for made in (box_pool, mask_pool)]
    pools.append(key_pool.forward(pyramid, corners, sizes))
    return pools + [fine_pool.forward(features, boxes)]
