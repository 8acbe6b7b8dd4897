"""Training clips per second against the number of workers, and the share of time a training step waits for data.

python scripts/bench_loader.py                                          # generated files: 340x256, 10 s, H.264
python scripts/bench_loader.py a.mp4 b.mp4 --workers 4 8 --step-ms 350 --json

For each number of workers the loader of `videogn fit` reads whole epochs as fast as it can, with and without the guard
that ends hanging decoders (data.decode_timeout), in turns; ratios are taken within a turn: median, smallest, largest.
CPU time is that of all processes of the loader and of the main process, which is what counts where other programs use
the cores too (Linux). Then the loader feeds a training step that takes --step-ms and leaves the cores alone, as one on
a GPU does; the share of time that this step waits is `TimedLoader.waited` over the time from its first batch to the
end, as in train/data_wait.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from measured import write_result
from natural_video import write_natural_video
from rich.console import Console
from rich.table import Table

from videogn.data.batches import ClipBatch
from videogn.data.cores import available_cores
from videogn.data.dataset import TrainClips
from videogn.data.index import VideoIndex
from videogn.data.loader import TimedLoader, guarded, start_worker
from videogn.data.samplers import TrainSampler
from videogn.spec import ClipSpec

GENERATED = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, metavar="VIDEO", help="files to read instead of generated ones")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2, 4], help="(default 0 1 2 4)")
    parser.add_argument("--clip", default="32x2", help="frames x stride (default 32x2)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--step-ms", type=float, default=300.0, help="length of the training step (default 300)")
    parser.add_argument("--batches", type=int, default=8, help="per epoch (default 8)")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each loader (default 5)")
    parser.add_argument("--json", action="store_true", help="also write scripts/results/bench_loader.json")
    arguments = parser.parse_args()
    busy = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    frames, stride = (int(word) for word in arguments.clip.split("x"))

    with tempfile.TemporaryDirectory() as folder:
        videos = arguments.videos
        if not videos:
            videos = [write_natural_video(Path(folder) / f"{i}.mp4", seed=i) for i in range(GENERATED)]
        clips = arguments.batches * arguments.batch_size
        paths = [str(videos[i % len(videos)].absolute()) for i in range(clips)]
        index = VideoIndex.build("/", paths, [0] * clips, ["any"])
        data = TrainClips(index, ClipSpec(frames=frames, stride=stride))
        rows = [measure(data, workers, arguments) for workers in arguments.workers]

    show(rows, arguments)
    if arguments.json:
        fields = {
            "cores": available_cores(),
            "load_before": busy,  # programs that ran beside it
            "batch_size": arguments.batch_size,
            "step_ms": arguments.step_ms,
        }
        print(write_result("bench_loader", f"clip {arguments.clip}", {**fields, "rows": rows}))
    return 0


def measure(data: TrainClips, workers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """What one line of the table says."""
    size, clips = arguments.batch_size, len(data)
    loaders = {"guarded": make(data, workers, size, 60.0)} if workers else {}
    loaders["unguarded"] = make(data, workers, size, None)
    for loader in loaders.values():
        epoch(loader, 0.0)  # starts the workers, and has the files in memory
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    cpu: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(arguments.rounds):
        for name in sorted(loaders, reverse=turn % 2 == 1):
            before = cpu_seconds()
            seconds[name].append(epoch(loaders[name], 0.0)[0])
            cpu[name].append(cpu_seconds() - before)
    row: dict[str, Any] = {"workers": workers}
    for name in loaders:
        row[f"{name}_clips_per_s"] = round(clips / statistics.median(seconds[name]), 2)
        row[f"{name}_cpu_ms_per_clip"] = round(1000 * statistics.median(cpu[name]) / clips, 2)
    if workers:
        row["guarded_over_unguarded_time"] = ratio(seconds)
        row["guarded_over_unguarded_cpu"] = ratio(cpu)
    row["wait_share"] = round(epoch(next(iter(loaders.values())), arguments.step_ms / 1000)[1], 3)
    return row


def ratio(figures: dict[str, list[float]]) -> list[float]:
    """Guarded over unguarded within each turn: median, smallest, largest."""
    pairs = [a / b if b else 0.0 for a, b in zip(figures["guarded"], figures["unguarded"], strict=True)]
    return [round(value, 4) for value in (statistics.median(pairs), min(pairs), max(pairs))]


def make(data: TrainClips, workers: int, batch_size: int, timeout: float | None) -> TimedLoader:
    """The loader of KineticsDataModule."""
    return TimedLoader(
        guarded(data, timeout, workers),
        batch_size,
        sampler=TrainSampler(len(data), batch_size),
        num_workers=workers,
        collate_fn=ClipBatch.collate,
        worker_init_fn=start_worker,
        persistent_workers=workers > 0,
    )


def epoch(loader: TimedLoader, step: float) -> tuple[float, float]:
    """Seconds that an epoch takes with steps of so many seconds, and the share waited after the first batch."""
    begin = time.perf_counter()
    batches = iter(loader)
    next(batches)
    first, waited = time.perf_counter(), loader.waited
    time.sleep(step)
    for _ in batches:
        time.sleep(step)
    end = time.perf_counter()
    return end - begin, (loader.waited - waited) / (end - first)


def cpu_seconds() -> float:
    """CPU time of this process and of all that descend from it; 0 where /proc does not tell."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    total = 0
    for pid in family:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(task.read_text().split()[0])
    return total / 1e9


def show(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    title = (
        f"clips of {arguments.clip}, batches of {arguments.batch_size}, steps of {arguments.step_ms:g} ms, "
        f"{available_cores()} cores"
    )
    table = Table(title=title)
    guards = ("time with / without guard", "CPU with / without guard")
    for heading in ("workers", "clips/s", "without guard", "CPU ms/clip", *guards, "waiting"):
        table.add_column(heading, justify="right")
    for row in rows:
        kind = "guarded" if row["workers"] else "unguarded"
        ratios = [row.get("guarded_over_unguarded_time"), row.get("guarded_over_unguarded_cpu")]
        table.add_row(
            str(row["workers"]),
            f"{row[f'{kind}_clips_per_s']:.1f}",
            f"{row['unguarded_clips_per_s']:.1f}",
            f"{row[f'{kind}_cpu_ms_per_clip']:.1f}",
            *("-" if found is None else "{:.3f} ({:.3f} - {:.3f})".format(*found) for found in ratios),
            f"{row['wait_share']:.0%}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
