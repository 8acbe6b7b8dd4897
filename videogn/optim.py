"""Optimiser, weight-decay groups and learning-rate schedule of the recipes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from videogn.errors import UsageError
from videogn.norms import norm_parameters

_ANEW = "leave the option as it was, or start a run from the checkpoint's weights with --model.init_from"


@dataclass(frozen=True)
class Recipe:
    """How the weights are updated. The schedule is a function of the share of optimiser steps done, in [0, 1).

    Attributes:
        optimizer: ``"sgd"`` with momentum, or ``"adamw"``.
        lr: peak learning rate; for ``lr_clips`` clips per optimiser step if that is set.
        lr_clips: None uses ``lr`` as it is; a number scales it by clips per step / lr_clips (Goyal et al. 2017).
        clips_per_step: clips per optimiser step over all devices, reached by gradient accumulation; None leaves
            ``trainer.accumulate_grad_batches``. The norm's batch stays ``data.batch_size``.
        momentum: of SGD; the first beta of AdamW.
        nesterov: Nesterov's momentum, for SGD.
        weight_decay: of convolution and classifier weights, and of the classifier's bias.
        norm_weight_decay: of the norm layers' gamma and beta.
        schedule: ``"step"`` multiplies by ``gamma`` at each milestone; ``"cosine"`` falls to 0; ``"constant"``.
        milestones: for ``"step"``: shares of all optimiser steps.
        gamma: for ``"step"``: factor at each milestone.
        warmup: share of all optimiser steps of linear warm-up; the schedule's own curve is not shifted by it.
        warmup_start: learning rate at the first step, as a share of the peak.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    lr_clips: int | None = None
    clips_per_step: int | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    norm_weight_decay: float = 0.0
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, ...] = (0.375, 0.75)
    gamma: float = 0.1
    warmup: float = 0.0
    warmup_start: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for name, low, high in (
            ("lr", 0.0, math.inf),
            ("momentum", 0.0, 1.0),
            ("weight_decay", 0.0, math.inf),
            ("norm_weight_decay", 0.0, math.inf),
            ("warmup", 0.0, 1.0),
            ("warmup_start", 0.0, 1.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"recipe.{name}: expected a value in [{low}, {high}], found {getattr(self, name)}")
        for name in ("lr_clips", "clips_per_step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"recipe.{name}: expected at least 1, found {value}")
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError(
                f"recipe.milestones: expected rising shares of the run between 0 and 1, found {list(self.milestones)}"
            )


def peak_lr(recipe: Recipe, clips_per_step: int) -> float:
    """The learning rate before the schedule's factor, for the clips that one optimiser step really sees."""
    return recipe.lr * clips_per_step / recipe.lr_clips if recipe.lr_clips else recipe.lr


def lr_factor(recipe: Recipe, step: int, total_steps: int) -> float:
    """The schedule's factor of the peak learning rate at optimiser step ``step`` of ``total_steps``, counted from 0.

    During warm-up the rate rises linearly from ``warmup_start`` to the schedule's value at the end of the warm-up
    (SlowFast's rule).
    """
    warmup_steps = round(recipe.warmup * total_steps)
    if step < warmup_steps:
        end = _schedule(recipe, warmup_steps / total_steps)
        return recipe.warmup_start + (end - recipe.warmup_start) * step / warmup_steps
    return _schedule(recipe, step / total_steps)


def _schedule(recipe: Recipe, progress: float) -> float:
    if recipe.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    if recipe.schedule == "step":
        return recipe.gamma ** sum(progress >= m for m in recipe.milestones)
    return 1.0


class Schedule(torch.optim.lr_scheduler.LambdaLR):
    """The recipe's learning rate, which is a function of the optimiser steps alone: a checkpoint says their number.

    A LambdaLR would go on with the peak of the command that wrote the checkpoint.

    Args:
        optimizer: whose groups have the peak.
        recipe: gives the factors.
        total_steps: of the run.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe, total_steps: int) -> None:
        super().__init__(optimizer, lambda step: lr_factor(recipe, step, total_steps))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """When the optimiser has its own state."""
        peaks = self.base_lrs
        super().load_state_dict({**state_dict, "base_lrs": peaks})
        for group, peak, factor in zip(self.optimizer.param_groups, peaks, self.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = peak, peak * factor(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def accumulation(recipe: Recipe, clips_per_forward: int) -> int | None:
    """Batches per optimiser step that make ``clips_per_step``; None where the recipe does not set it.

    Args:
        recipe: its ``clips_per_step`` counts clips over all devices.
        clips_per_forward: clips of one batch on all devices together.

    Raises:
        UsageError: ``clips_per_step`` is not a multiple of ``clips_per_forward``.
    """
    if recipe.clips_per_step is None:
        return None
    if recipe.clips_per_step % clips_per_forward:
        raise UsageError(
            f"model.recipe.clips_per_step: expected a multiple of data.batch_size x devices = {clips_per_forward}, "
            f"found {recipe.clips_per_step}"
        )
    return recipe.clips_per_step // clips_per_forward


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Two groups, the norms' parameters apart from the rest, each with its weight decay; frozen ones left out."""
    of_norms = {id(p) for p in norm_parameters(network)}
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in of_norms], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if id(p) in of_norms], "weight_decay": recipe.norm_weight_decay},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(network: nn.Module, recipe: Recipe, lr: float, fused: bool = True) -> torch.optim.Optimizer:
    """The recipe's optimiser over the network's trainable parameters.

    Args:
        network: on the device where it trains.
        recipe: which optimiser, and its constants.
        lr: learning rate.
        fused: update all parameters in one kernel, on CPU and CUDA. Elsewhere torch chooses. The result is the same up
            to rounding, and ``load_state_dict`` takes the state of either kind.
    """
    groups = parameter_groups(network, recipe)
    device_types = {p.device.type for group in groups for p in group["params"]}
    fused = fused and device_types <= {"cpu", "cuda"}
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=(recipe.momentum, 0.999), fused=fused or None)
    else:
        nesterov = recipe.nesterov and recipe.momentum > 0
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=recipe.momentum, nesterov=nesterov, fused=fused or None)
    optimizer.register_load_state_dict_pre_hook(_keep_options)
    optimizer.register_load_state_dict_post_hook(_match_strides)
    return optimizer


def _keep_options(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The options of this run, which stored groups would silently replace by those that they were saved with.

    So with the kernel: a group that is no longer fused under an optimiser that says it unscales gradients itself would
    step with scaled ones.

    Raises:
        UsageError: the state of another kind of optimiser, or of other parameters.
    """
    stored, own = state["param_groups"], optimizer.param_groups
    if any(("betas" in group) != ("betas" in optimizer.defaults) for group in stored):
        found, other = ("sgd", "adamw") if "momentum" in optimizer.defaults else ("adamw", "sgd")
        raise UsageError(f"model.recipe.optimizer: expected {other}, as in the checkpoint, found {found}; {_ANEW}")
    counts = [[len(group["params"]) for group in groups] for groups in (stored, own)]
    if counts[0] != counts[1]:
        raise UsageError(
            f"model.freeze_stages: expected {sum(counts[0])} trained tensors, as in the checkpoint, found "
            f"{sum(counts[1])}; {_ANEW}"
        )
    names = optimizer.defaults.keys() - {"lr"}
    groups = [{**a, **{name: b[name] for name in names}} for a, b in zip(stored, own, strict=True)]
    return {**state, "param_groups": groups}


def _match_strides(optimizer: torch.optim.Optimizer) -> None:
    """Gives loaded momentum the memory format of its parameter: the fused CPU kernel pairs values by address."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)
