"""The scores of a validation, kept in the checkpoints of the weights that it measured."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Scores(Callback):
    """Keeps what the last validation logged, and the optimiser step it was of, in the run's checkpoints.

    A checkpoint that is written between two validations holds the scores of other weights; its own step tells.
    """

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        self.last = {
            "global_step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "precision": str(trainer.precision),
            "metrics": {name: float(metrics[name]) for name in sorted(metrics) if name.startswith("val/")},
        }

    def state_dict(self) -> dict[str, Any]:
        return dict(self.last)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last = dict(state_dict)
