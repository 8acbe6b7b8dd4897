"""Starts a study's runs, several at once, each as a `videogn fit` of its own, and goes on with interrupted ones.

A run's folder holds ``config.yaml`` (all of its configuration), ``output.log``, ``run.json`` (how it ended) and what
`videogn fit` writes. Nothing is kept elsewhere: what is done is read off the folders.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from videogn.data.cores import available_cores
from videogn.data.files import cannot_write, lock_folder, write_atomically
from videogn.errors import UsageError
from videogn.launching import LAUNCHER
from videogn.stopping import CODES
from videogn.study.options import merged
from videogn.study.outcomes import RECORD_FILE, Outcome, read_outcome, read_record
from videogn.study.runs import Run

CONFIG_FILE, LOG_FILE = "config.yaml", "output.log"
_POLL_SECONDS = 0.1
_STOP_SECONDS = 120.0  # for a run to save before it ends
_INTERRUPTED = (*CODES.values(), -signal.SIGKILL, -signal.SIGTERM)  # the last one before a run listens


@dataclass
class _Started:
    run: Run
    process: subprocess.Popen[bytes]
    slot: int
    since: float
    lock: int | None


def run_all(runs: Sequence[Run], jobs: int, keep_checkpoints: bool, say: Callable[[str], None]) -> list[Outcome]:
    """Runs what is not done, ``jobs`` at once, and reads what all have left.

    A run that fails is told and left; the others go on. Whatever ends this function early ends the runs that are at
    work as SIGTERM does: they save, and the next call goes on with them. A run that another process is at is left to
    it.

    Args:
        runs: in this order.
        jobs: how many at once.
        keep_checkpoints: False removes those of runs that are done, unless others start from them.
        say: told one line when a run ends.
    """
    wanted = list({run.folder: run for run in runs}.values())
    waiting = [run for run in wanted if not _is_done(run)]
    done, to_do, seconds = len(wanted) - len(waiting), len(waiting), 0.0
    environments, free = _environments(jobs), list(range(jobs))
    started: list[_Started] = []
    try:
        while waiting or started:
            while waiting and free:
                one = _start(waiting.pop(0), free[0], environments[free[0]], say)
                if one is not None:
                    started.append(one)
                    free.pop(0)
            for one in [one for one in started if one.process.poll() is not None]:
                started.remove(one)
                free.append(one.slot)
                outcome = _end(one, keep_checkpoints)
                done, seconds = done + 1, seconds + time.monotonic() - one.since
                left = len(waiting) + len(started)
                mean = seconds / (to_do - left)
                say(f"[{done}/{len(wanted)}] {_told(outcome)}{_remaining(left, mean * left / jobs)}")
            time.sleep(_POLL_SECONDS)
    finally:
        _stop(started, keep_checkpoints)
    return [read_outcome(run) for run in runs]


def _is_done(run: Run) -> bool:
    """Whether there is nothing left to run: a pre-training whose weights are gone has to be run again."""
    done = read_record(run.folder).get("status") == "done"
    return done and (run.purpose != "pretraining" or run.weights.exists())


def _start(run: Run, slot: int, environment: dict[str, str], say: Callable[[str], None]) -> _Started | None:
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(str(run.folder), "another `videogn study`", seconds=0)
    except OSError as error:
        raise cannot_write(str(run.folder), error) from error
    except UsageError:
        say(f"{run.text}: left to another `videogn study`, which is at it")
        return None
    if _is_done(run):
        say(f"{run.text}: done by another `videogn study`")
        if lock is not None:
            os.close(lock)
        return None
    if not any(run.folder.glob("version_*/checkpoints/*.ckpt")):
        # Of a start that ended before its first checkpoint: the next one would not be version_0.
        for version in run.folder.glob("version_*"):
            shutil.rmtree(version, ignore_errors=True)
    config = merged(run.config, {"trainer": {"default_root_dir": str(run.folder), "enable_progress_bar": False}})
    write_atomically(str(run.folder / CONFIG_FILE), [yaml.safe_dump(config, sort_keys=False)])
    command = [sys.executable, "-m", "videogn", "fit", "-c", str(run.folder / CONFIG_FILE), "--ckpt_path", "last"]
    with open(run.folder / LOG_FILE, "ab") as log:
        # A session of its own: Ctrl-C reaches this process alone, which then asks the runs to save.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    return _Started(run, process, slot, time.monotonic(), lock)


def _end(one: _Started, keep_checkpoints: bool) -> Outcome:
    """Writes how a run ended."""
    code, run = one.process.returncode, one.run
    status = "done" if code == 0 else "interrupted" if code in _INTERRUPTED else "failed"
    before = read_record(run.folder)
    record = {
        "status": status,
        "exit_code": code,
        "seconds": round(before.get("seconds", 0.0) + time.monotonic() - one.since, 1),
        "starts": before.get("starts", 0) + 1,
    }
    write_atomically(str(run.folder / RECORD_FILE), [json.dumps(record, indent=1), "\n"])
    if status == "done" and not keep_checkpoints and run.purpose != "pretraining":
        for folder in run.folder.glob("version_*/checkpoints"):
            shutil.rmtree(folder, ignore_errors=True)
    if one.lock is not None:
        os.close(one.lock)
    return read_outcome(run)


def _stop(started: Sequence[_Started], keep_checkpoints: bool) -> None:
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            one.process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    for one in started:
        try:
            one.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
        _end(one, keep_checkpoints)


def _told(outcome: Outcome) -> str:
    text = outcome.run.text
    if outcome.status == "done":
        return f"{text}: top-1 {100 * outcome.scores['top1']:.1f} % ({outcome.seconds:.0f} s)"
    log, status = outcome.run.folder / LOG_FILE, outcome.status
    if read_record(outcome.run.folder).get("exit_code") == -signal.SIGKILL:
        return f"{text}: killed, as for lack of memory (signal 9): {_last_words(log)} ({log})"
    return f"{text}: {'interrupted' if status == 'missing' else status}: {_last_words(log)} ({log})"


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("videogn: ")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("videogn: ").removeprefix("error: ")


def _remaining(left: int, seconds: float) -> str:
    if not left:
        return ""
    about = f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
    return f"; {left} left, about {about}"


def _environments(jobs: int) -> list[dict[str, str]]:
    """The environment of each run that is at work at the same time: its share of the cores and of the GPUs."""
    own = {**os.environ, LAUNCHER: str(os.getpid())}
    own.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // jobs)))
    if jobs == 1:
        return [own]
    devices = _devices()
    share = len(devices) // jobs
    out = []
    for slot in range(jobs):
        mine = devices[slot * share : (slot + 1) * share] or devices[slot % max(1, len(devices)) :][:1]
        out.append({**own, "CUDA_VISIBLE_DEVICES": ",".join(mine)} if mine else own)
    return out


def _devices() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
