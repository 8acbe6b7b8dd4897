"""CPU time and memory of reading clips, against the raw decode and against decord, torchcodec and pytorchvideo.

python scripts/bench_decode.py                      # generated files
python scripts/bench_decode.py --rounds 9 a.mp4 b.mkv

Each reader lives in a process of its own, bound to one core, with one thread. The processes take turns: in every round
each reads the same clip of the same video, and ratios are taken within a round. ``limit`` is FFmpeg's own work and
nothing else, by one who knows already where the frames are: it opens the file, seeks to the key frame, decodes the
packets up to the last wanted frame without the non-reference frames that nobody wants, and converts the wanted ones to
RGB, which it throws away. Tasks:

- clip 32x2, clip 64x1: open the file, return the frames of one clip at a random place.
- 10 clips: the frames of ten regularly spaced 32x2 clips; frames that clips share are read once by all but
  pytorchvideo.
- sample: a 32x2 clip, randomly scaled, cropped to 224 x 224 and flipped. videogn, decord and torchcodec: cropped first,
  uint8. pytorchvideo: its own transforms, which resize all of a float clip, crop it, and normalise.

Memory is what a process holds at its peak above what it held after its imports and before its first clip.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bench_decode_readers as readers
import numpy as np
from measured import write_result
from natural_video import write_natural_video
from rich.console import Console
from rich.table import Table

BARS = {
    "clip 32x2": ("limit", 1.12),
    "10 clips": ("limit", 1.25),
    "sample": ("pytorchvideo", 1 / 2.5),
}
MEMORY_BAR = 0.35
GENERATED: dict[str, dict[str, Any]] = {
    "gop250.mp4": {},
    "gop60.mkv": {"gop": 60, "seed": 1},
    "gop12_no_b.mp4": {"gop": 12, "bframes": 0, "seed": 2},
    "720p.mp4": {"height": 720, "width": 1280, "num_frames": 200, "gop": 100, "seed": 3},
    "xvid.avi": {"codec": "mpeg4", "gop": 100, "seed": 4},
}
# glibc gives large blocks back to the system at once; fetching their pages again would be most of what is measured.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
}


class Reader:
    """A reader in its own process; answers one request at a time."""

    def __init__(self, name: str, core: int) -> None:
        environment = {**os.environ, **ENVIRONMENT}
        command = [sys.executable, readers.__file__, name, str(core)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.error = readers.receive(self.process.stdout).get("error")

    def measure(self, **request: Any) -> dict[str, Any]:
        """seconds and memory_mb, or error."""
        readers.send(self.process.stdin, request)
        return readers.receive(self.process.stdout)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def measure(
    task: str, videos: list[Path], rounds: int, core: int
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """video -> reader -> seconds of every round or an error; reader -> peak memory in MB."""
    children = {name: Reader(name, core) for name in readers.READERS}
    for name, child in list(children.items()):
        if child.error:
            print(f"{name} is left out: {child.error}", file=sys.stderr)
            children.pop(name).close()
    results: dict[str, dict[str, Any]] = {video.name: {} for video in videos}
    memory: dict[str, float] = {}
    for number in range(rounds + 1):
        for video in videos:
            for name, child in children.items():
                answer = child.measure(task=task, path=str(video), seed=number)
                memory[name] = max(memory.get(name, 0.0), answer.get("memory_mb", 0.0))
                if "error" in answer:
                    results[video.name][name] = answer["error"]
                elif number:  # the first round warms up
                    results[video.name].setdefault(name, []).append(answer["seconds"])
    for child in children.values():
        child.close()
    return results, memory


def ratio(times: Any, base: Any) -> float | None:
    """Median over the rounds of this reader's time by that of another."""
    if not isinstance(times, list) or not isinstance(base, list):
        return None
    return float(np.median(np.array(times) / np.array(base)))


def geometric_mean(values: list[float]) -> float | None:
    return float(np.exp(np.mean(np.log(values)))) if values else None


