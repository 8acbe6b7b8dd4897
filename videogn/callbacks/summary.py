"""What a run is, before it starts, and what it reached, when it has evaluated."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from videogn.cost import count_cost


class RunSummary(Callback):
    """Print the network's cost and the norm's batch when training starts, and one line of scores per evaluation.

    Clips per norm batch decide what BN can reach, and are the first thing that two runs which disagree differ in.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        clip, hparams = module.clip, module.hparams
        cost = count_cost(module.network, clip.frames, clip.train_crop)
        batch = trainer.datamodule.batch_size  # type: ignore[attr-defined]
        accumulated, world = trainer.accumulate_grad_batches, trainer.world_size
        norm = hparams["norm"] + (f" {hparams['norm_kwargs']}" if hparams["norm_kwargs"] else "")
        shape = f"{clip.frames}x{clip.train_crop}x{clip.train_crop}"
        rank_zero_info(
            f"I3D ResNet-{hparams['depth']} {hparams['variant']}, norm {norm}: "
            f"{cost.parameters / 1e6:.2f} M parameters, "
            f"{cost.multiply_adds / 1e9:.2f} G multiply-adds per clip of {shape}\n"
            f"{batch} clips per norm batch{_synced(trainer, batch)}, {batch * accumulated * world} clips per optimiser "
            f"step ({batch} x {accumulated} accumulated x {world} processes)"
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            _print_scores("val", trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _print_scores("test", trainer, pl_module)


def _synced(trainer: Trainer, batch: int) -> str:
    synced = getattr(trainer.strategy, "_layer_sync", None) is not None and trainer.world_size > 1
    return f" on each process, synchronised to {batch * trainer.world_size}" if synced else ""


def _print_scores(prefix: str, trainer: Trainer, pl_module: Any) -> None:
    metrics: dict[str, Any] = trainer.callback_metrics
    if f"{prefix}/top1" not in metrics:
        return
    values = {name: float(metrics[f"{prefix}/{name}"]) for name in ("top1", "top5", "clip_top1", "clip_top5", "loss")}
    videos, failed = (int(metrics[f"{prefix}/{name}"]) for name in ("videos", "videos_failed"))
    when = f" after {trainer.global_step} steps" if trainer.state.fn == "fit" else ""
    rank_zero_info(
        f"\n{prefix}/top1 {values['top1']:.4f}  {prefix}/top5 {values['top5']:.4f}  "
        f"(single clips {values['clip_top1']:.4f} / {values['clip_top5']:.4f}, loss {values['loss']:.4f}){when}: "
        f"{videos} videos x {pl_module.clip.num_views} views, {failed} failed"
    )
