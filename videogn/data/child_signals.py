"""How child processes end: with their parent, and never by a signal that was meant for the run."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

_STOP = {signal.SIGTERM} | ({signal.SIGUSR1} if hasattr(signal, "SIGUSR1") else set())


def die_with(parent: int) -> None:
    """Has the kernel kill this process when the thread that started it ends, even while it hangs (Linux alone).

    Args:
        parent: number of the process that started this one; if it has ended already, so does this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def heed_parent_alone() -> None:
    """Has this process obey SIGTERM and SIGUSR1 from its parent, and overlook those of others.

    A batch system signals all processes of a job. The one that trains wants to save then, and needs its children for
    the step that it is in. To be called before the process has threads; its forks inherit that these signals wait.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS, Windows
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    threading.Thread(target=_obey, args=(os.getppid(),), name="signals", daemon=True).start()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo(_STOP).si_pid != parent:
        pass
    os._exit(0)
