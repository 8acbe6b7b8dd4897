"""What the processes of a run tell each other."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

Value = TypeVar("Value")


def of_all(value: Value) -> list[Value]:
    """What each process has, in the order of their ranks; all processes have to ask together."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    every = [value] * dist.get_world_size()
    dist.all_gather_object(every, value)
    return every
