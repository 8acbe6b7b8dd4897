"""What the configurations of a study's runs cost: parameters, multiply-adds, memory and training clips.

Computes and writes nothing; only the commands import this, since it needs torch.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from videogn.data.progress import ProgressBar
from videogn.data.samplers import TrainSampler
from videogn.errors import UsageError
from videogn.memory import Setting
from videogn.optim import accumulation
from videogn.plan import Counted, accumulates, count, read_fit, setting_of
from videogn.run_setup import check_splits
from videogn.study.options import Options, option

Device = Literal["cpu", "cuda"]

_NOT_COUNTED = {"init_from", "inflate", "convert_norm", "init_ignore", "label_smoothing", "recipe"}
_FINDS_VIDEOS = (
    "root", "layout", "fold", "train_list", "val_list", "path_prefix", "class_names", "manifest", "demo",
)  # fmt: skip
_LIGHTNING_EPOCHS = 1000  # where neither epochs nor steps are given


@dataclass(frozen=True)
class RunCost:
    """What one run takes.

    Attributes:
        network: the same for runs whose network, clips and optimiser are counted alike.
        parameters: of the network.
        multiply_adds: of one training clip, forward.
        step_bytes: the most that a training step holds, as `videogn plan` counts it.
        eval_bytes: the same of an evaluation.
        setting: device and precision that bytes are counted for.
        device: where the run would compute on this machine; None where that is not there.
        batch: clips per process and forward pass.
        processes: that train together.
        epochs: of the run; None where only its steps are limited.
        clips: training clips that the run sees; None where the number of training videos is not known.
        why: what is missing to know ``clips``.
        cli: the configuration, read.
    """

    network: str
    parameters: int
    multiply_adds: int
    step_bytes: int
    eval_bytes: int
    setting: Setting
    device: Device | None
    batch: int
    processes: int
    epochs: int | None
    clips: int | None
    why: str
    cli: Any = field(repr=False, compare=False)


def count_costs(configs: Mapping[str, Options], jobs: int) -> dict[str, RunCost]:
    """Counts configurations of `videogn fit`; those that share network and clips are counted once.

    Args:
        configs: by the names of cells.
        jobs: runs at a time, which share the GPUs of this machine.

    Raises:
        UsageError: a configuration that `videogn fit` would refuse; it names the configuration.
    """
    counted: dict[str, Counted] = {}
    videos: dict[str, int | str] = {}
    costs = {}
    with ProgressBar("configurations counted", total=len(configs)) as bar:
        for name, config in configs.items():
            try:
                costs[name] = _count(config, jobs, counted, videos)
            except ValueError as error:
                raise UsageError(f"cell {name}: {error}") from error
            bar.update(len(costs), name)
    return costs


def _count(config: Options, jobs: int, counted: dict[str, Counted], videos: dict[str, int | str]) -> RunCost:
    cli = _read(config)
    module, data, trainer = cli.model, cli.datamodule, cli.config["fit"].trainer
    check_splits(module.network, data.batch_size)
    network, found_by = _network_key(cli), _key(cli.config["fit"].data.as_dict(), _FINDS_VIDEOS)
    if network not in counted:
        counted[network] = count(cli)
    if found_by not in videos:
        videos[found_by] = _training_videos(data, option(config, "data.root"))
    of_network, found = counted[network], videos[found_by]
    device = _device(str(trainer.accelerator))
    processes = _processes(trainer, device, jobs)
    passes = accumulation(module.recipe, data.batch_size * processes) or trainer.accumulate_grad_batches or 1
    seen = _clips_seen(trainer, found if isinstance(found, int) else None, data.batch_size, processes, passes)
    if seen == 0:
        raise UsageError(
            f"data.batch_size: expected at most {found} clips per step, the number of training videos, found "
            f"{data.batch_size * processes * passes} ({data.batch_size} per forward pass, {processes} processes, "
            f"{passes} passes per step)"
        )
    return RunCost(
        network=network,
        parameters=of_network.cost.parameters,
        multiply_adds=of_network.cost.multiply_adds,
        step_bytes=of_network.training.peak(data.batch_size),
        eval_bytes=of_network.eval_peak,
        setting=setting_of(cli),
        device=device,
        batch=data.batch_size,
        processes=processes,
        epochs=_epochs(trainer),
        clips=seen,
        why=found if isinstance(found, str) else "",
        cli=cli,
    )


def _read(config: Options) -> Any:
    """The configuration, read as `videogn fit` reads it. What its parser prints on wrong options becomes the error."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return read_fit(["-c", json.dumps(config)])
    except SystemExit as stop:
        text = " ".join(printed.getvalue().rpartition("error: ")[2].split())
        raise UsageError(text or f"refused with code {stop.code}") from stop


def _network_key(cli: Any) -> str:
    model = cli.config["fit"].model.as_dict()
    recipe = cli.model.recipe
    state = (recipe.optimizer, recipe.momentum > 0, recipe.nesterov, accumulates(cli))
    names = [name for name in model if name not in _NOT_COUNTED]
    return f"{_key(model, names)} {cli.datamodule.clip} {setting_of(cli)} {state}"


def _key(options: Mapping[str, Any], names: Sequence[str]) -> str:
    return json.dumps({name: options[name] for name in names}, sort_keys=True, default=str)


def _training_videos(data: Any, root: str | None) -> int | str:
    """How many there are, without decoding or generating any; or what is missing to know."""
    if data.demo is not None:
        return len(data.demo.classes) * data.demo.train_per_class
    if root is None:
        return "data.root is not set"
    try:
        return len(data.index("train"))
    except UsageError as error:
        return str(error)


def _device(accelerator: str) -> Device | None:
    if accelerator == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "cpu" if accelerator == "auto" else None


def _processes(trainer: Any, device: Device | None, jobs: int) -> int:
    """Processes of one run, which sees its share of this machine's GPUs."""
    if isinstance(trainer.devices, int) and trainer.devices > 0:
        here = trainer.devices
    elif isinstance(trainer.devices, list):
        here = len(trainer.devices)
    else:
        here = max(1, torch.cuda.device_count() // jobs) if device == "cuda" else 1
    return here * int(trainer.num_nodes)


def _epochs(trainer: Any) -> int | None:
    if trainer.max_epochs is None:
        return _LIGHTNING_EPOCHS if trainer.max_steps < 0 else None
    return int(trainer.max_epochs) if trainer.max_epochs >= 0 else None


def _clips_seen(trainer: Any, videos: int | None, batch: int, processes: int, passes: int) -> int | None:
    """Training clips of a run, over all processes; None where the number of videos that decides it is not known."""
    most = [] if trainer.max_steps < 0 else [trainer.max_steps * passes]
    epochs = _epochs(trainer)
    if videos is not None and epochs is not None:
        in_epoch = TrainSampler(videos, batch, 0, processes, 0, passes).total_size // (batch * processes)
        limit = 1.0 if trainer.limit_train_batches is None else trainer.limit_train_batches
        in_epoch = min(in_epoch, limit) if isinstance(limit, int) else math.floor(in_epoch * limit)
        most.append(epochs * in_epoch)
    elif epochs is not None:
        return None
    return min(most) * batch * processes if most else None
