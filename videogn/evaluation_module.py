"""Evaluation of a Lightning module on whole videos: all clips and crops of each, and the scores over all of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from videogn.evaluation import VideoAccuracy, VideoScores

if TYPE_CHECKING:
    from videogn.data.batches import EvalVideo, VideoBatch

log = logging.getLogger(__name__)

_View = tuple[Tensor, Tensor, tuple[int, int, int, int]]
"""Frames (U, H, W, 3) of a video, which of them a clip shows (T,), and the crop of them."""


class VideoEvaluation(LightningModule):
    """A module whose ``forward`` gives logits (B, num_classes) of uint8 clips (B, 3, T, H, W), judged on videos.

    Args:
        clips_per_forward: evaluation computes at most this many clips at once.
    """

    def __init__(self, clips_per_forward: int) -> None:
        super().__init__()
        if clips_per_forward < 1:
            raise ValueError(f"clips_per_forward: expected at least 1, found {clips_per_forward}")
        self.clips_per_forward = clips_per_forward
        self.scores = VideoAccuracy()
        self._reported: set[str] = set()

    def view_probabilities(self, frames: Tensor, index: Tensor, crops: Sequence[tuple[int, int, int, int]]) -> Tensor:
        """Softmax outputs of all clips and crops of one video, computed ``clips_per_forward`` at a time.

        Args:
            frames: uint8 (U, H, W, 3), the distinct frames that the clips need.
            index: int64 (K, T), which of them each clip shows.
            crops: (top, left, height, width) of each crop in pixels, all of one size.

        Returns:
            float32 (K * crops, num_classes), the crops of a clip one after another.
        """
        return self._softmax([(frames, clip, crop) for clip in index for crop in crops])

    def probabilities(self, videos: Sequence[EvalVideo]) -> list[Tensor]:
        """:meth:`view_probabilities` of each video; views of one size, pictures above all, share forward passes."""
        sizes: dict[tuple[int, int, int], list[int]] = {}
        for i, video in enumerate(videos):
            sizes.setdefault((video.index.shape[1], *video.crops[0][2:]), []).append(i)
        found: dict[int, Tensor] = {}
        for members in sizes.values():
            each = [
                [(videos[i].frames, clip, crop) for clip in videos[i].index for crop in videos[i].crops]
                for i in members
            ]
            parts = self._softmax([view for views in each for view in views]).split([len(views) for views in each])
            found.update(zip(members, parts, strict=True))
        return [found[i] for i in range(len(videos))]

    def _softmax(self, views: Sequence[_View]) -> Tensor:
        probabilities = []
        for i in range(0, len(views), self.clips_per_forward):
            pixels = [
                frames[clip, y : y + h, x : x + w]
                for frames, clip, (y, x, h, w) in views[i : i + self.clips_per_forward]
            ]
            clips = torch.stack(pixels).permute(0, 4, 1, 2, 3)  # T,H,W,C side by side are channels_last_3d
            probabilities.append(self(clips).float().softmax(dim=1))
        return torch.cat(probabilities)

    def _start_evaluation(self, loaders: Any) -> None:
        loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
        self.scores.reset()
        self.scores.expected = len(loader.dataset)

    def _evaluate(self, batch: VideoBatch) -> None:
        good = [video for video in batch.videos if video.error is None]
        for video, probabilities in zip(good, self.probabilities(good), strict=True):
            self.scores.update(video.video, probabilities, video.label, video.path)
        for video in batch.videos:
            if video.error is not None:
                self.scores.update(video.video, None)
                self.report_once(video.path, f"{video.error}; counted in videos_failed and in no accuracy")

    def report_once(self, path: str, text: str) -> None:
        """A warning about a file, the first time that something is wrong with it."""
        if path not in self._reported:
            self._reported.add(path)
            log.warning("%s: %s", path, text)

    def _log_scores(self, prefix: str) -> VideoScores:
        scores = self.scores.compute()
        # Already reduced over ranks by the metric, which counts each video once; a mean over ranks would not.
        self.log_dict(
            {
                f"{prefix}/loss": scores.loss,
                f"{prefix}/top1": scores.top1,
                f"{prefix}/top5": scores.top5,
                f"{prefix}/clip_top1": scores.clip_top1,
                f"{prefix}/clip_top5": scores.clip_top5,
                f"{prefix}/videos": float(scores.videos),
                f"{prefix}/videos_failed": float(scores.failed),
            }
        )
        return scores

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation(self.trainer.val_dataloaders)

    def validation_step(self, batch: VideoBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        self._start_evaluation(self.trainer.test_dataloaders)

    def test_step(self, batch: VideoBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def predict_step(self, batch: VideoBatch, batch_idx: int) -> list[tuple[EvalVideo, Tensor | None]]:
        """Each video with its mean probabilities (num_classes,) on the CPU; None where decoding failed."""
        good = [i for i, video in enumerate(batch.videos) if video.error is None]
        found = dict(zip(good, self.probabilities([batch.videos[i] for i in good]), strict=True))
        means = {i: probabilities.mean(dim=0).cpu() for i, probabilities in found.items()}
        return [(video, means.get(i)) for i, video in enumerate(batch.videos)]
