"""The loader: decoders that hang or crash in its workers, and what it leaves behind."""

import ctypes
import dataclasses
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from test_guard import alive, gone, linux

from videogn.data import dataset as dataset_module
from videogn.data.batches import ClipBatch, VideoBatch
from videogn.data.dataset import EvalVideos, TrainClips
from videogn.data.demo import DemoSpec, generate_demo
from videogn.data.index import VideoIndex
from videogn.data.loader import GuardedDataset, TimedLoader, guarded, start_worker
from videogn.data.samplers import EvalSampler, TrainSampler
from videogn.errors import VideoError
from videogn.spec import ClipSpec, Protocol

CLIP = ClipSpec(frames=4, stride=2, train_short_side=(24, 28), train_crop=20, protocol=Protocol(short_side=24, clips=3))
HANGING, CRASHING, EXITING = 1, 4, 6


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> VideoIndex:
    """16 videos of 12 frames of 32x32."""
    root = Path(generate_demo(tmp_path_factory.mktemp("demo"), DemoSpec(2, 1, 32, 12)))
    paths = sorted(str(path.relative_to(root)) for path in root.glob("train/*/*.mp4"))
    return VideoIndex.build(str(root), paths, [int(i) for i in range(16)], [str(i) for i in range(16)])


@pytest.fixture
def bad_decoder(index, monkeypatch):
    """The decoder hangs in native code with Python's lock, crashes, or ends its process, at one video each."""
    good = dataset_module.VideoReader

    class Reader(good):
        def read(self, indices, view=None):
            video = [index.path(i) for i in (HANGING, CRASHING, EXITING)].index(self.info.path) if bad(self) else -1
            if video == 0:
                ctypes.PyDLL(None).sleep(60)
            elif video == 1:
                ctypes.string_at(0)
            elif video == 2:
                os._exit(7)
            return super().read(indices, view)

    def bad(reader) -> bool:
        return reader.info.path in {index.path(i) for i in (HANGING, CRASHING, EXITING)}

    monkeypatch.setattr(dataset_module, "VideoReader", Reader)


def train_loader(index, workers: int, timeout: float | None = 0.5, seed: int = 3, batch: int = 4, **options):
    sampler = TrainSampler(len(index), batch, seed)
    return loader(TrainClips(index, CLIP, seed), sampler, batch, ClipBatch.collate, workers, timeout, **options)


def eval_loader(index, workers: int, timeout: float | None = 0.5, **options):
    data = EvalVideos(index, CLIP)
    return loader(data, EvalSampler(len(index)), 2, VideoBatch.collate, workers, timeout, **options)


def loader(data, sampler, batch, collate, workers, timeout, **options) -> TimedLoader:
    return TimedLoader(
        guarded(data, timeout, workers),
        batch,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
        persistent_workers=workers > 0,
        **options,
    )


# --- decoders that hang or crash


def test_training_goes_on_when_the_decoder_hangs_or_crashes(index, bad_decoder):
    batches = list(train_loader(index, workers=2))
    replaced = {path: reason for batch in batches for path, reason in batch.replaced}
    assert "no progress for 0.5 s" in replaced[index.path(HANGING)]
    assert "crashed (signal SIGSEGV)" in replaced[index.path(CRASHING)]
    assert "crashed (exit status 7)" in replaced[index.path(EXITING)]
    assert set(replaced) == {index.path(i) for i in (HANGING, CRASHING, EXITING)}
    assert len(batches) == 4
    good = TrainClips(index, CLIP, 3)
    order = [video for _, video in TrainSampler(len(index), 4, 3)]
    for batch, drawn in zip(batches, np.reshape(order, (4, 4)).tolist(), strict=True):
        for clip, video, first in zip(batch.clips, batch.videos.tolist(), drawn, strict=True):
            assert (video == first) == (first not in (HANGING, CRASHING, EXITING))
            if video == first:
                assert torch.equal(clip, good[0, video].frames.permute(3, 0, 1, 2))


def test_evaluation_names_what_hangs_or_crashes(index, bad_decoder):
    videos = [video for batch in eval_loader(index, workers=2) for video in batch.videos]
    assert [video.video for video in videos] == list(range(16))
    errors = {video.video: video.error for video in videos if video.error}
    assert errors.keys() == {HANGING, CRASHING, EXITING}
    assert "no progress for 0.5 s" in errors[HANGING]
    assert "SIGSEGV" in errors[CRASHING]


def test_many_bad_videos_in_a_row_are_an_error(index, monkeypatch):
    def crash(*_, **__):
        os._exit(1)

    monkeypatch.setattr(dataset_module, "VideoReader", crash)
    with pytest.raises(VideoError, match=r"(?s)10 videos drawn one after another.*the decoder crashed"):
        GuardedDataset(TrainClips(index, CLIP), 5)[0, 0]


