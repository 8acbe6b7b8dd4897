"""What the system tells about a child process."""

from __future__ import annotations

import os
import signal
import time

KILLED = "signal SIGKILL: was memory short?"


def bytes_read(pid: int) -> int:
    """Bytes that a child has read from files and pipes so far; 0 where the system does not tell."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            return int(file.readline().split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def how_it_ended(pid: int) -> str:
    """How a child ended, in words; waits, but not for ever: one that waits for a dead network disk does not die."""
    pause = 0.001
    while pause < 2.0:
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # a handler of SIGCHLD was faster
            return "exit status unknown"
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code == -signal.SIGKILL:
                return KILLED
            return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        time.sleep(pause)
        pause *= 1.5
    return "it does not even end when killed"
