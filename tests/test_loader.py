"""The loader: the same batches with workers and guards as without."""

import dataclasses
import pickle
import threading
import time

import pytest
import torch
from loaders import CLIP, demo_index, eval_loader, loader, train_loader

from videogn.data.batches import ClipBatch
from videogn.data.dataset import EvalVideos, TrainClips
from videogn.data.index import VideoIndex
from videogn.data.loader import GuardedDataset, guarded
from videogn.data.samplers import TrainSampler


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> VideoIndex:
    return demo_index(tmp_path_factory.mktemp("demo"))


def test_guard_and_workers_change_nothing(index, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    paths = [str(tmp_path / "text.mp4"), *[index.video_id(i) for i in range(15)]]
    damaged = VideoIndex.build(index.root, paths, [i // 2 for i in range(16)], index.class_names)
    expected = list(train_loader(damaged, workers=0))
    assert sum(len(batch.replaced) for batch in expected) >= 1
    for workers, timeout in ((1, 5), (2, 5), (2, None)):
        for batch, wanted in zip(train_loader(damaged, workers, timeout=timeout), expected, strict=True):
            assert torch.equal(batch.clips, wanted.clips)
            assert torch.equal(batch.videos, wanted.videos)
            assert torch.equal(batch.labels, wanted.labels)
            assert batch.replaced == wanted.replaced
            assert batch.clips.is_contiguous(memory_format=torch.channels_last_3d)
    videos = [video for batch in eval_loader(damaged, 0) for video in batch.videos]
    for workers, timeout in ((2, 5), (1, None)):
        there = [video for batch in eval_loader(damaged, workers, timeout) for video in batch.videos]
        for video, wanted in zip(there, videos, strict=True):
            assert torch.equal(video.frames, wanted.frames)
            assert torch.equal(video.index, wanted.index)
            assert (video.crops, video.error, video.path) == (wanted.crops, wanted.error, wanted.path)


def test_batches_stay_as_they_are_while_others_are_read(index):
    """The guard's memory is written over with each batch; what has left the worker must not be in it."""
    held = list(train_loader(index, workers=1, timeout=5)), list(eval_loader(index, workers=1, timeout=5))
    for batch in held[0]:
        data = TrainClips(index, CLIP, 3)
        for clip, video in zip(batch.clips, batch.videos.tolist(), strict=True):
            assert torch.equal(clip, data[0, video].frames.permute(3, 0, 1, 2))
    for batch in held[1]:
        for video in batch.videos:
            assert torch.equal(video.frames, EvalVideos(index, CLIP)[0, video.video].frames)


def test_batches_leave_the_worker_in_shared_memory(index):
    batch = next(iter(train_loader(index, workers=1, timeout=5)))
    assert batch.clips.is_shared()
    assert next(iter(eval_loader(index, workers=1, timeout=5))).videos[0].frames.is_shared()
    assert not next(iter(train_loader(index, workers=0))).clips.is_shared()


def test_pinned_memory(index):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    batch = next(iter(train_loader(index, workers=1, timeout=5, pin_memory=True)))
    assert batch.clips.is_pinned()
    assert batch.clips.is_contiguous(memory_format=torch.channels_last_3d)
    assert next(iter(eval_loader(index, workers=1, timeout=5, pin_memory=True))).videos[0].frames.is_pinned()


def test_a_thread_pins_each_batch_once_while_another_is_used(index, monkeypatch):
    """As on a CUDA device, with a copy in place of page-locked memory."""
    threads = []

    def pin_memory(batch):
        threads.append(threading.current_thread().name.partition("_")[0])
        return dataclasses.replace(batch, clips=batch.clips.clone())

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(ClipBatch, "pin_memory", pin_memory)
    batches = []
    for batch in train_loader(index, workers=2, timeout=5, pin_memory=True):
        batches.append(batch)
        time.sleep(0.1)  # a step of training, in which the next batch arrives
    assert len(threads) == len(batches) == 8
    assert "pin" in threads
    for batch, wanted in zip(batches, train_loader(index, workers=0), strict=True):
        assert torch.equal(batch.clips, wanted.clips)


def test_workers_that_are_not_forked(index):
    batches = list(train_loader(index, workers=1, timeout=20, multiprocessing_context="spawn"))
    for batch, wanted in zip(batches, train_loader(index, workers=0), strict=True):
        assert torch.equal(batch.clips, wanted.clips)


def test_where_there_is_no_guard(index, monkeypatch):
    data = TrainClips(index, CLIP)
    assert guarded(data, None, 2) is data
    assert guarded(data, 5, 0) is data
    monkeypatch.setattr("videogn.data.loader.AVAILABLE", False)
    assert guarded(data, 5, 2) is data


def test_a_guarded_data_set_in_the_main_process(index):
    data = GuardedDataset(TrainClips(index, CLIP), 5)
    first = data[0, 1]
    data[0, 2]
    assert torch.equal(first.frames, TrainClips(index, CLIP)[0, 1].frames)
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again[0, 1].frames, first.frames)
    # Forked workers inherit the guard above, and must not talk to its child.
    batches = list(loader(data, TrainSampler(16, 4, 3), ClipBatch.collate, 2, 4))
    assert len(batches) == 4
    assert torch.equal(data[0, 1].frames, first.frames)
