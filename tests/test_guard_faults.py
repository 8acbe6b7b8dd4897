"""Calls whose child somebody kills, or whose disk is slow: neither says anything about the file."""

import os
import signal
import time

import pytest
from processes import linux

from videogn.data import guard as guard_module
from videogn.data.guard import Guard, guarded_map
from videogn.errors import VideoError

pytestmark = pytest.mark.skipif(not guard_module.AVAILABLE, reason="this system cannot fork processes")


def act(job, beat):
    """What a child is told to do."""
    match job:
        case ("killed", path, times):  # by somebody else, the first so many times
            with open(path, "a+") as file:
                file.write("x")
                if file.tell() <= times:
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            return "read"
        case ("reads", path, pause):
            with open(path, "rb", buffering=0) as file:
                while file.read(1):
                    time.sleep(pause)
            return "slow"
    return job


@linux
def test_a_slow_disk_is_no_hang_but_reading_for_ever_is(tmp_path, monkeypatch):
    path = tmp_path / "slow.mp4"
    path.write_bytes(b"12345678")
    with Guard(act, timeout=1.0) as guard:
        assert guard.call(str(path), ("reads", str(path), 0.3)) == "slow"
        monkeypatch.setattr(guard_module, "_READING", 1)
        path.write_bytes(bytes(1000))
        start = time.monotonic()
        with pytest.raises(VideoError, match="no progress for 1 s"):
            guard.call(str(path), ("reads", str(path), 0.3))
        assert time.monotonic() - start < 60


def test_a_child_that_is_killed_from_outside_says_nothing_about_its_file(tmp_path):
    jobs = [(f"{times}.mp4", ("killed", str(tmp_path / f"{times}.txt"), times)) for times in (1, 2, 3)]
    with Guard(act, timeout=30) as guard:
        assert [guard.call(*job) for job in jobs[:2]] == ["read", "read"]
        with pytest.raises(VideoError, match=r"3.mp4: the decoder crashed \(signal SIGKILL: was memory short\?\)"):
            guard.call(*jobs[2])
    for path in tmp_path.iterdir():
        path.unlink()
    results = dict(guarded_map(act, [*jobs, ("a.mp4", 7)], workers=2, timeout=30))
    assert isinstance(results.pop("3.mp4"), VideoError)
    assert results == {"1.mp4": "read", "2.mp4": "read", "a.mp4": 7}
