"""Which processes are there, on Linux."""

import os
import sys
import time

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but has not been waited for does not."""
    return _state_and_parent(pid)[0] not in "ZX"


def gone(pid: int, seconds: float = 3.0) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def children(pid: int, *, ended: bool = False) -> list[int]:
    """The processes that this one has started; with ``ended`` those too that nobody has waited for yet."""
    others = {int(entry): _state_and_parent(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()}
    return [other for other, (state, parent) in others.items() if parent == pid and (ended or state not in "ZX")]


def _state_and_parent(pid: int) -> tuple[str, int]:
    """``X`` where there is no such process (any more)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, parent, *_ = file.read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return state, int(parent)
