"""Child processes do not end by a signal that was meant for the run."""

from __future__ import annotations

import os
import signal
import threading

_STOP = {signal.SIGTERM} | ({signal.SIGUSR1} if hasattr(signal, "SIGUSR1") else set())


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
