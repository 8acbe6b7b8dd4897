"""The processes of a run end together: the first error ends all of them, and so does one that is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from videogn.stopping import Stopped

_POLL_SECONDS = 0.3
_PATIENCE_SECONDS = 10.0
_SILENT_SECONDS = 60.0  # without a sign of life
_JUDGE_SECONDS = 5.0  # an exchange has failed: time for the others to show a sign of life
_GOES_ON = "The same command with --ckpt_path last goes on from the last checkpoint."


class FailTogether(Callback):
    """When one process fails or is killed, end the others at once, silently and with its exit code.

    They would go on to the end of their shares, or wait in an exchange with the process that is gone: under gloo until
    the connection closes, with a traceback that hides the cause; under NCCL for the time limit of the process group,
    half an hour. They are ended by ``os._exit``, because a process that waits in an exchange can do nothing else. One
    process alone behaves as without this callback, and so do interruptions, which Lightning hands on itself.

    A process that is killed says nothing. It is found within a second where process 0 has started it or where its
    connections close, and else after a minute without a sign of life.

    The processes meet in the key-value store that torch.distributed has started them with.

    Its place is behind the other callbacks, because on an error it may end the process; that of :class:`WatchFirst`
    before them.
    """

    _watch: _Watch | None = None

    def watch(self, trainer: Trainer) -> None:
        """Begins to look after the other processes."""
        store = shared_store()
        if store is not None:
            self._watch = _Watch(store, _take_children(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._watch is not None:
            trainer.strategy.barrier("fail-together")  # the store ends with process 0, and nobody may be looking then
            self._watch.done.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._watch is None:
            return
        if isinstance(exception, KeyboardInterrupt) or (isinstance(exception, Stopped) and exception.together):
            self._watch.done.set()
        else:
            self._watch.fail(exception)


class WatchFirst(Callback):
    """Has the watch begin before other callbacks exchange anything with processes that may be gone.

    Args:
        together: whose watch it is.
    """

    def __init__(self, together: FailTogether) -> None:
        self._together = together

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._together.watch(trainer)


class _Watch:
    """Looks after the other processes in a thread, and tells them that this one lives.

    Args:
        store: of :func:`shared_store`.
        children: processes that this one has started, by rank.
    """

    _runs = 0  # of this process: each has names of its own in the store, which outlives it

    def __init__(self, store: Any, children: dict[int, subprocess.Popen[Any]]) -> None:
        _Watch._runs += 1
        self.done = threading.Event()
        self._name = f"videogn/{_Watch._runs}"
        self._store = store
        self._children = children
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._others = [rank for rank in range(self._world) if rank != self._rank]
        threading.Thread(target=self._run, name="fail-together", daemon=True).start()

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        # Process 0 watches all, and all watch process 0.
        watched = self._others if self._rank == 0 else [0]
        signs = {rank: (b"", time.monotonic()) for rank in watched}
        number = 0
        while not self.done.wait(_POLL_SECONDS):
            number += 1
            try:
                self._store.set(f"{self._name}/alive/{self._rank}", str(number))
                self._follow()
                for rank in watched:
                    sign = self._sign(rank)
                    if sign != signs[rank][0]:
                        signs[rank] = (sign, time.monotonic())
                    how = self._how_it_ended(rank)
                    if how is None and time.monotonic() > signs[rank][1] + _SILENT_SECONDS:
                        how = f"has given no sign of life for {_SILENT_SECONDS:.0f} s"
                    if how is not None and not self.done.wait(1.0):  # it may have told, or this one be at its end
                        self._follow()
                        self._lost(rank, how)
            except RuntimeError:
                if not self.done.wait(_JUDGE_SECONDS / 2):  # process 0, which keeps the store, may have finished
                    self._lost(0, "is gone", store=False)
                return

    def _sign(self, rank: int) -> bytes:
        name = f"{self._name}/alive/{rank}"
        return bytes(self._store.get(name)) if self._store.check([name]) else b""

    def _how_it_ended(self, rank: int) -> str | None:
        child = self._children.get(rank)
        code = child.poll() if child is not None else None
        if not code:
            return None
        if code > 0:
            return f"has ended with exit code {code}"
        more = " (was memory short?)" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{more}"

    def _follow(self) -> None:
        """Ends this process if another one has failed."""
        if self._store.check([self._failed]) and not self.done.is_set():
            self._leave(int(self._store.get(self._failed).decode().split()[1]))

    # -- ends ------------------------------------------------------------------------------------------------------

    def fail(self, exception: BaseException) -> None:
        """Tells the others of this process's error, or ends it if that error is only what follows from another one."""
        try:
            if isinstance(exception, RuntimeError):
                self._judge()
            self.done.set()
            own = f"{self._rank} {getattr(exception, 'exit_code', 1)}"
            first = self._store.compare_set(self._failed, "", own).decode()
        except RuntimeError:  # process 0 keeps the store, so that it has failed and this is what follows from it
            self._lost(0, "is gone", store=False)
        else:
            if first != own:
                self._leave(int(first.split()[1]))
        # Not a daemon: the process tells its error and then stays until the others know that they have to end.
        threading.Thread(target=self._stay, name="fail-together").start()

    def _judge(self) -> None:
        """Whether the others live, if an exchange with them may have failed."""
        before = {rank: self._sign(rank) for rank in self._others}
        end = time.monotonic() + _JUDGE_SECONDS
        while before and time.monotonic() < end:
            time.sleep(_POLL_SECONDS / 3)
            self._follow()
            before = {rank: sign for rank, sign in before.items() if self._sign(rank) == sign}
        for rank in before:
            self._lost(rank, self._how_it_ended(rank) or "is gone")

    def _lost(self, rank: int, how: str, store: bool = True) -> None:
        """Ends this process because another one has ended without a word; the first that notices tells it."""
        own = f"{self._rank} 1"
        with contextlib.suppress(RuntimeError):
            if store and self._store.compare_set(self._failed, "", own).decode() != own:
                self._leave(1)
        _tell_lost(rank, how)
        self._leave(1, store)

    def _leave(self, code: int, store: bool = True) -> None:
        """Ends this process because another one has failed."""
        if store:
            with contextlib.suppress(RuntimeError):
                self._store.add(self._seen, 1)
                if self._rank == 0:
                    self._wait_for(self._world)
        sys.stdout.flush()
        sys.stderr.flush()
        for child in self._children.values():
            child.kill()
        os._exit(code)

    def _stay(self) -> None:
        """Keeps the process that failed until all others know, so that the store outlives their looking at it."""
        with contextlib.suppress(RuntimeError, ValueError):  # the store or the process group is gone
            self._wait_for(self._world - 1)
            threading.main_thread().join(_PATIENCE_SECONDS)  # it tells the error; process 0 ends this one when all know
            self._store.add(self._seen, 1)

    def _wait_for(self, count: int) -> None:
        end = time.monotonic() + _PATIENCE_SECONDS
        while self._store.add(self._seen, 0) < count and time.monotonic() < end:
            if self._children and all(child.poll() is not None for child in self._children.values()):
                return
            time.sleep(_POLL_SECONDS / 3)

    @property
    def _failed(self) -> str:
        return f"{self._name}/failed"

    @property
    def _seen(self) -> str:
        return f"{self._name}/seen"


