"""Processes that others have started end with them, and find each other when they are started again. No torch here."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any

from videogn.errors import UsageError

LAUNCHER = "VIDEOGN_LAUNCHER"
"""In the environment of processes that end with the one that started them: its number."""


def die_with(parent: int) -> None:
    """Has the kernel kill this process when the thread that started it ends, even while it hangs (Linux alone).

    Args:
        parent: number of the process that started this one; if it has ended already, so does this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def join_launcher() -> None:
    """A process that torchrun or Lightning has started beside others ends when the launcher is killed (Linux).

    Raises:
        UsageError: torchrun would start processes again that cannot find each other.
    """
    parent = str(os.getppid())
    elastic = "TORCHELASTIC_RUN_ID" in os.environ
    if elastic or os.environ.get(LAUNCHER) == parent:
        die_with(int(parent))
    os.environ[LAUNCHER] = str(os.getpid())
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if elastic and restarts != "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise UsageError(
            f"torchrun --max_restarts {restarts}: expected TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's "
            "environment, found it unset: processes that are started again would find the addresses of those that "
            "have ended, and hang. Set it, or --max_restarts 0."
        )


def check_processes(launcher: Any) -> None:
    """Whether SLURM or torchrun has started as many processes as the options say.

    Args:
        launcher: of the Trainer's strategy; None for one process.

    Raises:
        UsageError: it has not.
    """
    if launcher is None or not hasattr(launcher, "cluster_environment"):
        return
    try:
        launcher.cluster_environment.validate_settings(launcher.num_processes, launcher.num_nodes)
    except ValueError as error:
        raise UsageError(f"--trainer.devices, --trainer.num_nodes: {error}") from error
