"""A run that is asked to stop saves first, all processes at the same step."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from videogn.callbacks.failures import shared_store
from videogn.callbacks.records import leaves_files
from videogn.callbacks.resume import ResumePoints
from videogn.stopping import CODES, REQUESTS, Stopped

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 60.0


class StopSignals(Callback):
    """SIGTERM and SIGUSR1 end a run at the next point where nothing is lost; see :mod:`videogn.stopping`.

    In training that is before the first batch of an optimiser step, where it is saved; in a validation the next batch,
    as training was saved before it, or, where it is within an optimiser step, some steps earlier; in an evaluation the
    next batch, as its journal has the videos that are done. A run that is at its end finishes.

    Of several processes any may be asked. A thread of each tells the others so, and which step its process is in; they
    stop before the first step that none has begun. No exchange between devices is needed, nor anything per step.

    Lightning's own handlers are not installed, and it does not ask all processes before each step whether one was
    signalled: they exchange tensors inside the handler, save in the middle of a step, and wait for the device.

    Args:
        points: where training is saved.
    """

    def __init__(self, points: ResumePoints) -> None:
        self._points = points
        self._processes: _Processes | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        store = shared_store()
        self._processes = _Processes(store) if store is not None else None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        REQUESTS.deferred = True
        if batch_idx % trainer.accumulate_grad_batches:
            return
        number, together = REQUESTS.asked, False
        if self._processes is not None:
            try:
                number = self._processes.stop_before(trainer.fit_loop.epoch_loop.total_batch_idx)
                together = True
            except RuntimeError:
                number = number or signal.SIGTERM
                raise Stopped(number, _text(number, "the other processes do not answer, nothing is saved")) from None
        if number is not None:
            self._points.save(trainer)
            done = f"step {trainer.global_step} is saved" if leaves_files(trainer) else "nothing is saved"
            raise Stopped(number, _text(number, done) if trainer.is_global_zero else "", together)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._leave(trainer)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._leave(trainer)

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        if not trainer.sanity_checking:  # before which there is nothing to save
            REQUESTS.deferred = True  # of an evaluation: until the files of the result are written
        number = REQUESTS.asked
        if number is None and self._processes is not None:
            number = self._processes.asked
        if number is None:
            return
        if trainer.state.fn != "fit":
            text = f"stopped by {signal.Signals(number).name}; the same command goes on (exit code {CODES[number]})"
        else:
            saved, step = self._points.saved_step, trainer.global_step
            done = "what was trained is saved" if step else "nothing was trained yet"
            if saved != step:  # a validation within an optimiser step
                done = f"step {saved} of the {step} that were trained is saved" if saved else "nothing is saved yet"
            text = _text(number, done)
        raise Stopped(number, text)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    def _end(self) -> None:
        if self._processes is not None:
            self._processes.done.set()


class _Processes:
    """How several processes agree on where to stop.

    Each counts the batches that begin its optimiser steps. A thread waits for the request, and then publishes the last
    step that its process has begun, even if that waits in an exchange for another one, which thus never stops before a
    step that is needed.

    Attributes:
        asked: number of the signal that any process got; None before.
    """

    _runs = 0  # of this process: each has names of its own in the store, which outlives it

    def __init__(self, store: Any) -> None:
        _Processes._runs += 1
        self.done = threading.Event()
        self.asked: int | None = None
        self._name = f"videogn/stop/{_Processes._runs}"
        self._store = store
        self._lock = threading.Lock()
        self._begun = -1
        self._last: int | None = None  # that any process has begun
        threading.Thread(target=self._run, name="stop-signals", daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # process 0, which keeps the store, is gone
            while not self.done.wait(_POLL_SECONDS):
                if REQUESTS.asked is not None:
                    self._store.compare_set(self._name, "", str(int(REQUESTS.asked)))
                if self._store.check([self._name]):
                    with self._lock:
                        self.asked = int(self._store.get(self._name))
                        self._store.set(f"{self._name}/{dist.get_rank()}", str(self._begun))
                    return

    def stop_before(self, step: int) -> int | None:
        """The signal's number if all processes stop before this step; None if they do it.

        Raises:
            RuntimeError: one of the others does not answer.
        """
        with self._lock:
            if self.asked is None:
                self._begun = step
                return None
        if self._last is None:
            self._last = max(self._answers())
        return self.asked if step > self._last else None

    def _answers(self) -> list[int]:
        names = [f"{self._name}/{rank}" for rank in range(dist.get_world_size())]
        end = time.monotonic() + _PATIENCE_SECONDS
        while not self._store.check(names):
            if time.monotonic() > end:
                raise RuntimeError("a process does not answer")
            time.sleep(_POLL_SECONDS / 4)
        return [int(answer) for answer in self._store.multi_get(names)]


def _text(number: int, done: str) -> str:
    name = signal.Signals(number).name
    return f"stopped by {name}: {done}; the same command with --ckpt_path last goes on (exit code {CODES[number]})"
