"""Operators that are attributes of classes, or are chosen by strings."""
import torchvision
from torchvision.ops import RoIAlign

NAME = "RoIAlign"
CONFIG = dict(
    roi_layer=dict(type="RoIAlign", output_size=7),  #~ registry
    other=dict(type="RoIPool", name="RoIAlign"),
)
PLAIN = {"type": "mmcv.RoIAlign", "sampling_ratio": 0}  #~ registry
CHOSEN = {"type": NAME, **PLAIN}  #~ registry
CLASS = dict(type=RoIAlign)  #: left: used in another way


class Head:
    from torchvision import ops
    from torchvision.ops import RoIAlign as Pool, nms

    pool = Pool(7, 0.25, 2)  #: ms2torch_roi.RoIAlign(7, 0.25, 2, False)

    def __init__(self):
        self.first = self.Pool(7, 0.25, 2)  #: left: attribute of a class that imports it
        self.second = Head.Pool(7, 0.25, 2)  #: left: attribute of a class that imports it
        self.nms(self.Poolings, self.ops.nms)

        self.Pool = None

    def forward(self, x, boxes):
        return self.ops.roi_align(x, boxes, 7)  #: left: attribute of a class that imports it


first = getattr(torchvision.ops, "RoIAlign")(7, 0.25, 2)  #: left: getattr takes it by its name
second = getattr(torchvision.ops, NAME, None)  #: left: getattr takes it by its name
third = [getattr(torchvision.ops, name) for name in ("nms", "RoIAlign")]  #: left: getattr takes it by its name
other = getattr(torchvision.ops, "nms"), getattr(first, "RoIAlign"), getattr(torchvision, "ops")
