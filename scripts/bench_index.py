"""Memory and time of the index of a large data set, on a generated list of empty files.

    python scripts/bench_index.py --json

Writes as many empty files as ``--videos`` says under the names of Kinetics, in 400 class folders and flat, with the
annotation files of each layout and a manifest as `videogn data check` leaves it (1 file of 1,000 is bad), and loads the
training split of each layout in a fresh process without torch, as `videogn fit` does: class names, index, manifest.
The disk's own cache is warm from the writing. Linux.

- seconds: of loading, and cpu, the processor time of it, where other programs use the cores too; of the process of
  ``--rounds`` that took the least processor time.
- added: resident memory after loading less that before, with all modules imported.
- process: resident memory of the whole process after loading, with the interpreter and numpy.
- peak: the most that the process has held on the way.
- worker: memory that is a forked worker's own after it has taken path, label and manifest entry of 20,000 videos, less
  what the same worker has with an index of 10 videos.
- pickled: bytes that a worker gets that is not forked.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from videogn.data.classes import ClassList
from videogn.data.index import VideoIndex, listed_class_names, read_index
from videogn.data.layouts import find_source
from videogn.data.manifest import COLUMNS, NAME, manifest_path, read_manifest

CLASSES = 400
LAYOUTS = ("folders", "list", "cvdf")
LIMIT_MB, LIMIT_SECONDS = 200.0, 2.0
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=250_000, help="(default 250,000)")
    parser.add_argument("--rounds", type=int, default=3, help="processes per layout (default 3)")
    parser.add_argument("--json", action="store_true", help="also write scripts/results/bench_index.json")
    parser.add_argument("--load", nargs=2, metavar=("LAYOUT", "ROOT"), help=argparse.SUPPRESS)  # a process of it
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(measure(*arguments.load)))
        return 0
    busy = round(os.getloadavg()[0], 2)  # programs that ran beside it
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for layout in LAYOUTS:
            root = Path(folder) / layout
            write(root, layout, arguments.videos)
            for manifest in (False, True):
                if manifest:
                    write_manifest(root, layout)
                found = [load(layout, root) for _ in range(arguments.rounds)]
                best = min(found, key=lambda row: row["cpu_seconds"])
                rows.append({"layout": layout, "manifest": manifest, **best})
                show(rows[-1])
    over = [row for row in rows if row["process_mb"] >= LIMIT_MB or row["cpu_seconds"] >= LIMIT_SECONDS]
    if arguments.json:
        from measured import write_result

        fields = {
            "load_before": busy,
            "videos": arguments.videos,
            "limit_mb": LIMIT_MB,
            "limit_seconds": LIMIT_SECONDS,
            "rows": rows,
        }
        print(write_result("bench_index", f"{arguments.videos} videos", fields))
    for row in over:
        print(f"over the limit of {LIMIT_MB:g} MB or {LIMIT_SECONDS:g} s: {row['layout']}", file=sys.stderr)
    return 1 if over else 0


def show(row: dict[str, Any]) -> None:
    with_manifest = "with manifest" if row["manifest"] else "without"
    print(
        f"{row['layout']:8s} {with_manifest:14s} {row['seconds']:5.2f} s  cpu {row['cpu_seconds']:5.2f} s  "
        f"added {row['added_mb']:6.1f} MB  process "
        f"{row['process_mb']:6.1f} MB  peak {row['peak_mb']:6.1f} MB  worker {row['worker_mb']:5.1f} MB  "
        f"pickled {row['pickled_mb']:5.1f} MB",
        flush=True,
    )


# -- a data set --------------------------------------------------------------------------------------------------------


def names(videos: int) -> list[tuple[str, int, str]]:
    """(class, number of seconds at which it starts, YouTube id) of each video."""
    rng = random.Random(0)
    ids = ("".join(rng.choices(_ALPHABET, k=11)) for _ in range(videos))
    return [(f"class {i % CLASSES:03d} of people", rng.randrange(300), name) for i, name in enumerate(ids)]


def write(root: Path, layout: str, videos: int) -> None:
    """Empty files and the annotations of a training split."""
    lines = {"list": [], "cvdf": ["label,youtube_id,time_start,time_end,split"], "folders": []}[layout]
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    if layout == "folders":
        for i in range(CLASSES):
            (root / "train" / f"class {i:03d} of people").mkdir()
    for label, start, name in names(videos):
        file = f"{name}_{start:06d}_{start + 10:06d}.mp4"
        if layout == "folders":
            file = f"{label}/{file}"
        elif layout == "cvdf":
            lines.append(f"{label},{name},{start},{start + 10},train")
        else:
            lines.append(f"train/{file} {int(label[6:9])}")
        os.close(os.open(root / "train" / file, os.O_CREAT | os.O_WRONLY, 0o644))
    if lines:
        suffix = "csv" if layout == "cvdf" else "txt"
        (root / "annotations" / f"train.{suffix}").write_text("\n".join(lines) + "\n")


def write_manifest(root: Path, layout: str) -> None:
    index = read(layout, root)
    with open(manifest_path(str(root)), "w") as file:
        file.write(",".join(COLUMNS) + "\n")
        for i in range(len(index)):
            status = os.stat(index.path(i))
            good = f"ok,{250 + i % 50},29.97003,340,256,{(250 + i % 50) / 29.97003:.6f},h264,1,"
            bad = "bad,-1,-1.0,-1,-1,-1.0,,0,cannot be decoded (Invalid data found)"
            what = good if i % 1000 else bad
            file.write(f"{index.video_id(i)},{status.st_size},{status.st_mtime_ns},{what}\n")


# -- one process -------------------------------------------------------------------------------------------------------


def load(layout: str, root: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--load", layout, str(root)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def read(layout: str, root: str | Path) -> VideoIndex:
    """As KineticsDataModule reads the training split."""
    source = find_source(str(root), "train", "auto")
    assert source is not None
    assert source.kind == layout
    class_names, _ = listed_class_names(source)
    index = read_index(source, ClassList(class_names))
    manifest = read_manifest(str(Path(root) / NAME))
    return index if manifest is None else index.with_manifest(manifest).without_bad()


def measure(layout: str, root: str) -> dict[str, Any]:
    few = VideoIndex.build(root, [f"train/{i}.mp4" for i in range(10)], [0] * 10, ["a"])
    own = worker(few)
    gc.collect()
    before = memory("VmRSS")
    start, cpu = time.perf_counter(), time.process_time()
    index = read(layout, root)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    gc.collect()
    after = memory("VmRSS")
    assert "torch" not in sys.modules
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "added_mb": round((after - before) / 1e6, 1),
        "process_mb": round(after / 1e6, 1),
        "peak_mb": round(memory("VmHWM") / 1e6, 1),
        "worker_mb": round((worker(index) - own) / 1e6, 1),
        "pickled_mb": round(len(pickle.dumps(index)) / 1e6, 1),
        "bytes_per_video": round(index_bytes(index) / len(index), 1),
    }


def index_bytes(index: VideoIndex) -> int:
    """Of the arrays and the paths."""
    arrays = (index.offsets, index.labels, index.num_frames, index.sizes, index.mtimes_ns)
    return len(index.paths) + sum(array.nbytes for array in {id(a): a for a in arrays}.values())


def worker(index: VideoIndex) -> int:
    """Bytes that a forked process has of its own after it has used the index."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        rng = random.Random(0)
        for _ in range(20_000):
            i = rng.randrange(len(index))
            index.path(i), index.label(i), index.known_frames(i), index.known_error(i)
        os.write(theirs, str(private()).encode())
        os._exit(0)
    os.wait()
    found = int(os.read(ours, 100))
    os.close(ours)
    os.close(theirs)
    return found


def private() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    sys.exit(main())
