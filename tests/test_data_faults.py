"""Training that goes on: loaders that begin in the middle of an epoch, workers that are killed, files that fail."""

from pathlib import Path

import pytest
import torch

from videogn.data.batches import ClipBatch, VideoBatch
from videogn.data.dataset import EvalVideos, TrainClips
from videogn.data.demo import DemoSpec, generate_demo
from videogn.data.index import VideoIndex
from videogn.data.loader import TimedLoader, guarded, start_worker
from videogn.data.samplers import EvalSampler, TrainSampler
from videogn.spec import ClipSpec, Protocol

CLIP = ClipSpec(frames=4, stride=2, train_short_side=(24, 28), train_crop=20, protocol=Protocol(short_side=24, clips=2))


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> VideoIndex:
    """16 videos of 12 frames of 32x32."""
    root = Path(generate_demo(tmp_path_factory.mktemp("demo"), DemoSpec(2, 1, 32, 12)))
    paths = sorted(str(path.relative_to(root)) for path in root.glob("train/*/*.mp4"))
    return VideoIndex.build(str(root), paths, [i // 2 for i in range(16)], [str(i) for i in range(8)])


def train_loader(index, workers: int, batch: int = 2, timeout: float | None = 30.0, seed: int = 3) -> TimedLoader:
    data = guarded(TrainClips(index, CLIP, seed), timeout, workers)
    return loader(data, TrainSampler(len(index), batch, seed), ClipBatch.collate, workers, batch)


def eval_loader(index, workers: int, timeout: float | None = 30.0) -> TimedLoader:
    data = guarded(EvalVideos(index, CLIP), timeout, workers)
    return loader(data, EvalSampler(len(index)), VideoBatch.collate, workers, 2)


def loader(data, sampler, collate, workers: int, batch: int) -> TimedLoader:
    return TimedLoader(
        data,
        batch,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
        persistent_workers=workers > 0,
    )


def same(batches, expected) -> None:
    """Equal to the bit, in the same order."""
    for batch, wanted in zip(batches, expected, strict=True):
        if isinstance(batch, ClipBatch):
            assert torch.equal(batch.clips, wanted.clips)
            assert torch.equal(batch.labels, wanted.labels)
            assert torch.equal(batch.videos, wanted.videos)
            assert batch.replaced == wanted.replaced
        else:
            for video, other in zip(batch.videos, wanted.videos, strict=True):
                assert torch.equal(video.frames, other.frames)
                assert torch.equal(video.index, other.index)
                assert (video.video, video.error, video.crops) == (other.video, other.error, other.crops)


# --- loaders that begin in the middle


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_iterator_sees_the_epoch_that_is_told_after_it_was_made(index, workers):
    """Lightning calls iter() first, then set_epoch()."""
    whole = train_loader(index, 0)
    whole.sampler.set_epoch(3)
    expected = list(whole)
    resumed = train_loader(index, workers)
    resumed.load_state_dict({"batches": 5})
    batches = iter(resumed)
    resumed.sampler.set_epoch(3)
    assert resumed.state_dict() == {"batches": 5}
    same([next(batches)], expected[5:6])
    assert resumed.state_dict() == {"batches": 6}
    same(list(batches), expected[6:])
    resumed.sampler.set_epoch(4)
    whole.sampler.set_epoch(4)
    same(list(resumed), list(whole))  # one iteration alone begins in the middle


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_left_out_is_not_read(index, tmp_path, monkeypatch, workers):
    read = TrainClips.read

    def noted(self, job, *more):
        (tmp_path / str(job[0])).touch()
        return read(self, job, *more)

    monkeypatch.setattr(TrainClips, "read", noted)
    batches = train_loader(index, workers)
    order = [video for _, video in batches.sampler]
    batches.load_state_dict({"batches": 6})
    assert len(list(batches)) == 2
    assert {int(path.name) for path in tmp_path.iterdir()} == set(order[12:])


def test_evaluation_begins_in_the_middle(index):
    expected = list(eval_loader(index, 0))
    for workers in (0, 2):
        batches = eval_loader(index, workers)
        batches.load_state_dict({"batches": 7})
        same(list(batches), expected[7:])
        same(list(batches), expected)


def test_a_finished_epoch_is_followed_by_a_whole_one(index):
    batches = train_loader(index, 0)
    assert batches.state_dict() == {"batches": 0}
    for _, count in zip(batches, range(1, 9), strict=True):
        assert batches.state_dict() == {"batches": count % 8}
    batches.load_state_dict({"batches": 8})
    assert len(list(batches)) == 8


def test_nothing_is_drawn_from_the_global_generator(index):
    before = torch.random.get_rng_state()
    for workers in (0, 1):
        next(iter(train_loader(index, workers)))
    assert torch.equal(torch.random.get_rng_state(), before)
