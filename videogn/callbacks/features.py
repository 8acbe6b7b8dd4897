"""How the values that a layer gives spread while a network is trained."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from videogn.errors import UsageError

_SHOWN = 3


class FeaturePercentiles(Callback):
    """Log percentiles of one layer's output on training batches as ``features/p01``, ``features/p20`` ...

    The figure of Wu & He (ECCV 2018), "evolution of feature distributions", has the 1st, 20th, 80th and 99th percentile
    of VGG-16's last convolution, before its norm and ReLU. The last 3x3 convolution is what an I3D ResNet has in its
    place. The percentiles are those of all values of a batch, interpolated linearly between neighbours; where gradients
    are accumulated, of the last batch of the step; under several processes, of the batch of process 0.

    Layers are those that hold no others: convolutions, norms, ReLUs, pools, the classifier. They run one by one
    whatever ``model.memory`` recomputes, and their first pass is the one that is looked at; a whole block's output is
    that of its ``activation``. Training is the same to the bit. A step that is logged costs a copy of the layer's
    output to the host, in which the percentiles are found, and the others cost nothing. Nothing is kept from one step
    to the next, so that a run that goes on from a checkpoint logs what it would have logged.

    Args:
        layer: its name in the network, as in the names of the weights: ``blocks.0.conv`` is the first convolution.
        percentiles: which, from 0 to 100.
        every_n_steps: optimiser steps between two that are logged; null takes ``trainer.log_every_n_steps``.
    """

    def __init__(
        self,
        layer: str = "blocks.5.res_blocks.2.branch2.conv_b",
        percentiles: tuple[int, ...] = (1, 20, 80, 99),
        every_n_steps: int | None = None,
    ) -> None:
        self.percentiles = tuple(percentiles)
        if not self.percentiles or not all(0 <= p <= 100 for p in self.percentiles):
            raise ValueError(f"FeaturePercentiles.percentiles: expected some of 0 to 100, found {list(percentiles)}")
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"FeaturePercentiles.every_n_steps: expected at least 1, found {every_n_steps}")
        self.layer = layer
        self.every_n_steps = every_n_steps
        self._layer: nn.Module | None = None
        self._hook: Any = None
        self._step = 0  # optimiser steps before the batch that is looked at
        self._found: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if getattr(pl_module, "compile_network", False):
            raise UsageError(
                "FeaturePercentiles: a network that is compiled runs no single layers to look at; leave out "
                "model.compile, or the callback"
            )
        self._layer = find_layer(getattr(pl_module, "network", pl_module), self.layer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        every = self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or (trainer.global_step + 1) % every or not (trainer.is_global_zero and trainer.loggers):
            return
        if trainer.fit_loop._should_accumulate() or self._layer is None:
            return
        self._step = trainer.global_step
        self._hook = self._layer.register_forward_hook(self._look)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._hook is None:
            return
        self._unhook()
        for logger in trainer.loggers if self._found else ():
            # Not by ``log``, which would wait for the next step that the Trainer logs.
            logger.log_metrics({**self._found, "epoch": trainer.current_epoch}, step=self._step)
        self._found = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._unhook()
        self._found = {}

    def _look(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if self._found:  # the backward pass, which runs the layer again
            return
        # By NumPy: torch's quantile takes 16 million values at most, and sorting them needs three times their memory.
        values = output.detach().cpu().float().numpy().ravel()
        found = np.percentile(values, self.percentiles)
        self._found = {f"features/p{p:02d}": float(v) for p, v in zip(self.percentiles, found, strict=True)}

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None


def find_layer(network: nn.Module, name: str) -> nn.Module:
    """A layer of a network that holds no others.

    Args:
        network: any.
        name: as in ``named_modules``; ``model.network.`` before it may be there.

    Raises:
        UsageError: it has no such layer, with those that have the most similar names.
    """
    layers = {each: layer for each, layer in network.named_modules() if not any(layer.children())}
    asked = name.removeprefix("model.").removeprefix("network.")
    if asked in layers:
        return layers[asked]
    inside = [each for each in layers if asked and each.startswith(f"{asked}.")]
    nearest = difflib.get_close_matches(asked, inside or layers, n=_SHOWN, cutoff=0.0)
    found = f"{name!r}, which holds {len(inside)} of them" if inside else repr(name)
    raise UsageError(
        f"FeaturePercentiles.layer: expected a layer of the network that holds no others, found {found}; "
        f"nearest: {', '.join(nearest)}"
    )
