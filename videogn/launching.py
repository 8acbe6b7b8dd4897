"""Processes that a launcher has started: they must end with it, and find each other when it starts them again."""

from __future__ import annotations

import os

from videogn.data.child_signals import die_with
from videogn.errors import UsageError

_LAUNCHER = "VIDEOGN_LAUNCHER"  # in the environment of the processes that Lightning starts: who started them


def join_launcher() -> None:
    """A process that torchrun or Lightning has started beside others ends when the launcher is killed (Linux).

    Raises:
        UsageError: torchrun would start processes again that cannot find each other.
    """
    parent = str(os.getppid())
    elastic = "TORCHELASTIC_RUN_ID" in os.environ
    if elastic or os.environ.get(_LAUNCHER) == parent:
        die_with(int(parent))
    os.environ[_LAUNCHER] = str(os.getpid())
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if elastic and restarts != "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise UsageError(
            f"torchrun --max_restarts {restarts}: expected TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's "
            "environment, found it unset: processes that are started again would find the addresses of those that "
            "have ended, and hang. Set it, or --max_restarts 0."
        )
