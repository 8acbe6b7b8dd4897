"""Training that goes on: loaders that begin in the middle of an epoch, and workers that are killed."""

import contextlib
import gc
import os
import random
import signal
import time

import pytest
import torch
from loaders import CLIP, demo_index, eval_loader, train_loader
from processes import children, gone, linux
from torch.utils.data import Dataset

from videogn.data.batches import ClipBatch
from videogn.data.dataset import TrainClips
from videogn.data.index import VideoIndex
from videogn.data.loader import TimedLoader, guarded
from videogn.data.samplers import TrainSampler
from videogn.errors import UsageError, VideoError


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> VideoIndex:
    return demo_index(tmp_path_factory.mktemp("demo"))


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


# --- workers that are killed


@pytest.fixture(autouse=True)
def others():
    """Processes that other tests have left to the next garbage collection."""
    global _others
    _others = set(children(os.getpid()))


def own_children() -> list[int]:
    return [pid for pid in children(os.getpid()) if pid not in _others]


def kill_while_iterating(batches: TimedLoader, rng: random.Random, kills: int, together: bool) -> tuple[list, int]:
    """Batches of as many epochs as it takes to kill workers, their readers or all of them so many times."""
    out, killed = [], 0
    while killed < kills:
        epoch = []
        for batch in batches:
            epoch.append(batch)
            workers = own_children()
            for worker in workers if together else rng.sample(workers, 1):
                time.sleep(rng.random() * 0.01)
                victims = [[worker], children(worker), [*children(worker), worker]][rng.randrange(3)]
                for victim in victims:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                killed += bool(victims)
        out.append(epoch)
    return out, killed


@linux
@pytest.mark.parametrize(
    ("together", "kind", "kills"), [(False, train_loader, 30), (False, eval_loader, 8), (True, train_loader, 8)]
)
def test_killed_workers_change_no_batch(index, kind, together, kills, caplog):
    expected = list(kind(index, 0))
    memory = set(os.listdir("/dev/shm"))
    files = len(os.listdir("/proc/self/fd"))
    batches = kind(index, 2)
    epochs, killed = kill_while_iterating(batches, random.Random(1), kills, together)
    assert killed >= kills
    for epoch in epochs:
        same(epoch, expected)
    assert all("signal SIGKILL" in record.getMessage() for record in caplog.records)
    assert caplog.records
    del batches, epochs, epoch  # a batch keeps its memory open
    gc.collect()
    left = own_children()
    assert all(gone(pid, 10) for pid in left)
    assert not {name for name in set(os.listdir("/dev/shm")) - memory if name.startswith("torch_")}
    assert len(os.listdir("/proc/self/fd")) <= files + 2  # of multiprocessing's own


@linux
def test_a_worker_that_is_killed_raises_nothing_elsewhere(index):
    """torch's handler of SIGCHLD would, wherever the main process is."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's, if another test used torch's loader
    batches = iter(train_loader(index, 2))
    next(batches)
    for worker in own_children():
        os.kill(worker, signal.SIGKILL)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        torch.ones(10).sum()
    assert len(list(batches)) == 7
    assert signal.signal(signal.SIGCHLD, before) == signal.SIG_DFL


class Messages(Dataset[bytes]):
    """Items that need many writes, so that a kill comes in the middle of a message."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, item: int) -> bytes:
        return bytes([item]) * 3_000_000


@linux
def test_half_a_message_is_no_batch():
    loader = TimedLoader(Messages(), 1, num_workers=2, collate_fn=list, persistent_workers=True)
    found = []
    for batch in loader:
        found += batch
        time.sleep(0.05)  # the next messages are as far as their pipes hold
        for worker in own_children():
            os.kill(worker, signal.SIGKILL)
    assert found == [bytes([item]) * 3_000_000 for item in range(12)]


class Deadly(Messages):
    def __getitem__(self, item: int) -> bytes:
        if item == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return bytes([item])


@linux
def test_a_batch_that_kills_each_worker_is_an_error():
    loader = TimedLoader(Deadly(), 1, num_workers=2, collate_fn=list, persistent_workers=True)
    found = []
    with pytest.raises(UsageError) as caught:
        found.extend(loader)
    assert "data.num_workers: one of the 2 processes that read videos ended 3 times" in str(caught.value)
    assert "signal SIGKILL" in str(caught.value)
    assert "memory is short" in str(caught.value)
    del loader
    assert all(gone(pid, 10) for pid in own_children())


class Failing(Messages):
    def __getitem__(self, item: int) -> bytes:
        if item == 2:
            raise VideoError("a.mp4", "damaged")
        if item == 4:
            raise KeyError("a mistake in the program")
        return bytes([item])


def test_errors_of_workers_are_raised_as_they_were():
    loader = TimedLoader(Failing(), 1, num_workers=1, collate_fn=list, persistent_workers=True)
    with pytest.raises(VideoError) as caught:
        list(loader)
    assert (caught.value.path, caught.value.reason) == ("a.mp4", "damaged")
    loader.load_state_dict({"batches": 3})
    with pytest.raises(KeyError, match="a mistake") as other:
        list(loader)
    assert "in __getitem__" in other.value.__notes__[0]


def test_two_iterations_at_once():
    loader = TimedLoader(Messages(), 1, num_workers=1, collate_fn=list, persistent_workers=True)
    first = iter(loader)
    next(first)
    second = iter(loader)
    assert [item[0][0] for item in second] == list(range(12))
    with pytest.raises(RuntimeError, match="another iteration"):
        next(first)
    each = TimedLoader(Messages(), 1, num_workers=1, collate_fn=list)
    one, two = iter(each), iter(each)
    assert [next(one)[0][0], next(two)[0][0], next(one)[0][0]] == [0, 0, 1]


def test_workers_that_do_not_persist(index):
    data = guarded(TrainClips(index, CLIP, 3), 30.0, 2)
    sampler = TrainSampler(len(index), 2, 3)
    expected = list(train_loader(index, 0))
    batches = TimedLoader(data, 2, sampler=sampler, num_workers=2, collate_fn=ClipBatch.collate)
    for _ in range(2):
        same(list(batches), expected)
        assert own_children() == []
