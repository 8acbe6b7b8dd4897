"""Steps whose loss or gradient is not finite: left out as if their batch had not been, or the end of the run."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.nn.utils import get_total_norm

from videogn.callbacks import non_finite_record as record
from videogn.callbacks.exchange import of_all
from videogn.callbacks.non_finite_record import Found, Suspect
from videogn.callbacks.records import leaves_files, run_folder

log = logging.getLogger(__name__)

WINDOW = 100  # optimiser steps
_STAYS = "train/videos_replaced"  # the videos are bad, whatever becomes of their step


@dataclass
class _Batch:
    """What is kept of a batch until its optimiser step. Tensors stay on their device and are not looked at."""

    number: int
    videos: Tensor | None
    loss: Tensor | None = None
    gradient: Tensor | None = None  # sum of this process's gradient of the first layer


@dataclass
class _Before:
    """What the forward pass moves, and copies from before it."""

    buffers: list[Tensor] = field(default_factory=list)
    copies: list[Tensor] = field(default_factory=list)
    metrics: list[tuple[Any, str, Tensor]] = field(default_factory=list)  # metric, name of a state, copy

    @classmethod
    def of(cls, module: LightningModule) -> _Before:
        buffers = list(module.buffers())
        metrics = [
            (metric, state, value.clone())
            for name, metric in getattr(module, "epoch_metrics", {}).items()
            if name != _STAYS
            for state, value in metric.metric_state.items()
        ]
        return cls(buffers, [buffer.clone() for buffer in buffers], metrics)

    @torch.no_grad()
    def put_back(self) -> None:
        for buffer, copy in zip(self.buffers, self.copies, strict=True):
            buffer.copy_(copy)
        for metric, state, copy in self.metrics:
            setattr(metric, state, copy)


class NonFinite(Callback):
    """Watch over the loss and the gradients; leave out a step in which one is not finite, and name its videos.

    A step that is left out changes neither weights nor the optimiser's state, averaged weights (EMA), the norms'
    running statistics, the scale of fp16 or ``train/top1``: they are, to the bit, as if its batch had not been. Where
    gradients are accumulated that is every batch of the step; of several processes, all leave it out. ``global_step``
    and the learning rate's schedule go on, because they belong to the length of the run, and random numbers that the
    batch drew stay drawn.

    The log, and ``non_finite.csv`` in the run's folder, name step, process and videos; ``train/steps_skipped`` counts
    the epoch's steps that were left out. Above the limit, under the policy stop, and where the weights were broken
    before the step, training ends with an error; weights and statistics are then those before the step.

    Under ``16-mixed`` a finite loss whose scaled gradient overflows is no fault: torch lowers the scale and leaves the
    step out itself. It is one when the scale is down to 1, where the gradient overflows on its own.

    One number is read from the device in each step, between backward pass and optimiser, so that the device is idle
    while the optimiser is launched. Lightning's progress bar and, under DDP, its loop read from it in each step, too.
    Of tensors, only running statistics are copied.

    Args:
        policy: skip leaves out steps up to the limit, stop ends training at the first one.
        limit: how many of 100 steps may be left out.
    """

    def __init__(self, policy: Literal["skip", "stop"] = "skip", limit: int = 10) -> None:
        if policy not in ("skip", "stop"):
            raise ValueError(f"non_finite.policy: expected skip or stop, found {policy!r}")
        if not 0 <= limit < WINDOW:
            raise ValueError(f"non_finite.limit: expected 0 to {WINDOW - 1} of {WINDOW} steps, found {limit}")
        self.policy = policy
        self.limit = limit
        self._skipped: list[int] = []  # of the last WINDOW steps
        self._epoch = self._in_epoch = 0  # how many of which epoch
        self._batches: list[_Batch] = []
        self._before = _Before()
        self._hook: Any = None
        self._scale: dict[str, Any] | None = None  # of fp16, from before a step that is left out

    # -- hooks -----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1 or trainer.accumulate_grad_batches > 1:
            # What is not finite in a backward pass spreads to the first layer, which tells whose pass it was.
            first = next(p for p in pl_module.parameters() if p.requires_grad)
            self._hook = first.register_hook(self._on_gradient)
        path = _path(trainer)
        if trainer.is_global_zero:
            record.forget_rows(path, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._unhook()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._unhook()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._batches:
            self._before = _Before.of(pl_module)
        self._batches.append(_Batch(batch_idx, getattr(batch, "videos", None)))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._batches[-1].loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        batches, self._batches = self._batches, []
        if _looks_finite(trainer, pl_module, batches):
            return
        found = of_all(self._look(trainer, pl_module, batches))
        in_loss = any(batch.what.startswith("loss") for each in found for batch in each.batches)
        if not in_loss and not any(each.gradients for each in found):
            return  # only their sum was not
        broken: list[str] = next((each.broken for each in found if each.broken), [])
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if not in_loss and not broken and scaler is not None and scaler.get_scale() > 1.0:
            return  # the scale is too high; torch lowers it
        self._before.put_back()
        if broken:
            raise FloatingPointError(record.describe_broken(trainer.global_step, trainer.current_epoch, broken))
        _leave_out(trainer, optimizer, scaler)
        self._scale = scaler.state_dict() if scaler is not None else None
        self._tell(trainer, found)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._scale is not None:  # which torch has lowered meanwhile
            trainer.precision_plugin.scaler.load_state_dict(self._scale)  # type: ignore[attr-defined]
            self._scale = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        count = self._in_epoch if self._epoch == trainer.current_epoch else 0
        pl_module.log("train/steps_skipped", torch.tensor(float(count)))

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": list(self._skipped), "epoch": self._epoch, "in_epoch": self._in_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._skipped = list(state_dict["skipped"])
        self._epoch, self._in_epoch = state_dict["epoch"], state_dict["in_epoch"]

    # -- at work ---------------------------------------------------------------------------------------------------

    def _on_gradient(self, gradient: Tensor) -> None:
        if self._batches:
            self._batches[-1].gradient = gradient.detach().sum()

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def _look(self, trainer: Trainer, module: LightningModule, batches: list[_Batch]) -> Found:
        described = []
        for batch in batches:
            what = ""
            if batch.loss is not None and not batch.loss.isfinite():
                what = f"loss {float(batch.loss)}"
            elif batch.gradient is not None and not batch.gradient.isfinite():
                what = "gradient"
            videos = [] if batch.videos is None else batch.videos.tolist()
            described.append(Suspect(trainer.global_rank, batch.number, what, [_video(trainer, v) for v in videos]))
        trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        gradients = [name for name, p in reversed(trained) if p.grad is not None and not _finite(p.grad)]
        copies = dict(zip(map(id, self._before.buffers), self._before.copies, strict=True))
        before = [*module.named_parameters(), *((name, copies.get(id(b), b)) for name, b in module.named_buffers())]
        return Found(described, gradients, [name for name, tensor in before if not _finite(tensor)], len(trained))

    def _tell(self, trainer: Trainer, found: list[Found]) -> None:
        """Counts and records a step that is left out; ends training if that is one too many."""
        step, epoch = trainer.global_step, trainer.current_epoch
        self._skipped = [*(s for s in self._skipped if s > step - WINDOW), step]
        self._epoch, self._in_epoch = epoch, self._in_epoch + 1 if self._epoch == epoch else 1
        path = _path(trainer)
        if trainer.is_global_zero and leaves_files(trainer):
            record.add_rows(path, step, epoch, record.suspects(found))
        text, fixes = record.describe(step, epoch, found), record.fixes(str(trainer.precision))
        count = len(self._skipped)
        if self.policy == "stop":
            raise FloatingPointError(
                f"{text}\nTraining ends, as non_finite.policy is stop. Before you go on with --ckpt_path last: {fixes}"
            )
        if count > self.limit:
            if self._skipped == list(range(step - count + 1, step + 1)):
                fixes += " As they came one after another, the weights may be too far gone: take an earlier checkpoint."
            raise FloatingPointError(
                f"{text}\nTraining ends: {count} of the last {WINDOW} steps were like this, and non_finite.limit is "
                f"{self.limit}. Before you go on with --ckpt_path last: {fixes}"
            )
        if trainer.is_global_zero:
            log.warning(
                "%s\nThe step is left out; %d of %d may be, with this one %d are. If there are more: %s",
                *(text, self.limit, WINDOW, count, fixes),
            )


def _looks_finite(trainer: Trainer, module: LightningModule, batches: list[_Batch]) -> bool:
    """The same for all processes, and quick: a norm can overflow, so that a no asks for a second look."""
    values = [batch.loss for batch in batches if batch.loss is not None]
    values.append(get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))
    bad = torch.stack([value.float() for value in values]).isfinite().all().logical_not().float()
    return not float(trainer.strategy.reduce(bad, reduce_op="sum"))


def _leave_out(trainer: Trainer, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
    """Has the optimiser, and callbacks that average weights, do nothing in this step."""
    for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            parameter.grad.fill_(torch.nan)  # a scaler insists on gradients to look at, and then leaves the step out
        else:
            parameter.grad = None  # to optimisers, a parameter that is not in this step
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):
            callback._latest_update_step = trainer.global_step + 1  # it has seen the step, so to say


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _video(trainer: Trainer, number: int) -> str:
    datamodule: Any = getattr(trainer, "datamodule", None)
    return f"video {number}" if datamodule is None else datamodule.index("train").path(number)


def _path(trainer: Trainer) -> str:
    return os.path.join(run_folder(trainer), record.FILE)
