"""`videogn data check`: bad files are found with their reason, nothing is decoded twice, nothing is lost."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from video_files import SHARED_VIDEOS, write_video

from videogn.cli import main
from videogn.data import check
from videogn.data.check import check_data
from videogn.data.decode.opening import Limits
from videogn.data.manifest import manifest_path, read_manifest
from videogn.errors import UsageError


@pytest.fixture(autouse=True)
def few_workers(monkeypatch):
    monkeypatch.setattr(check, "available_cores", lambda: 2)


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """Names of the files that children decoded, in a list that is read anew with each call."""
    log = tmp_path / "decoded.log"
    inspect = check.inspect

    def logging(job, beat):
        with open(log, "a") as file:
            file.write(os.path.basename(job[0]) + "\n")
        return inspect(job, beat)

    monkeypatch.setattr(check, "inspect", logging)
    return lambda: sorted(log.read_text().split()) if log.exists() else []


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("good") / "good.mp4", 10).read_bytes()


@pytest.fixture
def root(tmp_path, good):
    """Class a: two good files, a damaged, a truncated and an empty one; class b: two good ones, and one in val."""
    root = tmp_path / "root"
    for name in ("train/a/1", "train/a/2", "train/b/3", "train/b/4", "val/a/5"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.mp4").write_bytes(good)
    (root / "train/a/cut.mp4").write_bytes(good[: len(good) // 2])
    (root / "train/a/empty.mp4").write_bytes(b"")
    at = good.index(b"mdat") + 4 + (good.index(b"moov") - good.index(b"mdat")) // 2
    (root / "train/a/damaged.mp4").write_bytes(good[:at] + bytes(range(200)) + good[at + 200 :])
    return root


def lines(root: Path) -> dict[str, list[str]]:
    rows = [line.split(",", 11) for line in Path(manifest_path(root)).read_text().splitlines()[1:]]
    return {row[0]: row[1:] for row in rows}


def test_what_is_found(root, capsys):
    assert check_data(str(root)) == 1
    found = lines(root)
    assert len(found) == 8
    for name in ("train/a/1.mp4", "val/a/5.mp4"):
        status = os.stat(root / name)
        numbers = [str(status.st_size), str(status.st_mtime_ns), "ok", "10", "25.0", "96", "64", "0.4", "h264", "0", ""]
        assert found[name] == numbers
    reasons = {name: row[-1] for name, row in found.items() if row[2] == "bad"}
    assert reasons.keys() == {f"train/a/{name}.mp4" for name in ("cut", "empty", "damaged")}
    assert "truncated" in reasons["train/a/cut.mp4"]
    assert reasons["train/a/empty.mp4"] == "empty file (0 bytes)"
    assert "frame " in reasons["train/a/damaged.mp4"]
    out = capsys.readouterr().out
    assert "train  a           5        0    3\n" in out
    assert "\n  train  b" not in out
    assert f"{root}/train/a/empty.mp4: empty file (0 bytes)" in out
    assert f"0 missing and 3 bad; each is in {root}/videogn_manifest.csv" in out


def test_good_data_set(tiny_data, tmp_path, capsys):
    manifest = tmp_path / "m.csv"
    assert main(["data", "check", str(tiny_data), "--manifest", str(manifest), "--workers", "2"]) == 0
    captured = capsys.readouterr()
    assert "all 16 videos are good" in captured.out
    assert "checking videos: 16 of 16" in captured.err
    assert read_manifest(str(manifest)).frames.tolist() == [12] * 16
    assert not (tiny_data / "videogn_manifest.csv").exists()


def test_nothing_is_decoded_twice(root, counted, capsys):
    check_data(str(root))
    once = counted()
    assert len(once) == 8
    first = capsys.readouterr().out.partition("manifest:")[2]
    assert check_data(str(root)) == 1
    assert counted() == once
    out = capsys.readouterr().out
    assert "decoded 0 files, knew 8 from before" in out
    assert out.partition("manifest:")[2] == first  # the same summary


def test_changed_files_are_decoded_again(root, good, counted):
    check_data(str(root))
    once = counted()
    (root / "train/a/cut.mp4").write_bytes(good)
    os.utime(root / "train/b/3.mp4", ns=(1, 1))
    (root / "train/b/new.mp4").write_bytes(good)
    check_data(str(root))
    assert counted() == sorted([*once, "cut.mp4", "3.mp4", "new.mp4"])
    found = lines(root)
    assert found["train/a/cut.mp4"][2] == "ok"
    assert found["train/b/3.mp4"][1] == "1"
    check_data(str(root))
    assert len(counted()) == 11


def test_recheck(root, counted):
    check_data(str(root))
    check_data(str(root), recheck="bad")
    assert counted() == sorted(2 * ["cut.mp4", "damaged.mp4", "empty.mp4"] + [f"{i}.mp4" for i in range(1, 6)])
    check_data(str(root), recheck="all")
    assert len(counted()) == 19


def test_missing_files_by_class(root, capsys):
    for name in ("cut", "empty", "damaged"):
        (root / f"train/a/{name}.mp4").unlink()
    (root / "train.txt").write_text("train/a/1.mp4 x y\ntrain/gone.mp4 x y\ntrain/gone too.mp4 z\ntrain/b/3.mp4 z\n")
    assert check_data(str(root), layout="list") == 1
    out = capsys.readouterr().out
    assert "train  x y         2        1    0\n" in out
    assert "train  z           2        1    0\n" in out
    assert "2 missing and 0 bad" in out
    assert lines(root)["train/gone too.mp4"][2] == "missing"
    (root / "train/gone.mp4").write_bytes((root / "train/a/1.mp4").read_bytes())
    (root / "train/gone too.mp4").write_bytes((root / "train/a/1.mp4").read_bytes())
    assert check_data(str(root), layout="list") == 0


def test_a_folder_without_splits(root, tmp_path, capsys):
    assert check_data(str(root / "train" / "b")) == 0
    assert "no split: 2 videos" in capsys.readouterr().out
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UsageError, match=r"no train split.*Found an empty folder"):
        check_data(str(tmp_path / "nothing"))


def test_a_split_without_classes_needs_no_labels(root):
    flat = root / "flat" / "train"
    flat.mkdir(parents=True)
    (root / "train/b/3.mp4").rename(flat / "3.mp4")
    assert check_data(str(root / "flat")) == 0


def test_hanging_and_crashing_decoders_cost_one_file_each(root, monkeypatch):
    inspect = check.inspect

    def strange(job, beat):
        if job[0].endswith("1.mp4"):
            time.sleep(60)
        if job[0].endswith("2.mp4"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if job[0].endswith("3.mp4"):
            raise KeyError("a mistake of ours")
        return inspect(job, beat)

    monkeypatch.setattr(check, "inspect", strange)
    start = time.monotonic()
    assert check_data(str(root), timeout=1.0) == 1
    assert time.monotonic() - start < 20
    found = lines(root)
    assert len(found) == 8
    assert "no progress for 1 s" in found["train/a/1.mp4"][-1]
    assert "SIGSEGV" in found["train/a/2.mp4"][-1]
    assert found["train/b/3.mp4"][-1] == "unexpected KeyError: 'a mistake of ours'"
    assert found["train/b/4.mp4"][2] == "ok"


def test_limits(root):
    check_data(str(root), limits=Limits(max_frames=9))
    assert {row[-1] for name, row in lines(root).items() if name[-5] in "12345"} == {
        "more than the 9 frames of max_frames"
    }
    check_data(str(root), recheck="bad", max_seconds=1e-9)
    assert lines(root)["train/a/1.mp4"][-1] == "takes longer than the 1e-09 s of max_seconds"


def test_counted_files_are_marked(tmp_path):
    (tmp_path / "train/a").mkdir(parents=True)
    write_video(tmp_path / "train/a/x.avi", 8, codec="mpeg4")
    assert check_data(str(tmp_path)) == 0
    assert lines(tmp_path)["train/a/x.avi"][2:4] == ["ok", "8"]
    assert lines(tmp_path)["train/a/x.avi"][9] == "1"


def test_file_names_that_are_not_utf8(tmp_path, good, capfdbinary):
    (tmp_path / "train/a").mkdir(parents=True)
    for name, data in ((b"\xff,\n.mp4", good), (b"\xfe.mp4", b"")):
        Path(os.fsdecode(bytes(tmp_path) + b"/train/a/" + name)).write_bytes(data)
    for decoded in (b"decoded 2 files", b"decoded 0 files"):
        assert main(["data", "check", str(tmp_path), "--workers", "1"]) == 1
        out = capfdbinary.readouterr().out
        assert b"train/a/\xfe.mp4: empty file" in out
        assert decoded in out
    assert read_manifest(manifest_path(tmp_path)).frames.tolist() == [-1, 10]


def slow_check(root: Path) -> multiprocessing.Process:
    """A check of one file at a time, each of which takes 0.1 s longer, in a process of its own."""
    inspect = check.inspect

    def slow(job, beat):
        with open(job[0] + ".log", "a") as file:
            file.write("x")
        time.sleep(0.1)
        return inspect(job, beat)

    def run():
        os.dup2(os.open(root / "stderr", os.O_WRONLY | os.O_CREAT), 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        check.inspect = slow
        sys.exit(check_data(str(root), workers=1))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def wait_for_lines(root: Path, count: int) -> None:
    for _ in range(600):
        manifest = read_manifest(manifest_path(root))
        if manifest is not None and len(manifest) >= count:
            return
        time.sleep(0.02)
    raise AssertionError("the check does not get on")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed(root, good, how):
    for i in range(20):
        (root / f"train/b/more {i}.mp4").write_bytes(good)
    run = slow_check(root)
    wait_for_lines(root, 5)
    os.kill(run.pid, how)
    run.join(30)
    assert run.exitcode == (-9 if how == signal.SIGKILL else 130)
    before = lines(root)
    assert 5 <= len(before) < 28
    if how == signal.SIGINT:
        err = (root / "stderr").read_text()
        assert "The same command goes on from there" in err
        assert "Traceback" not in err
    run = slow_check(root)
    run.join(60)
    assert run.exitcode == 1
    after = lines(root)
    assert len(after) == 28
    assert {name: after[name] for name in before} == before
    times = {path.name: len(path.read_text()) for path in root.rglob("*.log")}
    assert len(times) == 28
    # At most the one file in flight is decoded twice.
    assert sum(times.values()) <= 29
    assert list(root.glob(".videogn*")) == []


def test_read_only_data_set(root, capsys):
    foreign = root / "labels.csv"
    foreign.write_text("path,label\n")
    assert main(["data", "check", str(root), "--manifest", str(foreign)]) == 2
    assert "expected a manifest of videogn" in capsys.readouterr().err
    assert main(["data", "check", str(root), "--manifest", str(root / "no/where.csv")]) == 2
    assert "expected a folder, found none" in capsys.readouterr().err
    for option, value in (("--workers", "0"), ("--timeout", "0"), ("--max-seconds", "-1"), ("--max-frames", "0")):
        assert main(["data", "check", str(root), option, value]) == 2
        assert f"{option}: expected" in capsys.readouterr().err
    assert main(["data", "check", str(root / "nowhere")]) == 2


def test_help_names_the_limits(capsys):
    with pytest.raises(SystemExit):
        main(["data", "check", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"default {Limits().max_pixels}: 8192x4608" in text
    assert f"default {Limits().max_frames})" in text


@pytest.mark.skipif(not SHARED_VIDEOS.is_dir(), reason="no shared videos")
def test_real_files(tmp_path):
    (tmp_path / "videos").symlink_to(SHARED_VIDEOS)
    assert check_data(str(tmp_path)) == 1
    found = lines(tmp_path)
    assert [name for name, row in found.items() if row[2] != "ok"] == ["videos/corrupted.mp4"]
    assert found["videos/rotated_90_568x320.mov"][5:7] == ["320", "568"]
