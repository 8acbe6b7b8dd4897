"""``videogn weights ...``: weights of other programs in, weights for others out. Imports no torch before it runs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videogn.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from videogn.spec import ClipSpec
    from videogn.weights import Source

FORMATS = ("auto", "videogn", "torchvision", "timm", "pytorchvideo", "slowfast", "mmaction2", "caffe2", "detectron")
_NORMS = ("bn", "gn", "ln", "in", "brn", "frozen_bn", "sub_bn", "gn_ws")


def add_weights_commands(commands: Any) -> None:
    """Adds ``weights`` and its commands to the subparsers of ``videogn``."""
    weights = commands.add_parser("weights", help="take weights from other programs, hand them over").add_subparsers(
        title="weights commands", required=True, metavar="WEIGHTS-COMMAND"
    )
    _add_import(weights)
    _add_export(weights)
    show = weights.add_parser("show", help="what a file of weights is: format, norm, depth, classes, pixels")
    show.add_argument("path", metavar="PATH", help="file of weights of any known format")
    show.add_argument("--from", dest="format", choices=FORMATS, default="auto", help="format (default: by its names)")
    show.add_argument("--verbose", action="store_true", help="every tensor with its shape")
    show.set_defaults(run=_show)


def _add_import(weights: Any) -> None:
    command = weights.add_parser(
        "import",
        help="a file of another program -> one for --model.init_from, --checkpoint and `videogn weights export`",
        description="Reads weights of another program, which may be those of a network for pictures, and writes them "
        "as an I3D network of this project: with its names, and with a card that says which network it is, of which "
        "classes, and how pixels are normalised. Every tensor of the file and of the network is accounted for in the "
        "report. Runs no code from the file.",
    )
    command.add_argument("path", metavar="PATH", help="file of weights")
    command.add_argument(
        "--from", dest="format", choices=FORMATS, default="auto", help="who wrote it (default: by the names in it)"
    )
    command.add_argument("-o", "--output", required=True, metavar="FILE", help="safetensors file to write")
    command.add_argument("--force", action="store_true", help="replace FILE if it is there")
    command.add_argument(
        "--inflate",
        choices=["mean", "center"],
        default="mean",
        help="kernels of pictures: W / T in every plane, or W in the middle one (default mean)",
    )
    command.add_argument(
        "--variant", choices=["32x2", "8x8", "2d"], help="of the I3D (default: the file's if it is of videos, or 32x2)"
    )
    command.add_argument("--norm", choices=_NORMS, help="of the I3D (default: the file's)")
    command.add_argument(
        "--convert-norm", action="store_true", help="take the weights without their norms, which must be trained anew"
    )
    command.add_argument(
        "--ignore", action="append", default=[], metavar="PATTERN", help="names in the file to leave out; may repeat"
    )
    command.add_argument("--class-names", metavar="NAMES", help="kinetics400, or a text file with one name per line")
    command.add_argument("--frames", type=int, help="per clip (default: 32 for 32x2, 8 for 8x8, 1 for 2d)")
    command.add_argument("--stride", type=int, help="frames of the video per frame of a clip (default: 2, 8, 1)")
    command.add_argument("--verbose", action="store_true", help="report every tensor")
    command.set_defaults(run=_import)


def _add_export(weights: Any) -> None:
    command = weights.add_parser(
        "export",
        help="a checkpoint -> a folder for others: weights, card, programs for torch and ONNX Runtime",
        description="Writes a folder with weights.safetensors (the network as it was trained), card.json (classes, "
        "clip specification, norm, accuracy as far as the checkpoint knows it, versions, sha256 of the files), "
        "model.pt2 (for torch.export.load) and model.onnx. Both programs take uint8 RGB clips (batch, 3, frames, "
        "height, width) above 32 pixels and give probabilities; normalisation is inside, and norms with fixed "
        "statistics are part of the convolutions. Each is read again and compared with the checkpoint's own network in "
        "float64 on three clips; logits that differ by more than 1e-4 are a failure. `videogn classify "
        "--checkpoint` and `videogn.load` take the folder.",
        epilog="Exit code: 0 done, 1 a program could not be made or differs, 2 wrong usage. What fails leaves nothing.",
    )
    command.add_argument("checkpoint", metavar="CKPT", help="of `videogn fit`, `videogn weights import` or an export")
    command.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to create")
    command.add_argument(
        "--formats",
        default="safetensors,pt2,onnx",
        metavar="LIST",
        help="what to write, with commas (default safetensors,pt2,onnx); weights and card are always written",
    )
    command.add_argument(
        "--video", metavar="FILE", help="video whose clips the programs are compared on (default: generated clips)"
    )
    command.add_argument("--force", action="store_true", help="replace an export that DIR holds")
    command.set_defaults(run=_export)


def _import(options: argparse.Namespace) -> int:
    output = Path(options.output)
    if output.is_dir() or not output.absolute().parent.is_dir():
        found = "a folder" if output.is_dir() else f"no folder {output.parent}"
        raise UsageError(f"--output {output}: expected a file in a folder that is there, found {found}")
    if output.exists() and not options.force:
        raise UsageError(f"--output {output}: the file is there; choose another name, or add --force to replace it")
    from videogn.data.classes import read_class_names
    from videogn.weights import read_source
    from videogn.weights.importing import import_weights

    names = None if options.class_names is None else read_class_names(options.class_names)
    report = import_weights(
        read_source(options.path, options.format),
        output,
        variant=options.variant,
        norm=options.norm,
        inflation=options.inflate,
        convert_norm=options.convert_norm,
        ignore=options.ignore,
        class_names=names,
        frames=options.frames,
        stride=options.stride,
    )
    print(report.text(options.verbose))
    print(f"written: {output}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from videogn.weights.export import ExportError, check_request

    formats = [name.strip() for name in options.formats.split(",") if name.strip()]
    check_request(options.output, formats, options.force)
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {text}", flush=True)

    say(f"reading {options.checkpoint}")
    try:
        card = _export_folder(options, formats, say)
    except ExportError as error:
        print(f"videogn: error: {error}", file=sys.stderr)
        return error.exit_code
    say(f"done: {options.output}")
    for name, entry in card["files"].items():
        print(f"  {name:<20} {entry['bytes'] / 1e6:8.1f} MB")
    accuracy = card["accuracy"]
    found = f"{accuracy['top1']:.4f} on {accuracy.get('videos', 'the')} videos" if accuracy else "not in the checkpoint"
    print(f"  top-1 of {'its validation' if accuracy else 'these weights'}: {found}")
    print("use it:")
    for name, text in card["usage"].items():
        if name in card["files"] or not name.startswith("model."):
            print(f"  {name:<10}  {text.replace('FOLDER', options.output)}")
    return 0


def _export_folder(options: argparse.Namespace, formats: list[str], say: Any) -> dict[str, Any]:
    import copy

    import torch

    from videogn import checkpoint
    from videogn.data.transforms import to_float
    from videogn.inference import build, read_clips
    from videogn.spec import ClipSpec
    from videogn.weights.accuracy import measured_accuracy
    from videogn.weights.export import export

    stored = checkpoint.read(options.checkpoint)
    network, clip = build(stored, options.checkpoint).network, ClipSpec.from_dict(stored[checkpoint.KEY]["clip"])
    precise = copy.deepcopy(network).double()
    if options.video is None:
        clips, clips_from = _generated_clips(clip), "generated"
    else:
        clips = read_clips(options.video, clip.with_protocol(clips=3))[:3]
        clips_from = os.path.basename(options.video)
    say(f"comparing on clips of {tuple(clips.shape[1:])}, {clips_from}")
    card = dict(stored[checkpoint.KEY])
    card["accuracy"] = measured_accuracy(stored, options.checkpoint)
    card["exported_from"] = {"file": Path(options.checkpoint).name}
    if Path(options.checkpoint).is_file():
        card["exported_from"]["sha256"] = checkpoint.sha256(options.checkpoint)
    return export(
        network,
        card,
        lambda batch: precise(to_float(batch, clip, torch.float64)).softmax(dim=1),
        clips,
        options.output,
        clips_from=clips_from,
        formats=formats,
        force=options.force,
        say=say,
    )


def _generated_clips(clip: ClipSpec) -> Tensor:
    """Three clips of the demo's motions, uint8 (3, 3, T, S, S), of the size that the network evaluates."""
    import numpy as np
    import torch

    from videogn.data.demo import DemoSpec
    from videogn.data.motions import MOTIONS, render_motion

    side = clip.protocol.short_side if clip.protocol.crop == "full" else clip.protocol.side
    spec = DemoSpec(size=max(16, side + side % 2), frames=max(2, clip.frames))
    rng = np.random.default_rng(0)
    pixels = np.stack([render_motion(motion, spec, rng)[: clip.frames, :side, :side] for motion in list(MOTIONS)[:3]])
    return torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).contiguous()