def test_slow_but_steady_decoding_is_no_hang(index, monkeypatch):
    timeout = 3.0  # far above what a busy machine adds to each of the pauses

    class Slow(dataset_module.VideoReader):
        def __init__(self, *arguments, progress, **options):
            super().__init__(*arguments, **options, progress=lambda: (time.sleep(0.15), progress()))

    monkeypatch.setattr(dataset_module, "VideoReader", Slow)
    one = VideoIndex.build(index.root, [index.video_id(0)], [0], ("a", "b"))
    start = time.monotonic()
    videos = [video for batch in eval_loader(one, workers=1, timeout=timeout) for video in batch.videos]
    assert [video.error for video in videos] == [None]
    assert time.monotonic() - start > timeout


# --- the same data


def test_guard_and_workers_change_nothing(index, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    paths = [str(tmp_path / "text.mp4"), *[index.video_id(i) for i in range(15)]]
    damaged = VideoIndex.build(index.root, paths, list(range(16)), index.class_names)
    expected = list(train_loader(damaged, workers=0))
    assert sum(len(batch.replaced) for batch in expected) >= 1
    for workers, timeout in ((1, 5), (2, 5), (2, None)):
        for batch, wanted in zip(train_loader(damaged, workers, timeout), expected, strict=True):
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
    held = list(train_loader(index, workers=1, timeout=5, batch=2)), list(eval_loader(index, workers=1, timeout=5))
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
    for batch in train_loader(index, workers=2, timeout=5, batch=2, pin_memory=True):
        batches.append(batch)
        time.sleep(0.1)  # a step of training, in which the next batch arrives
    assert len(threads) == len(batches) == 8
    assert "pin" in threads
    for batch, wanted in zip(batches, train_loader(index, workers=0, batch=2), strict=True):
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
    batches = list(loader(data, TrainSampler(16, 4, 3), 4, ClipBatch.collate, 2, None))
    assert len(batches) == 4
    assert torch.equal(data[0, 1].frames, first.frames)


# --- nothing is left behind


def children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and alive(int(entry)):
            parent = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1]
            found += [int(entry)] if int(parent) == pid else []
    return found


@linux
def test_a_killed_worker_leaves_no_child(index, bad_decoder):
    """Its child hangs in native code; the worker in its place reads the same batch."""
    before = {process.pid for process in multiprocessing.active_children()}
    batches = iter(train_loader(index, workers=1, timeout=8, batch=16))
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(next, batches)
        end = time.monotonic() + 30
        readers: list[int] = []
        while not readers and time.monotonic() < end:
            time.sleep(0.02)
            workers = {process.pid for process in multiprocessing.active_children()} - before
            readers = [child for worker in workers for child in children(worker)]
        time.sleep(0.3)  # by now the child hangs in native code
        assert len(workers) == len(readers) == 1
        os.kill(workers.pop(), signal.SIGKILL)
        assert gone(readers[0])
        assert {path for path, _ in batch.result().replaced} >= {index.path(HANGING)}


@linux
def test_the_end_of_a_loader_is_the_end_of_its_processes(index):
    before = {process.pid for process in multiprocessing.active_children()}
    batches = train_loader(index, workers=2, timeout=60)
    list(batches)
    workers = {process.pid for process in multiprocessing.active_children()} - before
    readers = [child for worker in workers for child in children(worker)]
    assert len(workers) == len(readers) == 2
    del batches
    assert all(gone(pid, 10) for pid in (*workers, *readers))


@linux
def test_ctrl_c_leaves_no_processes(tiny_config, tmp_path):
    """Also where a decoder hangs in native code."""
    script = (
        "import ctypes, sys\nfrom videogn.data import dataset\nfrom videogn.cli import main\n"
        "class Reader(dataset.VideoReader):\n"
        "    def read(self, *_):\n"
        "        ctypes.PyDLL(None).sleep(60)\n"
        "dataset.VideoReader = Reader\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    options = ["--data.num_workers", "2", "--trainer.default_root_dir", str(tmp_path)]
    command = [sys.executable, "-c", script, "fit", "-c", str(tiny_config), *options]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, start_new_session=True, stderr=subprocess.PIPE, text=True) as run:
        end = time.monotonic() + 60
        readers: list[int] = []
        while len(readers) < 2 and run.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
            workers = children(run.pid)
            readers = [child for worker in workers for child in children(worker)]
        time.sleep(0.3)
        os.killpg(run.pid, signal.SIGINT)
        error = run.communicate(timeout=30)[1]
    assert len(readers) == 2, error
    assert run.returncode != 0
    assert "Traceback" not in error
    assert all(gone(pid, 10) for pid in (*workers, *readers))
