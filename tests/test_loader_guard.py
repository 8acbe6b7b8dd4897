"""The loader's workers where decoders hang or crash, and what they leave behind."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from loaders import CLIP, demo_index, eval_loader, train_loader
from processes import children, gone, linux

from videogn.data import dataset as dataset_module
from videogn.data.dataset import TrainClips
from videogn.data.index import VideoIndex
from videogn.data.loader import GuardedDataset
from videogn.data.samplers import TrainSampler
from videogn.errors import VideoError

HANGING, CRASHING, EXITING = 1, 4, 6


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> VideoIndex:
    return demo_index(tmp_path_factory.mktemp("demo"))


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


# --- decoders that hang or crash


def test_training_goes_on_when_the_decoder_hangs_or_crashes(index, bad_decoder):
    batches = list(train_loader(index, workers=2, batch=4, timeout=0.5))
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
    videos = [video for batch in eval_loader(index, workers=2, timeout=0.5) for video in batch.videos]
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


# --- nothing is left behind


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
