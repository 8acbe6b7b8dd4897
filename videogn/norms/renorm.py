"""Batch renormalisation (Ioffe 2017, arXiv 1702.03275, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from .batch import check_batch, normalise_with_batch, normalise_with_running, running_pair, update_running
from .common import at_least_float32, channel_moments, check_arguments, check_input
from .kept import kept


class BatchRenorm(_NormBase):  # no _BatchNorm: a conversion to SyncBatchNorm would silently make it plain batch norm
    """Batch norm whose training output is pulled towards what the running statistics would give.

    In training, with μ_B and σ_B = sqrt(var_B + eps) of the batch (var_B biased) and μ and σ = sqrt(running_var + eps)
    of the running pair before the step:

        x̂ = (x - μ_B) / σ_B,   y = (x̂ · r + d) · weight + bias
        r = clip(σ_B / σ, 1 / r_max, r_max),   d = clip((μ_B - μ) / σ, -d_max, d_max)

    No gradient flows through r and d. The running pair is updated as in torch's batch norm (unbiased variance), so that
    with r_max = 1 and d_max = 0 the layer equals batch norm. Evaluation uses the running pair. The state dict has batch
    norm's keys.

    The limits grow: r_max = 1 and d_max = 0 (batch norm) for the first ``warmup_steps`` steps, then they rise linearly
    to their values over ``r_ramp_steps`` and ``d_ramp_steps`` more. The defaults are the paper's (section 4): pure
    batch norm for 5000 steps, r_max 3 at 40000, d_max 5 at 25000. The step is ``num_batches_tracked``: forward passes
    in training so far, so accumulating gradients over k batches takes k steps.

    With ``track_running_stats`` set to False in training nothing is updated, the step included. A repeated forward pass
    gives the same output only if it is repeated before the running pair has changed: r and d depend on it.

    Args:
        num_features: channels C of the inputs (N, C, L), (N, C, H, W) or (N, C, T, H, W).
        r_max: final limit of r, at least 1.
        d_max: final limit of d, at least 0.
        warmup_steps: steps of batch norm at the start.
        r_ramp_steps: steps from there to the final r_max; 0 jumps.
        d_ramp_steps: steps from there to the final d_max; 0 jumps.
        eps: added to the variances.
        momentum: weight of the new batch in the running pair; None averages over all batches. The paper uses 0.01.

    Raises:
        ValueError: an argument out of range, an input of another shape, an empty input, or (in training) an input
            with one value per channel.
    """

    def __init__(
        self,
        num_features: int,
        r_max: float = 3.0,
        d_max: float = 5.0,
        warmup_steps: int = 5000,
        r_ramp_steps: int = 35000,
        d_ramp_steps: int = 20000,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ) -> None:
        limits = {"r_max": r_max, "d_max": d_max}
        steps = {"warmup_steps": warmup_steps, "r_ramp_steps": r_ramp_steps, "d_ramp_steps": d_ramp_steps}
        check_arguments("brn", {"num_features": num_features, "eps": eps, "momentum": momentum} | limits | steps)
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.r_max, self.d_max = r_max, d_max
        self.warmup_steps, self.r_ramp_steps, self.d_ramp_steps = warmup_steps, r_ramp_steps, d_ramp_steps

    def limits(self) -> tuple[Tensor, Tensor]:
        """r_max and d_max of the next training step: two tensors without dimensions, on the layer's device."""
        assert self.num_batches_tracked is not None
        dtype = at_least_float32(self.weight).dtype
        since = (self.num_batches_tracked - self.warmup_steps).to(dtype)
        r_part, d_part = (
            (since / steps).clamp(0.0, 1.0) if steps else torch.ge(since, 0).to(dtype)
            for steps in (self.r_ramp_steps, self.d_ramp_steps)
        )
        return 1.0 + (self.r_max - 1.0) * r_part, self.d_max * d_part

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, self.num_features, "brn")
        if not self.training:
            return normalise_with_running(self, x)
        check_batch(x, x.shape[0], "brn")
        mean, var, r, d = kept(lambda: self._batch_statistics(x)) or self._batch_statistics(x)
        # r and d are per channel, so they fold into the affine: (x̂ · r + d) · w + b = x̂ · (r · w) + (d · w + b).
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        return normalise_with_batch(x, mean, var, weight * r, weight * d + bias, self.eps)

    @torch.no_grad()
    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and biased variance of the batch, r and d, each (C,); then the running pair moves."""
        mean, var = channel_moments(x)
        running_mean, running_var = map(at_least_float32, running_pair(self))
        r, d = _correction(mean, var, running_mean, running_var, *self.limits(), self.eps)
        if self.track_running_stats:
            update_running(self, mean, var, x.numel() // x.shape[1])
        return mean, var, r, d

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, r_max={self.r_max}, d_max={self.d_max}, warmup_steps={self.warmup_steps}, "
            f"r_ramp_steps={self.r_ramp_steps}, d_ramp_steps={self.d_ramp_steps}, eps={self.eps}, "
            f"momentum={self.momentum}"
        )


# An operator, because a compiler would compute r and d again for the backward pass, from a running pair that has moved.
@torch.library.custom_op("videogn::renorm_correction", mutates_args=())
def _correction(
    mean: Tensor, var: Tensor, running_mean: Tensor, running_var: Tensor, r_max: Tensor, d_max: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    sigma = (running_var + eps).sqrt()
    r = ((var + eps).sqrt() / sigma).clamp(1.0 / r_max, r_max)
    d = ((mean - running_mean) / sigma).clamp(-d_max, d_max)
    return r, d


@_correction.register_fake
def _(
    mean: Tensor, var: Tensor, running_mean: Tensor, running_var: Tensor, r_max: Tensor, d_max: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(mean), torch.empty_like(mean)
