"""Running statistics of the batch norms: averaged over processes, and recomputed before validation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from videogn.norms import average_statistics, recompute_statistics


class AverageStatistics(Callback):
    """Under DDP, average the batch norms' running statistics over the processes after every batch.

    DDP itself keeps those of process 0 and throws the others away. The running averages are linear in the batches'
    statistics, so averaging after each batch gives what averaging before validation and saving would, and no moment
    remains at which a checkpoint could be written with one process's view.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.world_size > 1:
            average_statistics(_trained(pl_module))


class PreciseBN(Callback):
    """Recompute the batch norms' running statistics over training batches, weights fixed, before each validation.

    Running averages lag behind the weights; the non-local networks were validated with statistics recomputed over
    200 batches. See Wu & Johnson, "Rethinking 'Batch' in BatchNorm" (2021), section 3.

    Args:
        num_batches: training batches per process to average over.
    """

    def __init__(self, num_batches: int = 200) -> None:
        if num_batches < 1:
            raise ValueError(f"PreciseBN.num_batches: expected at least 1, found {num_batches}")
        self.num_batches = num_batches

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        recompute_statistics(_trained(pl_module), self._clips(trainer, pl_module), forward=pl_module)
        if trainer.world_size > 1:
            average_statistics(_trained(pl_module))

    def _clips(self, trainer: Trainer, pl_module: LightningModule) -> Iterator[Tensor]:
        # A loader of its own: taking batches from the running one would change which clips training sees.
        loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        loader.sampler.set_epoch(trainer.current_epoch)
        for batch in islice(loader, self.num_batches):
            yield batch.to(pl_module.device).clips


def _trained(pl_module: Any) -> nn.Module:
    """The parts of the network that are not frozen: the others keep their statistics, to the bit."""
    return nn.ModuleList(m for m in pl_module.network.blocks if any(p.requires_grad for p in m.parameters()))
