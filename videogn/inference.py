"""One file in, predictions out; labels and preprocessing come from the checkpoint alone."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from videogn import checkpoint as checkpoint_format
from videogn.data.batches import EvalVideo
from videogn.data.decode import VideoReader
from videogn.data.sampling import eval_indices, unique_frames
from videogn.data.transforms import eval_crops, eval_view
from videogn.errors import UsageError
from videogn.fold import fold_batch_norm
from videogn.i3d import I3DResNet, i3d_resnet
from videogn.module import VideoClassifier
from videogn.spec import ClipSpec

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True)
class Prediction:
    """One class of a video's ranking.

    Attributes:
        label: the class name.
        index: the class number in [0, num_classes).
        probability: mean softmax output over all clips and crops, in [0, 1].
    """

    label: str
    index: int
    probability: float


def load(path: str | os.PathLike[str]) -> VideoClassifier:
    """Load a trained network: on the CPU, in eval mode, with class names and clip specification.

    Args:
        path: a checkpoint of ``videogn fit``, a file of ``videogn weights import``, or a folder of ``videogn weights
            export``.

    Raises:
        UsageError: no such file or folder, not a checkpoint of videogn, or one without class names or clip
            specification; weights that do not fit the network that the file describes.
    """
    return build(checkpoint_format.read(path), path)


def build(stored: Mapping[str, Any], source: str | os.PathLike[str]) -> VideoClassifier:
    """The network of a checkpoint that :func:`videogn.checkpoint.read` has read; ``source`` is for messages.

    Raises:
        UsageError: as in :func:`load`.
    """
    card = stored[checkpoint_format.KEY]
    if card["architecture"]["norm"] == "custom":
        raise UsageError(
            f"{source}: this network was built with a norm from Python code; "
            "use VideoClassifier.load_from_checkpoint(path, norm=...)"
        )
    for entry in ("class_names", "clip"):
        if card[entry] is None:
            raise UsageError(
                f"{source}: the checkpoint has no {entry}; it was trained without a videogn datamodule, or imported "
                "without them"
            )
    arguments = {name: card["architecture"][name] for name in checkpoint_format.ARCHITECTURE}
    of_run = stored.get("hyper_parameters")
    if isinstance(of_run, dict) and "dropout" in of_run:  # for those who train on; predictions do without
        arguments["dropout"] = of_run["dropout"]
    _check_fit(stored["state_dict"], arguments, source)
    model = VideoClassifier(**arguments)
    model.load_state_dict(stored["state_dict"])
    model.class_names = tuple(card["class_names"])
    model.clip = ClipSpec.from_dict(card["clip"])
    return model.eval()


def _check_fit(weights: Mapping[str, Tensor], arguments: dict[str, Any], source: str | os.PathLike[str]) -> None:
    """Refuse weights of another network before memory is taken for one of the size that the file claims."""
    try:
        with torch.device("meta"):
            network = i3d_resnet(**arguments)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise UsageError(f"{source}: the network it describes cannot be built: {str(error).splitlines()[0]}") from error
    expected = {f"network.{name}": tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != found:
        name = min(name for name in expected | found if expected.get(name) != found.get(name))
        raise UsageError(
            f"{source}: the weights are not those of the network it describes: {name}: expected "
            f"{expected.get(name, 'no such name')}, found {found.get(name, 'none')}"
        )


def for_inference(model: VideoClassifier, precision: Precision = "float32") -> VideoClassifier:
    """A copy of a model that predicts faster and trains no more.

    Batch norms are part of the convolutions, and standardised weights are stored as such: see
    :func:`videogn.fold.fold_batch_norm`. In bfloat16 the convolutions and what lies between them are computed in
    bfloat16 with norm parameters in float32; the classifier, the softmax and the mean over clips stay in float32.

    Args:
        model: of :func:`load`, on the device where it will be used. It is not changed.
        precision: ``"float32"`` gives the model's own results up to rounding; ``"bfloat16"`` rounds to 8 bits between
            layers and is slow where the device has no instructions for it; ``"auto"`` is bfloat16 where it has, else
            float32.

    Raises:
        UsageError: a precision that is none of these.
    """
    if precision not in get_args(Precision):
        raise UsageError(f"precision: expected one of {list(get_args(Precision))}, found {precision!r}")
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    fold_batch_norm(copied.network)
    native = has_bfloat16(model.device)
    if precision == "bfloat16" and not native:
        log.warning("bfloat16: the device %s has no instructions for it, float32 is faster", model.device)
    if precision == "bfloat16" or (precision == "auto" and native):
        _to_bfloat16(copied.network)
    return copied


def has_bfloat16(device: torch.device) -> bool:
    """Whether a CUDA device, or an x86 CPU (by AVX-512 BF16 or AMX), multiplies bfloat16 by instructions of its own."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def _to_bfloat16(network: I3DResNet) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d):
            layer.bfloat16()
    head = network.blocks[-1]  # in float32: differences between logits are small, and ranks depend on them
    network.register_forward_pre_hook(lambda _, inputs: (inputs[0].bfloat16(),))
    head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def predict_video(
    model_or_checkpoint: VideoClassifier | str | os.PathLike[str],
    path: str | os.PathLike[str],
    num_clips: int = 10,
    topk: int = 5,
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    start_frame: int | None = None,
    end_frame: int | None = None,
    backend: str = "pyav",
) -> list[Prediction]:
    """Classify one video, or a part of it.

    Args:
        model_or_checkpoint: a model of :func:`load` or :func:`for_inference`, used as it is on the device it is on, or
            a checkpoint's path, which is loaded for inference in float32 on the CPU.
        path: the video file.
        num_clips: clips regularly spaced over the video; their probabilities are averaged.
        topk: number of classes to return, best first.
        start_seconds: first moment of the part, in seconds of presentation time; None is the beginning.
        end_seconds: end of the part, exclusive, in seconds; None is the end.
        start_frame: first frame of the part, instead of ``start_seconds``.
        end_frame: end of the part, exclusive, instead of ``end_seconds``.
        backend: decoder, one of ``videogn.data.decode.BACKENDS``.

    Raises:
        VideoError: the file cannot be decoded.
        UsageError: a wrong checkpoint, an empty or impossible part, or counts below 1.
        FloatingPointError: the network's output is not finite.
    """
    if isinstance(model_or_checkpoint, VideoClassifier):
        model = model_or_checkpoint
    else:
        model = for_inference(load(model_or_checkpoint))
    for name, value in (("num_clips", num_clips), ("topk", topk)):
        if value < 1:
            raise UsageError(f"{name}: expected at least 1, found {value}")
    clip = clip_of(model).with_protocol(clips=num_clips)
    video = read_video(path, clip, backend, start_seconds, end_seconds, start_frame, end_frame)
    with torch.inference_mode():
        video = video.to(model.device)
        views = model.view_probabilities(video.frames, video.index, video.crops)
    return ranking(model, mean_of_views(views, video.path), topk)