def report(
    task: str, results: dict[str, dict[str, Any]], memory: dict[str, float], core_videos: set[str]
) -> dict[str, Any]:
    """Prints the table of a task; returns its figures."""
    names = [name for name in readers.READERS if name in memory]
    table = Table(title=f"{task}: ms of CPU time (ratio to the limit)", title_justify="left")
    for column in ("video", *names):
        table.add_column(column, justify="left" if column == "video" else "right")
    for video, row in results.items():
        cells = []
        for name in names:
            part = ratio(row.get(name), row.get("limit"))
            time = _ms(row.get(name, "-"))
            cells.append(f"{time:.1f}" + (f" ({part:.2f})" if part else "") if isinstance(time, float) else time[:24])
        table.add_row(video, *cells)
    means: dict[str, dict[str, float | None]] = {}
    for base in names:
        every = {name: [ratio(results[v].get(name), results[v].get(base)) for v in core_videos] for name in names}
        means[base] = {name: geometric_mean([part for part in parts if part]) for name, parts in every.items()}
    table.add_section()
    for base in names:
        if base != "videogn":
            cells = [f"{part:.2f}" if part else "-" for part in means[base].values()]
            table.add_row(f"H.264 mp4/mkv, by {base}", *cells)
    table.add_row("peak memory, MB", *(f"{memory[name]:.0f}" for name in names))
    Console(width=150).print(table)
    return {"ms": {v: {n: _ms(t) for n, t in row.items()} for v, row in results.items()}, "memory_mb": _rounded(memory),
            "geometric_mean_ratio_over_h264": {base: _rounded(row) for base, row in means.items()}}  # fmt: skip


def _ms(times: Any) -> Any:
    return round(1e3 * float(np.median(times)), 2) if isinstance(times, list) else times


def _rounded(row: dict[str, float | None]) -> dict[str, float | None]:
    return {name: round(value, 3) if value is not None else None for name, value in row.items()}


def bars(figures: dict[str, Any]) -> dict[str, str]:
    """What was aimed at, and whether it is met."""
    values = [
        (f"{task}: at most {bar:.2f} x {base}", _ratio_over_h264(figures, task, base), bar)
        for task, (base, bar) in BARS.items()
    ]
    memory = figures.get("sample", {}).get("memory_mb", {})
    share = memory["videogn"] / memory["pytorchvideo"] if memory.get("pytorchvideo") else None
    values.append((f"sample: at most {MEMORY_BAR} x pytorchvideo's memory", share, MEMORY_BAR))
    out = {name: f"{value:.3f}: {'met' if value <= bar else 'not met'}" for name, value, bar in values if value}
    for name, verdict in out.items():
        print(f"{name}: {verdict}")
    return out


def _ratio_over_h264(figures: dict[str, Any], task: str, base: str) -> float | None:
    return figures.get(task, {}).get("geometric_mean_ratio_over_h264", {}).get(base, {}).get("videogn")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path, metavar="VIDEO", help="files to read (default: generated ones)")
    parser.add_argument("--rounds", type=int, default=7, help="repetitions (default 7)")
    parser.add_argument("--tasks", nargs="+", choices=readers.TASKS, default=readers.TASKS, help="default: all")
    parser.add_argument("--core", type=int, default=0, help="the CPU core that readers are bound to (default 0)")
    parser.add_argument("--write", action="store_true", help="put the figures into scripts/results/bench_decode.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos = options.videos
        if not videos:
            videos = [write_natural_video(Path(folder, name), **keywords) for name, keywords in GENERATED.items()]
        h264 = {video.name for video in videos if readers.is_h264_mp4_or_mkv(video)}
        figures = {}
        for task in options.tasks:
            figures[task] = report(task, *measure(task, videos, options.rounds, options.core), h264)
    verdicts = bars(figures)
    if options.write:
        key = "given files" if options.videos else "generated files"
        print(write_result("bench_decode", key, {"rounds": options.rounds, "bars": verdicts, "tasks": figures}))


if __name__ == "__main__":
    main()
