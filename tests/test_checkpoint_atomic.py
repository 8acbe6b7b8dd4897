"""A checkpoint file is whole, or the one before it is there: writes that are killed or fail at any moment."""

import contextlib
import errno
import os
import platform
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from videogn import checkpoint_storage
from videogn.checkpoint_storage import numbered, write

SIZE = 200_000


def put(path, number, keep=None):
    """A file whose bytes say which it is, written in pieces."""
    text = f"{number:09d}\n".encode() * (SIZE // 10)
    write(path, lambda file: [file.write(text[i : i + 20_000]) for i in range(0, SIZE, 20_000)], keep)


def number_of(path):
    """Which file it is; fails if it is not whole."""
    data = path.read_bytes()
    assert len(data) == SIZE
    assert data == data[:10] * (SIZE // 10)
    return int(data[:9])


def in_folder(folder):
    return {path.name: number_of(path) for path in folder.iterdir() if not path.name.startswith(".")}


# -- kills -------------------------------------------------------------------------------------------------------------


def test_killed_at_random_moments(tmp_path):
    last, moments, seen = tmp_path / "last.ckpt", random.Random(0), 0
    partial = 0
    put(last, 0, keep=3)
    for _ in range(25):
        start = seen + 1
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                for number in range(start, start + 10_000):
                    put(last, number, keep=3)
            os._exit(1)
        time.sleep(moments.uniform(0.001, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = in_folder(tmp_path)
        assert found["last.ckpt"] >= seen
        assert sorted(found.values(), reverse=True) == [
            found[n] for n in sorted(found, key=lambda n: (n != "last.ckpt", n))
        ]
        seen = found["last.ckpt"]
        partial += any(path.name.startswith(".") for path in tmp_path.iterdir())
    assert seen > 5
    assert partial > 5, "the kills came too late or too early to hit a write"
    put(last, seen + 1, keep=3)
    assert in_folder(tmp_path)["last.ckpt"] == seen + 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


class Death(BaseException):
    """Of the process: nothing is done after it, no clean-up either."""


CALLS = ("replace", "link", "fsync", "open", "close", "unlink")


def interrupt(monkeypatch, at, error, after=False):
    """Lets the ``at``-th call to the system fail, before or after it is done. Returns a list of the calls' names.

    With Death every later call fails too, and does nothing.
    """
    calls = []

    def patch(owner, name):
        real = getattr(owner, name) if hasattr(owner, name) else open

        def call(*arguments, **options):
            calls.append(name)
            dead = isinstance(error, Death) and len(calls) > at
            if dead or (len(calls) == at and not after):
                raise error
            result = real(*arguments, **options)
            if len(calls) == at and after:
                raise error
            return result

        monkeypatch.setattr(owner, name, call, raising=False)

    for name in ("replace", "link", "fsync", "open", "close"):
        patch(os, name)
    patch(Path, "unlink")
    patch(checkpoint_storage, "open")
    return calls


@pytest.fixture(params=[True, False], ids=["links", "no links"])
def links(request, monkeypatch):
    if not request.param:

        def refuse(*_):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr("os.link", refuse)
    return request.param


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_call(tmp_path, after, links):
    names = set()
    for at in range(1, 100):
        folder = tmp_path / str(at)
        folder.mkdir()
        last = folder / "last.ckpt"
        for number in range(4):
            put(last, number, keep=3)
        with pytest.MonkeyPatch.context() as patches:
            calls = interrupt(patches, at, Death(), after)
            with contextlib.suppress(Death):
                put(last, 4, keep=3)
        names.update(calls[at - 1 : at])
        found = in_folder(folder)
        usable = found["last.ckpt"] if links else found.get("last.ckpt", found.get("last-1.ckpt"))
        assert usable in (3, 4), (at, calls)
        put(last, 5, keep=3)
        found = in_folder(folder)
        assert found["last.ckpt"] == 5
        assert found["last-1.ckpt"] in (usable, 2), (at, calls)
        assert found.keys() <= {"last.ckpt", "last-1.ckpt", "last-2.ckpt"}
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        if len(calls) < at:
            break
    else:
        pytest.fail("it never came to an end")
    assert names == set(CALLS) - (set() if links else {"link"}) or names == set(CALLS)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_every_call_fails_once(tmp_path, code, links):
    for at in range(1, 100):
        folder = tmp_path / str(at)
        folder.mkdir()
        last = folder / "last.ckpt"
        for number in range(3):
            put(last, number, keep=2)
        with pytest.MonkeyPatch.context() as patches:
            calls = interrupt(patches, at, OSError(code, os.strerror(code)))
            codes = []
            try:
                put(last, 3, keep=2)
            except OSError as error:
                codes.append(error.errno)
        assert codes in ([], [code])
        found = in_folder(folder)
        if links:
            assert found["last.ckpt"] in ((2, 3) if codes else (3,)), (at, calls)
        else:
            assert 2 in found.values() or 3 in found.values()
        if len(calls) < at:
            break
    else:
        pytest.fail("it never came to an end")


# -- names -------------------------------------------------------------------------------------------------------------


def test_the_files_before_are_kept(tmp_path, links):
    last = tmp_path / "last.ckpt"
    (tmp_path / "last-7.ckpt").write_bytes(f"{70:09d}\n".encode() * (SIZE // 10))
    for number in range(5):
        put(last, number, keep=3)
    assert in_folder(tmp_path) == {"last.ckpt": 4, "last-1.ckpt": 3, "last-2.ckpt": 2, "last-7.ckpt": 70}
    put(last, 5, keep=2)
    assert in_folder(tmp_path) == {"last.ckpt": 5, "last-1.ckpt": 4, "last-7.ckpt": 70}
    put(last, 6)
    assert in_folder(tmp_path) == {"last.ckpt": 6, "last-1.ckpt": 4, "last-7.ckpt": 70}
    put(last, 7, keep=1)
    assert in_folder(tmp_path) == {"last.ckpt": 7, "last-7.ckpt": 70}
    assert numbered(last, 0) == last


def test_left_overs_of_the_dead_are_removed(tmp_path):
    here = platform.node()
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    old = time.time() - 4000
    files = {
        f".last.ckpt.{dead}@{here}.partial": False,
        f".last.ckpt.{os.getpid()}@{here}.partial": False,
        f".last.ckpt.{os.getppid()}@{here}.partial": True,
        ".last.ckpt.1@elsewhere.partial": True,
        ".old.ckpt.1@elsewhere.partial": False,
        ".something.partial": True,
        "mine.partial": True,
        f".last.ckpt.{9**20}@{here}.partial": True,
    }
    for name in files:
        (tmp_path / name).touch()
    os.utime(tmp_path / ".old.ckpt.1@elsewhere.partial", (old, old))
    put(tmp_path / "last.ckpt", 1)
    assert {name: (tmp_path / name).exists() for name in files} == files


def test_storage_needs_no_torch():
    code = "import videogn.checkpoint_storage, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
