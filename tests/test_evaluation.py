"""VideoAccuracy against references written out from the definition."""

import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from videogn.evaluation import VideoAccuracy


def random_videos(count=37, clips=10, classes=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, clips, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=generator)
    return logits.softmax(dim=2), labels


def test_equals_the_paper_sentence_and_torchmetrics():
    """Section 4.3 of Wu & He: softmax scores of the 10 clips are averaged for the final prediction."""
    probabilities, labels = random_videos()
    metric = VideoAccuracy(expected=len(labels))
    for i, (p, label) in enumerate(zip(probabilities, labels, strict=True)):
        metric.update(i, p, int(label))
    scores = metric.compute()

    top1 = top5 = clip_top1 = loss = 0.0
    for p, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        mean = [sum(clip[c] for clip in p) / len(p) for c in range(len(p[0]))]
        ranking = sorted(range(len(mean)), key=lambda c: -mean[c])
        top1 += ranking[0] == label
        top5 += label in ranking[:5]
        clip_top1 += sum(max(range(len(clip)), key=clip.__getitem__) == label for clip in p) / len(p)
        loss -= math.log(mean[label])
    n = len(labels)
    assert (scores.top1, scores.top5) == (top1 / n, top5 / n)
    assert scores.clip_top1 == pytest.approx(clip_top1 / n)
    assert scores.loss == pytest.approx(loss / n)
    assert (scores.videos, scores.failed, scores.expected) == (n, 0, n)
    for k, ours in ((1, scores.top1), (5, scores.top5)):
        peer = multiclass_accuracy(probabilities.mean(1), labels, num_classes=12, average="micro", top_k=k)
        assert ours == pytest.approx(float(peer))
    clips, repeated = probabilities.flatten(0, 1), labels.repeat_interleave(10)
    peer = multiclass_accuracy(clips, repeated, num_classes=12, average="micro", top_k=5)
    assert scores.clip_top5 == pytest.approx(float(peer))


def test_a_video_counts_once_however_often_it_arrives():
    probabilities, labels = random_videos(9)
    once, often = VideoAccuracy(), VideoAccuracy()
    for i in range(9):
        once.update(i, probabilities[i], int(labels[i]))
    for i in [*range(9), 3, 3, 0, 8]:
        often.update(i, probabilities[i], int(labels[i]))
    assert once.compute() == often.compute()


def test_merged_states_of_ranks_equal_one_process():
    probabilities, labels = random_videos(11)
    whole, ranks = VideoAccuracy(11), [VideoAccuracy(11) for _ in range(3)]
    for i in range(11):
        for metric in (whole, ranks[i % 3]):
            metric.update(i, probabilities[i], int(labels[i]))
    ranks[2].update(0, probabilities[0], int(labels[0]))  # a padded duplicate
    merged = VideoAccuracy(11)
    merged.rows = [row for metric in ranks for row in metric.rows]
    assert merged.compute() == whole.compute()


def test_a_process_group_without_rows_is_nan_too():
    metric = VideoAccuracy(expected=2)
    metric.rows = torch.empty(0)  # what torchmetrics makes of an empty list when it exchanges states
    assert math.isnan(metric.compute().top1)


def test_failed_videos_are_counted_and_in_no_accuracy():
    metric = VideoAccuracy(expected=3)
    metric.update(0, torch.tensor([[0.9, 0.1]]), 0)
    metric.update(1, torch.tensor([[0.9, 0.1]]), 1)
    metric.update(2, None)
    scores = metric.compute()
    assert (scores.top1, scores.clip_top1) == (0.5, 0.5)
    assert (scores.videos, scores.failed, scores.expected) == (3, 1, 3)


def test_nothing_seen_and_nothing_decoded_are_nan_not_zero():
    metric = VideoAccuracy(expected=1)
    assert math.isnan(metric.compute().top1)
    metric.update(0, None)
    scores = metric.compute()
    assert math.isnan(scores.top1)
    assert (scores.videos, scores.failed) == (1, 1)


def test_ties_go_to_the_lower_class_number():
    metric = VideoAccuracy()
    uniform = torch.full((1, 10), 0.1)
    for i in range(10):
        metric.update(i, uniform, i)
    assert (metric.compute().top1, metric.compute().top5) == (0.1, 0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_output_names_the_video(bad):
    with pytest.raises(FloatingPointError, match=r"cats/7\.mp4.*not finite"):
        VideoAccuracy().update(7, torch.full((2, 3), bad), 0, "cats/7.mp4")


def test_label_outside_the_classes():
    with pytest.raises(ValueError, match=r"\[0, 3\), found 3"):
        VideoAccuracy().update(0, torch.ones(1, 3) / 3, 3)


def test_video_numbers_above_the_float32_range_stay_apart():
    metric = VideoAccuracy()
    for video in (2**24, 2**24 + 1):
        metric.update(video, torch.ones(1, 2) / 2, 0)
    assert metric.compute().videos == 2
