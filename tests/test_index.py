"""Annotations -> records: class names and their order, flat arrays, labels, messages."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from videogn.data.classes import ClassList, kinetics400_names, name_key, order_class_names, read_class_names
from videogn.data.index import VideoIndex, listed_class_names, read_index
from videogn.data.layouts import every_video, find_source
from videogn.data.manifest import FileRecord, Manifest, ManifestWriter, manifest_path, read_manifest
from videogn.errors import UsageError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def read(root: Path, split="train", names=None, path_prefix=None, require_labels=True, **options) -> VideoIndex:
    source = find_source(str(root), split, **options)
    if names is None:
        train = find_source(str(root), "train", **(options if split == "train" else {}))
        names = listed_class_names(train)[0]
    return read_index(source, ClassList(names), path_prefix, require_labels)


def records(index: VideoIndex) -> list[tuple[str, int]]:
    return [(index.video_id(i), index.label(i)) for i in range(len(index))]


# --- class names


def test_kinetics400_is_the_official_list():
    names = kinetics400_names()
    assert len(names) == len(set(names)) == 400
    assert list(names) == sorted(names)
    # Published label maps give these numbers.
    known = {"abseiling": 0, "archery": 5, "arm wrestling": 6, "hammer throw": 148, "playing cello": 223, "zumba": 399}
    assert {name: names.index(name) for name in known} == known
    assert len({name_key(name) for name in names}) == 400


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ("arm_wrestling", "arm wrestling"),
        ("punching_person_boxing", "punching person (boxing)"),
        ("massaging_persons_head", "massaging person's head"),
        ("Arm-Wrestling", "arm wrestling"),
    ],
)
def test_spellings_of_a_class_are_one_class(found, name):
    assert ClassList(kinetics400_names()).find(found) == kinetics400_names().index(name)


def test_names_that_differ_in_spelling_alone_need_the_exact_one():
    classes = ClassList(["a b", "a_b", "C", "C++"])
    assert [classes.find(name) for name in ("a b", "a_b", "A B", "C++")] == [0, 1, None, 3]


def test_unknown_class_names_the_nearest():
    with pytest.raises(UsageError, match=r"line 3.*'playing celo'.*did you mean 'playing cello'"):
        raise ClassList(kinetics400_names()).unknown("playing celo", "val.txt, line 3")


def test_order_of_classes_does_not_depend_on_missing_ones():
    official = kinetics400_names()
    assert order_class_names(name.replace(" ", "_") for name in official if name not in official[3:40])[0] == official
    few, note = order_class_names(["yoga", "archery", "yoga"])
    assert few == ("archery", "yoga")
    assert "kinetics400" in note
    assert order_class_names([*official, "my own class"])[0] == tuple(sorted([*official, "my own class"]))


def test_class_names_from_a_file(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("zebra\n\napple pie\n", encoding="utf-8")
    assert read_class_names(str(file)) == ("zebra", "apple pie")
    file.write_text("0 zebra\n1 apple pie\n", encoding="utf-8")
    assert read_class_names(str(file)) == ("zebra", "apple pie")
    assert read_class_names("kinetics400") == kinetics400_names()
    with pytest.raises(UsageError, match=r"class_names: expected 'kinetics400' or a text file.*found 'nowhere.txt'"):
        read_class_names("nowhere.txt")
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(UsageError, match="found none"):
        read_class_names(str(file))
    file.write_text("a\nb\na\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"'a'.*more than once"):
        ClassList(read_class_names(str(file)))


# --- class folders


def test_class_folders(tmp_path):
    touch(tmp_path, "train/b c/2.mp4", "train/b c/1.MKV", "train/a/x y.webm", "train/a/z.avi", "train/a/deep/er.mov")
    touch(tmp_path, "train/a/._z.avi", "train/a/notes.txt", "train/.hidden/1.mp4", "train/__MACOSX/1.mp4")
    index = read(tmp_path)
    assert index.class_names == ("a", "b c")
    assert records(index) == [
        ("train/a/x y.webm", 0),
        ("train/a/z.avi", 0),
        ("train/a/deep/er.mov", 0),
        ("train/b c/1.MKV", 1),
        ("train/b c/2.mp4", 1),
    ]
    assert index.path(0) == str(tmp_path / "train/a/x y.webm")
    assert "5 videos of 2 classes" in index.summary()


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "val_256", "validation-320"])
def test_split_aliases(tmp_path, name):
    touch(tmp_path, "train/a/1.mp4", f"{name}/a/2.mp4")
    assert records(read(tmp_path, "val")) == [(f"{name}/a/2.mp4", 0)]


def test_two_folders_for_one_split(tmp_path):
    touch(tmp_path, "valid/a/1.mp4", "validation/a/2.mp4")
    with pytest.raises(UsageError, match="one folder for the val split, found valid, validation"):
        find_source(str(tmp_path), "val")
    touch(tmp_path, "val/a/1.mp4")
    assert find_source(str(tmp_path), "val").path.endswith("/val")


def test_a_class_that_one_split_lacks_shifts_no_label(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/1.mp4", "train/c/1.mp4", "val/a/2.mp4", "val/c/2.mp4")
    index = read(tmp_path, "val")
    assert records(index) == [("val/a/2.mp4", 0), ("val/c/2.mp4", 2)]
    assert "1 class has no video here: b" in index.summary()


def test_a_class_that_training_lacks_is_an_error(tmp_path):
    touch(tmp_path, "train/walk/1.mp4", "train/run/1.mp4", "val/runn/2.mp4")
    with pytest.raises(UsageError, match=r"val: expected one of the 2 class names, found 'runn'; did you mean 'run'"):
        read(tmp_path, "val")


def test_kinetics_folders_with_underscores_get_official_labels(tmp_path):
    official = kinetics400_names()
    for name in official[::2] + official[1:100:2]:
        touch(tmp_path, f"train/{name.replace(' ', '_').replace('(', '').replace(')', '')}/1.mp4")
    index = read(tmp_path)
    assert index.class_names == official
    labels = {path.split("/")[1]: label for path, label in records(index)}
    assert {name: labels[name] for name in ("archery", "hammer_throw", "yoga")} == {
        "archery": 5,
        "hammer_throw": 148,
        "yoga": 398,
    }


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(UsageError, match=r"data.root: expected a folder, found nothing at .*/nowhere"):
        find_source(str(tmp_path / "nowhere"), "train")
    assert find_source(str(tmp_path), "train") is None
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match=r"train: expected videos .*found 0 files"):
        read(tmp_path, names=("a",))
    touch(tmp_path, "train/a/readme.txt", "train/b/readme.txt")
    with pytest.raises(UsageError, match="found 2 folders without one"):
        read(tmp_path)


def test_videos_without_class_folders_are_for_prediction(tmp_path):
    touch(tmp_path, "test/1.mp4", "test/2.mkv", "test/._1.mp4", "train/a/1.mp4")
    assert records(read(tmp_path, "test", require_labels=False)) == [("test/1.mp4", -1), ("test/2.mkv", -1)]
    with pytest.raises(UsageError, match="expected a label for every video"):
        read(tmp_path, "test")


# --- the arrays


def test_flat_arrays_survive_pickling():
    paths = [f"some folder/ünï {i}.mp4" for i in range(1000)]
    index = VideoIndex.build("/r", paths, np.arange(1000) % 7, [str(i) for i in range(7)])
    assert index.offsets.dtype == index.labels.dtype == np.int64
    assert isinstance(index.paths, bytes)
    copy = pickle.loads(pickle.dumps(index))
    assert records(copy) == records(index) == [(path, i % 7) for i, path in enumerate(paths)]
    with pytest.raises(ValueError, match="2 paths and 1 labels"):
        VideoIndex.build("/r", ["a", "b"], [0], ["x"])


def test_names_that_are_not_utf8(tmp_path):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    with open(bytes(folder) + b"/\xff.mp4", "wb"):
        pass
    index = read(tmp_path)
    with open(index.path(0), "rb") as file:
        assert file.read() == b""


def test_needs_no_torch():
    code = "import sys, videogn.data.index, videogn.data.demo, videogn.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- what a manifest knows


def write_manifest(root: Path, *records: FileRecord) -> Manifest:
    with ManifestWriter(manifest_path(root)) as writer:
        for record in records:
            writer.add(record)
    return read_manifest(manifest_path(root))


def record_of(root: Path, name: str, frames: int, reason: str = "") -> FileRecord:
    status = os.stat(root / name)
    return FileRecord(
        name, status.st_size, status.st_mtime_ns, "bad" if reason else "ok", -1 if reason else frames, reason=reason
    )


def test_manifest_spares_probing_while_the_file_is_the_same(tmp_path):
    touch(tmp_path, *(f"train/a/{name}.mp4" for name in ("bad", "good", "replaced", "unknown")))
    manifest = write_manifest(
        tmp_path,
        record_of(tmp_path, "train/a/bad.mp4", 0, "truncated"),
        record_of(tmp_path, "train/a/good.mp4", 30),
        record_of(tmp_path, "train/a/replaced.mp4", 40),
        FileRecord("train/a/deleted.mp4", 1, 1, "ok", 7),
    )
    source = find_source(str(tmp_path), "train")
    index = read_index(source, ClassList(["a"]), manifest=manifest)
    (tmp_path / "train/a/replaced.mp4").write_bytes(b"other")
    assert [index.known_frames(i) for i in range(4)] == [None, 30, None, None]
    assert [index.known_error(i) for i in range(4)] == ["truncated", None, None, None]
    assert index.num_frames.tolist() == [-1, 30, 40, -1]
    assert "manifest: 3 files known, 1 bad: train/a/bad.mp4 (truncated)" in index.summary()
    assert "manifest:" not in read_index(source, ClassList(["a"])).summary()

    good = index.without_bad()
    assert [name for name, _ in records(good)] == [f"train/a/{name}.mp4" for name in ("good", "replaced", "unknown")]
    assert [good.known_frames(i) for i in range(3)] == [30, None, None]
    assert "1 file that the manifest calls bad is left out: train/a/bad.mp4 (truncated)" in good.summary()
    assert good.without_bad() is good

    (tmp_path / "train/a/bad.mp4").write_bytes(b"whole again")
    again = read_index(source, ClassList(["a"]), manifest=manifest)
    assert again.errors == {}
    assert len(again.without_bad()) == 4


def test_labels_of_missing_files(tmp_path):
    touch(tmp_path, "v/1.mp4")
    lines = ["v/1.mp4 b", "v/2.mp4 a", "v/3.mp4 b", "v/4.mp4 nobody knows"]
    (tmp_path / "val.txt").write_text("\n".join(lines))
    index = read_index(find_source(str(tmp_path), "val"), ClassList(["a", "b"]))
    assert index.missing == ("v/2.mp4", "v/3.mp4", "v/4.mp4")
    assert index.missing_labels == (0, 1, -1)
    (tmp_path / "val.txt").write_text("v/1.mp4 1\nv/2.mp4 0\nv/3.mp4 7\n")
    assert read_index(find_source(str(tmp_path), "val"), ClassList(["a", "b"])).missing_labels == (0, -1)


def test_every_video_follows_links_but_not_in_circles(tmp_path):
    touch(tmp_path, "elsewhere/train/1.mp4", "root/b/2.mp4", "root/3.avi", "root/.hidden/4.mp4", "root/b/.5.mp4")
    (tmp_path / "root/a").symlink_to(tmp_path / "elsewhere/train")
    (tmp_path / "root/b/up").symlink_to(tmp_path / "root")
    assert list(every_video(str(tmp_path / "root"))) == ["3.avi", "a/1.mp4", "b/2.mp4"]
