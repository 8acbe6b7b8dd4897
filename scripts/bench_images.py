"""Training pictures per second of `videogn pretrain` beside torchvision's ImageFolder with transforms.v2.

python scripts/bench_images.py                      # generated JPEG files: 500 x 375, quality 92, about 85 KB
python scripts/bench_images.py --workers 0 1 --json

Each loader decodes, crops, scales to 224, flips and collates the same files to uint8 batches; they take turns, and
ratios are taken within a turn: median, smallest, largest. With workers, videogn's reads also with the guard that ends
hanging decoders (data.decode_timeout). torchvision's transforms work on Pillow's pictures ("pil") or on tensors
("tensor"). CPU time is that of all processes of the loader and of the main process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import PIL
import torch
import torchvision
from bench_loader import cpu_seconds
from measured import write_result
from natural_video import texture
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from videogn.data.cores import available_cores
from videogn.data.datamodule_images import ImageDataModule
from videogn.data.loader import start_worker

GENERATED, CLASSES = 32, 4
BATCH = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1], help="(default 0 1)")
    parser.add_argument("--pictures", type=int, default=512, help="per epoch (default 512)")
    parser.add_argument("--rounds", type=int, default=9, help="epochs of each loader (default 9)")
    parser.add_argument("--json", action="store_true", help="also write scripts/results/bench_images.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    busy = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory() as folder:
        size = write_pictures(Path(folder), arguments.pictures)
        rows = [row for workers in arguments.workers for row in measure(folder, workers, arguments)]
    show(rows)
    if arguments.json:
        versions = {"torchvision": torchvision.__version__, "pillow": PIL.__version__}
        fields = {"cores": available_cores(), "load_before": busy, "kilobytes_per_picture": size, **versions}
        print(write_result("bench_images", "500x375 JPEG to 224", {**fields, "rows": rows}))
    return 0


def write_pictures(root: Path, count: int) -> float:
    """Class folders of ``count`` JPEG files, of which :data:`GENERATED` differ; returns their mean size in KB."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(GENERATED):
        pixels = texture(rng, 375, 500) + rng.normal(0, 9, (375, 500, 1))
        path = root / f"{i}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=92)
        files.append(path)
    for split in ("train", "val"):
        for i in range(count):
            (root / split / str(i % CLASSES)).mkdir(parents=True, exist_ok=True)
            os.link(files[i % GENERATED], root / split / str(i % CLASSES) / f"{i}.jpg")
    return round(statistics.mean(path.stat().st_size for path in files) / 1000, 1)


def measure(root: str, workers: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The lines of the table for one number of workers."""
    crop, flip, to_tensor = v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()
    loaders: dict[str, DataLoader[Any]] = {
        "torchvision pil": peer(root, v2.Compose([crop, flip, to_tensor]), workers),
        "torchvision tensor": peer(root, v2.Compose([to_tensor, crop, flip]), workers),
        "videogn": ours(root, workers, None),
    }
    if workers:
        loaders["videogn guarded"] = ours(root, workers, 60.0)
    for loader in loaders.values():
        epoch(loader)  # starts the workers, and has the files in memory
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    cpu: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(arguments.rounds):
        for name in sorted(loaders, reverse=turn % 2 == 1):
            before = cpu_seconds()
            seconds[name].append(epoch(loaders[name]))
            cpu[name].append(cpu_seconds() - before)
    return [
        {
            "loader": name,
            "workers": workers,
            "pictures_per_s": round(arguments.pictures / statistics.median(seconds[name])),
            "cpu_ms_per_picture": round(1000 * statistics.median(cpu[name]) / arguments.pictures, 3),
            "speed_over_pil": ratio(seconds["torchvision pil"], seconds[name]),
            "speed_over_tensor": ratio(seconds["torchvision tensor"], seconds[name]),
            "cpu_over_pil": ratio(cpu[name], cpu["torchvision pil"]),
        }
        for name in loaders
    ]


def ours(root: str, workers: int, timeout: float | None) -> DataLoader[Any]:
    data = ImageDataModule(root, batch_size=BATCH, num_workers=workers, decode_timeout=timeout, pin_memory=False)
    return data.train_dataloader()


def peer(root: str, transform: v2.Transform, workers: int) -> DataLoader[Any]:
    data = ImageFolder(os.path.join(root, "train"), transform)
    options = {"shuffle": True, "drop_last": True, "persistent_workers": workers > 0}
    return DataLoader(data, BATCH, num_workers=workers, worker_init_fn=start_worker, **options)


def epoch(loader: DataLoader[Any]) -> float:
    begin = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - begin


def ratio(above: list[float], below: list[float]) -> list[float]:
    """One over the other within each turn: median, smallest, largest."""
    pairs = [a / b if b else 0.0 for a, b in zip(above, below, strict=True)]
    return [round(value, 3) for value in (statistics.median(pairs), min(pairs), max(pairs))]


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"500 x 375 JPEG files to batches of {BATCH} x 224 x 224, {available_cores()} cores")
    headings = ("loader", "workers", "pictures/s", "CPU ms/picture", "speed / pil", "speed / tensor", "CPU / pil")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "loader" else "right")
    for row in rows:
        ratios = ["{:.2f} ({:.2f} - {:.2f})".format(*row[name]) for name in list(row)[4:]]
        table.add_row(
            row["loader"],
            str(row["workers"]),
            str(row["pictures_per_s"]),
            f"{row['cpu_ms_per_picture']:.2f}",
            *ratios,
        )
    Console(width=132).print(table)


if __name__ == "__main__":
    sys.exit(main())
