"""A checkpoint from anywhere into a network of this project: everything is taken or explained, or nothing happens."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from videogn.errors import UsageError
from videogn.i3d import I3DResNet
from videogn.norms import make_norm
from videogn.weights.inflate import Inflation, inflate
from videogn.weights.report import Report, Taken, grouped
from videogn.weights.source import Source

HEAD = ("blocks.6.proj.weight", "blocks.6.proj.bias")

# The same affine function of the same running statistics in evaluation; they differ in how training gets there.
_BATCH = ("bn", "brn", "sub_bn", "frozen_bn")
_GROUP = ("gn", "ln", "in")  # the same layer with other numbers of groups
_NORM_NAME = re.compile(r"(^|[._])norm(_[abc])?\.")
_COUNTER = "num_batches_tracked"


def transfer(
    network: I3DResNet,
    architecture: Mapping[str, Any],
    source: Source,
    *,
    inflation: Inflation = "mean",
    convert_norm: bool = False,
    new_head: bool = False,
    class_names: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
) -> Report:
    """Load a source into a network, in place. All is checked before the first value changes.

    bn, brn, sub_bn and frozen_bn mean the same by their parameters and statistics and load into each other; so do gn,
    ln and in where the number of groups is the same in every layer. Between other norms gamma and beta would fit by
    name and shape and not by meaning: they scale and shift values that another norm has centred and scaled by other
    statistics, and a batch norm leaves the scale of each channel's kernel undetermined, which a group norm then
    compares within the group. ``convert_norm`` therefore takes the convolutions and the classifier alone, and leaves
    the network's norms at their initial values.

    Counters of batches are not taken: brn's limits rise anew.

    Args:
        network: takes the weights.
        architecture: of the network: ``depth``, ``variant``, ``width``, ``norm`` and ``norm_kwargs``.
        source: what :func:`videogn.weights.read_source` gives.
        inflation: how a picture's kernels get their time axis.
        convert_norm: take the weights of a network with another norm, without its norms.
        new_head: leave the classifier at its initial values where the file has none or one of other classes.
        class_names: those that the classifier is for, if they are known.
        ignore: patterns of names in the file (``fnmatch``) that are left out; their places in the network keep their
            initial values.

    Raises:
        UsageError: another depth or width, a video's network for one of pictures, another norm, another classifier
            without ``new_head``, a tensor that nothing explains or that is missing, of another shape, or with values
            that no network computes with; a pattern that matches no name.
    """
    _check_layout(architecture, source)
    converted = _check_norm(architecture, source, network, convert_norm)
    ignored = _ignored(source, ignore)
    head = _other_head(network, source, class_names)
    if head is not None and not new_head and not any(name in ignored for name in map(source.names.get, HEAD)):
        raise UsageError(f"{source.path}: the classifier does not fit: {head}")

    def reason(name: str) -> tuple[str, str] | None:
        """Why a tensor is not taken: for the file, and for the network."""
        pattern = ignored.get(source.names.get(name, ""))
        if pattern is not None:
            return f"ignored by {pattern!r}", f"initial values: ignored by {pattern!r}"
        if converted and _NORM_NAME.search(name):
            norm = architecture["norm"]
            return f"of norm {source.norm}, the network has {norm}", f"initial values of norm {norm}, as asked for"
        if head is not None and name in HEAD:
            return f"classifier: {head}", f"initial values of the classifier: {head}"
        return None

    state = network.state_dict()
    values: dict[str, Tensor] = {}
    loaded: list[Taken] = []
    inflated: list[Taken] = []
    skipped: dict[str, Any] = {name: (None, why) for name, why in source.ignored.items()}
    skipped |= {name: (None, f"ignored by {ignored[name]!r}") for name in source.unexplained if name in ignored}
    wrong = _Wrong(source)
    wrong.unexplained = [name for name in source.unexplained if name not in ignored]
    for name, tensor in source.tensors.items():
        file_name, why = source.names.get(name, name), reason(name)
        if why is not None:
            skipped[file_name] = (tuple(tensor.shape), why[0])
        elif name not in state:
            wrong.unexplained.append(file_name)
        else:
            taken = Taken(name, file_name, tuple(state[name].shape), tuple(tensor.shape))
            kernel = _fitted(tensor, taken.shape, source.variant == "2d", inflation)
            if kernel is None:
                wrong.shapes.append(taken)
            elif not _usable(name, kernel):
                wrong.values.append(file_name)
            else:
                values[name] = kernel
                (inflated if taken.shape[2:3] > (1,) and source.variant == "2d" else loaded).append(taken)
    rest = [name for name in state if name not in source.tensors or reason(name)]
    missing = {name: (tuple(state[name].shape), why[1]) for name in rest if (why := reason(name)) is not None}
    wrong.missing = [name for name in rest if name not in missing and not name.endswith(_COUNTER)]
    wrong.check()

    for name, value in values.items():
        state[name].copy_(value)
    return Report(
        source=f"{source.path} ({source.format}), {_network(vars(source), source.variant)}",
        network=_network(architecture, architecture["variant"]),
        loaded=tuple(loaded),
        inflated=tuple(inflated),
        inflation=inflation,
        skipped=skipped,
        missing={name: each for name, each in missing.items() if not name.endswith(_COUNTER)},
        notes=tuple(_notes(architecture, source)),
    )


class _Wrong:
    """What does not fit, for one message about all of it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.unexplained: list[str] = []
        self.missing: list[str] = []
        self.shapes: list[Taken] = []
        self.values: list[str] = []

    def check(self) -> None:
        lines = []
        if self.unexplained:
            lines.append(
                f"{len(self.unexplained)} with no place in the network: {_list(self.unexplained)}. If they may be lost,"
                " name them: --model.init_ignore \"['PATTERN']\" (weights import: --ignore 'PATTERN')"
            )
        if self.missing:
            lines.append(f"{len(self.missing)} of the network are not in the file: {_list(self.missing)}")
        if self.shapes:
            pairs = [(t.source, f" {t.source_shape} for {t.name} {t.shape}") for t in self.shapes]
            lines.append(f"{len(self.shapes)} have another shape: {grouped(pairs)}")
        if self.values:
            lines.append(
                f"{len(self.values)} hold NaN, infinite or whole numbers, or negative variances: {_list(self.values)}"
            )
        if lines:
            raise UsageError(
                f"{self.source.path} ({self.source.format}): not all of these weights fit, nothing was loaded.\n  "
                + "\n  ".join(lines)
            )


