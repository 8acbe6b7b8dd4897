"""Training clips, evaluation videos and samplers."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from loaders import loader
from torch.utils.data import Dataset

from videogn.data import read_frames
from videogn.data.batches import ClipBatch, VideoBatch
from videogn.data.dataset import MAX_TRIES, EvalVideos, TrainClips
from videogn.data.demo import MOTIONS, DemoSpec, generate_demo
from videogn.data.index import VideoIndex
from videogn.data.samplers import MASKED, EvalSampler, TrainSampler
from videogn.data.sampling import eval_indices, train_indices
from videogn.data.transforms import eval_crops, eval_view, train_view
from videogn.data.view import apply_view
from videogn.errors import VideoError
from videogn.spec import ClipSpec, Protocol

CLIP = ClipSpec(
    frames=4,
    stride=2,
    train_short_side=(24, 28),
    train_crop=20,
    protocol=Protocol(short_side=24, crop="three", clips=3),
)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> VideoIndex:
    """24 videos of 8 classes, 12 frames of 32x32."""
    root = Path(generate_demo(tmp_path_factory.mktemp("demo"), DemoSpec(3, 1, 32, 12)))
    paths = sorted(str(path.relative_to(root)) for path in root.glob("train/*/*.mp4"))
    labels = [list(MOTIONS).index(path.split("/")[1]) for path in paths]
    return VideoIndex.build(str(root), paths, labels, list(MOTIONS))


@pytest.fixture
def damaged(index, tmp_path) -> VideoIndex:
    """The 24 videos and five bad files: 0 empty, 1 text, 2 cut short, 3 absent, 4 a folder."""
    good = Path(index.path(0))
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:700])
    (tmp_path / "folder.mp4").mkdir()
    bad = [str(tmp_path / name) for name in ("empty.mp4", "text.mp4", "cut.mp4", "absent.mp4", "folder.mp4")]
    paths = bad + [index.video_id(i) for i in range(len(index))]
    return VideoIndex.build(index.root, paths, [0] * 5 + index.labels.tolist(), index.class_names)


def epochs(index: VideoIndex, workers: int, count: int = 2, seed: int = 3) -> list[list[ClipBatch]]:
    sampler = TrainSampler(len(index), batch_size=4, seed=seed)
    batches = loader(TrainClips(index, CLIP, seed), sampler, ClipBatch.collate, workers, 4)
    out = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        out.append(list(batches))
    return out


# --- training clips


def test_a_batch(index):
    batch = epochs(index, workers=0, count=1)[0][0]
    assert batch.clips.shape == (4, 3, 4, 20, 20)
    assert batch.clips.dtype == torch.uint8
    assert batch.clips.is_contiguous(memory_format=torch.channels_last_3d)
    assert batch.labels.tolist() == [index.label(int(i)) for i in batch.videos]
    assert batch.labels.dtype == batch.videos.dtype == torch.int64
    assert batch.replaced == []
    assert len(batch) == 4


def test_a_clip_is_span_then_transform_of_one_generator(index):
    item = TrainClips(index, CLIP, seed=5)[2, 7]
    rng = np.random.default_rng(np.random.SeedSequence((5, 2, 7)))
    frames = read_frames(index.path(7), train_indices(12, CLIP, rng))
    expected = apply_view(frames, train_view(*frames.shape[1:3], CLIP, rng))
    torch.testing.assert_close(item.frames, expected, rtol=0, atol=0)
    assert (item.label, item.video) == (index.label(7), 7)


def test_same_clips_whatever_the_number_of_workers(index):
    reference = epochs(index, workers=0)
    for workers in (1, 2):
        for batches, expected in zip(epochs(index, workers), reference, strict=True):
            assert len(batches) == len(expected) == 6
            for batch, wanted in zip(batches, expected, strict=True):
                assert torch.equal(batch.videos, wanted.videos)
                assert torch.equal(batch.clips, wanted.clips)
                assert torch.equal(batch.labels, wanted.labels)
                assert batch.clips.is_contiguous(memory_format=torch.channels_last_3d)


def test_epochs_and_seeds_differ(index):
    first, second = epochs(index, workers=0)
    other = epochs(index, workers=0, count=1, seed=4)[0]
    for batches in (second, other):
        order = torch.cat([batch.videos for batch in batches]).tolist()
        assert order != torch.cat([batch.videos for batch in first]).tolist()
        assert sorted(order) == list(range(24))
    data = TrainClips(index, CLIP, seed=3)
    clips = [data[epoch, 0].frames for epoch in range(6)]
    assert sum(not torch.equal(clips[0], clip) for clip in clips[1:]) >= 4


def test_bad_videos_are_replaced_and_named(damaged):
    data = TrainClips(damaged, CLIP, seed=1)
    for video in range(5):
        item = data[0, video]
        again = data[0, video]
        assert item.video == again.video >= 5
        assert item.label == damaged.label(item.video)
        assert torch.equal(item.frames, again.frames)
        assert item.replaced[0][0] == damaged.path(video)
        assert item.replaced[0][1]
    batch = ClipBatch.collate([data[0, 0], data[0, 9], data[0, 3]])
    assert {damaged.path(0), damaged.path(3)} <= {path for path, _ in batch.replaced}
    assert (batch.videos >= 5).all()


def test_replacement_is_the_same_in_workers(damaged):
    def run(workers: int) -> list[ClipBatch]:
        sampler = TrainSampler(len(damaged), 7, seed=2)
        return list(loader(TrainClips(damaged, CLIP, 2), sampler, ClipBatch.collate, workers, 7))

    alone, shared = run(0), run(2)
    assert sum(len(batch.replaced) for batch in alone) >= 4
    for batch, expected in zip(shared, alone, strict=True):
        assert batch.replaced == expected.replaced
        assert torch.equal(batch.clips, expected.clips)


def test_nothing_but_bad_videos(damaged):
    bad = VideoIndex.build("/", [damaged.video_id(i) for i in range(2)], [0, 0], ("a",))
    with pytest.raises(VideoError, match=rf"{MAX_TRIES} videos drawn one after another could not be read") as caught:
        TrainClips(bad, CLIP)[0, 0]
    assert str(caught.value).count("empty.mp4") + str(caught.value).count("text.mp4") >= MAX_TRIES
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_error_that_is_not_the_video_is_not_swallowed(index):
    with pytest.raises(IndexError):
        TrainClips(index, CLIP)[0, len(index)]


# --- evaluation videos


def test_an_evaluation_video(index):
    video = EvalVideos(index, CLIP)[0, 5]
    wanted = eval_indices(12, CLIP)
    assert video.index.shape == (3, 4)
    assert video.index.dtype == torch.int64
    assert video.frames.dtype == torch.uint8
    assert len(video.frames) == len(np.unique(wanted))
    assert len(video.crops) == 3
    assert (video.label, video.video, video.path, video.error) == (index.label(5), 5, index.path(5), None)
    for clip, numbers in zip(video.index, wanted, strict=True):
        frames = read_frames(index.path(5), numbers)
        frames, crops = eval_crops(apply_view(frames, eval_view(*frames.shape[1:3], CLIP)), CLIP)
        torch.testing.assert_close(video.frames[clip], frames, rtol=0, atol=0)
        assert video.crops == crops


def test_bad_videos_are_reported_not_dropped(damaged):
    data = EvalVideos(damaged, CLIP)
    batches = list(loader(data, EvalSampler(len(data)), VideoBatch.collate, 2, 4))
    videos = [video for batch in batches for video in batch.videos]
    assert [video.video for video in videos] == list(range(29))
    for video in videos[:5]:
        assert video.error
        assert len(video.frames) == len(video.index) == len(video.crops) == 0
        assert video.path == damaged.path(video.video)
    assert not any(video.error for video in videos[5:])


def test_batches_move_and_pin(index, damaged):
    batch = ClipBatch.collate([TrainClips(index, CLIP)[0, i] for i in range(2)])
    videos = VideoBatch.collate([EvalVideos(index, CLIP)[0, 1], EvalVideos(damaged, CLIP)[0, 0]])
    moved = batch.to(torch.device("meta"), non_blocking=True)
    assert moved.clips.device.type == moved.labels.device.type == moved.videos.device.type == "meta"
    assert moved.clips.is_contiguous(memory_format=torch.channels_last_3d)
    there = videos.to("meta")
    assert [video.frames.device.type for video in there.videos] == ["meta", "meta"]
    assert there.videos[1].error == videos.videos[1].error
    if torch.cuda.is_available():
        assert batch.pin_memory().clips.is_pinned()
        assert videos.pin_memory().videos[0].frames.is_pinned()


# --- samplers


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("videos", [1, 2, 17, 24])
def test_evaluation_shares_are_exact(world, videos):
    shares = [list(EvalSampler(videos, world, rank)) for rank in range(world)]
    assert [len(EvalSampler(videos, world, rank)) for rank in range(world)] == [len(share) for share in shares]
    assert all(shares), "no process may be without an item"
    seen = [video for share in shares for _, video in share]
    assert sorted(seen) == [MASKED] * max(0, world - videos) + list(range(videos))


def test_evaluation_goes_on_with_the_videos_that_are_left():
    """Nine videos, four of them judged: the rest is shared evenly, whoever had it before."""
    done = frozenset({0, 3, 4, 8})
    shares = [[video for _, video in EvalSampler(9, 3, rank, done)] for rank in range(3)]
    assert sorted(video for share in shares for video in share) == [1, 2, 5, 6, 7]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [video for _, video in EvalSampler(9, 1, 0, frozenset(range(9)))] == [MASKED]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_training_shares_are_equal_and_disjoint(world):
    samplers = [TrainSampler(50, batch_size=4, seed=1, num_replicas=world, rank=rank) for rank in range(world)]
    for sampler in samplers:
        sampler.set_epoch(3)
    shares = [list(sampler) for sampler in samplers]
    assert {len(share) for share in shares} == {50 // (4 * world) * 4} == {len(sampler) for sampler in samplers}
    seen = [video for share in shares for _, video in share]
    assert len(seen) == len(set(seen))
    assert {epoch for share in shares for epoch, _ in share} == {3}


@pytest.mark.parametrize(("accumulate", "length"), [(1, 48), (2, 48), (4, 48), (5, 40), (13, 0)])
def test_whole_steps(accumulate, length):
    assert len(TrainSampler(50, batch_size=4, accumulate=accumulate)) == length


def test_a_step_is_the_same_set_of_videos_on_any_number_of_processes():
    def steps(world: int, batch: int, accumulate: int) -> list[list[int]]:
        shares = [[v for _, v in TrainSampler(50, batch, 9, world, rank, accumulate)] for rank in range(world)]
        take = batch * accumulate
        return [sorted(v for share in shares for v in share[i : i + take]) for i in range(0, len(shares[0]), take)]

    assert steps(1, 8, 1) == steps(2, 4, 1) == steps(1, 4, 2) == steps(2, 2, 2)


def test_order_of_epochs_is_not_that_of_the_clips_generator():
    sampler = TrainSampler(50, 1, seed=3)
    sampler.set_epoch(2)
    clip = np.random.default_rng(np.random.SeedSequence((3, 2, 0)))
    assert [video for _, video in sampler] != clip.permutation(50).tolist()


class Threads(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, _) -> int:
        return torch.get_num_threads()


def test_workers_use_one_thread():
    """In a worker: what start_worker() does to a process lasts, such as signals that are left to its parent."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(loader(Threads(), None, list, workers=1, batch=1)) == [[1]]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_many_small_videos_keep_no_files_open(index):
    data = EvalVideos(index, CLIP)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for i in range(len(data)):
        data[0, i]
    assert before == 0 or len(os.listdir("/proc/self/fd")) <= before + 1
