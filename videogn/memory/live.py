"""Storages that are alive, and a network of fake tensors to watch them in."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of every storage that an operation creates on a device, until nothing refers to it any more.

    Unlike saved-tensor hooks it sees what checkpoints hold in their closures, and what lives for a moment only. What an
    operation allocates and frees inside itself (workspaces) is not seen.

    Attributes:
        total: bytes alive.
        trace: ``total`` after every operation; cleared by whoever reads it.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.total = 0
        self.trace: list[int] = []
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().startswith("aten::_fused_"):
            return None  # optimisers that write in place
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, list | tuple) else (out,):
            if isinstance(value, Tensor) and value.device.type == self.device:
                self._add(value.untyped_storage())
        self.trace.append(self.total)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return  # a view, or written in place

        def forget(_: object) -> None:
            del self._alive[key]
            self.total -= size

        # The Python object of a storage lives as long as the storage does, whoever holds that.
        self._alive[key] = weakref.ref(storage, forget)
        self.total += size


@contextmanager
def watched(device: str) -> Iterator[LiveStorages]:
    """Tensors made inside are fake, on a ``device`` that need not be there, and their storages are counted."""
    with ExitStack() as stack:
        if device == "cuda" and not torch.cuda.is_available():
            # torch.autocast turns itself off without a GPU, in what checkpoints recompute too.
            stack.enter_context(
                mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", return_value=False)
            )
            stack.enter_context(mock.patch.object(torch.cuda, "is_bf16_supported", return_value=True))
        if device != "meta":
            stack.enter_context(FakeTensorMode(allow_fallback_kernels=False, allow_non_fake_inputs=True))
        yield stack.enter_context(LiveStorages(device))


def fake_copy(network: nn.Module, device: str) -> nn.Module:
    """A copy in training mode with fake parameters and buffers on ``device``; the network itself is only read."""

    def empty(t: Tensor) -> Tensor:
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device)

    copies: dict[int, Any] = {id(p): nn.Parameter(empty(p), p.requires_grad) for p in network.parameters()}
    copies |= {id(b): empty(b) for b in network.buffers()}
    # deepcopy takes what its memo holds already, so that no real tensor is copied.
    fake = copy.deepcopy(network, copies)
    for module in fake.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = nn.BatchNorm3d  # type: ignore[assignment]  # keeps the same, and waits for no process
    return fake.train()
