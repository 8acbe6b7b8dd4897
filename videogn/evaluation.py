"""Video-level accuracy: K clips of one video give one prediction, and every video counts once."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from videogn.results import TOPK, VideoResult

_TINY = float(np.finfo(np.float32).tiny)


class VideoScores(NamedTuple):
    """The result of an evaluation. Accuracies and the loss are means over ``videos - failed`` videos; nan if none.

    Attributes:
        top1: share of videos whose averaged probabilities put the label first.
        top5: share of videos whose label is among the five highest averaged probabilities.
        clip_top1: the same for single clips (views), each counted once.
        clip_top5: the same for single clips (views), each counted once.
        loss: mean of -log(averaged probability of the label), in nats.
        videos: distinct videos seen, failed ones included.
        failed: videos that could not be decoded; they are in no accuracy.
        expected: videos that the data set lists.
    """

    top1: float
    top5: float
    clip_top1: float
    clip_top5: float
    loss: float
    videos: int
    failed: int
    expected: int


def judge(video: int, path: str, label: int, probabilities: Tensor, num_clips: int) -> VideoResult:
    """What an evaluation finds for one video, computed in float64 on the CPU.

    The video's probabilities are the mean of its views': the testing rule of Wu & He (ECCV 2018), section 4.3. Of equal
    probabilities the lower class number is ahead, in every rank.

    Args:
        video: the video's number in the data set.
        path: of its file.
        label: its class; -1 if unknown.
        probabilities: (views, classes), softmax outputs of all clips and crops, the crops of a clip one after another.
        num_clips: clips among the views.

    Raises:
        ValueError: a shape, number of clips or label that does not fit.
        FloatingPointError: probabilities that are not finite. Ranked as they are, they would score class 0.
    """
    if probabilities.dim() != 2 or len(probabilities) == 0:
        raise ValueError(f"expected (views, classes) with at least one view, found {tuple(probabilities.shape)}")
    views, num_classes = probabilities.shape
    if num_clips < 1 or views % num_clips:
        raise ValueError(f"video {path}: expected the same number of views of each clip, found {views} of {num_clips}")
    if not -1 <= label < num_classes:
        raise ValueError(f"video {path}: expected a label in [0, {num_classes}), found {label}")
    # NumPy adds rows one after another, whatever the number of threads, and promises which of equal values is first.
    p = probabilities.detach().cpu().double().numpy()
    bad = int((~np.isfinite(p)).any(axis=1).sum())
    if bad:
        raise FloatingPointError(
            f"video {path}: the network's output is not finite (NaN or infinity) for {bad} of {views} views. Its "
            "weights have diverged, or its numbers are too large for trainer.precision."
        )
    mean = p.mean(axis=0)
    order = np.argsort(-mean, kind="stable")[:TOPK]
    known = label >= 0
    clips = p.reshape(num_clips, -1, num_classes)
    subsets = (clips[spread(k, num_clips)].reshape(-1, num_classes).mean(axis=0) for k in range(1, num_clips + 1))
    return VideoResult(
        id=video,
        path=path,
        label=label,
        classes=tuple(order.tolist()),
        probabilities=tuple(mean[order].tolist()),
        label_rank=int(_rank_of_label(mean[None], label)[0]) if known else None,
        label_probability=float(mean[label]) if known else None,
        view_top1=tuple(p.argmax(axis=1).tolist()),
        view_label_ranks=tuple(_rank_of_label(p, label).tolist()) if known else (),
        subset_top1=tuple(int(subset.argmax()) for subset in subsets),
    )


def spread(count: int, num_clips: int) -> list[int]:
    """Which ``count`` of ``num_clips`` clips stand for a video: see ``subset_top1`` of
    :class:`~videogn.results.VideoResult`."""
    if count == 1:
        return [(num_clips - 1) // 2]
    gaps = count - 1
    return [(2 * i * (num_clips - 1) + gaps) // (2 * gaps) for i in range(count)]


class VideoAccuracy(Metric):
    """Top-1 and top-5 over videos, each video's prediction being the mean of its clips' softmax probabilities.

    What is averaged and ranked how is in :func:`judge`. A video that arrives more than once, on any rank, counts once:
    padding and resumed runs do not shift the result.

    Args:
        expected: number of videos in the data set, reported beside the number seen.
    """

    full_state_update = False
    higher_is_better = True
    # One row per video: id, failed, top1, top5, clips, clips in top1, clips in top5, loss. Doubles count exactly.
    rows: list[Tensor]

    def __init__(self, expected: int = 0) -> None:
        super().__init__()
        self.expected = expected
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(
        self, video: int | VideoResult, probabilities: Tensor | None = None, label: int = -1, name: str = ""
    ) -> None:
        """Add one video.

        Args:
            video: the video's number in the data set, what duplicates are recognised by; or what was found for it, and
                no further argument.
            probabilities: (views, classes), softmax outputs of all clips and crops of this video; None for a video
                that could not be decoded, which counts as seen and failed and is in no accuracy.
            label: class number in [0, classes).
            name: what an error calls the video; its path.

        Raises:
            ValueError: a shape or label that does not fit.
            FloatingPointError: probabilities that are not finite.
        """
        if not isinstance(video, VideoResult):
            if probabilities is None:
                video = VideoResult(video, name, label, error="no frames")
            else:
                video = judge(video, name or str(video), label, probabilities, num_clips=1)
        if video.error is not None:
            self._append([float(video.id), 1.0] + [0.0] * 6)
            return
        if video.label_rank is None or video.label_probability is None:
            raise ValueError(f"video {video.path}: expected a label, found {video.label}")
        ranks = video.view_label_ranks
        in_mean = [float(video.label_rank < k) for k in (1, 5)]
        in_clips = [float(sum(rank < k for rank in ranks)) for k in (1, 5)]
        loss = -math.log(max(video.label_probability, _TINY))
        self._append([float(video.id), 0.0, *in_mean, float(len(ranks)), *in_clips, loss])

    def sync(self, *arguments: Any, **options: Any) -> None:
        """Exchanges the rows between processes, also those of a process that has none because its share is masked."""
        if isinstance(self.rows, list):  # torchmetrics would send a row of another shape and dtype for "no rows"
            self.rows.append(torch.empty(0, 8, dtype=torch.float64, device=self.device))
        super().sync(*arguments, **options)

    def compute(self) -> VideoScores:
        """Scores over the distinct videos of all ranks."""
        # A list of rows on one process, one tensor after the exchange between several.
        rows = torch.cat([part.reshape(-1, 8) for part in self.rows]) if len(self.rows) else torch.empty(0, 8)
        if len(rows) == 0:
            nan = float("nan")
            return VideoScores(nan, nan, nan, nan, nan, videos=0, failed=0, expected=self.expected)
        rows = rows[rows[:, 0].argsort(stable=True)]
        first = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        first[1:] = rows[1:, 0] != rows[:-1, 0]
        rows = rows[first]
        failed = rows[:, 1].sum()
        total = rows.sum(dim=0)
        decoded = len(rows) - failed
        return VideoScores(
            top1=float(total[2] / decoded),
            top5=float(total[3] / decoded),
            clip_top1=float(total[5] / total[4]),
            clip_top5=float(total[6] / total[4]),
            # Rounded once, so that no order and no number of threads or processes changes the last digit.
            loss=math.fsum(rows[:, 7].tolist()) / float(decoded) if decoded else math.nan,
            videos=len(rows),
            failed=int(failed),
            expected=self.expected,
        )

    def _append(self, row: list[float]) -> None:
        self.rows.append(torch.tensor([row], dtype=torch.float64, device=self.device))


def _rank_of_label(probabilities: np.ndarray, label: int) -> np.ndarray:
    """How many classes are ahead of ``label`` in each row; of equal probabilities the lower class number is ahead."""
    own = probabilities[:, label : label + 1]
    return (probabilities > own).sum(axis=1) + (probabilities[:, :label] == own).sum(axis=1)
