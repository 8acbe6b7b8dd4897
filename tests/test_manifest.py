"""The manifest: what is written comes back, whatever the paths are and whenever the writer is killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from videogn.data.index import VideoIndex
from videogn.data.manifest import COLUMNS, FileRecord, ManifestWriter, is_same, manifest_path, read_manifest
from videogn.errors import UsageError

ODD = ["a,b.mp4", 'c "d".mp4', "e\nf.mp4", "g\rh\r\ni.mp4", os.fsdecode(b"\xff\xfe.mp4"), "ünï\u2028\x0b.mp4", "'j.mp4"]


def good(path: str, frames: int = 7, size: int = 1) -> FileRecord:
    return FileRecord(path, size, 123456789012345678, "ok", frames, 29.97, 340, 256, 0.25, "h264", 0)


def bad(path: str, reason: str) -> FileRecord:
    return FileRecord(path, 3, 4, "bad", reason=reason)


def contents(path) -> dict[str, tuple[int, int, int, str | None]]:
    manifest = read_manifest(str(path))
    names = [os.fsdecode(manifest.paths[a:b]) for a, b in zip(manifest.offsets, manifest.offsets[1:], strict=False)]
    columns = (manifest.sizes.tolist(), manifest.mtimes_ns.tolist(), manifest.frames.tolist())
    rows = zip(names, *columns, strict=True)
    return {name: (*row, manifest.reasons.get(m)) for m, (name, *row) in enumerate(rows)}


def test_what_is_written_comes_back(tmp_path):
    path = manifest_path(tmp_path)
    assert read_manifest(path) is None
    with ManifestWriter(path) as writer:
        for i, name in enumerate(ODD):
            writer.add(good(name, i, 10 * i))
        writer.add(bad("z,z.mp4", 'line one,\n "line two"'))
    manifest = read_manifest(path)
    assert contents(path) == {
        **{name: (10 * i, 123456789012345678, i, None) for i, name in enumerate(ODD)},
        "z,z.mp4": (3, 4, -1, 'line one, "line two"'),
    }
    assert manifest.find([*ODD, "nowhere"]).tolist()[-1] == -1
    assert manifest.frames[manifest.find(ODD)].tolist() == list(range(len(ODD)))
    assert os.listdir(tmp_path) == ["videogn_manifest.csv"]


def test_lines_are_sorted_and_a_files_last_line_counts(tmp_path):
    path = manifest_path(tmp_path)
    with ManifestWriter(path) as writer:
        for name in ("b", "a", "c"):
            writer.add(bad(name, "first"))
        writer.add(good("a", 5))
        assert len(read_manifest(path)) == 3  # readable at any time
    with ManifestWriter(path) as writer:
        writer.add(good("c", 6))
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert [line.split(",")[0] for line in lines[1:]] == ["a", "b", "c"]
    assert {name: row[2:] for name, row in contents(path).items()} == {
        "a": (5, None),
        "b": (-1, "first"),
        "c": (6, None),
    }


@pytest.mark.parametrize("name", ["plain.mp4", "with\nnew line.mp4", 'with "quote",\n.mp4'])
def test_a_line_cut_anywhere_is_dropped_and_written_over(tmp_path, name):
    path = manifest_path(tmp_path)
    with ManifestWriter(path) as writer:
        writer.add(good("a.mp4"))
    before = Path(path).read_bytes()
    writer = ManifestWriter(path)
    writer.add(bad(name, "some reason"))
    whole = Path(path).read_bytes()
    writer._unlock()  # as if it had been killed
    assert whole.startswith(before)
    for cut in range(len(before), len(whole)):
        Path(path).write_bytes(whole[:cut])
        assert list(contents(path)) == ["a.mp4"], whole[len(before) : cut]
    with ManifestWriter(path) as writer:
        writer.add(good("b.mp4"))
    assert list(contents(path)) == ["a.mp4", "b.mp4"]
    Path(path).write_bytes(whole)
    assert sorted(contents(path)) == sorted(["a.mp4", name])


def test_foreign_and_damaged_files_stay_as_they_are(tmp_path):
    path = tmp_path / "labels.csv"
    for text, message in (
        ("path,label\na.mp4,1\n", "labels.csv: expected a manifest of videogn"),
        (",".join(COLUMNS) + "\na.mp4,1\nb.mp4,1,2,ok,3,1,1,1,1,h264,0,\n", "line 2: expected 12 columns"),
    ):
        path.write_text(text)
        for use in (read_manifest, ManifestWriter):
            with pytest.raises(UsageError, match=message):
                use(str(path))
        assert path.read_text() == text
    path.write_text(",".join(COLUMNS) + "\na.mp4,many,2,ok,3,1,1,1,1,h264,0,\n")
    with pytest.raises(UsageError, match="expected whole numbers"):
        read_manifest(str(path))


def test_one_writer_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("videogn.data.files.LOCK_SECONDS", 0.1)
    path = manifest_path(tmp_path)
    with ManifestWriter(path), pytest.raises(UsageError, match="found another `videogn data` command"):
        ManifestWriter(path)
    ManifestWriter(path).close()


def test_disk_full(tmp_path):
    path = manifest_path(tmp_path)
    writer = ManifestWriter(path)
    writer.add(good("a.mp4"))
    os.dup2(os.open("/dev/full", os.O_WRONLY), writer._file.fileno())
    with pytest.raises(UsageError, match=r"videogn_manifest\.csv: cannot be written \(No space left"):
        writer.add(good("b.mp4"))
    writer.close()
    assert list(contents(path)) == ["a.mp4"]


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match="expected a folder, found none"):
        ManifestWriter(str(tmp_path / "nowhere" / "m.csv"))
    with pytest.raises(UsageError, match="cannot be read"):
        read_manifest(str(tmp_path))


def test_many_lines_are_read_fast(tmp_path):
    path = tmp_path / "m.csv"
    line = "train/some class/{0:011d}_000010_000020.mp4,1234567,1700000000{0:09d},ok,300,29.97,340,256,10.0,h264,0,\n"
    with open(path, "w") as file:
        file.write(",".join(COLUMNS) + "\n")
        file.writelines(line.format(i) for i in range(20_000))
    start = time.process_time()
    manifest = read_manifest(str(path))
    names = [f"train/some class/{i:011d}_000010_000020.mp4" for i in range(20_000)]
    index = VideoIndex.build("/r", names, np.zeros(20_000, np.int64), ["some class"]).with_manifest(manifest)
    assert time.process_time() - start < 1.0  # 250,000 lines: the same times 12.5; measured 0.1
    assert len(manifest) == 20_000
    assert (index.num_frames == 300).all()
    assert index.mtimes_ns[17] == 1700000000000000017


def test_same_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12")
    status = path.stat()
    assert is_same(str(path), 2, status.st_mtime_ns)
    assert not is_same(str(path), 3, status.st_mtime_ns)
    assert not is_same(str(path), 2, status.st_mtime_ns + 1)
    assert not is_same(str(tmp_path / "b"), 2, 0)


def test_needs_no_torch():
    code = "import sys, videogn.data.manifest, videogn.data.progress; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
