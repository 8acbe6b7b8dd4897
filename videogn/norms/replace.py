"""Finding and swapping the norm layers of any module."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from .factory import make_norm
from .frozen import FrozenBatchNorm
from .standardize import standardize_conv


def is_norm(module: nn.Module) -> bool:
    """Whether :func:`replace_norms` swaps this module: batch, sync batch, group or instance norm of torch or of here.

    torchvision's FrozenBatchNorm2d counts too; it is known by its name and buffers.
    """
    return isinstance(module, (_NormBase, nn.GroupNorm)) or _is_foreign_frozen(module)


def norm_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of all norm layers in ``module`` (itself included), each once: for a weight decay of their own.

    Norm layers are those of :func:`is_norm` and, though they are never swapped, nn.LayerNorm and nn.RMSNorm.
    """
    seen: set[nn.Parameter] = set()
    for layer in module.modules():
        if is_norm(layer) or isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
            for parameter in layer.parameters(recurse=False):
                if parameter not in seen:
                    seen.add(parameter)
                    yield parameter


def replace_norms(module: nn.Module, name: str, **kwargs: Any) -> nn.Module:
    """Swaps every norm layer of ``module`` for the named one, in place.

    - The new layers hold the old weight and bias (the same parameters; ones and zeros where there were none) and keep
      device, dtype, training mode and ``requires_grad``. Only ``frozen_bn`` never requires gradients, and a layer that
      replaces a frozen one does.
    - Among bn, brn, sub_bn, frozen_bn and torch's and torchvision's batch norms, running statistics, the batch counter,
      eps and momentum are carried over too, unless ``kwargs`` sets them.
    - ``gn_ws`` also standardises the weight of the convolution before each norm: the one registered before it in the
      same parent, with at most modules without parameters in between (three convolutions registered before three
      norms pair up in order), the last one inside an ``nn.Sequential`` counting as registered in its place, if it has
      as many output channels as the norm has channels. Other convolutions stay as they are, and other names
      standardise none and leave standardised ones standardised.
    - nn.LayerNorm and nn.RMSNorm, which normalise the last dimensions, stay.

    A learned weight and bias belong to the norm they were trained with: the result needs training.

    Args:
        module: any module. Nothing is changed if an error is raised.
        name: one of :data:`NORMS`.
        **kwargs: as for :func:`make_norm`.

    Returns:
        ``module``, or the new layer where ``module`` is a norm layer itself.

    Raises:
        ValueError: as for :func:`make_norm`; channels that the norm cannot divide, a norm layer that holds other
            modules (a fused activation would be lost), or a convolution that cannot be standardised; each with its
            path.
    """
    build = make_norm(name, **kwargs)
    anchor = next(module.parameters(), torch.empty(0))
    swaps: dict[nn.Module, nn.Module] = {}
    for path, layer in module.named_modules():
        if is_norm(layer):
            swaps[layer] = _with_path(path, functools.partial(_successor, layer, build, kwargs, anchor))
    if name == "gn_ws":
        paths = {layer: path for path, layer in module.named_modules()}
        for conv in _convolutions_before_norms(module):
            swaps[conv] = _with_path(paths[conv], functools.partial(standardize_conv, conv))
    for parent in list(module.modules()):
        for key, child in parent._modules.items():  # named_children would skip a layer that is registered twice
            if child in swaps:
                setattr(parent, key, swaps[child])
    return swaps.get(module, module)


def _with_path(path: str, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except ValueError as error:
        raise ValueError(f"layer {path or 'given'!r}: {error}") from None


def _is_foreign_frozen(module: nn.Module) -> bool:
    tensors = (getattr(module, key, None) for key in ("weight", "bias", "running_mean", "running_var"))
    return type(module).__name__ == "FrozenBatchNorm2d" and all(
        isinstance(tensor, Tensor) and tensor.dim() == 1 for tensor in tensors
    )


def _num_channels(norm: nn.Module) -> int:
    for key in ("num_channels", "num_features"):
        if hasattr(norm, key):
            return getattr(norm, key)
    return norm.get_buffer("running_mean").numel()


def _successor(old: nn.Module, build: Callable[[int], nn.Module], kwargs: dict[str, Any], anchor: Tensor) -> nn.Module:
    extra = [type(child).__name__ for child in old.children() if not isinstance(child, nn.Identity)]
    if extra:
        raise ValueError(f"{type(old).__name__} holds {', '.join(extra)}, which a swap would lose")
    weight, bias = getattr(old, "weight", None), getattr(old, "bias", None)
    statistics = getattr(old, "running_mean", None)
    like = next((tensor for tensor in (weight, statistics) if tensor is not None), anchor)
    new = build(_num_channels(old)).to(like.device, like.dtype if like.is_floating_point() else None)

    frozen = _is_foreign_frozen(old) or isinstance(old, FrozenBatchNorm)
    for key, value in (("weight", weight), ("bias", bias)):
        if value is None:
            continue
        if isinstance(new, FrozenBatchNorm) or frozen:
            value = nn.Parameter(value.detach(), requires_grad=not isinstance(new, FrozenBatchNorm))
        setattr(new, key, value)

    of_batch_family = statistics is not None and not isinstance(old, _InstanceNorm)
    if of_batch_family and isinstance(new, _NormBase):
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            if isinstance(getattr(old, key, None), Tensor):
                setattr(new, key, getattr(old, key))
        old_eps = getattr(old, "eps", new.eps)
        if "eps" not in kwargs and (old_eps > 0 or isinstance(new, FrozenBatchNorm)):  # torchvision freezes with eps 0
            new.eps = old_eps
        if "momentum" not in kwargs and hasattr(old, "momentum") and not frozen:
            setattr(new, "momentum", old.momentum)  # noqa: B010
    return new.train(old.training)


def _convolutions_before_norms(root: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    for parent in root.modules():
        convs: list[nn.Module] = []
        norms: list[nn.Module] = []
        for child in [*parent.children(), None]:
            if child is not None and is_norm(child):
                norms.append(child)
                continue
            if child is not None and not any(True for _ in child.parameters()):
                continue
            if norms or child is None:  # a run of norms has ended
                pairs = zip(convs[-len(norms) :] if norms else [], norms, strict=False)
                found += [conv for conv, norm in pairs if _feeds(conv, norm)]
                convs, norms = [], []
            last = _last_convolution(child)
            convs = [*convs, last] if last is not None else []
    return list(dict.fromkeys(found))


def _feeds(conv: nn.Module, norm: nn.Module) -> bool:
    return getattr(conv, "out_channels", None) == _num_channels(norm)


def _last_convolution(module: nn.Module | None) -> nn.Module | None:
    """``module`` if it is a convolution, or the one that ends an nn.Sequential (nested ones too), or None."""
    while isinstance(module, nn.Sequential):
        module = next((child for child in reversed(module) if any(True for _ in child.parameters())), None)
    return module if isinstance(module, _ConvNd) else None