def clip_of(model: VideoClassifier) -> ClipSpec:
    """The clip specification of a model that can predict.

    Raises:
        UsageError: a model without it, or without class names.
    """
    if model.clip is None or model.class_names is None:
        raise UsageError("the model has no clip specification or class names: take it from videogn.load")
    return model.clip


def mean_of_views(views: Tensor, path: str) -> Tensor:
    """The probabilities of a video, float32 (num_classes,) on the CPU, from its views' (K * crops, num_classes).

    Raises:
        FloatingPointError: with the video's path: probabilities that are not finite would be ranked all the same.
    """
    if not torch.isfinite(views).all():
        raise FloatingPointError(f"{path}: the network's output is not finite (NaN or infinity)")
    return views.mean(dim=0).cpu()


def ranking(model: VideoClassifier, probabilities: Tensor, topk: int) -> list[Prediction]:
    """The ``topk`` best classes, or all if there are fewer, best first; ``probabilities`` are (num_classes,)."""
    names = model.class_names
    assert names is not None
    top = probabilities.topk(min(topk, len(probabilities)))
    return [Prediction(names[i], i, p) for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)]


def read_clips(path: str | os.PathLike[str], clip: ClipSpec, backend: str = "pyav") -> Tensor:
    """The clips of a video whose probabilities are averaged: what an exported program takes.

    Args:
        path: the video file.
        clip: the clips and crops of its protocol; ``videogn.load(checkpoint).clip`` is what the network knows.
        backend: decoder, one of ``videogn.data.decode.BACKENDS``.

    Returns:
        uint8 (K * crops, 3, T, H, W), RGB, contiguous, the crops of a clip one after another.

    Raises:
        VideoError: the file cannot be decoded.
    """
    video = read_video(path, clip, backend)
    views = [video.frames[shown, y : y + h, x : x + w] for shown in video.index for y, x, h, w in video.crops]
    return torch.stack(views).permute(0, 4, 1, 2, 3).contiguous()


def read_video(
    path: str | os.PathLike[str],
    clip: ClipSpec,
    backend: str = "pyav",
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    start_frame: int | None = None,
    end_frame: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> EvalVideo:
    """A video, or a part of it, with all its views, for :meth:`VideoClassifier.probabilities`.

    Arguments and errors are those of :func:`predict_video`; ``progress`` is that of ``VideoReader``.
    """
    with VideoReader(path, backend, progress=progress) as reader:
        first = start_frame or 0 if start_seconds is None else _frame_at(reader, start_seconds)
        last = reader.num_frames if end_frame is None else end_frame
        if end_seconds is not None:
            last = int(np.searchsorted(reader.times(), end_seconds, side="left"))
        if not 0 <= first < last <= reader.num_frames:
            raise UsageError(
                f"{os.fspath(path)}: expected a part of its {reader.num_frames} frames ({reader.info.duration:.3f} s) "
                f"with the start before the end, found frames {first} to {last}"
            )
        unique, index = unique_frames(eval_indices(last - first, clip) + first)
        resized = reader.read(unique, lambda height, width: eval_view(height, width, clip))
    frames, crops = eval_crops(resized, clip)
    return EvalVideo(frames, torch.as_tensor(index), crops, label=-1, video=0, path=os.fspath(path))


def _frame_at(reader: VideoReader, seconds: float) -> int:
    """Number of the frame on display at a moment; the number of frames from the end of the video on."""
    if seconds >= reader.info.duration:
        return reader.num_frames
    return int(np.searchsorted(reader.times(), seconds, side="right")) - 1
