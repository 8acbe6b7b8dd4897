"""Whether fine-tuning beats training from nothing, with bn and gn, also when the batch changes from 8 to 2.

python scripts/finetune_demo.py                 # at most 12 minutes on 2 cores, data included
python scripts/finetune_demo.py --json

Pre-trains on four classes of generated motion (configs/finetune_demo_pretrain.yaml, once per norm, batch 8), then
trains on the other four, 10 videos per class (configs/finetune_demo.yaml): from the pre-trained weights and from
nothing, with batch 8 and 2, with several seeds (first weights, order, clips). The recipe is the same in all of them.
All runs are `videogn fit`, in processes of one thread. Prints the video-level top-1 of the last weights: mean and
standard deviation over the seeds.

The classes, the learning rate and the length were chosen on videos of another seed (--data-seed 1).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # processes side by side, whose tensors are too small for threads

import yaml
from measured import write_result

from videogn.data.cores import available_cores
from videogn.data.demo import DemoSpec, generate_demo

CONFIGS = Path(__file__).parents[1] / "configs"
PRETRAIN, FINETUNE = CONFIGS / "finetune_demo_pretrain.yaml", CONFIGS / "finetune_demo.yaml"
NORMS, BATCHES, STARTS = ("bn", "gn"), (8, 2), ("nothing", "pre-trained")


@dataclass(frozen=True)
class Job:
    """One run of `videogn fit`: its options, and the folder that it writes."""

    config: Path
    norm: str
    folder: Path
    options: tuple[str, ...]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "version_0" / "checkpoints" / "last.ckpt"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the second half (default 0 1 2)")
    parser.add_argument("--data-seed", type=int, default=0, help="of the generated videos (default 0)")
    parser.add_argument("--processes", type=int, default=available_cores(), help="runs at a time (default: the cores)")
    parser.add_argument("--folder", type=Path, help="where videos and runs stay (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="also write scripts/results/finetune_demo.json")
    arguments = parser.parse_args()
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        pretraining, finetuning = measure(folder, arguments.data_seed, arguments.seeds, arguments.processes)
    minutes = (time.perf_counter() - start) / 60

    videos = {values["val/videos"] for values in finetuning.values()}
    assert len(videos) == 1, f"every run should be validated on the same number of videos, found {videos}"
    accuracy = {key: round(values["val/top1"], 4) for key, values in finetuning.items()}
    before = {norm: round(values["val/top1"], 4) for norm, values in pretraining.items()}
    print(f"Pre-training, val/top1 of {int(pretraining['bn']['val/videos'])} videos: {before}\n")
    print(f"val/top1 of {int(videos.pop())} videos; mean ± standard deviation of seeds {arguments.seeds}\n")
    print(table(accuracy, arguments.seeds))
    print(f"\n{minutes:.1f} minutes, {arguments.processes} processes of one thread")
    if arguments.json:
        fields = {
            "minutes": round(minutes, 2),
            "processes": arguments.processes,
            "load_average_before": load,
            "data_seed": arguments.data_seed,
            "seeds": arguments.seeds,
            "val_videos": int(next(iter(finetuning.values()))["val/videos"]),
            "pretraining_top1": before,
            "top1": {
                f"{norm}, batch {batch}, from {begin}": [accuracy[norm, batch, begin, s] for s in arguments.seeds]
                for norm, batch, begin in itertools.product(NORMS, BATCHES, STARTS)
            },
        }
        print(f"written to {write_result('finetune_demo', 'bn and gn', fields)}")
    return 0


Key = tuple[str, int, str, int]


def measure(
    folder: Path, data_seed: int, seeds: Sequence[int], processes: int
) -> tuple[dict[str, dict[str, float]], dict[Key, dict[str, float]]]:
    """Last metrics of the pre-training per norm, and of each run of the second half per norm, batch, start and seed."""
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch may hang
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        roots = {config: folder / f"{config.stem}_data_{data_seed}" for config in (PRETRAIN, FINETUNE)}
        list(pool.map(generate, roots, roots.values(), [data_seed] * 2))
        shared = {
            config: ("--data.root", str(root), "--data.demo.seed", str(data_seed)) for config, root in roots.items()
        }
        before = {norm: Job(PRETRAIN, norm, folder / f"pretrain_{norm}", shared[PRETRAIN]) for norm in NORMS}
        after: dict[Key, Job] = {}
        # Small batches take longest: they go first, so that no process is left alone with one.
        for seed, batch, norm, begin in itertools.product(seeds, sorted(BATCHES), NORMS, STARTS):
            init = ("--model.init_from", str(before[norm].checkpoint)) if begin == "pre-trained" else ()
            options = (*shared[FINETUNE], "--data.batch_size", str(batch), "--seed_everything", str(seed), *init)
            name = f"{norm}_batch{batch}_{begin}_seed{seed}"
            after[norm, batch, begin, seed] = Job(FINETUNE, norm, folder / name, options)
        pretraining = dict(zip(before, run_all(pool, list(before.values())), strict=True))
        return pretraining, dict(zip(after, run_all(pool, list(after.values())), strict=True))


def generate(config: Path, root: Path, seed: int) -> None:
    """The videos of a configuration, with another seed."""
    generate_demo(root, DemoSpec(**{**yaml.safe_load(config.read_text())["data"]["demo"], "seed": seed}))


def run_all(pool: ProcessPoolExecutor, jobs: Sequence[Job]) -> list[dict[str, float]]:
    """Last metrics of each job; prints how far the runs are."""
    results = []
    for done, (job, result) in enumerate(zip(jobs, pool.map(run, jobs), strict=True), 1):
        results.append(result)
        print(f"{done:3d} of {len(jobs)}  {job.folder.name}: {result['val/top1']:.4f}", file=sys.stderr, flush=True)
    return results


def run(job: Job) -> dict[str, float]:
    """`videogn fit` in this process; the last value of each metric that it logs."""
    from videogn.cli import main as videogn

    command = ["fit", "-c", str(job.config), *(("-c", str(CONFIGS / "norm" / "bn.yaml")) if job.norm == "bn" else ())]
    command += ["--trainer.default_root_dir", str(job.folder), "--trainer.enable_progress_bar", "false"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = videogn([*command, "--data.num_workers", "0", *job.options])
        except SystemExit as error:  # an option that the parser refuses
            code = int(error.code or 0)
    if code:
        raise RuntimeError(f"videogn {' '.join(command)} ended with {code}:\n{said.getvalue()}")
    metrics: dict[str, float] = {}
    with open(job.folder / "version_0" / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            metrics |= {name: float(value) for name, value in row.items() if value}
    return metrics


def table(top1: dict[Key, float], seeds: Sequence[int]) -> str:
    """Markdown: one line per norm and batch."""
    lines = ["| norm | batch | from nothing | fine-tuned |", "|---|---|---|---|"]
    for norm, batch in itertools.product(NORMS, BATCHES):
        cells = [spread([top1[norm, batch, begin, seed] for seed in seeds]) for begin in STARTS]
        lines.append(f"| {norm} | {batch} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    sys.exit(main())
