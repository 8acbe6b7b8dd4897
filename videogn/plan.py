"""``videogn plan``: what a configuration costs, and what fits in a GPU, before any data or GPU is there."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from videogn.cost import Cost, cost_line, count_cost
from videogn.errors import UsageError
from videogn.memory import (
    ActivationMemory,
    Setting,
    TrainingMemory,
    count_evaluation,
    count_longest_clip,
    count_training,
    format_bytes,
    parse_memory,
    peak_line,
    saved_line,
)
from videogn.optim import make_optimizer
from videogn.spec import ClipSpec
from videogn.training_cli import VideoCLI, hide_remarks

_DESCRIPTION = """\
Counts parameters, multiply-adds and the memory of a training step for a configuration of `videogn fit`: the most that
is alive at once in the forward pass, the backward pass and the optimiser, without computing anything. Needs no data and
no GPU; counts for one process on a CUDA GPU, or on the CPU with --trainer.accelerator cpu. Not counted are cuDNN's
workspaces, fragmentation, the CUDA context and DDP's gradient buckets: leave room for them.
"""
_USAGE = "videogn plan [-c CONFIG.yaml ...] [--memory 24GB] [--format table|json] [any option of videogn fit]"
_PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "None": "32-true"}


@dataclass(frozen=True)
class Counted:
    """What a configuration costs, whatever its batch.

    Attributes:
        cost: of the network, and of one training clip.
        training: memory of a training step.
        eval_peak: bytes of the views that evaluation computes at once.
    """

    cost: Cost
    training: TrainingMemory
    eval_peak: int


class _PlanCLI(VideoCLI):
    """The parser of ``fit``, which builds the network without memory, and starts nothing."""

    def usage(self, command: str) -> str:
        return _USAGE

    def _set_seed(self) -> None:
        pass

    def _parse_init_from(self, subcommand: str) -> None:
        pass  # the file is not needed to count, nor are its pixels

    def instantiate_classes(self) -> None:
        with torch.device("meta"):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        return None

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def run(arguments: Sequence[str]) -> int:
    """Runs ``videogn plan`` with the arguments after its name; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="videogn plan",
        usage=_USAGE,
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="of the GPU, for the largest batch and the longest clip that fit: 24GB, 80G, 23034MiB; GB means GiB, as "
        "in the names of GPUs",
    )
    parser.add_argument("--format", choices=["table", "json"], default="table", help="json: one object, bytes")
    options, rest = parser.parse_known_args(arguments)
    try:
        memory = None if options.memory is None else parse_memory(options.memory)
    except ValueError as error:
        raise UsageError(f"--memory: {error}") from error
    cli = read_fit(rest)
    try:
        plan = _plan(cli, memory)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(json.dumps(plan) if options.format == "json" else _table(plan))
    return 0


def read_fit(arguments: Sequence[str]) -> VideoCLI:
    """What `videogn fit` would make of its arguments, but for a Trainer; the network is without memory.

    Raises:
        UsageError: values that the network or the data refuse.
        SystemExit: options that the parser refuses; it has printed why.
    """
    hide_remarks()
    # The folder is never looked at; a later --data.root or one in a file takes its place.
    return _PlanCLI(["fit", "--data.root", ".", *arguments])


def count(cli: VideoCLI) -> Counted:
    """Counts a configuration, in seconds to half a minute.

    Raises:
        UsageError: a precision that cannot be counted.
        ValueError: what the network raises on such clips.
    """
    module: Any = cli.model
    network, clip = module.network, cli.datamodule.clip
    return Counted(
        cost=count_cost(network, clip.frames, clip.train_crop),
        training=count_training(network, clip.frames, clip.train_crop, **_of_step(cli)),
        eval_peak=_evaluation_peak(module, clip, setting_of(cli)),
    )


