"""Video-level accuracy: K clips of one video give one prediction, and every video counts once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


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


class VideoAccuracy(Metric):
    """Top-1 and top-5 over videos, each video's prediction being the mean of its clips' softmax probabilities.

    Averaging probabilities over clips is the testing rule of Wu & He (ECCV 2018), section 4.3. A video that arrives
    more than once, on any rank, counts once: padding and resumed runs do not shift the result.

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

    def update(self, video: int, probabilities: Tensor | None, label: int = -1, name: str = "") -> None:
        """Add one video.

        Args:
            video: the video's number in the data set; what duplicates are recognised by.
            probabilities: (views, classes), softmax outputs of all clips and crops of this video; None for a video
                that could not be decoded, which counts as seen and failed and is in no accuracy.
            label: class number in [0, classes).
            name: what an error calls the video; its path.

        Raises:
            ValueError: a shape or label that does not fit.
            FloatingPointError: probabilities that are not finite. Ranked as they are, they would score class 0.
        """
        if probabilities is None:
            self._append([float(video), 1.0] + [0.0] * 6)
            return
        if probabilities.dim() != 2 or len(probabilities) == 0:
            raise ValueError(f"expected (views, classes) with at least one view, found {tuple(probabilities.shape)}")
        num_classes = probabilities.shape[1]
        if not 0 <= label < num_classes:
            raise ValueError(f"video {name or video}: expected a label in [0, {num_classes}), found {label}")
        probabilities = probabilities.double()
        if not torch.isfinite(probabilities).all():
            raise FloatingPointError(f"video {name or video}: the network's output is not finite (NaN or infinity)")
        mean = probabilities.mean(dim=0, keepdim=True)
        rank, clip_ranks = _rank_of_label(mean, label), _rank_of_label(probabilities, label)
        in_mean = [float(rank < k) for k in (1, 5)]
        in_clips = [float((clip_ranks < k).sum()) for k in (1, 5)]
        loss = float(-mean[0, label].clamp_min(torch.finfo(torch.float32).tiny).log())
        self._append([float(video), 0.0, *in_mean, float(len(clip_ranks)), *in_clips, loss])

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
            loss=float(total[7] / decoded),
            videos=len(rows),
            failed=int(failed),
            expected=self.expected,
        )

    def _append(self, row: list[float]) -> None:
        self.rows.append(torch.tensor([row], dtype=torch.float64, device=self.device))


def _rank_of_label(probabilities: Tensor, label: int) -> Tensor:
    """How many classes are ahead of ``label`` in each row; of equal probabilities the lower class number is ahead."""
    own = probabilities[:, label : label + 1]
    return (probabilities > own).sum(dim=1) + (probabilities[:, :label] == own).sum(dim=1)
