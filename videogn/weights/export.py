"""A trained network as a folder for others: weights, programs for torch and ONNX Runtime, and a card."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videogn.checkpoint import CARD_FILE, WEIGHTS_FILE, read, sha256, write_weights
from videogn.errors import UsageError
from videogn.i3d import I3DResNet
from videogn.spec import ClipSpec
from videogn.weights.programs import INPUT, OUTPUT, Program, load_onnx, load_pt2, save_onnx, save_pt2, trace

FORMATS = ("safetensors", "pt2", "onnx")
PROGRAMS = {"pt2": "model.pt2", "onnx": "model.onnx"}
TOLERANCE = 1e-4
"""Largest difference of a program's logits from the network's, absolute and relative: see :func:`compare`."""

_OF_AN_EXPORT = ("files", "check", "export_versions")  # entries of a folder that is exported again
_EXTRA = ("onnx", "onnxscript", "onnxruntime")


class ExportError(RuntimeError):
    """A program that cannot be made, or whose results are not the module's."""

    exit_code = 1


def check_request(folder: str | os.PathLike[str], formats: Sequence[str], force: bool) -> None:
    """Refuse, before any work, what :func:`export` could not do.

    Raises:
        UsageError: an unknown format; packages that are not installed; a folder that is in use, or that holds anything
            but an export (``force`` replaces nothing else).
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"--formats: expected some of {','.join(FORMATS)}, found {','.join(unknown) or 'none'}")
    missing = [name for name in _EXTRA if find_spec(name) is None] if "onnx" in formats else []
    if missing:
        raise UsageError(
            f'--formats: onnx needs {", ".join(missing)}, not installed here: pip install "videogn[export]", '
            "or choose --formats safetensors,pt2"
        )
    folder = Path(folder)
    if folder.is_dir():
        others = sorted({path.name for path in folder.iterdir()} - {CARD_FILE, WEIGHTS_FILE, *PROGRAMS.values()})
        if others:
            raise UsageError(
                f"--output {folder}: expected a new folder, found one with {others[0]!r}, which no export wrote; "
                "choose another"
            )
        if any(folder.iterdir()) and not force:
            raise UsageError(f"--output {folder}: the folder holds an export; choose another, or --force replaces it")
    elif os.path.lexists(folder):
        raise UsageError(f"--output {folder}: expected a new folder, found a file")


def export(
    network: I3DResNet,
    card: Mapping[str, Any],
    predict: Callable[[Tensor], Tensor],
    clips: Tensor,
    folder: str | os.PathLike[str],
    *,
    clips_from: str,
    formats: Sequence[str] = FORMATS,
    force: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Writes the folder, whole or not at all, after each file in it was read again and compared with the module.

    Args:
        network: on the CPU, in evaluation mode.
        card: of :func:`videogn.checkpoint.description`, with any further entries that JSON can hold.
        predict: the module itself, in float64, whose rounding is no part of the comparison: uint8 clips
            (B, 3, T, H, W) -> probabilities (B, num_classes).
        clips: uint8 (N, 3, T, H, W), RGB, N at least 2: what the programs are compared on, one clip alone, the others
            together, and a part of the first with fewer frames and pixels.
        folder: to create; with ``force``, an export in its place is replaced.
        clips_from: where the clips are from, for the card.
        formats: of ``FORMATS``; weights and card are always written.
        say: takes a line of progress.

    Returns:
        The card as it was written.

    Raises:
        UsageError: see :func:`check_request`; the folder cannot be written.
        ExportError: a program cannot be made, or differs by more than ``TOLERANCE``.
    """
    check_request(folder, formats, force)
    clip = ClipSpec.from_dict(card["clip"])
    batches = [clips[:1], clips[1:], _smaller(clips[:1], network.min_frames)]
    say("running the network itself, in float64")
    with torch.no_grad():  # one by one: a program must not mix the clips of a batch, and float64 takes memory
        expected = [torch.cat([predict(clip[None]) for clip in batch]) for batch in batches]
    if not all(bool(torch.isfinite(each).all()) for each in expected):
        raise ExportError("the module's own probabilities are not finite: these weights are of a run that diverged")
    card = {name: value for name, value in card.items() if name not in _OF_AN_EXPORT}
    card |= _interface(clip, card["architecture"]["num_classes"], network.min_frames)
    with _replacing(Path(os.path.realpath(folder))) as partial:
        say(f"writing {WEIGHTS_FILE}")
        write_weights(partial / WEIGHTS_FILE, network.state_dict(), card)
        programs = [name for name in PROGRAMS if name in formats]
        differences = {}
        if programs:
            say("tracing the network")
            try:
                traced = trace(Program(network, clip))
            except Exception as error:  # of any kind, from anywhere in the tracer
                raise ExportError(f"the network cannot be traced: {_first_line(error)}") from error
        for name in programs:
            path = partial / PROGRAMS[name]
            save, load = (save_pt2, load_pt2) if name == "pt2" else (save_onnx, load_onnx)
            say(f"writing {path.name}")
            start = time.monotonic()
            try:
                save(traced, path, card)
                say(f"checking {path.name} ({_megabytes(path)}, made in {time.monotonic() - start:.0f} s)")
                run = load(path)
                found = [run(batch) for batch in batches]
            except Exception as error:
                raise ExportError(f"{path.name}: cannot be made or run: {_first_line(error)}") from error
            differences[path.name] = compare(path.name, found, expected)
            say(f"  its logits differ by at most {differences[path.name]:.1e}; {TOLERANCE:g} is allowed")
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(partial.iterdir())
        }
        sizes = [list(batch.shape) for batch in batches]
        card["check"] = {"clips": clips_from, "shapes": sizes, "tolerance": TOLERANCE, "differences": differences}
        card["export_versions"] = _versions()
        card["files"] = files
        (partial / CARD_FILE).write_text(json.dumps(card, indent=2, allow_nan=False) + "\n", encoding="ascii")
        stored = read(partial)["state_dict"]
        if any(not torch.equal(stored[f"network.{name}"], each) for name, each in network.state_dict().items()):
            raise ExportError(f"{WEIGHTS_FILE}: what was written is not what is read")
    return card


