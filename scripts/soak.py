"""Trains for a long time through the command line and watches what the run's processes hold.

    python scripts/soak.py --steps 2000 --json

`videogn fit` on small demo videos, of which some are damaged, with data workers, the children that they decode in,
validation, and checkpoints every few steps; now and then one of the children is killed, as by a decoder that crashes.
Every few steps, before a batch is used, all processes of the run are looked at (Linux): the training process, its
workers, and the workers' children.

- memory of each kind of process, in MB: anonymous and shared memory, of which pages that several processes share count
  in parts, and grow where sharing ends; no mapped files, which other programs share. heap_mb is the training process's
  anonymous memory, shared or not: what a leak in it would add to.
- open files: of training and workers; and of the children, which are born with what their worker has open at that
  moment (batches on their way), so that they have more when they were replaced, up to a bound.
- threads, processes, mappings of shared memory, and files in /dev/shm: of all together.

Growth is what lies between the medians of the first and of the last tenth of the looks, without the first quarter of
the run, which is for warming up: a leak shows and so does a jump.

Exit code 1: something grows by more than its limit per 1,000 steps; it is named.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

LIMITS = {  # growth per 1,000 steps
    "heap_mb": 4.0,
    "training_mb": 4.0,
    "workers_mb": 4.0,
    "children_mb": 4.0,
    "files": 2.0,
    "children_files": 8.0,
    "threads": 1.0,
    "processes": 1.0,
    "shared_maps": 4.0,
    "shm_files": 4.0,
}
CONFIG = """
seed_everything: 0
model: {{num_classes: 8, variant: 8x8, width: 8, norm: bn, dropout: 0.5}}
data:
  root: {root}
  num_workers: {workers}
  batch_size: 2
  clip: {{frames: 4, stride: 1, train_short_side: [32, 32], train_crop: 32, flip: 0.0,
         protocol: {{clips: 2, short_side: 32}}}}
resume: {{every_n_steps: 20}}
trainer:
  default_root_dir: {folder}
  accelerator: cpu
  devices: 1
  max_epochs: -1
  max_steps: {steps}
  val_check_interval: 20
  log_every_n_steps: 5
  enable_progress_bar: false
  enable_model_summary: false
  callbacks: [{{class_path: soak.Watch, init_args: {{path: {samples}, every: {every}, kill_every: {kill_every}}}}}]
