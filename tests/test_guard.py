"""Calls in child processes: what hangs or crashes costs one call, and leaves nothing behind."""

import ctypes
import functools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from processes import alive, gone, linux

from videogn.data import guard as guard_module
from videogn.data.guard import Guard, guarded_map
from videogn.errors import VideoError

pytestmark = pytest.mark.skipif(not guard_module.AVAILABLE, reason="this system cannot fork processes")


class Stubborn(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def numbers_of(size: int) -> torch.Tensor:
    """int64 (size,), no number of which is in another size's row."""
    return torch.arange(size) + size * 1_000_000


def act(job, beat):
    """What a child is told to do."""
    match job:
        case "hang in native code":
            ctypes.PyDLL(None).sleep(60)  # PyDLL, unlike CDLL, keeps Python's lock
        case "crash":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "video":
            raise VideoError("inside.mp4", "damaged")
        case "index":
            raise IndexError("out of range")
        case "stubborn":
            raise Stubborn(1, 2)
        case "lambda":
            return lambda: None
        case ("beats", count, pause):
            for _ in range(count):
                time.sleep(pause)
                beat()
        case ("size", size):
            return numbers_of(size), np.full((3, 2), size)
        case "pid":
            return os.getpid()
    return job


def test_a_hang_in_native_code_is_ended():
    with Guard(act, timeout=0.5) as guard:
        child = guard.call("a.mp4", "pid")
        start = time.monotonic()
        with pytest.raises(VideoError, match=r"^hanging.mp4: no progress for 0.5 s") as caught:
            guard.call("hanging.mp4", "hang in native code")
        assert 0.5 <= time.monotonic() - start < 1.5
        assert caught.value.path == "hanging.mp4"
        assert gone(child)
        assert guard.call("b.mp4", "next") == "next"


@pytest.mark.parametrize(("job", "words"), [("crash", "signal SIGSEGV"), ("exit", "exit status 3")])
def test_a_crash_is_told(job, words, capfd):
    with Guard(act, timeout=5) as guard:
        with pytest.raises(VideoError, match=rf"^a.mp4: the decoder crashed \({words}\)"):
            guard.call("a.mp4", job)
        assert guard.call("b.mp4", "next") == "next"
    assert capfd.readouterr().err == ""


def test_errors_pass_through():
    with Guard(act, timeout=5) as guard:
        child = guard.call("a.mp4", "pid")
        with pytest.raises(VideoError) as caught:
            guard.call("a.mp4", "video")
        assert (caught.value.path, caught.value.reason) == ("inside.mp4", "damaged")
        with pytest.raises(IndexError, match="out of range") as other:
            guard.call("a.mp4", "index")
        assert "in act" in other.value.__notes__[0], "where in the child it was raised"
        with pytest.raises(RuntimeError, match="Stubborn: 1 and 2"):
            guard.call("a.mp4", "stubborn")
        with pytest.raises(RuntimeError, match="function cannot be sent"):
            guard.call("a.mp4", "lambda")
        assert guard.call("a.mp4", "pid") == child, "an error is no reason for another child"


def test_the_timeout_counts_from_the_last_beat():
    with Guard(act, timeout=0.6) as guard:
        assert guard.call("slow.mp4", ("beats", 8, 0.2))[0] == "beats"
        with pytest.raises(VideoError, match="no progress"):
            guard.call("slower.mp4", ("beats", 2, 1.0))


@pytest.mark.parametrize("size", [0, 1, 1000, 1_000_000])
@pytest.mark.parametrize("copy", [True, False])
def test_results_are_whole(size, copy):
    with Guard(act, timeout=5) as guard:
        numbers, table = guard.call("a.mp4", ("size", size), copy)
    assert torch.equal(numbers, numbers_of(size))
    assert np.array_equal(table, np.full((3, 2), size))
    numbers += 1  # writable


def test_results_beyond_the_shared_memory(monkeypatch):
    monkeypatch.setattr(guard_module, "_ROOM", 1 << 16)
    with Guard(act, timeout=5) as guard:
        results = [guard.call("a.mp4", ("size", size), copy=False)[0] for size in (5000, 5000, 100_000, 10)]
    for result, size in zip(results, (5000, 5000, 100_000, 10), strict=True):
        assert torch.equal(result, numbers_of(size))


def test_uncopied_results_stay_until_the_release():
    with Guard(act, timeout=5) as guard:
        first, _ = guard.call("a.mp4", ("size", 1000), copy=False)
        with pytest.raises(VideoError):
            guard.call("b.mp4", "crash")
        second, _ = guard.call("c.mp4", ("size", 2000), copy=False)
        assert torch.equal(first, numbers_of(1000))
        assert torch.equal(second, numbers_of(2000))
        guard.release()
        third, _ = guard.call("d.mp4", ("size", 1000), copy=False)
        assert third.data_ptr() == first.data_ptr()


@linux
def test_many_calls_keep_no_files_open():
    with Guard(act, timeout=0.2) as guard:
        guard.call("a.mp4", 0)
        before = len(os.listdir("/proc/self/fd"))
        for i in range(200):
            assert guard.call("a.mp4", i) == i
        for job in ("exit", "crash", "video", "hang in native code") * 2:
            with pytest.raises(VideoError):
                guard.call("a.mp4", job)
        guard.call("a.mp4", 0)
        assert len(os.listdir("/proc/self/fd")) == before
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_a_call_that_was_left_does_not_answer_the_next():
    with Guard(act, timeout=5) as guard:
        guard.start("a.mp4", "first")
        assert guard.call("b.mp4", "second") == "second"


@linux
def test_the_child_ends_with_the_guard():
    guard = Guard(act, timeout=5)
    child = guard.call("a.mp4", "pid")
    guard.close()
    guard.close()
    assert gone(child)
    again = guard.call("a.mp4", "pid")
    del guard
    assert gone(again)


@linux
def test_the_child_ends_with_its_parent_even_while_it_hangs():
    script = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_guard import act\nfrom videogn.data.guard import Guard\n"
        "guard = Guard(act, 100)\nprint(guard.call('a', 'pid'), flush=True)\nguard.call('a', 'hang in native code')\n"
    )
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with subprocess.Popen([sys.executable, "-c", script], cwd=folder, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        time.sleep(0.1)
        assert alive(child)
        os.kill(parent.pid, signal.SIGKILL)
    assert gone(child)


def test_a_forked_process_has_a_child_of_its_own():
    with Guard(act, timeout=5) as guard:
        child = guard.call("a.mp4", "pid")
        numbers, _ = guard.call("a.mp4", ("size", 1000), copy=False)
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()

        def use():
            theirs.send((guard.call("b.mp4", "pid"), guard.call("b.mp4", ("size", 2000))[0].sum().item()))
            guard.close()

        process = context.Process(target=use)
        process.start()
        other, total = ours.recv()
        process.join()
        assert other != child
        assert total == numbers_of(2000).sum()
        assert torch.equal(numbers, numbers_of(1000)), "the memory is not shared with it"
        assert guard.call("a.mp4", "pid") == child, "its end is not the end of our child"


def test_time_in_which_nobody_looked_does_not_count(monkeypatch):
    with Guard(act, timeout=3) as guard:
        guard.start("a.mp4", ("beats", 1, 0.3))
        now = time.monotonic()
        with monkeypatch.context() as patch:
            patch.setattr(guard_module.time, "monotonic", lambda: now + 3600)  # the machine slept for an hour
            assert not guard.stalled()
        while not guard.done(0.1):
            pass
        assert guard.result()[0] == "beats"


def test_options():
    with pytest.raises(ValueError, match="more than 0 seconds, found 0"):
        Guard(act, timeout=0)


def test_map_goes_on_after_hangs_and_crashes():
    jobs = [(f"{i}.mp4", i) for i in range(6)]
    jobs[2:2] = [("h.mp4", "hang in native code"), ("c.mp4", "crash"), ("v.mp4", "video")]
    results = dict(guarded_map(act, jobs, workers=2, timeout=0.5))
    assert [results[f"{i}.mp4"] for i in range(6)] == list(range(6))
    assert all(isinstance(results[f"{name}.mp4"], VideoError) for name in "hcv")
    assert len(results) == 9


@linux
def test_leaving_a_map_ends_its_children():
    before = len(os.listdir("/proc/self/fd"))
    children = []
    for _, child in guarded_map(act, [("a", "pid"), ("b", "pid"), *[("h", "hang in native code")] * 3], 3, 60):
        children.append(child)
        if len(children) == 2:
            break
    assert all(gone(child) for child in children)
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_jobs():
    assert list(guarded_map(functools.partial(act), [], workers=2, timeout=1)) == []


def test_errors_of_videos_survive_pickling():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "because")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "because", "a.mp4: because")