def _plan(cli: VideoCLI, memory: int | None) -> dict[str, Any]:
    module: Any = cli.model
    clip, batch, setting, counted = cli.datamodule.clip, cli.datamodule.batch_size, setting_of(cli), count(cli)
    cost, training = counted.cost, counted.training
    plan: dict[str, Any] = {
        "network": cost_line(module.hparams, cost, clip.frames, clip.train_crop),
        "norm": module.hparams["norm"],
        "memory_option": cli.config["fit"].model.memory,
        "frames": clip.frames,
        "size": clip.train_crop,
        "batch_size": batch,
        **dataclasses.asdict(setting),
        **dataclasses.asdict(cost),
        "saved_per_clip": training.saved.per_clip,
        "saved_fixed": training.saved.fixed,
        "parameter_bytes": training.parameters,
        "gradient_bytes": training.gradients,
        "optimizer_bytes": training.optimizer,
        "optimizer": module.recipe.optimizer,
        "peak": training.peak(batch),
        "eval_views": clip.num_views,
        "eval_views_at_once": _views_at_once(module, clip),
        "eval_view": [clip.eval_frames, *_view_size(clip)],
        "eval_peak": counted.eval_peak,
    }
    if memory is not None:
        plan["memory"] = memory
        plan["largest_batch"] = training.largest_batch(memory)
        plan["longest_clip"] = count_longest_clip(module.network, batch, clip.train_crop, memory, **_of_step(cli))
    return plan


def _of_step(cli: VideoCLI) -> dict[str, Any]:
    """What a step's memory depends on besides the network and the clips."""
    module: Any = cli.model
    setting, recipe = setting_of(cli), module.recipe
    return {
        "device": setting.device,
        "dtype": setting.dtype,
        "optimizer": partial(make_optimizer, recipe=recipe, lr=recipe.lr),
        "accumulated": accumulates(cli),
    }


def _evaluation_peak(module: Any, clip: ClipSpec, setting: Setting) -> int:
    """Memory of the views that evaluation computes at once."""
    return count_evaluation(
        module.network,
        _views_at_once(module, clip),
        clip.eval_frames,
        *_view_size(clip),
        device=setting.device,
        dtype=setting.dtype,
    )


def _views_at_once(module: Any, clip: ClipSpec) -> int:
    return min(module.clips_per_forward, clip.num_views)


def _view_size(clip: ClipSpec) -> tuple[int, int]:
    """Height and width of an evaluated view; whole frames are taken to be 4:3."""
    protocol = clip.protocol
    if protocol.crop == "full":
        return protocol.short_side, protocol.short_side * 4 // 3
    return protocol.side, protocol.side


def setting_of(cli: VideoCLI) -> Setting:
    """The device and precision that a configuration is counted for: a CUDA GPU unless it asks for the CPU.

    Raises:
        UsageError: a precision that cannot be counted.
    """
    trainer = cli.config["fit"].trainer
    precision = _PRECISIONS.get(str(trainer.precision), str(trainer.precision))
    if precision not in ("32-true", "16-mixed", "bf16-mixed"):
        raise UsageError(
            f"--trainer.precision: videogn plan counts 32-true, bf16-mixed and 16-mixed, found {trainer.precision!r}"
        )
    return Setting("cpu" if trainer.accelerator == "cpu" else "cuda", precision)


def accumulates(cli: VideoCLI) -> bool:
    """Whether an optimiser step sees several batches, so that gradients stay from one to the next."""
    module: Any = cli.model
    trainer, asked = cli.config["fit"].trainer, module.recipe.clips_per_step
    devices = trainer.devices if isinstance(trainer.devices, int) and trainer.devices > 0 else 1
    if asked is not None and asked > cli.datamodule.batch_size * devices:
        return True
    return (trainer.accumulate_grad_batches or 1) > 1


def _table(plan: dict[str, Any]) -> str:
    saved = ActivationMemory(plan["saved_fixed"], plan["saved_per_clip"])
    states = {name: plan[f"{name}_bytes"] for name in ("parameter", "gradient", "optimizer")}
    lines = [
        plan["network"],
        f"memory {plan['memory_option']}: {saved_line(saved, Setting(plan['device'], plan['precision']))}",
        f"states: parameters {format_bytes(states['parameter'])}, gradients {format_bytes(states['gradient'])}, "
        f"{plan['optimizer']} {format_bytes(states['optimizer'])}",
        peak_line(plan["peak"], plan["batch_size"]),
        f"an evaluation, {plan['eval_views_at_once']} of a video's {plan['eval_views']} views of "
        f"{'x'.join(map(str, plan['eval_view']))} at once, holds {format_bytes(plan['eval_peak'])} at its peak, "
        "and the video's frames in uint8",
    ]
    if "memory" in plan:
        lines.append(
            f"{format_bytes(plan['memory'])} hold a batch of {plan['largest_batch']} clips of {plan['frames']} frames, "
            f"or {plan['batch_size']} clips of {plan['longest_clip']} frames"
        )
    return "\n".join(lines)
