"""Evaluation of a Lightning module on whole videos: all clips and crops of each, and the scores over all of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from videogn.evaluation import VideoAccuracy, VideoScores, judge
from videogn.results import VideoResult

if TYPE_CHECKING:
    from videogn.data.batches import EvalVideo, VideoBatch

log = logging.getLogger(__name__)

_View = tuple[Tensor, Tensor, tuple[int, int, int, int]]
"""Frames (U, H, W, 3) of a video, which of them a clip shows (T,), and the crop of them."""


class VideoEvaluation(LightningModule):
    """A module whose ``forward`` gives logits (B, num_classes) of uint8 clips (B, 3, T, H, W), judged on videos.

    Args:
        clips_per_forward: evaluation computes at most this many clips at once.

    Attributes:
        results: of the videos of the last batch that was evaluated, for callbacks.
        last_scores: of the last validation or test, over all processes; None before.
    """

    def __init__(self, clips_per_forward: int) -> None:
        super().__init__()
        if clips_per_forward < 1:
            raise ValueError(f"clips_per_forward: expected at least 1, found {clips_per_forward}")
        self.clips_per_forward = clips_per_forward
        self.scores = VideoAccuracy()
        self.results: list[VideoResult] = []
        self.last_scores: VideoScores | None = None
        self._reported: set[str] = set()

    def view_probabilities(self, frames: Tensor, index: Tensor, crops: Sequence[tuple[int, int, int, int]]) -> Tensor:
        """Softmax outputs of all clips and crops of one video, computed ``clips_per_forward`` at a time.

        Args:
            frames: uint8 (U, H, W, 3), the distinct frames that the clips need.
            index: int64 (K, T), which of them each clip shows.
            crops: (top, left, height, width) of each crop in pixels, all of one size.

        Returns:
            float32 (K * crops, num_classes), the crops of a clip one after another. A row whose logits are not all
            finite is NaN: softmax alone would make a 0 of a logit of -infinity, as if nothing were wrong.
        """
        return self._softmax([(frames, clip, crop) for clip in index for crop in crops])

    def probabilities(self, videos: Sequence[EvalVideo]) -> list[Tensor]:
        """:meth:`view_probabilities` of each video; views of one size, pictures above all, share forward passes.

        The last digits of a view's probabilities depend on how many views share its pass, so that they are the same
        for every number of processes where videos come one at a time.
        """
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
            logits = self(clips).float()
            finite = logits.isfinite().all(dim=1, keepdim=True)
            probabilities.append(torch.where(finite, logits.softmax(dim=1), torch.nan))
        return torch.cat(probabilities)

    def _start_evaluation(self, loaders: Any) -> None:
        loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
        self.scores.reset()
        self.scores.expected = len(loader.dataset)

    def _judge(self, batch: VideoBatch) -> list[tuple[EvalVideo, Tensor | None]]:
        """The videos of a batch, without masked items, with the probabilities of their views; fills ``results``."""
        videos = [video for video in batch.videos if video.video >= 0]
        found = iter(self.probabilities([video for video in videos if video.error is None]))
        pairs = [(video, next(found) if video.error is None else None) for video in videos]
        self.results = [
            VideoResult(video.video, video.path, video.label, error=video.error)
            if probabilities is None
            else judge(video.video, video.path, video.label, probabilities, num_clips=len(video.index))
            for video, probabilities in pairs
        ]
        return pairs

    def _evaluate(self, batch: VideoBatch) -> None:
        self._judge(batch)
        for result in self.results:
            self.scores.update(result)
            if result.error is not None:
                self.report_once(result.path, f"{result.error}; counted in videos_failed and in no accuracy")

    def report_once(self, path: str, text: str) -> None:
        """A warning about a file, the first time that something is wrong with it."""
        if path not in self._reported:
            self._reported.add(path)
            log.warning("%s: %s", path, text)

    def _log_scores(self, prefix: str) -> VideoScores:
        self.last_scores = scores = self.scores.compute()
        logged = {
            "loss": scores.loss,
            "top1": scores.top1,
            "top5": scores.top5,
            "clip_top1": scores.clip_top1,
            "clip_top5": scores.clip_top5,
            "videos": scores.videos,
            "videos_failed": scores.failed,
        }
        # Already reduced over ranks by the metric, which counts each video once; a mean over ranks would not. Of plain
        # numbers Lightning would make float32.
        self.log_dict({f"{prefix}/{name}": torch.tensor(value, dtype=torch.float64) for name, value in logged.items()})
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
        return [(video, None if p is None else p.mean(dim=0).cpu()) for video, p in self._judge(batch)]
