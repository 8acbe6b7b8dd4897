"""`videogn data resize`: a copy that works as a data set, made once, whole or not at all."""

import errno
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from test_index import read, records
from video_files import read_number, write_video

from videogn.cli import main
from videogn.data import resize
from videogn.data.check import check_data
from videogn.data.decode import VideoReader
from videogn.data.encode import Encoding
from videogn.data.files import cannot_write
from videogn.data.manifest import manifest_path, read_manifest
from videogn.data.resize import resize_data
from videogn.errors import UsageError

SMALL = Encoding(short_side=48)


@pytest.fixture(autouse=True)
def few_workers(monkeypatch):
    monkeypatch.setattr(resize, "available_cores", lambda: 2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {
        "mp4": write_video(folder / "a.mp4", 8).read_bytes(),
        "avi": write_video(folder / "a.avi", 9, codec="mpeg4").read_bytes(),
    }


@pytest.fixture
def root(tmp_path, videos):
    root = tmp_path / "root"
    for name in ("train/a/1.mp4", "train/a/2.AVI", "train/b/3.mp4", "train/b/4 x.avi", "val/a/5.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(videos[name[-3:].lower()])
    return root


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Names of the files that children made, in a list that is read anew with each call."""
    log = tmp_path / "made.log"
    encode = resize.encode

    def logging(source, *arguments):
        with open(log, "a") as file:
            file.write(os.path.basename(source) + "\n")
        return encode(source, *arguments)

    monkeypatch.setattr(resize, "encode", logging)
    return lambda: sorted(log.read_text().splitlines()) if log.exists() else []


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in files(folder)}


VIDEOS = ["train/a/1.mp4", "train/a/2.mp4", "train/b/3.mp4", "train/b/4 x.mp4", "val/a/5.mp4"]
EXTRA = ["videogn_manifest.csv", "videogn_resize.json"]


def test_a_data_set_in_class_folders(root, tmp_path, capsys):
    before = contents(root)
    target = tmp_path / "new" / "target"
    assert main(["data", "resize", str(root), str(target), "--short-side", "48", "--gop", "4"]) == 0
    assert contents(root) == before
    assert files(target) == sorted(VIDEOS + EXTRA)
    out = capsys.readouterr().out
    assert f"5 of 5 videos are in {target}: 5 written now, 0 before" in out
    for name in VIDEOS:
        with VideoReader(target / name) as reader:
            frames = reader.read(range(reader.num_frames))
            assert [read_number(frame) for frame in frames] == list(range(9 if name[-5] in "2x" else 8))
            assert frames.shape[1:3] == (48, 72)
    assert (target / VIDEOS[0]).stat().st_mtime_ns == (root / VIDEOS[0]).stat().st_mtime_ns

    manifest = read_manifest(manifest_path(target))
    index = read(target).with_manifest(manifest)
    assert [index.known_frames(i) for i in range(4)] == [8, 9, 8, 9]
    assert check_data(str(target)) == 0
    assert "decoded 0 files, knew 5 from before" in capsys.readouterr().out


def test_nothing_is_made_twice(root, tmp_path, made, videos, capsys):
    target = tmp_path / "target"
    assert resize_data(str(root), str(target), SMALL) == 0
    before, once = contents(target), made()
    assert len(once) == 5
    assert resize_data(str(root), str(target), SMALL) == 0
    assert made() == once
    assert {name: c for name, c in contents(target).items() if name not in EXTRA} == {
        name: c for name, c in before.items() if name not in EXTRA
    }
    summary = capsys.readouterr().out.splitlines()
    assert "0 written now, 5 before" in summary[1]
    assert summary[0].partition(";")[2] == summary[1].partition(";")[2]  # the same bytes before and after

    (root / "train/a/1.mp4").write_bytes(videos["avi"])
    os.utime(root / "train/a/1.mp4", ns=(0, 5_000_000_000))
    (target / "train/b/3.mp4").unlink()
    (target / "train/b/4 x.mp4").write_bytes(b"overwritten by somebody")
    (root / "val/a/6.mp4").write_bytes(videos["mp4"])
    assert resize_data(str(root), str(target), SMALL) == 0
    assert made() == sorted([*once, "1.mp4", "3.mp4", "4 x.avi", "6.mp4"])
    assert resize_data(str(root), str(target), SMALL) == 0
    assert len(made()) == 9


def test_bad_sources_are_told_and_tried_again(root, tmp_path, made, videos, capsys):
    target = tmp_path / "target"
    (root / "train/a/empty.mp4").write_bytes(b"")
    (root / "train/a/cut.mp4").write_bytes(videos["mp4"][:900])
    for _ in range(2):
        assert resize_data(str(root), str(target), SMALL) == 1
        out = capsys.readouterr().out
        assert "5 of 7 videos" in out
        assert "2 failed and are not there" in out
        assert f"{root}/train/a/empty.mp4: empty file (0 bytes)" in out
        assert files(target) == sorted(VIDEOS + EXTRA)
    assert len(made()) == 7 + 2
    assert len(read_manifest(manifest_path(target)).reasons) == 2
    for name in ("empty", "cut"):
        (root / f"train/a/{name}.mp4").write_bytes(videos["mp4"])
    assert resize_data(str(root), str(target), SMALL) == 0
    assert read_manifest(manifest_path(target)).reasons == {}


def test_hanging_and_crashing_files(root, tmp_path, monkeypatch, capsys):
    encode = resize.encode

    def strange(source, target, *more):
        Path(target).write_bytes(b"begun")
        if source.endswith("1.mp4"):
            time.sleep(60)
        if source.endswith("3.mp4"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return encode(source, target, *more)

    monkeypatch.setattr(resize, "encode", strange)
    target = tmp_path / "target"
    assert resize_data(str(root), str(target), SMALL, timeout=1.0) == 1
    out = capsys.readouterr().out
    assert "1.mp4: no progress for 1 s" in out
    assert "3.mp4: the decoder crashed (signal SIGSEGV)" in out
    assert files(target) == sorted([*VIDEOS[1:2], *VIDEOS[3:], *EXTRA])


def test_a_full_disk_ends_the_run(root, tmp_path, monkeypatch):
    def full(source, target, *_):
        Path(target).write_bytes(b"begun")
        raise cannot_write(os.path.dirname(target), OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(resize, "encode", full)
    target = tmp_path / "target"
    with pytest.raises(UsageError, match=r"cannot be written \(No space left on device\).*run the same command again"):
        resize_data(str(root), str(target), SMALL)
    assert files(target) == EXTRA
    monkeypatch.undo()
    assert resize_data(str(root), str(target), SMALL, workers=1) == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed(root, tmp_path, made, videos, monkeypatch, how):
    for i in range(15):
        (root / f"train/b/more {i}.mp4").write_bytes(videos["mp4"])
    target = tmp_path / "target"
    encode = resize.encode

    def slow(source, partial, *more):
        Path(partial).write_bytes(b"begun")
        time.sleep(0.1)
        return encode(source, partial, *more)

    def run():
        os.dup2(os.open(tmp_path / "stderr", os.O_WRONLY | os.O_CREAT), 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        resize.encode = slow
        sys.exit(resize_data(str(root), str(target), SMALL, workers=2))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    while len(list(target.rglob("*.mp4"))) < 5 and process.is_alive():
        time.sleep(0.02)
    os.kill(process.pid, how)
    process.join(30)
    assert process.exitcode == (-9 if how == signal.SIGKILL else 130)
    if how == signal.SIGINT:
        err = (tmp_path / "stderr").read_text()
        assert "The same command goes on from there" in err
        assert "Traceback" not in err
        assert not list(target.rglob(".videogn*"))
    done = {path: path.stat().st_ino for path in target.rglob("*.mp4")}
    assert 5 <= len(done) < 20
    for path in done:
        with VideoReader(path) as reader:
            reader.check()
    assert resize_data(str(root), str(target), SMALL) == 0
    assert not list(target.rglob(".videogn*"))
    assert len(list(target.rglob("*.mp4"))) == 20
    # Done but not yet written down: at most the two files in flight.
    assert sum(path.stat().st_ino != inode for path, inode in done.items()) <= 2


def test_lists_name_the_new_files(root, tmp_path):
    target = tmp_path / "target"
    elsewhere = tmp_path / "elsewhere.avi"
    elsewhere.write_bytes((root / "train/b/4 x.avi").read_bytes())
    train = [
        "\ufeffpath,label",
        '"train/a/2.AVI","arm wrestling"',
        "train/b/4 x.avi\tyoga",
        f"{root}/train/a/2.AVI, arm wrestling",
        f"{root}/./train/b/3.mp4 yoga",
        f"{elsewhere} yoga",
        "# train/a/2.AVI yoga",
        "gone.avi yoga",
        "  train/a/1.mp4   arm wrestling  ",
    ]
    (root / "train.csv").write_text("\r\n".join(train), newline="", encoding="utf-8")
    (root / "annotations").mkdir()
    (root / "annotations/val.txt").write_text("a/5.mp4 yoga\nb/4 x.avi 'arm wrestling'\n")
    (root / "notes.txt").write_bytes(b"The best is 2.AVI!\n\xff\xfe")
    (root / "annotations/k.json").write_text("{}")
    assert resize_data(str(root), str(target), SMALL) == 0
    lines = (target / "train.csv").read_bytes().decode().split("\r\n")
    assert lines == [
        *train[:1],
        '"train/a/2.mp4","arm wrestling"',
        "train/b/4 x.mp4\tyoga",
        f"{target}/train/a/2.mp4, arm wrestling",
        f"{target}/train/b/3.mp4 yoga",
        *train[5:],
    ]
    assert (target / "notes.txt").read_bytes() == b"The best is 2.AVI!\n\xff\xfe"
    assert (target / "annotations/val.txt").read_text() == "a/5.mp4 yoga\nb/4 x.mp4 'arm wrestling'\n"
    before, after = (read(folder, layout="list") for folder in (root, target))
    new = [(os.path.splitext(name)[0] + ".mp4" if "elsewhere" not in name else name, i) for name, i in records(before)]
    assert records(after) == new
    assert len(after) == 5
    assert after.missing == before.missing == ("gone.avi",)


def test_cvdf_layout(root, tmp_path, videos):
    (root / "flat").mkdir()
    for split in ("train", "val"):
        (root / f"flat/{split}").mkdir()
        (root / f"flat/{split}/abcdefghijk_000001_000011.avi").write_bytes(videos["avi"])
        (root / f"flat/{split}.csv").write_text(
            "label,youtube_id,time_start,time_end,split\nyoga,abcdefghijk,1,11,train\narchery,bbbbbbbbbbb,1,2,train\n"
        )
    assert resize_data(str(root / "flat"), str(tmp_path / "target"), SMALL) == 0
    assert (tmp_path / "target/train.csv").read_bytes() == (root / "flat/train.csv").read_bytes()
    index = read(tmp_path / "target", layout="cvdf")
    assert records(index) == [("train/abcdefghijk_000001_000011.mp4", 1)]
