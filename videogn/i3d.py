"""I3D ResNet-50 and -101 with any 3D norm layer; parameter names are those of pytorchvideo's ``create_resnet``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor, nn

from videogn.blocks import Conv, Head, MaxPool, Memory, Norm, ResidualBlock, Stage, Stem, recomputes
from videogn.norms import Conv3d, WSConv3d, make_norm

Depth = Literal[50, 101]
Variant = Literal["32x2", "8x8", "2d"]

_BLOCKS_PER_STAGE = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_STEM_STRIDE: dict[Variant, int] = {"32x2": 2, "8x8": 1, "2d": 1}
_EXPANSION = 4


class I3DResNet(nn.Module):
    """I3D ResNet: (B, 3, T, H, W) -> logits (B, num_classes), fully convolutional in T, H and W.

    The layout is the table of Wang et al., "Non-local Neural Networks" (CVPR 2018), with only the first 1x1 of a
    bottleneck inflated (3x1x1) and the spatial stride on the 3x3. Build it with :func:`i3d_resnet`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        depth: Depth,
        variant: Variant,
        norm: Norm,
        conv: Conv,
        dropout: float,
        width: int,
        memory: Memory,
        zero_init_last_norm: bool,
    ) -> None:
        super().__init__()
        stem_stride = _STEM_STRIDE[variant]
        stem_frames = 1 if variant == "2d" else 5
        blocks: list[nn.Module] = [Stem(width, stem_frames, stem_stride, norm=norm, conv=conv, memory=memory)]
        dim_in, dim_inner = width, width
        for stage, (num_blocks, kernels) in enumerate(
            zip(_BLOCKS_PER_STAGE[depth], _temporal_kernels(depth, variant), strict=True)
        ):
            dim_out = dim_inner * _EXPANSION
            res_blocks = []
            for i in range(num_blocks):
                block = ResidualBlock(
                    dim_in,
                    dim_inner,
                    dim_out,
                    temporal_kernel=kernels[i],
                    spatial_stride=2 if stage > 0 and i == 0 else 1,
                    norm=norm,
                    conv=conv,
                    memory=memory,
                    zero_init_last_norm=zero_init_last_norm,
                )
                res_blocks.append(block)
                dim_in = dim_out
            blocks.append(Stage(nn.ModuleList(res_blocks)))
            if stage == 0:
                blocks.append(nn.Identity() if variant == "2d" else MaxPool((2, 1, 1), stride=(2, 1, 1)))
            dim_inner *= 2
        blocks.append(Head(dim_in, num_classes, dropout))
        self.blocks = nn.ModuleList(blocks)
        # Frames that the stem's strides leave at least two of, which pool2 needs.
        self.min_frames = {"32x2": 5, "8x8": 2, "2d": 1}[variant]
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) of float clips (B, 3, T, H, W).

        Raises:
            ValueError: an input that is not (B, 3, T, H, W), or has too few frames for the temporal strides.
        """
        if x.dim() != 5 or x.shape[1] != 3:
            raise ValueError(f"expected clips (B, 3, T, H, W), found shape {tuple(x.shape)}")
        if x.shape[2] < self.min_frames:
            raise ValueError(f"expected at least {self.min_frames} frames per clip, found {x.shape[2]}")
        stem, res2, pool2, *others = self.blocks
        x = stem(x)
        # The pool is in one unit with the block before only where that saves memory: hooks on res2 see its own output.
        # With "lowest" its backward pass would meet the whole block's activations, at a higher peak.
        x = res2(x, pool2) if recomputes(stem, x) in ("recompute", "low") else pool2(res2(x))
        for block in others:
            x = block(x)
        return x


def i3d_resnet(
    num_classes: int = 400,
    depth: Depth = 50,
    variant: Variant = "32x2",
    norm: str | Norm = "gn",
    norm_kwargs: Mapping[str, Any] | None = None,
    dropout: float = 0.5,
    width: int = 64,
    memory: Memory = "standard",
    zero_init_last_norm: bool = True,
) -> I3DResNet:
    """Build an I3D ResNet with He initialisation.

    Args:
        num_classes: size of the logits.
        depth: 50 or 101.
        variant: ``"32x2"`` strides by 2 in time in conv1 and pool1 (the paper's network for 32 and 64 frames);
            ``"8x8"`` does not (pytorchvideo's and SlowFast's ``I3D_8x8_R50``); ``"2d"`` has temporal kernels, strides
            and pools of 1: torchvision's ResNet for pictures, as clips of one frame, to be inflated into the others.
        norm: a name of ``videogn.NORMS``, or any callable from a number of channels to a layer.
        norm_kwargs: arguments of a named norm, for example ``{"num_groups": 16}``.
        dropout: probability before the classifier.
        width: channels of the stem; 64 is the standard network.
        memory: what the backward pass recomputes instead of keeping it. ``"keep"``: nothing but the places of the
            max-pools' maxima. ``"recompute"``: the norm and ReLU before each convolution and before each pool.
            ``"low"``: also the 1x1x1 convolution before a bottleneck's last norm. ``"lowest"``: whole residual blocks,
            about one more forward pass. ``"standard"``: ``"recompute"`` on a CUDA device, ``"keep"`` on others, where
            time is dearer than memory. Results are the same up to rounding: norms are run again with the statistics of
            the first pass, and running statistics move once. A norm given as a callable is kept by ``"standard"``,
            because it may change in between; the other options run it again unless it is a batch norm of others.
        zero_init_last_norm: start the last gamma of each residual block at 0 (Wu & He, section 4.1), else at 1.

    Raises:
        ValueError: a value outside the allowed ones; groups that do not divide a layer's channels.
    """
    _check_choice("depth", depth, get_args(Depth))
    _check_choice("variant", variant, get_args(Variant))
    _check_choice("memory", memory, get_args(Memory))
    for name, value in (("num_classes", num_classes), ("width", width)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, found {value}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout: expected a probability in [0, 1), found {dropout}")
    if memory == "standard" and not isinstance(norm, str):
        memory = "keep"
    if isinstance(norm, str):
        make, conv = make_norm(norm, **(norm_kwargs or {})), WSConv3d if norm == "gn_ws" else Conv3d
    elif norm_kwargs:
        raise ValueError(f"norm_kwargs={dict(norm_kwargs)} belong to a named norm; found norm={norm!r}")
    else:
        make, conv = norm, Conv3d
    return I3DResNet(
        num_classes=num_classes,
        depth=depth,
        variant=variant,
        norm=make,
        conv=conv,
        dropout=dropout,
        width=width,
        memory=memory,
        zero_init_last_norm=zero_init_last_norm,
    )


def _temporal_kernels(depth: Depth, variant: Variant) -> list[list[int]]:
    """T of the first convolution of each block: all of res2; every other one of res3, res4 and, shifted, of res5."""
    n2, n3, n4, n5 = _BLOCKS_PER_STAGE[depth]
    if variant == "2d":
        return [[1] * n for n in (n2, n3, n4, n5)]
    every_other = [[3, 1] * (n // 2 + 1) for n in (n3, n4, n5 + 1)]
    return [[3] * n2, every_other[0][:n3], every_other[1][:n4], every_other[2][1 : n5 + 1]]


def _initialize(net: nn.Module) -> None:
    """He et al. 2015 with fan-out for convolutions; N(0, 0.01) and zero bias for the classifier, as in the peers."""
    for m in net.modules():
        if isinstance(m, nn.Conv3d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=0.01)
            nn.init.zeros_(m.bias)


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {list(choices)}, found {value!r}")
