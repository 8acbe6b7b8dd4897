"""Reads clips for a long time in one process and watches its memory and its open files.

    OMP_NUM_THREADS=1 python scripts/soak_decode.py --reads 50000 [VIDEO ...]

Every read opens one of the generated small files of all containers (or of the given VIDEOs), by turns, asks for a clip
of eight frames with a random start and stride, and closes it. Resident memory and open file descriptors are sampled
every ``--every`` reads once ``--warm-up`` reads are done. The growth of memory is that from the median of the first
tenth of the samples to the median of the last tenth. Exit code 1: it is above 1 %, or the number of open files changed.
``anonymous`` is the part of resident memory that is no mapped library.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measured import write_result

from videogn.data.decode import BACKENDS, VideoReader, check_backend
from videogn.data.guard import Guard

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from fuzzing import write_seeds

CLIP = 8
GROWTH = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, metavar="VIDEO", help="real files to read as well")
    parser.add_argument("--reads", type=int, default=50_000)
    parser.add_argument("--warm-up", type=int, default=2_000)
    parser.add_argument("--every", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=BACKENDS, default="pyav")
    arguments = parser.parse_args()
    check_backend(arguments.backend)
    torch.set_num_threads(1)
    rng = np.random.default_rng(arguments.seed)
    start = time.perf_counter()
    memory: list[int] = []
    anonymous: list[int] = []
    descriptors: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        with Guard(lambda folder, beat: write_seeds(Path(folder)), timeout=120) as encoders:  # in another's memory
            sources = [*encoders.call(folder, folder), *arguments.videos]
        for number in range(arguments.warm_up + arguments.reads + 1):
            if number >= arguments.warm_up and (number - arguments.warm_up) % arguments.every == 0:
                memory.append(resident("VmRSS"))
                anonymous.append(resident("RssAnon"))
                descriptors.append(len(os.listdir("/proc/self/fd")))
                print(f"{number:6d} reads  {memory[-1] / 2**20:8.2f} MiB  {descriptors[-1]} open files", flush=True)
            read_clip(sources[number % len(sources)], rng, arguments.backend)
    first, last = ends(memory)
    growth = last / first - 1
    fields = {
        "backend": arguments.backend,
        "seed": arguments.seed,
        "files": len(sources),
        "reads": arguments.reads,
        "warm_up": arguments.warm_up,
        "seconds": round(time.perf_counter() - start, 1),
        "memory_first_mib": round(first / 2**20, 2),
        "memory_last_mib": round(last / 2**20, 2),
        "memory_growth_kib": round((last - first) / 1024),
        "memory_growth_percent": round(100 * growth, 3),
        "anonymous_first_last_mib": [round(value / 2**20, 2) for value in ends(anonymous)],
        "open_files": sorted(set(descriptors)),
        "samples_mib": [round(value / 2**20, 2) for value in memory],
    }
    print("; ".join(f"{key}: {value}" for key, value in fields.items() if key != "samples_mib"))
    print(f"written: {write_result('soak_decode', arguments.backend, fields)}")
    return 1 if growth > GROWTH or len(set(descriptors)) > 1 else 0


def read_clip(path: Path, rng: np.random.Generator, backend: str) -> None:
    with VideoReader(path, backend) as reader:
        stride = int(rng.integers(1, 3))
        first = rng.integers(0, max(1, reader.num_frames - CLIP * stride))
        reader.read(np.minimum(first + stride * np.arange(CLIP), reader.num_frames - 1))


def ends(samples: list[int]) -> tuple[float, float]:
    """Medians of the first and of the last tenth."""
    window = max(1, len(samples) // 10)
    return statistics.median(samples[:window]), statistics.median(samples[-window:])


def resident(field: str) -> int:
    """A field of ``/proc/self/status`` in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    sys.exit(main())