def shared_store() -> Any:
    """What the processes share, on a connection of the caller's own; None for one alone.

    Ends this process if process 0 is gone, which keeps it.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    shared = dist.distributed_c10d._get_default_store()
    usual = shared.timeout  # type: ignore[attr-defined]
    shared.set_timeout(timedelta(seconds=_SILENT_SECONDS))  # the clone has it, and takes so long to connect
    try:
        shared.check([""])  # notices at once that nobody keeps it
        own = shared.clone()
    except RuntimeError:
        _tell_lost(0, "is gone")
        os._exit(1)
    shared.set_timeout(usual)
    return own


def _tell_lost(rank: int, how: str) -> None:
    print(f"videogn: error: process {rank} of {dist.get_world_size()} {how}. {_GOES_ON}", file=sys.stderr, flush=True)


def end_children(trainer: Trainer, patience: float) -> None:
    """Waits for the processes that Lightning has started beside this one, and kills those that stay.

    Args:
        patience: seconds.
    """
    end = time.monotonic() + patience
    for child in getattr(trainer.strategy.launcher, "procs", ()):
        if isinstance(child, subprocess.Popen):
            try:
                child.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _take_children(trainer: Trainer) -> dict[int, subprocess.Popen[Any]]:
    """The processes that Lightning has started, by rank, which its observer then leaves alone.

    It kills this process without a word as soon as it sees one of them end with another code than 0, at whatever it is.
    """
    launcher: Any = trainer.strategy.launcher
    children = [child for child in getattr(launcher, "procs", ()) if isinstance(child, subprocess.Popen)]
    if children:
        shared = launcher.procs
        launcher.procs = list(shared)
        shared.clear()  # the observer's list
    return dict(enumerate(children, start=trainer.global_rank + 1))
