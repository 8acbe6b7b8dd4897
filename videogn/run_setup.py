"""What is checked and done once, when a run is set up, before its first batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from videogn.errors import UsageError
from videogn.i3d import I3DResNet
from videogn.norms import FrozenBatchNorm, SubBatchNorm, check_sync
from videogn.spec import ClipSpec
from videogn.weights import Inflation, Report, Source, read_source, transfer

# Places of the stem and of res2 to res5 in an I3DResNet's ``blocks``; between res2 and res3 is a pool.
_STAGES = (0, 1, 3, 4, 5)


@dataclass(frozen=True)
class InitialWeights:
    """Where a network's weights come from before it is trained; see :func:`videogn.weights.transfer`.

    Attributes:
        path: of the file: any that :func:`videogn.weights.read_source` knows.
        inflation: how kernels of pictures get their time axis.
        convert_norm: take the convolutions of a network with another norm.
        ignore: patterns of names in the file that are left out.
    """

    path: str
    inflation: Inflation = "mean"
    convert_norm: bool = False
    ignore: tuple[str, ...] = ()

    def load(
        self,
        network: I3DResNet,
        architecture: Mapping[str, Any],
        clip: ClipSpec | None,
        class_names: tuple[str, ...] | None,
        *,
        new_head: bool,
    ) -> Report:
        """Loads the file into ``network``, in place, or raises UsageError and leaves it as it is.

        Args:
            network: takes the weights.
            architecture: what the network was built with.
            clip: how its pixels are normalised; the file must say the same.
            class_names: of its classifier, if they are known.
            new_head: leave the classifier as it is if the file's is for other classes.
        """
        source = read_source(self.path)
        if clip is not None:
            _check_pixels(source, clip)
        return transfer(
            network,
            architecture,
            source,
            inflation=self.inflation,
            convert_norm=self.convert_norm,
            new_head=new_head,
            class_names=class_names,
            ignore=self.ignore,
        )


def _check_pixels(source: Source, clip: ClipSpec) -> None:
    """Refuses another normalisation of pixels than the one that the weights were trained with."""
    for name, theirs, ours in zip(("mean", "std"), source.pixels or (), (clip.mean, clip.std), strict=False):
        if not all(math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-6) for a, b in zip(theirs, ours, strict=True)):
            raise UsageError(
                f"data.clip.{name}: the weights of {source.path} expect {tuple(theirs)}, found {tuple(ours)}; set "
                f"--data.clip.{name} {list(theirs)}, or leave it out of the command and of its configuration files; "
                f"from Python clip=ClipSpec({name}={tuple(theirs)}, ...)"
            )


def frozen_stages(network: I3DResNet, count: int) -> list[nn.Module]:
    """The first ``count`` of stem, res2, res3, res4 and res5.

    Raises:
        ValueError: a count outside 0 to 5.
    """
    if not 0 <= count <= len(_STAGES):
        raise ValueError(f"freeze_stages: expected 0 to {len(_STAGES)} (stem, res2 ... res5), found {count}")
    return [network.blocks[i] for i in _STAGES[:count]]


def check_frozen_weights(report: Report, count: int) -> None:
    """Refuses stages that are not trained and have places that the file of weights left at their initial values."""
    frozen = tuple(f"blocks.{i}." for i in _STAGES[:count])
    initial = [name for name in report.missing if name.startswith(frozen)]
    if initial:
        raise UsageError(
            f"model.freeze_stages {count}: these would keep random weights, because model.init_ignore leaves theirs "
            f"out: {', '.join(initial[:3])}{' ...' if len(initial) > 3 else ''}. Freeze fewer stages, or take them"
        )


def check_frozen_statistics(network: nn.Module) -> None:
    """Refuses layers of frozen batch norm that never got statistics: they would stay at mean 0 and variance 1."""
    for name, layer in network.named_modules():
        if not isinstance(layer, FrozenBatchNorm) or layer.running_mean is None or layer.running_var is None:
            continue
        if bool((layer.running_mean == 0).all()) and bool((layer.running_var == 1).all()):
            raise UsageError(
                "model.norm: frozen_bn never changes its statistics and needs those of a trained network, but "
                f"{name} has none (mean 0, variance 1). Set --model.init_from to weights of a network that was "
                "trained with bn, or train with --model.norm bn."
            )


def check_classes(class_names: tuple[str, ...] | None, num_classes: int) -> None:
    """Refuses data with another number of classes than the network."""
    if class_names is not None and len(class_names) != num_classes:
        raise UsageError(
            f"model.num_classes: the data has {len(class_names)} classes, the model {num_classes}. "
            f"Set --model.num_classes {len(class_names)}, or check data.root and data.class_names."
        )


def require_same_classes(stored: tuple[str, ...], own: tuple[str, ...] | None) -> None:
    """Refuses a checkpoint whose class names are not those of the data, in the same order."""
    for i, pair in enumerate(zip(stored, own or stored, strict=True)):
        if pair[0] != pair[1]:
            raise UsageError(
                f"class names: class {i} is {pair[0]!r} in the checkpoint and {pair[1]!r} in the data; "
                "set data.class_names to the checkpoint's order"
            )


def check_sync_batchnorm(norm: str, strategy: Any) -> None:
    """Refuses ``trainer.sync_batchnorm`` for norms that it would break and devices that it does not work on."""
    if getattr(strategy, "_layer_sync", None) is None:
        return
    try:
        check_sync(norm)
    except ValueError as error:
        raise UsageError(f"trainer.sync_batchnorm: {error}") from error
    if strategy.root_device.type != "cuda":
        raise UsageError("trainer.sync_batchnorm: torch synchronises batch norms between CUDA devices only")


def check_splits(network: nn.Module, batch_size: int) -> None:
    """Refuses a batch that cannot be split evenly by sub_bn before the run starts, not at its first step."""
    for layer in network.modules():
        if isinstance(layer, SubBatchNorm):
            try:
                layer.samples_per_split(batch_size)
            except ValueError as error:
                raise UsageError(f"data.batch_size: {error}") from error


def compile_for_training(network: nn.Module, device: torch.device, backend: Any = "inductor") -> None:
    """Compiles ``network`` in place, at its first training step, for the one shape that training batches have.

    By ``Module.compile``: ``torch.compile(network)`` would put ``_orig_mod.`` before every key of the state dict.

    Args:
        network: what to compile.
        device: where it will train.
        backend: of torch.compile.

    Raises:
        UsageError: a device other than CUDA. On CPUs compiled training is slower than eager: the backward pass of ReLU.
    """
    if device.type != "cuda":
        raise UsageError(
            f"model.compile: expected a CUDA device, found {device.type!r}, on which compiled training is slower; "
            "leave the option out"
        )
    network.compile(backend=backend, dynamic=False)
