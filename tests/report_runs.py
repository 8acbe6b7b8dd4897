"""Folders as runs leave them, with drawn predictions: what a report is made of, without a network."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from videogn.results import (
    EVALUATION_FILE,
    PREDICTIONS_FILE,
    TRAINING_FILE,
    Evaluation,
    Training,
    VideoResult,
    write_predictions,
    write_record,
)
from videogn.spec import ClipSpec, Protocol

VERSIONS = {"videogn": "0.1.0", "torch": "2.15.0", "lightning": "2.6.6", "av": "18.1.0"}


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def kept(clips: int, k: int) -> list[int]:
    """The clips of ``VideoResult.subset_top1``, as its sentence says."""
    return [(clips - 1) // 2] if k == 1 else [int(np.floor(i * (clips - 1) / (k - 1) + 0.5)) for i in range(k)]


def draw_results(
    labels: Sequence[int],
    paths: Sequence[str],
    classes: int,
    *,
    skill: float,
    clips: int = 3,
    seed: int = 0,
    failed: Sequence[int] = (),
) -> list[VideoResult]:
    """Predictions of a network that confuses classes within groups of five."""
    rng = np.random.default_rng(seed)
    group = np.arange(classes) % max(classes // 5, 1)
    shared = np.random.default_rng(99)  # what is hard about a video is the same for all runs
    ease, likeness = shared.normal(0, 1.5, len(labels)), shared.normal(3.0, 1.5, (len(labels), classes))
    results = []
    for video, label in enumerate(labels):
        if video in failed:
            results.append(VideoResult(video, paths[video], label, error="ends in the middle of a frame"))
            continue
        logits = rng.normal(0, 1, classes) + likeness[video] * (group == group[label])
        logits[label] += skill + ease[video]
        views = softmax(logits + rng.normal(0, 1.2, (clips, classes)))
        mean = views.mean(axis=0)
        best = np.argsort(-mean, kind="stable")[:5]
        results.append(
            VideoResult(
                id=video,
                path=paths[video],
                label=label,
                classes=tuple(best.tolist()),
                probabilities=tuple(mean[best].tolist()),
                label_rank=int((mean > mean[label]).sum()),
                label_probability=float(mean[label]),
                view_top1=tuple(views.argmax(axis=1).tolist()),
                view_label_ranks=tuple((views > views[:, label : label + 1]).sum(axis=1).tolist()),
                subset_top1=tuple(int(views[kept(clips, k)].mean(axis=0).argmax()) for k in range(1, clips + 1)),
            )
        )
    return results


def scores(results: Sequence[VideoResult]) -> dict[str, float]:
    """The scores of ``VideoScores`` by their definitions."""
    good = [r for r in results if r.error is None]
    if not good:
        return dict.fromkeys(("top1", "top5", "clip_top1", "clip_top5", "loss"), float("nan")) | {
            "videos": len(results),
            "failed": len(results),
            "expected": len(results),
        }
    ranks = np.array([r.label_rank for r in good])
    views = np.array([rank for r in good for rank in r.view_label_ranks])
    return {
        "top1": float((ranks < 1).mean()),
        "top5": float((ranks < 5).mean()),
        "clip_top1": float((views < 1).mean()),
        "clip_top5": float((views < 5).mean()),
        "loss": float(np.mean([-np.log(r.label_probability) for r in good])),
        "videos": len(results),
        "failed": len(results) - len(good),
        "expected": len(results),
    }


def write_run(
    folder: Path,
    results: Sequence[VideoResult],
    names: Sequence[str],
    *,
    norm: str = "gn",
    clip: ClipSpec | None = None,
    clips: int = 3,
    epochs: int = 6,
    steps_per_epoch: int = 20,
) -> Path:
    """A run's folder with its three files and ``metrics.csv``."""
    folder.mkdir(parents=True)
    clip = clip or ClipSpec(frames=8, stride=2, protocol=Protocol(clips=clips))
    kwargs = {"num_groups": 32} if norm == "gn" else {}
    architecture = {
        "num_classes": len(names),
        "depth": 50,
        "variant": "32x2",
        "width": 64,
        "norm": norm,
        "norm_kwargs": kwargs,
    }
    found = scores(results)
    write_predictions(str(folder / PREDICTIONS_FILE), results, names)
    write_record(
        str(folder / EVALUATION_FILE),
        Evaluation(
            split="val",
            scores=found,
            clip=clip.to_dict(),
            architecture=architecture,
            class_names=list(names),
            global_step=epochs * steps_per_epoch,
            epoch=epochs,
            checkpoint=str(folder / "checkpoints" / "last.ckpt"),
            seconds=812.5,
            seconds_videos=len(results),
            peak_memory_bytes=3_400_000_000,
            device="NVIDIA H100",
            precision="bf16-mixed",
            processes=2,
            versions=VERSIONS,
            date="2026-11-21T14:00:00+00:00",
        ),
    )
    write_record(
        str(folder / TRAINING_FILE),
        Training(
            parameters=28_040_000,
            multiply_adds=37_300_000_000,
            counted_bytes_per_clip=326_107_136,
            peak_memory_bytes=11_800_000_000,
            seconds=4000.0,
            train_seconds=3600.0,
            clips=epochs * steps_per_epoch * 8,
            batch_size=4,
            clips_per_step=8,
            device="NVIDIA H100",
            precision="bf16-mixed",
            processes=2,
            versions=VERSIONS,
            date="2026-11-21T12:00:00+00:00",
        ),
    )
    write_metrics(folder / "metrics.csv", found, epochs, steps_per_epoch)
    return folder


def write_metrics(path: Path, found: dict[str, float], epochs: int, steps_per_epoch: int) -> None:
    """As Lightning's CSVLogger writes them: columns are filled in different rows."""
    columns = ["epoch", "lr-SGD/pg1", "step", "train/loss", "train/top1", "val/loss", "val/top1", "val/top5"]
    rng = np.random.default_rng(len(path.parts))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for step in range(epochs * steps_per_epoch):
            done = (step + 1) / (epochs * steps_per_epoch)
            if step % 5 == 4:
                writer.writerow({"step": step, "lr-SGD/pg1": 0.01 * 0.5 * (1 + np.cos(np.pi * done))})
                loss = 0.4 + 5 * np.exp(-4 * done) + rng.normal(0, 0.05)
                writer.writerow({"step": step, "epoch": step // steps_per_epoch, "train/loss": loss})
            if step % steps_per_epoch == steps_per_epoch - 1:
                top1 = found["top1"] * (1 - np.exp(-5 * done)) + rng.normal(0, 0.005)
                row = {"val/loss": 0.6 + 4 * np.exp(-4 * done), "val/top1": top1, "val/top5": min(1, top1 + 0.2)}
                writer.writerow({"step": step, "epoch": step // steps_per_epoch, **row})
                writer.writerow({"step": step, "epoch": step // steps_per_epoch, "train/top1": min(1, top1 + 0.05)})
