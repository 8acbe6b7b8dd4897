"""VideoAccuracy against references written out from the definition."""

import json
import math
import random
from fractions import Fraction

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from videogn.data.batches import EvalVideo, VideoBatch
from videogn.evaluation import VideoAccuracy, judge, spread
from videogn.evaluation_module import VideoEvaluation
from videogn.results import VideoResult


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


def test_rows_do_not_depend_on_the_order_they_come_in():
    """Nor does the last digit of a sum."""
    probabilities, labels = random_videos(200)
    found = []
    for seed in range(3):
        order = random.Random(seed).sample(range(200), 200)
        metric = VideoAccuracy(200)
        for i in order:
            metric.update(i, probabilities[i], int(labels[i]))
        found.append(metric.compute())
    assert found[0] == found[1] == found[2]


# -- judge


def ranking(row):
    return sorted(range(len(row)), key=lambda c: (-row[c], c))


def mean(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize(("clips", "crops", "classes"), [(10, 1, 12), (5, 3, 400), (2, 3, 3), (1, 1, 7)])
@pytest.mark.parametrize("levels", [4, None])
def test_judge_against_sorted_lists(clips, crops, classes, levels):
    """With four levels of probability almost every rank is a tie, and their sums are exact: no tie is rounded away."""
    generator = torch.Generator().manual_seed(clips)
    for label in (0, classes // 2, classes - 1, -1):
        p = torch.rand(clips * crops, classes, generator=generator, dtype=torch.float64)
        if levels:
            p = (p * levels).floor() / levels
        rows = p.tolist()
        found = judge(3, "3.mp4", label, p, num_clips=clips)
        means = mean(rows)
        assert (found.id, found.path, found.label, found.error) == (3, "3.mp4", label, None)
        assert found.classes == tuple(ranking(means)[:5])
        assert found.probabilities == tuple(means[c] for c in found.classes)
        assert found.view_top1 == tuple(ranking(row)[0] for row in rows)
        if label < 0:
            assert (found.label_rank, found.label_probability, found.view_label_ranks) == (None, None, ())
        else:
            assert (found.label_rank, found.label_probability) == (ranking(means).index(label), means[label])
            assert found.view_label_ranks == tuple(ranking(row).index(label) for row in rows)
        assert len(found.subset_top1) == clips
        for k, best in enumerate(found.subset_top1, start=1):
            chosen = [rows[crops * i + crop] for i in subset(k, clips) for crop in range(crops)]
            assert best == ranking(mean(chosen))[0]
        assert found.subset_top1[-1] == found.classes[0]


def subset(count, clips):
    """The docstring of ``VideoResult.subset_top1`` in exact fractions."""
    if count == 1:
        return [(clips - 1) // 2]
    return [math.floor(Fraction(i * (clips - 1), count - 1) + Fraction(1, 2)) for i in range(count)]


def test_clips_of_a_subset_are_distinct_and_reach_both_ends():
    assert spread(2, 10) == [0, 9]
    assert spread(3, 10) == [0, 5, 9]
    for clips in range(1, 31):
        assert spread(clips, clips) == list(range(clips))
        for count in range(1, clips + 1):
            found = spread(count, clips)
            assert found == subset(count, clips)
            assert len(set(found)) == count


def test_results_score_as_their_probabilities_do_also_after_json():
    probabilities, labels = random_videos(30)
    tensors, results = VideoAccuracy(31), VideoAccuracy(31)
    for i, (p, label) in enumerate(zip(probabilities, labels, strict=True)):
        tensors.update(i, p, int(label), "a")
        written = json.dumps(vars(judge(i, "a", int(label), p, num_clips=10)))
        results.update(VideoResult.from_dict(json.loads(written)))
    tensors.update(30, None)
    results.update(VideoResult(30, "b", 0, error="damaged"))
    assert tensors.compute() == results.compute()


def test_a_result_without_a_label_has_no_score():
    with pytest.raises(ValueError, match=r"7\.mp4: expected a label"):
        VideoAccuracy().update(judge(7, "7.mp4", -1, torch.ones(1, 3) / 3, num_clips=1))


@pytest.mark.parametrize(
    ("shape", "clips", "label", "words"),
    [
        ((3,), 1, 0, "views, classes"),
        ((0, 3), 1, 0, "at least one view"),
        ((4, 3), 3, 0, "4 of 3"),
        ((4, 3), 0, 0, "4 of 0"),
        ((2, 3), 2, 3, r"\[0, 3\), found 3"),
        ((2, 3), 2, -2, "found -2"),
    ],
)
def test_judge_refuses_what_does_not_fit(shape, clips, label, words):
    with pytest.raises(ValueError, match=words):
        judge(0, "0.mp4", label, torch.full(shape, 0.3), clips)


# -- logits that are not finite


class Constant(VideoEvaluation):
    """Gives the clips of value v the logits ``table[v]``."""

    def __init__(self, table, clips_per_forward=2):
        super().__init__(clips_per_forward)
        self.table = torch.tensor(table)

    def forward(self, clips):
        return self.table[clips[:, 0, 0, 0, 0].long()]


def video(number, values, label=0):
    frames = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 2, 3)
    return EvalVideo(frames, torch.arange(len(values))[:, None], [(0, 0, 2, 2)], label, number, f"v/{number}.mp4")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", ["validation_step", "test_step", "predict_step"])
def test_logits_that_are_not_finite_name_the_video(bad, step):
    """Softmax makes an ordinary 0 of a logit of -infinity."""
    module = Constant([[1.0, 2.0, 0.0], [bad, 1.0, 0.0]])
    batch = VideoBatch([video(0, [0, 0, 0]), video(1, [0, 0, 1]), video(2, [0])])
    with pytest.raises(FloatingPointError, match=r"v/1\.mp4: .*not finite.* 1 of 3 views"):
        getattr(module, step)(batch, 0)
    getattr(module, step)(VideoBatch([video(0, [0, 0, 0]), video(2, [0])]), 0)
    assert [result.id for result in module.results] == [0, 2]


def test_large_logits_are_fine():
    module = Constant([[3e38, -3e38, 0.0]])
    module.validation_step(VideoBatch([video(0, [0])]), 0)
    assert module.results[0].probabilities == (1.0, 0.0, 0.0)


def test_masked_items_count_nowhere():
    module = Constant([[1.0, 2.0, 0.0]])
    masked = video(-1, [])
    assert module.predict_step(VideoBatch([masked]), 0) == []
    module.validation_step(VideoBatch([masked]), 0)
    assert (module.results, len(module.scores.rows)) == ([], 0)
    module.validation_step(VideoBatch([video(0, [0], label=1), masked]), 0)
    scores = module.scores.compute()
    assert (scores.videos, scores.failed, scores.top1) == (1, 0, 1.0)
