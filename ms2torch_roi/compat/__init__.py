"""RoIAlign on MindSpore by the names and with the arguments that detectron2 and mmcv give it.

from ms2torch_roi.compat.detectron2 import ROIAlign
from ms2torch_roi.compat.mmcv import RoIAlign
"""
