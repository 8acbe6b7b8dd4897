"""The processes of a run fail together: the first error ends all of them, and is the only one that is told."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

_FAILED = "videogn/failed"
_SEEN = "videogn/seen"
_POLL_SECONDS = 0.3
_PATIENCE_SECONDS = 10.0


class FailTogether(Callback):
    """When one process fails, end the others at once, silently and with its exit code.

    They would go on to the end of their shares, or wait in an exchange with the process that is gone: under gloo until
    the connection closes, with a traceback that hides the cause; under NCCL for the ten minutes of its time limit. They
    are ended by ``os._exit``, because a process that waits in an exchange can do nothing else. One process alone
    behaves as without this callback, and so do interruptions, which Lightning hands on itself.

    The processes meet in the key-value store that torch.distributed has started them with.
    """

    def __init__(self) -> None:
        self._done = threading.Event()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        store = _store()
        if store is not None:
            self._done = threading.Event()
            threading.Thread(target=_watch, args=(store, self._done), name="fail-together", daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if _store() is not None:
            trainer.strategy.barrier("fail-together")  # the store ends with process 0, and nobody may be looking then
        self._done.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._done.set()
        store = _store()
        if store is None or isinstance(exception, KeyboardInterrupt):
            return
        own = f"{dist.get_rank()} {getattr(exception, 'exit_code', 1)}"
        try:
            first = store.compare_set(_FAILED, "", own).decode()
        except RuntimeError:  # process 0 keeps the store, so that it has failed and this is what follows from it
            _leave(None, 1)
        else:
            if first != own:
                _leave(store, int(first.split()[1]))
        # Not a daemon: the process tells its error and then stays until the others know that they have to end.
        threading.Thread(target=_stay, args=(store,), name="fail-together").start()


def _store() -> Any:
    """What the processes share; None for one alone."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return dist.distributed_c10d._get_default_store()


def _watch(store: Any, done: threading.Event) -> None:
    while not done.wait(_POLL_SECONDS):
        try:
            failed = store.check([_FAILED])
            code = int(store.get(_FAILED).decode().split()[1]) if failed else 0
        except RuntimeError:  # process 0 is gone, maybe because it has finished
            return
        if failed and not done.is_set():
            _leave(store, code)


def _leave(store: Any, code: int) -> None:
    """Ends this process because another one has failed."""
    if store is not None:
        try:
            store.add(_SEEN, 1)
            if dist.get_rank() == 0:
                _wait_for(store, dist.get_world_size())
        except RuntimeError:
            pass
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _stay(store: Any) -> None:
    """Keeps the process that failed until all others know, so that the store outlives their looking at it."""
    try:
        _wait_for(store, dist.get_world_size() - 1)
        store.add(_SEEN, 1)
    except (RuntimeError, ValueError):  # the store or the process group is gone
        pass


def _wait_for(store: Any, count: int) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while store.add(_SEEN, 0) < count and time.monotonic() < end:
        time.sleep(_POLL_SECONDS / 3)
