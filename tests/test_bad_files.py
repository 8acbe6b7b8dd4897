"""Files that are no videos, or are gone: what replaces them in training, and what evaluation says of them."""

import os
import shutil
from pathlib import Path

import pytest
from test_data_faults import demo_index, eval_loader, same, train_loader

from videogn.data.datamodule import KineticsDataModule
from videogn.data.demo import DemoSpec, generate_demo
from videogn.data.index import VideoIndex
from videogn.data.layouts import every_video


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> VideoIndex:
    return demo_index(tmp_path_factory.mktemp("demo"))


def test_bad_files_of_every_kind(index, tmp_path):
    """Each is replaced with a reason of its own, in training, and named in evaluation; nothing hangs."""
    good = Path(index.path(0)).read_bytes()
    files = {f"cut{tenth}": good[: len(good) * tenth // 10] for tenth in range(1, 10)}
    files |= {"zero": b"", "text": b"not a video\n" * 100, "zeros": bytes(len(good))}
    for name, content in files.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "locked.mp4").write_bytes(good)
    (tmp_path / "locked.mp4").chmod(0)
    names = [*files, "fifo", "device", "loop", "absent", *(["locked"] if os.geteuid() else [])]
    bad = [str(tmp_path / f"{name}.mp4") for name in names]
    videos = [index.path(i) for i in range(16)]
    every = VideoIndex.build("/", bad + videos, [0] * len(bad) + [i // 2 for i in range(16)], index.class_names)
    batches = list(train_loader(every, 2))
    found = {path: reason for batch in batches for path, reason in batch.replaced}
    same(batches, list(train_loader(every, 0)))
    assert {video.path for batch in eval_loader(every, 2) for video in batch.videos if video.error} == set(bad)
    assert set(found) <= set(bad)
    assert len(found) > len(bad) // 2
    assert found.get(str(tmp_path / "fifo.mp4"), "not a regular file") == "not a regular file"
    assert found.get(str(tmp_path / "device.mp4"), "not a regular file") == "not a regular file"
    assert found.get(str(tmp_path / "absent.mp4"), "no such file") == "no such file"


def test_a_folder_that_disappears_and_comes_back(index, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(index.root, root)
    paths = [index.video_id(i) for i in range(16)]
    moved = VideoIndex.build(str(root), paths, [i // 2 for i in range(16)], index.class_names)
    expected = list(train_loader(index, 0))
    folder = Path(moved.path(0)).parent
    batches = train_loader(moved, 2)
    same(list(batches), expected)
    folder.rename(tmp_path / "away")
    replaced = [(path, reason) for batch in batches for path, reason in batch.replaced]
    assert {Path(path).parent for path, _ in replaced} == {folder}
    assert {reason for _, reason in replaced} == {"no such file"}
    (tmp_path / "away").rename(folder)
    same(list(batches), expected)


def test_a_link_to_itself_in_the_folders_is_no_file(tmp_path):
    generate_demo(tmp_path / "data", DemoSpec(1, 1, 32, 4))
    (tmp_path / "data" / "train" / "up" / "loop.mp4").symlink_to("loop.mp4")
    data = KineticsDataModule(str(tmp_path / "data"))
    data.setup("fit")
    assert len(data.index("train")) == 8
    assert len(list(every_video(str(tmp_path / "data")))) == 16
