"""Whether a run that is killed again and again ends with the weights of one that was left alone, to the bit.

python scripts/kill_runs.py                     # the demo, 20 kills: about 12 minutes on 2 cores
python scripts/kill_runs.py --processes 2       # the same on two processes (DDP)
python scripts/kill_runs.py --json

Runs `videogn fit -c configs/demo.yaml` once as it is, and once more into another folder, where the whole group of its
processes gets SIGKILL at random moments, at least 20 times: while it starts, reads, trains, writes a checkpoint, or
validates. Each time it is started again with --ckpt_path last and another number of data workers. In the end weights,
optimiser, schedule, generators and counters of both last checkpoints, and all of metrics.csv but train/data_wait, have
to be equal to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measured import write_result

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
WORKERS = (1, 2, 0, 3)
PATHS = ("ModelCheckpoint", "TrainingRecord")  # states that hold paths and seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="at least (default 20)")
    parser.add_argument("--processes", type=int, default=1, help="training processes (default 1)")
    parser.add_argument("--longest", type=float, default=24.0, help="seconds until a kill, at most (default 24)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--config", type=Path, default=CONFIG, help="of the run (default: the demo)")
    parser.add_argument("--folder", type=Path, help="where videos and runs stay (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="also write scripts/results/kill_runs.json")
    arguments = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        command = [sys.executable, "-m", "videogn", "fit", "-c", str(arguments.config)]
        command += ["--data.root", str(folder / "data"), "--resume.every_n_steps", "7"]
        command += ["--trainer.enable_progress_bar", "false", *_ddp(arguments.config, arguments.processes)]
        alone, killed = folder / "alone", folder / "killed"
        seconds = run_alone([*command, "--trainer.default_root_dir", str(alone)])
        again = [*command, "--trainer.default_root_dir", str(killed), "--ckpt_path", "last"]
        moments = run_killed(again, killed, steps_done(alone), arguments)
        found = compare(_only_run(alone), _only_run(killed))
    fields = {
        "processes": arguments.processes,
        "kills": len(moments),
        "steps_done_at_each_kill": moments,
        "steps": found["steps"],
        "values_compared": found["values"],
        "rows_of_metrics_compared": found["rows"],
        "different": found["different"],
        "seconds_alone": round(seconds),
        "minutes": round((time.perf_counter() - start) / 60, 1),
    }
    for name, value in fields.items():
        print(f"{name}: {value}")
    if arguments.json:
        print(f"written to {write_result('kill_runs', f'{arguments.processes} processes', fields)}")
    if len(moments) < arguments.kills:
        print(f"finished after {len(moments)} kills: choose a smaller --longest for {arguments.kills}", file=sys.stderr)
    return 1 if found["different"] or len(moments) < arguments.kills else 0


def _ddp(config: Path, processes: int) -> list[str]:
    if processes == 1:
        return []
    import yaml

    batch = yaml.safe_load(config.read_text())["data"]["batch_size"]
    share = ["--data.batch_size", str(batch // processes)]
    return ["--trainer.devices", str(processes), "--trainer.strategy", "ddp", *share]


def run_alone(command: list[str]) -> float:
    """Seconds that the command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def run_killed(command: list[str], folder: Path, steps: int, arguments: argparse.Namespace) -> list[int]:
    """Starts and kills the command until it has been killed often enough; then lets it finish.

    A run that has come further than its share of the kills is killed soon after its next start.

    Args:
        command: to be started again each time.
        folder: of the run.
        steps: of the whole run.
        arguments: of this script.

    Returns:
        How many optimiser steps the last checkpoint had at each kill.
    """
    chance = random.Random(arguments.seed)
    moments: list[int] = []
    while True:
        workers = WORKERS[len(moments) % len(WORKERS)]
        process = subprocess.Popen(
            [*command, "--data.num_workers", str(workers)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        enough = len(moments) >= arguments.kills
        ahead = bool(moments) and moments[-1] / steps > len(moments) / arguments.kills
        longest = arguments.longest / 2 if ahead else arguments.longest
        try:
            _, said = process.communicate(timeout=None if enough else chance.uniform(0, longest))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            moments.append(steps_done(folder))
            print(f"kill {len(moments)}: {moments[-1]} steps, {workers} workers", file=sys.stderr, flush=True)
            continue
        if process.returncode:
            raise SystemExit(f"ended with {process.returncode} after {len(moments)} kills:\n{said}")
        return moments


def steps_done(folder: Path) -> int:
    """Optimiser steps of the newest checkpoint; 0 where there is none."""
    with contextlib.suppress(FileNotFoundError, IndexError):
        newest = max(
            folder.glob("version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime, default=None
        )
        return int(torch.load(newest, weights_only=True)["global_step"]) if newest else 0
    return 0


def _only_run(folder: Path) -> Path:
    """The folder of the run with a checkpoint: a kill before the first leaves one without."""
    (checkpoint,) = folder.glob("version_*/checkpoints/last.ckpt")
    return checkpoint.parents[1]


def compare(a: Path, b: Path) -> dict[str, Any]:
    """How many values of two runs were compared, and the names of those that differ."""
    left, right = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (a, b))
    for checkpoint in (left, right):
        checkpoint["videogn_resume"].pop("loggers")
        states = checkpoint["callbacks"]
        checkpoint["callbacks"] = {name: value for name, value in states.items() if not name.startswith(PATHS)}
    flat, other = dict(flatten(left)), dict(flatten(right))
    different = [name for name in {**flat, **other} if not same(flat.get(name), other.get(name))]
    rows, others = table(a), table(b)
    different += [
        f"metrics.csv, row {i}" for i, pair in enumerate(zip(rows, others, strict=False)) if pair[0] != pair[1]
    ]
    different += ["metrics.csv, number of rows"] if len(rows) != len(others) else []
    return {"values": len(flat), "rows": len(rows), "steps": left["global_step"], "different": different}


def flatten(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """The leaves of a tree of dictionaries and lists, with their names."""
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list | tuple):
        children = enumerate(value)
    else:
        return [(name, value)]
    return [leaf for key, child in children for leaf in flatten(child, f"{name}/{key}")]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


def table(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return [
            {name: value for name, value in row.items() if name != "train/data_wait"} for row in csv.DictReader(file)
        ]


if __name__ == "__main__":
    sys.exit(main())
