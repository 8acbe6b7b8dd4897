"""What a run leaves about itself: where and when it was, and what training took."""

from __future__ import annotations

import logging
import os
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from videogn.callbacks.summary import RunSummary
from videogn.results import TRAINING_FILE, Training, write_record

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

VERSIONS = ("videogn", "torch", "lightning", "av")


def leaves_files(trainer: Trainer) -> bool:
    """Whether a run should leave files: not one that tries whether a few batches run, nor one for its speed alone."""
    return not (trainer.fast_dev_run or trainer.barebones)  # type: ignore[attr-defined]


def run_folder(trainer: Trainer) -> str:
    """Where a run's files go; where it has no logger, ``default_root_dir``. To be called by all processes together."""
    return trainer.log_dir or trainer.default_root_dir


def circumstances(trainer: Trainer) -> dict[str, Any]:
    """What :class:`~videogn.results.Evaluation` and :class:`~videogn.results.Training` both say of a run."""
    return {
        "device": device_name(trainer),
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
        "versions": {name: version(name) for name in VERSIONS},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def device_name(trainer: Trainer) -> str:
    """Of the device of this process, for example ``"cpu"`` or ``"NVIDIA H100"``."""
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_resident() -> int | None:
    """The most memory that this process has held since it began, in bytes; None on Windows."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class TrainingRecord(Callback):
    """Write ``training.json`` into the run's folder when training ends, and at every validation until then.

    Of a run that goes on from a checkpoint, seconds and clips are those up to the checkpoint and those since: what was
    done between it and the end of the process that wrote it is done again, and counted once. The peak memory is the
    highest of all parts on the same kind of device; the rest is about the last part. The wait for an epoch's first
    batch, while workers start, is in ``seconds`` and not in ``train_seconds``.

    Args:
        summary: has counted the network's cost and memory.
    """

    def __init__(self, summary: RunSummary) -> None:
        self._summary = summary
        self._clips = 0  # of all processes, which have equal shares
        self._train_seconds = 0.0
        self._earlier = 0.0  # seconds before _start
        self._start: float | None = None
        self._running: float | None = None  # when the batches began that are not in _train_seconds
        self._end = 0.0
        self._device = ""
        self._peaks: dict[str, int] = {}  # bytes, by device

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self._seconds(),
            "train_seconds": self._train_seconds + (self._end - self._running if self._running is not None else 0.0),
            "clips": self._clips,
            "peaks": self._measure(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier, self._start = state_dict["seconds"], None
        self._train_seconds, self._running = state_dict["train_seconds"], None
        self._clips = state_dict["clips"]
        self._peaks = dict(state_dict["peaks"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._device = device_name(trainer)
        self._start = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._running is None:
            self._running = self._end = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._clips += len(batch) * trainer.world_size
        self._end = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module)
        self._earlier, self._start = self._seconds(), None

    def _seconds(self) -> float:
        return self._earlier + (time.perf_counter() - self._start if self._start is not None else 0.0)

    def _measure(self) -> dict[str, int]:
        """The highest memory so far, by device."""
        peak = self._summary.measured_peak or peak_resident()
        if self._device and peak:
            self._peaks[self._device] = max(peak, self._peaks.get(self._device, 0))
        return dict(self._peaks)

    def _pause(self, trainer: Trainer) -> None:
        """Takes the time of the batches since the last pause."""
        if self._running is None:
            return
        if trainer.strategy.root_device.type == "cuda":  # is at work for as long as the last batches need
            torch.cuda.synchronize(trainer.strategy.root_device)
            self._end = time.perf_counter()
        self._train_seconds += self._end - self._running
        self._running = None

    def _write(self, trainer: Trainer, module: Any) -> None:
        folder = run_folder(trainer)
        path = os.path.join(folder, TRAINING_FILE)
        if not trainer.is_global_zero or not leaves_files(trainer):
            return
        counted = self._summary.counted
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        batch = getattr(datamodule, "batch_size", None)
        per_step = None if batch is None else batch * trainer.accumulate_grad_batches * trainer.world_size
        record = Training(
            parameters=counted.parameters,
            multiply_adds=counted.multiply_adds,
            counted_bytes_per_clip=counted.bytes_per_clip,
            counted_peak_bytes=counted.peak_bytes,
            peak_memory_bytes=self._measure().get(self._device),
            seconds=self._seconds(),
            train_seconds=self._train_seconds,
            clips=self._clips,
            batch_size=batch,
            clips_per_step=per_step,
            **circumstances(trainer),
        )
        try:
            os.makedirs(folder, exist_ok=True)
            write_record(path, record)
        except OSError as error:
            log.warning("%s: cannot be written (%s); training goes on", path, error.strerror or error)