"""


class Watch(Callback):
    """Writes a line about the run's processes every few steps.

    Args:
        path: of the file.
        every: steps between two looks.
        kill_every: looks between two children that are killed.
    """

    def __init__(self, path: str, every: int, kill_every: int) -> None:
        self.path, self.every, self.kill_every = path, every, kill_every
        self._looks = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every:
            return
        gc.collect()  # at some step it would come by itself, and write into all pages that are shared with the workers
        levels = family(os.getpid())
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": trainer.global_step, **look(levels)}) + "\n")
        self._looks += 1
        if self._looks % self.kill_every == 0 and len(levels) > 2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(levels[2][self._looks // self.kill_every % len(levels[2])], signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="(default 2000)")
    parser.add_argument("--every", type=int, default=20, help="steps between two looks (default 20)")
    parser.add_argument("--workers", type=int, default=2, help="(default 2)")
    parser.add_argument("--samples", type=Path, help="keep what was seen, one line per look, in this file")
    parser.add_argument("--json", action="store_true", help="also write scripts/results/soak.json")
    arguments = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        samples, counted = soak(Path(folder), arguments.steps, arguments.every, arguments.workers)
    if arguments.samples:
        arguments.samples.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    grown = {name: growth([(s["step"], s[name]) for s in samples[len(samples) // 4 :]]) for name in LIMITS}
    rows = {
        name: {
            "first": samples[len(samples) // 4][name],
            "last": samples[-1][name],
            "most": max(sample[name] for sample in samples),
            "growth_per_1000_steps": round(grown[name], 3),
            "limit": limit,
        }
        for name, limit in LIMITS.items()
    }
    for name, row in rows.items():
        print(f"{name:15s}", *(f"{key} {value:9.2f}" for key, value in row.items()))
    if arguments.json:
        from measured import write_result

        seconds = round(time.perf_counter() - start, 1)
        fields = {"steps": arguments.steps, "looks": len(samples), "seconds": seconds, **counted, "rows": rows}
        print(write_result("soak", f"{arguments.steps} steps", fields))
    too_much = [name for name, limit in LIMITS.items() if grown[name] > limit]
    for name in too_much:
        print(f"{name} grows: by {grown[name]:.2f} per 1,000 steps, allowed are {LIMITS[name]:g}", file=sys.stderr)
    return 1 if too_much else 0


def soak(folder: Path, steps: int, every: int, workers: int) -> tuple[list[dict[str, float]], dict[str, int]]:
    """Trains; what was seen, and what happened on the way."""
    root = folder / "videos"
    damaged = make_videos(root)
    samples, config = folder / "samples.jsonl", folder / "soak.yaml"
    config.write_text(
        CONFIG.format(
            root=root, workers=workers, folder=folder / "runs", steps=steps, samples=samples, every=every, kill_every=5
        )
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "videogn", "fit", "-c", str(config)]
    with open(folder / "output.txt", "w") as output:
        code = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
    text = (folder / "output.txt").read_text()
    if code != 0:
        raise SystemExit(f"videogn fit ended with exit code {code}:\n{text[-4000:]}")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    return found, {"damaged_videos": damaged, "children_killed": len(found) // 5}


def make_videos(root: Path) -> int:
    """Demo videos, of which some are damaged; how many are."""
    from videogn.data.demo import DemoSpec, generate_demo

    generate_demo(root, DemoSpec(train_per_class=10, val_per_class=1, size=32, frames=12))
    first, second, third, *_ = sorted((root / "train").rglob("*.mp4"))[::27]
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    second.write_bytes(b"")
    third.write_bytes(os.urandom(2000))
    return 3


# -- processes ---------------------------------------------------------------------------------------------------------


def family(pid: int) -> list[list[int]]:
    """The process, its children, their children and so on."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
    levels = [[pid]]
    while below := sorted(child for child, parent in parents.items() if parent in levels[-1]):
        levels.append(below)
    return levels


def look(levels: list[list[int]]) -> dict[str, float]:
    """What the processes of a family hold at this moment; one that ends meanwhile holds nothing."""
    kinds = dict(itertools.zip_longest(("training_mb", "workers_mb", "children_mb"), levels[:3], fillvalue=[]))
    everyone = [pid for level in levels for pid in level]
    found = {kind: sum(map(memory, pids)) for kind, pids in kinds.items()}
    maps = [line for pid in everyone for line in lines(pid, "maps")]
    mine = tuple(f"torch_{pid}_" for pid in everyone)
    heap = next((int(line.split()[1]) for line in lines(levels[0][0], "status") if line.startswith("RssAnon:")), 0)
    return found | {
        "heap_mb": heap * 1024 / 1e6,
        "each_mb": [[round(memory(pid), 2) for pid in level] for level in levels],
        "files": sum(files(pid) for level in levels[:2] for pid in level),
        "children_files": sum(files(pid) for level in levels[2:] for pid in level),
        "threads": sum(int(line.split()[1]) for p in everyone for line in lines(p, "status") if line[:8] == "Threads:"),
        "processes": len(everyone),
        "shared_maps": sum("/dev/shm/" in line or "/dev/zero" in line for line in maps),
        "shm_files": sum(name.startswith(mine) for name in os.listdir("/dev/shm")),
    }


def lines(pid: int, name: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/{name}").read_text().splitlines()
    except OSError:
        return []


def memory(pid: int) -> float:
    """Anonymous and shared memory in MB, what is shared divided by how many share it."""
    kinds = ("Pss_Anon:", "Pss_Shmem:")
    return sum(int(line.split()[1]) for line in lines(pid, "smaps_rollup") if line.startswith(kinds)) * 1024 / 1e6


def files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def growth(points: list[tuple[int, float]]) -> float:
    """Per 1,000 steps, from the median of the first tenth of (step, value) to that of the last."""
    tenth = max(1, len(points) // 10)
    ends = points[:tenth], points[-tenth:]
    (first, before), (last, after) = ([statistics.median(values) for values in zip(*end, strict=True)] for end in ends)
    return 1000 * (after - before) / (last - first)


if __name__ == "__main__":
    sys.exit(main())
