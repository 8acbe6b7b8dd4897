"""Memory of an evaluation's forward pass, counted without computing anything and without a GPU."""

from __future__ import annotations

import torch
from torch import nn

from .step import fake_network


def count_evaluation(
    network: nn.Module,
    clips: int,
    frames: int,
    height: int,
    width: int,
    *,
    device: str = "cuda",
    dtype: torch.dtype | None = None,
) -> int:
    """The most bytes that are alive at once while a network predicts some clips, without gradients.

    Args:
        network: takes float clips (B, 3, T, H, W); only read.
        clips: B, those of one forward pass.
        frames: T.
        height: in pixels.
        width: in pixels.
        device: ``"cuda"`` or ``"cpu"``.
        dtype: of autocast; None where it is off.

    Returns:
        Bytes, with weights, the uint8 clips and their float copy; the video's frames, of which the clips are cut, and
        the workspaces of the convolutions come on top.
    """
    with fake_network(network, device) as (fake, live), torch.no_grad():
        fake.eval()
        shape = (clips, 3, frames, height, width)
        pixels = torch.empty(shape, dtype=torch.uint8, device=device, memory_format=torch.channels_last_3d)
        live.trace.clear()
        x = [pixels.float()]  # in a list, so that only the network holds it
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            fake(x.pop())
        return max(live.trace)
