"""Memory of training an I3D ResNet-50, counted with fake CUDA tensors under bfloat16 autocast: it needs no GPU.

python scripts/bench_memory.py                      # bn, gn and torch's nn.GroupNorm, 32 and 64 frames, all options
python scripts/bench_memory.py --norms gn --frames 32 --json

Saved: what the forward pass keeps for the backward pass, per storage, checkpoints' inputs included; of one clip of
224x224, and what each clip more adds. Peak: the most that is alive at once in a training step with SGD and momentum
(parameters, their copies, gradients and momentum included), and the largest batch whose peak fits. GPUs are named in
GB and have GiB. Not counted, so that a real batch is smaller: cuDNN's workspaces, fragmentation, the CUDA context, what
a GPU's driver keeps, and DDP's gradient buckets.

Exit code 1 where a bar is not met.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import Any, get_args

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measured import write_result
from rich.console import Console
from rich.table import Table
from torch import nn

from videogn.blocks import Memory
from videogn.i3d import i3d_resnet
from videogn.memory import TrainingMemory, count_training
from videogn.optim import Recipe, make_optimizer

SIZE = 224
CARDS = (12, 24, 40, 80, 141)
MIB = 2**20
NORMS: dict[str, Any] = {"bn": "bn", "gn": "gn", "nn.GroupNorm": partial(nn.GroupNorm, 32)}
# MiB that one clip of 32x224x224 may save in the 8x8 network, by norm and option.
BARS = {("gn", "standard"): 830, ("gn", "low"): 590, ("gn", "lowest"): 360, ("bn", "standard"): 1173}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--norms", nargs="+", choices=NORMS, default=list(NORMS))
    parser.add_argument("--frames", nargs="+", type=int, default=[32, 64], help="per clip (default 32 64)")
    parser.add_argument("--options", nargs="+", choices=get_args(Memory), default=list(get_args(Memory)))
    parser.add_argument("--variant", choices=["8x8", "32x2"], default="8x8")
    parser.add_argument("--json", action="store_true", help="also write scripts/results/bench_memory.json")
    arguments = parser.parse_args()

    table = Table(
        "norm", "memory", "frames", "saved, 1 clip", "each more", "peak, 8 clips", *(f"{n} GB" for n in CARDS)
    )
    rows, met = [], True
    for frames in arguments.frames:
        for norm in arguments.norms:
            for option in arguments.options:
                counted = count(norm, option, frames, arguments.variant)
                row = {"norm": norm, "memory": option, "frames": frames, **figures(counted)}
                bar = BARS.get((norm, option)) if (frames, arguments.variant) == (32, "8x8") else None
                if bar is not None:
                    row["bar_mib"] = bar
                    row["met"] = row["saved_mib_one_clip"] <= bar
                    met = met and row["met"]
                rows.append(row)
                table.add_row(*cells(row))
    Console(width=120).print(table)
    for row in rows:
        if "bar_mib" in row:
            print(
                f"{row['norm']} {row['memory']}: {row['saved_mib_one_clip']:.1f} MiB, bar {row['bar_mib']}: "
                + ("met" if row["met"] else "not met")
            )
    if arguments.json:
        setting = "one process, CUDA, bfloat16 autocast, SGD with momentum; counted, not measured"
        fields = {"network": f"I3D ResNet-50 {arguments.variant}", "size": SIZE, "setting": setting, "rows": rows}
        print(f"written: {write_result('bench_memory', arguments.variant, fields)}")
    return 0 if met else 1


def count(norm: str, option: Memory, frames: int, variant: Any) -> TrainingMemory:
    with torch.device("meta"):
        network = i3d_resnet(norm=NORMS[norm], variant=variant, memory=option)
    return count_training(network, frames, SIZE, optimizer=partial(make_optimizer, recipe=Recipe(), lr=0.1))


def figures(counted: TrainingMemory) -> dict[str, Any]:
    return {
        "saved_mib_one_clip": round(counted.saved.at(1) / MIB, 1),
        "saved_mib_each_more": round(counted.saved.per_clip / MIB, 1),
        "peak_mib_8_clips": round(counted.peak(8) / MIB, 1),
        "largest_batch": {f"{card} GB": counted.largest_batch(card * 2**30) for card in CARDS},
    }


def cells(row: dict[str, Any]) -> list[str]:
    sizes = [f"{row[name]:.1f} MiB" for name in ("saved_mib_one_clip", "saved_mib_each_more", "peak_mib_8_clips")]
    return [row["norm"], row["memory"], str(row["frames"]), *sizes, *map(str, row["largest_batch"].values())]


if __name__ == "__main__":
    raise SystemExit(main())
