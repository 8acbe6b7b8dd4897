"""Whose files of weights are read: one layout per program."""

from .caffe2 import CAFFE2, DETECTRON
from .layout import Layout
from .mmaction2 import MMACTION2
from .pictures import TIMM, TIMM_GN, TORCHVISION
from .pytorchvideo import PYTORCHVIDEO
from .slowfast import SLOWFAST

# In the order in which they are tried: a file that two of them fit is of the first.
LAYOUTS: tuple[Layout, ...] = (PYTORCHVIDEO, SLOWFAST, MMACTION2, TORCHVISION, TIMM, DETECTRON, CAFFE2)

__all__ = ["LAYOUTS", "TIMM_GN", "Layout"]