def _check_layout(architecture: Mapping[str, Any], source: Source) -> None:
    stem = source.tensors.get("blocks.0.conv.weight")
    found = {"depth": source.depth, "width": architecture["width"] if stem is None else len(stem)}
    different = [
        f"{name}: {value} in the file, {architecture[name]} in the network; set --model.{name} {value}"
        for name, value in found.items()
        if value != architecture[name]
    ]
    if architecture["variant"] == "2d" and source.variant != "2d":
        different.append(
            "variant: the file is of a network for videos, the network is for pictures, where its temporal kernels "
            "have no place; inflation goes the other way"
        )
    if different:
        raise UsageError(
            f"{source.path} ({source.format}): these are weights of another network.\n  " + "\n  ".join(different)
        )


def _check_norm(architecture: Mapping[str, Any], source: Source, network: I3DResNet, convert: bool) -> bool:
    """Whether the network's norm is another one than the file's; UsageError if that was not asked for."""
    norm, kwargs = architecture["norm"], architecture["norm_kwargs"]
    theirs, ours = source.norm, norm
    if (theirs in _BATCH and ours in _BATCH) or theirs == ours == "custom":
        return False
    if (theirs in _GROUP and ours in _GROUP) or theirs == ours == "gn_ws":
        channels = sorted({len(t) for name, t in network.state_dict().items() if _NORM_NAME.search(name)})
        groups = [_groups(n, k, channels) for n, k in ((theirs, source.norm_kwargs), (ours, kwargs))]
        if groups[0] == groups[1]:
            return False
        theirs, ours = (f"{n} ({_count(g)})" for n, g in zip((theirs, ours), groups, strict=True))
    if convert:
        return True
    lost = "The file's running statistics have no place in it. " if theirs in _BATCH else ""
    lost = "It needs running statistics, which the file does not have. " if ours in _BATCH else lost
    same = [name for name in _BATCH if name != source.norm] if source.norm in _BATCH else []
    arguments = f" and its norm_kwargs {dict(source.norm_kwargs)}" if source.norm_kwargs else ""
    raise UsageError(
        f"{source.path}: the weights were trained with norm {theirs}, the network has {ours}. Gamma and beta would "
        "copy over without a missing key and accuracy would collapse: they were learnt for values that other "
        f"statistics have normalised. {lost}Set --model.norm {source.norm}{arguments}"
        + (f", or one that means the same ({', '.join(same)})" if same else "")
        + "; or take the convolutions alone, with new norms that must be trained: --model.convert_norm true (weights "
        "import: --convert-norm)."
    )


