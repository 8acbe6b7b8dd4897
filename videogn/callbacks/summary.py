"""What a run is, before it starts, and what it reached, when it has evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from videogn.cost import cost_line, count_cost
from videogn.memory import Setting, count_activations, count_batch, measured_line, peak_line, saved_line
from videogn.optim import make_optimizer


@dataclass
class Counted:
    """What was counted of a network before it trains; None where it could not be.

    Attributes:
        parameters: of the network.
        multiply_adds: of one training clip.
        bytes_per_clip: what the forward pass keeps for the backward pass.
        peak_bytes: of a whole training step; on CUDA alone.
    """

    parameters: int | None = None
    multiply_adds: int | None = None
    bytes_per_clip: int | None = None
    peak_bytes: int | None = None


class RunSummary(Callback):
    """Print the network's cost, memory and the norm's batch when training starts, and the scores of each evaluation.

    Clips per norm batch decide what BN can reach, and are the first thing that two runs which disagree differ in. On
    CUDA the counted memory is compared with the measured one when training ends.

    Attributes:
        counted: on process 0, when training has started.
        measured_peak: bytes that torch held at most in a training step so far; 0 on a CPU.
    """

    def __init__(self) -> None:
        self.counted = Counted()
        self.measured_peak = 0
        self._views_told = False
        self._told: Any = None  # the scores that were printed last

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        module: Any = pl_module
        clip = module.clip
        cost = count_cost(module.network, clip.frames, clip.train_crop)
        self.counted = Counted(cost.parameters, cost.multiply_adds)
        batch = trainer.datamodule.batch_size  # type: ignore[attr-defined]
        accumulated, world = trainer.accumulate_grad_batches, trainer.world_size
        rank_zero_info(
            f"{cost_line(module.hparams, cost, clip.frames, clip.train_crop)}\n"
            f"{self._memory_lines(trainer, module, batch)}\n"
            f"{batch} clips per norm batch{_synced(trainer, batch)}, {batch * accumulated * world} clips per optimiser "
            f"step ({batch} x {accumulated} accumulated x {world} processes)"
        )

    def _memory_lines(self, trainer: Trainer, module: Any, batch: int) -> str:
        device = "cuda" if trainer.strategy.root_device.type == "cuda" else "cpu"
        setting = Setting(device, str(trainer.precision))
        shape = (module.clip.frames, module.clip.train_crop)
        try:
            if device == "cpu":
                fast = "meta" if setting.dtype is None else "cpu"
                saved = count_activations(module.network, *shape, device=fast, dtype=setting.dtype)
                self.counted.bytes_per_clip = saved.per_clip
                return saved_line(saved, setting)
            step, saved = count_batch(
                module.network,
                batch,
                *shape,
                dtype=setting.dtype,
                optimizer=partial(make_optimizer, recipe=module.recipe, lr=module.recipe.lr),
                accumulated=trainer.accumulate_grad_batches > 1,
            )
            self.counted.bytes_per_clip, self.counted.peak_bytes = saved.per_clip, step.peak
            return f"{saved_line(saved, setting)}\n{peak_line(step.peak, batch)}"
        except Exception as error:  # a network that fake tensors cannot run must train all the same
            return f"memory: not counted ({type(error).__name__}: {str(error).partition(chr(10))[0]})"

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.strategy.root_device.type == "cuda":
            measured = torch.cuda.max_memory_allocated(trainer.strategy.root_device)
            self.measured_peak = max(self.measured_peak, measured)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.counted.peak_bytes is not None and self.measured_peak:
            rank_zero_info(measured_line(self.counted.peak_bytes, self.measured_peak))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and not self._views_told:
            self._views_told = True
            _print_views("val", trainer, trainer.val_dataloaders, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _print_views("test", trainer, trainer.test_dataloaders, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _print_views("predict", trainer, trainer.predict_dataloaders, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._print_scores("val", trainer, pl_module)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._told = pl_module.last_scores

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_scores("test", trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Loggers write before an evaluation's end is told to callbacks, and fail where the disk is full.
        if pl_module is not None and not trainer.sanity_checking:
            self._print_scores("test" if trainer.state.fn == "test" else "val", trainer, pl_module)

    def _print_scores(self, prefix: str, trainer: Trainer, pl_module: Any) -> None:
        scores = pl_module.last_scores
        if scores is None or scores is self._told:
            return
        self._told = scores
        when = f" after {trainer.global_step} steps" if trainer.state.fn == "fit" else ""
        whole, views = scores.videos >= scores.expected, pl_module.clip.num_views
        videos = f"{scores.videos:,}" if whole else f"only {scores.videos:,} of {scores.expected:,}"
        rank_zero_info(
            f"\n{prefix}/top1 {scores.top1:.4f}  {prefix}/top5 {scores.top5:.4f}  "
            f"(single clips {scores.clip_top1:.4f} / {scores.clip_top5:.4f}, loss {scores.loss:.4f}){when}: "
            f"{videos} videos x {views} view{'s' if views != 1 else ''}, {scores.failed} failed"
        )


def _synced(trainer: Trainer, batch: int) -> str:
    synced = getattr(trainer.strategy, "_layer_sync", None) is not None and trainer.world_size > 1
    return f" on each process, synchronised to {batch * trainer.world_size}" if synced else ""


def _print_views(split: str, trainer: Trainer, loader: Any, pl_module: Any) -> None:
    """For example "val: 19,796 videos x 10 clips ..."."""
    videos = len((loader[0] if isinstance(loader, list | tuple) else loader).dataset)
    rank_zero_info(f"{split}: {videos:,} video{'s' if videos != 1 else ''} x {pl_module.clip.views_text()}")
