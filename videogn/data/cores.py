"""How many CPU cores there are. Imports no torch."""

from __future__ import annotations

import os


def available_cores() -> int:
    """CPU cores that this process may use, which a container or a scheduler can make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
