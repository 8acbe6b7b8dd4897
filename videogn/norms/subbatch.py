"""Sub-batch normalisation: batch norm per split of the batch.

Ghost batch norm of Hoffer et al. 2017 (arXiv 1705.08741, algorithm 1), sub-batch norm of multigrid training (Wu et al.
2020, arXiv 1912.00998).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from .batch import batch_moments, check_batch, normalise_with_batch, normalise_with_running, update_running
from .common import check_arguments, check_input
from .kept import kept

DEFAULT_SPLITS = 2


class SubBatchNorm(_NormBase):  # no _BatchNorm: a conversion to SyncBatchNorm would silently make it plain batch norm
    """Batch norm over equal splits of consecutive samples, with one running pair.

    In training every split is normalised as batch norm would normalise it alone. The running pair then moves towards
    the pooled statistics of all splits,

        mean = mean of the splits' means,   var = mean of the splits' variances + variance of the splits' means

    (biased, then Bessel's correction for all values), which are the statistics of the whole batch: the pair equals
    batch norm's, and there is nothing to merge later. Evaluation uses it. The state dict has batch norm's keys.
    With ``track_running_stats`` set to False in training nothing is updated, so that a forward pass can be repeated.

    Args:
        num_features: channels C of the inputs (N, C, L), (N, C, H, W) or (N, C, T, H, W).
        num_splits: number of splits, which must divide N in training; 2 when neither this nor ``split_size`` is given.
        split_size: samples per split, which must divide N in training; instead of ``num_splits``.
        eps: added to the variance.
        momentum: weight of the new batch in the running pair; None averages over all batches.

    Raises:
        ValueError: arguments out of range, both ways of splitting, an input of another shape, an empty input, or (in
            training) a batch that cannot be split evenly or a split with one value per channel.
    """

    def __init__(
        self,
        num_features: int,
        num_splits: int | None = None,
        split_size: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ) -> None:
        arguments = {"num_splits": num_splits, "split_size": split_size, "eps": eps, "momentum": momentum}
        check_arguments("sub_bn", {"num_features": num_features} | arguments)
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.num_splits = num_splits or (DEFAULT_SPLITS if split_size is None else None)
        self.split_size = split_size

    def samples_per_split(self, batch: int) -> int:
        """Samples in one split of a training batch; ValueError when the batch cannot be split evenly."""
        divisor = self.num_splits or self.split_size
        assert divisor is not None
        if batch % divisor:
            key = "num_splits" if self.num_splits else "split_size"
            raise ValueError(
                f"sub_bn: a training batch of {batch} cannot be divided by {key}={divisor}; "
                f"use a batch size that is a multiple of {divisor} and drop an incomplete last batch"
            )
        return batch // divisor if self.num_splits else divisor

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, self.num_features, "sub_bn")
        if not self.training:
            return normalise_with_running(self, x)
        size = self.samples_per_split(x.shape[0])
        check_batch(x, size, "sub_bn")
        splits = x.split(size)
        means, variances = kept(lambda: self._batch_statistics(splits)) or self._batch_statistics(splits)
        outs = [
            normalise_with_batch(split, mean, var, self.weight, self.bias, self.eps)
            for split, mean, var in zip(splits, means, variances, strict=True)
        ]
        return torch.cat(outs) if len(outs) > 1 else outs[0]

    @torch.no_grad()
    def _batch_statistics(self, splits: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Means and biased variances of the splits, each (splits, C); then the running pair moves."""
        means, variances = (torch.stack(each) for each in zip(*map(batch_moments, splits), strict=True))
        if self.track_running_stats:
            count = sum(split.numel() for split in splits) // splits[0].shape[1]
            update_running(self, means.mean(0), variances.mean(0) + means.var(0, correction=0), count)
        return means, variances

    def extra_repr(self) -> str:
        splits = f"num_splits={self.num_splits}" if self.num_splits else f"split_size={self.split_size}"
        return f"{self.num_features}, {splits}, eps={self.eps}, momentum={self.momentum}"
