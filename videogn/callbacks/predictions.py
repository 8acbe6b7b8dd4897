"""The file that ``videogn predict`` leaves."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info


class PredictionsWriter(Callback):
    """Write ``predictions.csv`` into the run's folder when ``predict`` ends: one row per video, in data-set order.

    Columns: path, label (empty if unknown), status (``ok`` or why the file could not be decoded), then class and
    probability of the best ``topk`` classes.

    Args:
        topk: classes per row.
    """

    def __init__(self, topk: int = 5) -> None:
        self.topk = topk
        self.rows: dict[int, list[Any]] = {}

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        module: Any = pl_module
        names: Sequence[str] = module.class_names or [str(i) for i in range(module.hparams["num_classes"])]
        for video, probabilities in outputs:
            label = names[video.label] if video.label >= 0 else ""
            row: list[Any] = [video.path, label, video.error or "ok"]
            if probabilities is not None:
                top = probabilities.topk(min(self.topk, len(names)))
                for index, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True):
                    row += [names[index], f"{probability:.6f}"]
            self.rows[video.video] = row

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parts: list[Any] = [self.rows]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, self.rows)
        rows = {video: row for part in parts for video, row in part.items()}
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                count = min(self.topk, pl_module.hparams["num_classes"])
                ranked = [f"{what}_{i}" for i in range(1, count + 1) for what in ("class", "probability")]
                writer.writerow(["path", "label", "status", *ranked])
                writer.writerows(rows[video] for video in sorted(rows))
        rank_zero_info(f"{len(rows)} videos predicted, written to {folder / 'predictions.csv'}")
        self.rows = {}