def _show(options: argparse.Namespace) -> int:
    from videogn.weights import read_source

    print(_about(read_source(options.path, options.format), options.verbose))
    return 0


def _about(source: Source, every_tensor: bool) -> str:
    head = source.tensors.get("blocks.6.proj.weight")
    kwargs = f" {dict(source.norm_kwargs)}" if source.norm_kwargs else ""
    kind = "for pictures" if source.variant == "2d" else f"for videos, {source.variant or 'variant not said'}"
    classes = "no classifier" if head is None else f"{len(head)} classes"
    if source.class_names is not None:
        classes += f": {', '.join(source.class_names[:3])}{' ...' if len(source.class_names) > 3 else ''}"
    pixels = "not said" if source.pixels is None else f"RGB in [0, 1], mean {source.pixels[0]}, std {source.pixels[1]}"
    values = sum(tensor.numel() for tensor in source.tensors.values())
    lines = [
        f"{source.path}: {source.format}",
        f"  network: ResNet-{source.depth} {kind}, norm {source.norm}{kwargs}",
        f"  classes: {classes}",
        f"  pixels:  {pixels}",
        f"  tensors: {len(source.tensors)} with {values:,} values; {len(source.ignored)} not needed, "
        f"{len(source.unexplained)} without a known place",
    ]
    if every_tensor:
        lines += [f"    {source.names[name]} {tuple(tensor.shape)}" for name, tensor in source.tensors.items()]
    lines += [f"    without a known place: {name}" for name in source.unexplained]
    return "\n".join(lines)
