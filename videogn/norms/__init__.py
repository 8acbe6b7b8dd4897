"""The variable of the experiment: normalisation layers by name, for any module. Imports torch alone."""

from .batch import BatchNorm
from .convolution import Conv3d
from .factory import BATCH_NORMS, NORMS, check_sync, make_norm
from .frozen import FrozenBatchNorm
from .group import GroupNorm, InstanceNorm, LayerNorm, group_norm
from .kept import KeptStatistics
from .renorm import BatchRenorm
from .replace import is_norm, norm_parameters, replace_norms
from .standardize import WSConv1d, WSConv2d, WSConv3d, standardize_conv, standardize_weight
from .statistics import average_statistics, batch_norm_layers, recompute_statistics
from .subbatch import SubBatchNorm

__all__ = [
    "BATCH_NORMS",
    "NORMS",
    "BatchNorm",
    "BatchRenorm",
    "Conv3d",
    "FrozenBatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "KeptStatistics",
    "LayerNorm",
    "SubBatchNorm",
    "WSConv1d",
    "WSConv2d",
    "WSConv3d",
    "average_statistics",
    "batch_norm_layers",
    "check_sync",
    "group_norm",
    "is_norm",
    "make_norm",
    "norm_parameters",
    "recompute_statistics",
    "replace_norms",
    "standardize_conv",
    "standardize_weight",
]
