"""How a loader's workers are set up."""

from __future__ import annotations

import torch


def start_worker(worker: int) -> None:
    """Set-up of a loader's worker: one thread each, because the workers share the cores among them."""
    torch.set_num_threads(1)
