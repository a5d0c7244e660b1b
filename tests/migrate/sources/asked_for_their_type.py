"""Code that tells the operators' objects from others: the port's are of another type."""
import torchvision
from mindspore.ops import operations as P
from detectron2.layers import ROIAlign
from torchvision.ops import MultiScaleRoIAlign, RoIAlign, roi_align

KINDS = (RoIAlign, torchvision.ops.RoIPool)  #: left: False for the port's objects


def pools(module):
    made = RoIAlign(7, 0.25, 2), torchvision.ops.RoIAlign(7, 0.25, 2)  #: left: line 7 asks for this type; left: line 7
    several = MultiScaleRoIAlign(["0"], 7, 2)  #: left: line 20 asks for this type
    pool = P.ROIAlign(7, 7, 0.25)  #: left: line 23 asks for this type
    roi_align(module, made, 7, 0.25, 2)  #: ms2torch_roi.roi_align(module, made, 7, 0.25, 2, False)
    return (
        isinstance(module, KINDS),
        isinstance(module, (int, torchvision.ops.RoIAlign)),  #: left: False for the port's objects
        issubclass(type(module), int | RoIAlign),  #: left: False for the port's objects
        type(module) is not RoIAlign,  #: left: False for the port's objects
        type(several) in (MultiScaleRoIAlign, int),  #: left: False for the port's objects
        {RoIAlign: made}[type(module)],  #: left: False for the port's objects
        RoIAlign is not None,  #: left: line 7 asks for this type
        P.ROIAlign == pool.__class__,  #: left: False for the port's objects
    )


try:
    EITHER = ROIAlign if KINDS else int  #: left: False for the port's objects
except NameError:
    EITHER = ()
own = ROIAlign(7, 0.25, 2)  #: left: line 28 asks for this type
print(isinstance(own, EITHER))
