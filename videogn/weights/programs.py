"""A network as a program that runs without this package: for ``torch.export`` and for ONNX."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from videogn.fold import fold_batch_norm
from videogn.i3d import I3DResNet
from videogn.norms import GroupNorm
from videogn.spec import ClipSpec

INPUT, OUTPUT = "clips", "probabilities"
_AXES = ("batch", 3, "frames", "height", "width")


class Program(nn.Module):
    """uint8 clips (B, 3, T, H, W), RGB -> float32 probabilities (B, num_classes).

    Normalisation and softmax are inside, so that a user has neither to get right. Norms with fixed statistics are part
    of the convolutions, and standardised weights are stored as such (:func:`videogn.fold.fold_batch_norm`).

    Args:
        network: on the CPU. It is not changed.
        clip: gives mean and std of the pixels.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: I3DResNet, clip: ClipSpec) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        fold_batch_norm(self.network)
        _decompose_group_norms(self.network)
        mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1, 1) for values in (clip.mean, clip.std))
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, clips: Tensor) -> Tensor:
        return self.network(clips.float() * self.scale + self.shift).softmax(dim=1)


def trace(program: Program) -> torch.export.ExportedProgram:
    """The program as a graph that takes any batch, frames, height and width.

    Height and width may not both be 32 or less where the network leaves one frame of the clip: what torch knows of a
    convolution's memory format differs for feature maps of one value.
    """
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {INPUT: (dynamic, torch.export.Dim.STATIC, dynamic, dynamic, dynamic)}
    example = torch.zeros(2, 3, 16, 64, 96, dtype=torch.uint8)
    # Without this, sizes that are 1 somewhere on the way are programs of their own: no batch of 1, no 32x32 pixels.
    oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with oblivious, torch.no_grad():
        exported = torch.export.export(program, (example,), dynamic_shapes=shapes)
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of the machine that exports
    return exported


def save_pt2(exported: torch.export.ExportedProgram, path: Path, card: Mapping[str, Any]) -> None:
    """Writes the archive that ``torch.export.load`` reads; the card is its extra file ``card.json``."""
    with _quiet():
        torch.export.save(exported, path, extra_files={"card.json": json.dumps(card)})


def load_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    """A written program: clips -> probabilities."""
    with _quiet():
        module = torch.export.load(path).module()
    return torch.no_grad()(module)


def save_onnx(exported: torch.export.ExportedProgram, path: Path, card: Mapping[str, Any]) -> None:
    """Writes one ONNX file, weights included; the card is in its metadata under ``"videogn"``."""
    from onnx_ir import Shape

    with _quiet():
        program = torch.onnx.export(
            exported, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], external_data=False, verbose=False
        )
    assert program is not None
    model = program.model
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            value.shape = None  # in terms of the tracer's symbols; readers infer them
    model.graph.inputs[0].shape = Shape(_AXES)
    model.graph.outputs[0].shape = Shape((_AXES[0], card["architecture"]["num_classes"]))
    model.metadata_props["videogn"] = json.dumps(card)
    program.save(path, external_data=False)


def load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """A written program, run by ONNX Runtime on the CPU: clips -> probabilities."""
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run([OUTPUT], {INPUT: np.ascontiguousarray(clips.numpy())})[0])


class _GroupNorm(nn.Module):
    """gn, ln or in for float32 (B, C, T, H, W), of operations that every runtime has.

    Means are taken over the positions of a channel first and then over the channels of a group, and variances of what
    is left when the mean is gone. A runtime's one operation for the whole loses digits where a group has many values:
    torch's on channels-last clips, and ONNX Runtime's, were a hundred times as far from float64.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps = norm.num_groups, norm.eps
        self.register_buffer("weight", norm.weight.detach().view(-1, 1, 1, 1))
        self.register_buffer("bias", norm.bias.detach().view(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x - self._mean(x)
        return x * (self._mean(x * x) + self.eps).rsqrt() * self.weight + self.bias

    def _mean(self, x: Tensor) -> Tensor:
        """That of each channel's group, (B, C, 1, 1, 1)."""
        channels = len(self.weight)
        per_group = channels // self.num_groups
        groups = x.mean((2, 3, 4)).reshape(-1, self.num_groups, per_group).mean(2, keepdim=True)
        return groups.expand(-1, -1, per_group).reshape(-1, channels, 1, 1, 1)


def _decompose_group_norms(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, GroupNorm):
                setattr(parent, name, _GroupNorm(norm).eval())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on themselves; what goes wrong is an exception."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