def _groups(norm: str, kwargs: Mapping[str, Any] | None, channels: Collection[int]) -> list[int]:
    try:
        with torch.device("meta"):
            layers: list[Any] = [make_norm(norm, **(kwargs or {}))(c) for c in channels]
    except ValueError as error:
        raise UsageError(str(error)) from error
    return [layer.num_groups for layer in layers]


def _count(groups: list[int]) -> str:
    numbers = sorted(set(groups))
    return f"{numbers[0]} {'group' if numbers == [1] else 'groups'}" if len(numbers) == 1 else f"groups {numbers}"


def _ignored(source: Source, patterns: Sequence[str]) -> dict[str, str]:
    """Name in the file -> the first pattern that matches it."""
    names = [*source.names.values(), *source.unexplained, *source.ignored]
    found: dict[str, str] = {}
    for pattern in patterns:
        matches = fnmatch.filter(names, pattern)
        if not matches:
            raise UsageError(
                f"{source.path}: ignore {pattern!r}: no name in the file matches it; there are {_list(names)}"
            )
        found |= {name: pattern for name in matches if name not in found}
    return found


def _other_head(network: I3DResNet, source: Source, class_names: Sequence[str] | None) -> str | None:
    """Why the file's classifier is not the network's; None where it may be."""
    theirs, ours = source.tensors.get(HEAD[0]), network.state_dict()[HEAD[0]]
    if theirs is None:
        return "the file has none"
    if len(theirs) != len(ours):
        return f"{len(theirs)} classes in the file, {len(ours)} in the network"
    if source.class_names is not None and class_names is not None:
        for i, (a, b) in enumerate(zip(source.class_names, class_names, strict=True)):
            if a != b:
                return f"other classes: number {i} is {a!r} in the file and {b!r} here"
    return None


def _fitted(tensor: Tensor, shape: tuple[int, ...], picture: bool, inflation: Inflation) -> Tensor | None:
    """The tensor in the network's shape; None where it has another one."""
    if picture and len(shape) == 5:
        flat = tensor.squeeze(2) if tensor.dim() == 5 and tensor.shape[2] == 1 else tensor
        if flat.shape != (*shape[:2], *shape[3:]):
            return None
        return inflate(flat, shape[2], inflation)
    return tensor if tensor.shape == shape else None


def _usable(name: str, tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        return False
    return not name.endswith("running_var") or bool((tensor >= 0).all())


def _notes(architecture: Mapping[str, Any], source: Source) -> list[str]:
    notes = []
    if source.variant not in (None, "2d", architecture["variant"]):
        notes.append(
            f"the file is of variant {source.variant}, the network of {architecture['variant']}, which has the same "
            "kernels with other strides in time: outputs differ until it is trained"
        )
    eps = [(kwargs or {}).get("eps", 1e-5) for kwargs in (source.norm_kwargs, architecture["norm_kwargs"])]
    if eps[0] != eps[1]:
        notes.append(f"eps of the norm is {eps[0]:g} in the file and {eps[1]:g} in the network")
    return notes


def _network(entries: Mapping[str, Any], variant: str | None) -> str:
    kind = f"ResNet-{entries['depth']}" if variant == "2d" else f"I3D ResNet-{entries['depth']}"
    kwargs = f" {dict(entries['norm_kwargs'])}" if entries["norm_kwargs"] else ""
    return f"{kind}{'' if variant is None else f' {variant}'}, norm {entries['norm']}{kwargs}"


def _list(names: Sequence[str]) -> str:
    return grouped((name, "") for name in names)
