"""Frozen batch norm: "BN*" of the group norm paper (arXiv 1803.08494, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from .batch import running_pair
from .common import at_least_float32, check_arguments, check_input


class FrozenBatchNorm(_NormBase):  # no _BatchNorm: a conversion to SyncBatchNorm would thaw it
    """Batch norm that never changes: y = (x - running_mean) / sqrt(running_var + eps) · weight + bias.

    Training and evaluation are the same. Weight and bias are parameters that do not require gradients, the statistics
    are buffers, under batch norm's keys: a batch norm's state dict loads strictly. Gradients flow to the input alone,
    even if somebody turns ``requires_grad`` on for a whole model. The backward pass needs one scale per channel alone.

    Args:
        num_features: channels C of the inputs (N, C, L), (N, C, H, W) or (N, C, T, H, W).
        eps: added to the running variance.

    Raises:
        ValueError: an argument out of range, an input of another shape, or an empty input.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        check_arguments("frozen_bn", {"num_features": num_features, "eps": eps})
        super().__init__(num_features, eps=eps)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, self.num_features, "frozen_bn")
        mean, var = map(at_least_float32, running_pair(self))
        scale = at_least_float32(self.weight.detach()) * (var + self.eps).rsqrt()
        shift = at_least_float32(self.bias.detach()) - mean * scale
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return torch.addcmul(shift.view(shape), x, scale.view(shape)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"