def compare(name: str, found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of logits, as far as probabilities p of a program and q of the network tell them.

        |log p_i - log q_i| / (1 + log q_best - log q_i)

    The denominator is one plus the logit's distance from the best class's, so the measure does not depend on how sure
    the network is: of classes with next to no probability as well, it says whether the network computed them. Classes
    whose logits are further apart than both differences keep their order, so the top-5 are the same up to ties.

    Raises:
        ExportError: more than ``TOLERANCE``, or another shape; ``name`` is for the message.
    """
    worst = 0.0
    for p, q in zip(found, expected, strict=True):
        if p.shape != q.shape:
            raise ExportError(f"{name}: expected probabilities {tuple(q.shape)}, found {tuple(p.shape)}")
        precise = q.double().log()
        distance = precise.amax(1, keepdim=True) - precise
        difference = (p.double().log() - precise).abs() / (1 + distance)
        largest = float(difference[q > 1e-30].max())  # of smaller ones float32 has fewer digits, or none
        if not largest <= TOLERANCE:  # NaN, too
            raise ExportError(
                f"{name}: its results are not the network's: logits differ by {largest:.1e}, {TOLERANCE:g} is allowed. "
                "Nothing was written"
            )
        worst = max(worst, largest)
    return worst


def _smaller(clip: Tensor, min_frames: int) -> Tensor:
    """The first frames and the upper left of a clip, if it is large enough for that: another size."""
    frames, height, width = clip.shape[2:]
    if min(height, width) <= 48:
        return clip
    return clip[:, :, : max(min_frames, frames // 2), : height * 3 // 4, : width * 3 // 4]


def _interface(clip: ClipSpec, num_classes: int, min_frames: int) -> dict[str, Any]:
    """What the programs take and give, and how to call them."""
    return {
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "shape": ["batch", 3, "frames", "height", "width"],
            "pixels": "RGB, 0 to 255; the programs normalise them",
            "limits": f"at least {min_frames} frames; height or width above 32",
            "trained_on": f"{clip.frames} frames, every {clip.stride}. of the video; see clip",
        },
        "output": {
            "name": OUTPUT,
            "dtype": "float32",
            "shape": ["batch", num_classes],
            "meaning": "softmax, in the order of class_names; a video's are the mean over its clips and crops",
        },
        "usage": {
            "shell": "videogn classify VIDEO --checkpoint FOLDER",
            "python": "videogn.predict_video('FOLDER', VIDEO)",
            "clips": "videogn.inference.read_clips(VIDEO, videogn.load('FOLDER').clip)",
            "model.pt2": "torch.export.load('FOLDER/model.pt2').module()(clips)",
            "model.onnx": "onnxruntime.InferenceSession('FOLDER/model.onnx').run(None, {'clips': clips.numpy()})[0]",
        },
    }


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder``, which takes its place where the block ends well and is deleted otherwise."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        partial.mkdir(parents=True)
        yield partial
        replaced = folder.exists()
        if replaced:
            folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            if replaced:
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"--output {folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _versions() -> dict[str, str]:
    found = {}
    for name in ("videogn", "torch", "safetensors", *_EXTRA):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
