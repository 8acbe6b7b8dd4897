"""Time of a training step and of evaluation on the CPU: GN by BN and torch's own layers, and the memory options.

python scripts/bench_cpu.py [--rounds 15] [--write]

I3D ResNet-50 (8x8, width 64), one clip of 8x112x112 in channels_last_3d: forward and backward in training, forward in
evaluation, in float32 and under bfloat16 autocast. ``nn.Conv3d`` is BN with torch's own convolutions. ``memory`` is a
training step of GN with each memory option. Each round runs every network once, in turn; a ratio is the median over the
rounds of this network's time by that of the first one (BN; ``keep``) of the same round. Set for all alike: glibc keeps
freed memory, whose pages would otherwise be fetched again in every step.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BARS = {"step bfloat16": 1.16, "step float32": 1.02, "evaluation bfloat16": 1.03, "evaluation float32": 1.03}
TASKS = (*BARS, "memory float32")
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}


def measure(task: str, rounds: int) -> dict[str, list[float]]:
    """Network -> seconds of every round."""
    import torch
    from torch import nn

    from videogn.i3d import i3d_resnet

    phase, dtype = task.split()
    cases: dict[str, dict[str, Any]] = {
        "bn": {"norm": "bn"},
        "gn": {"norm": "gn"},
        "nn.GroupNorm": {"norm": lambda channels: nn.GroupNorm(32, channels)},
    }
    cases["nn.Conv3d"] = cases["bn"]
    if phase == "memory":
        cases = {memory: {"norm": "gn", "memory": memory} for memory in ("keep", "recompute", "low", "lowest")}
    training = phase != "evaluation"
    clip = torch.randn(1, 3, 8, 112, 112).to(memory_format=torch.channels_last_3d)
    label = torch.zeros(1, dtype=torch.int64)
    runs: dict[str, Callable[[], None]] = {}
    for name, case in cases.items():
        torch.manual_seed(0)
        network = i3d_resnet(num_classes=400, variant="8x8", zero_init_last_norm=False, **case)
        network = network.to(memory_format=torch.channels_last_3d).train(training)
        for layer in network.modules():
            if name == "nn.Conv3d" and isinstance(layer, nn.Conv3d):
                layer.__class__ = nn.Conv3d

        def run(network: nn.Module = network) -> None:
            autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
            with autocast, torch.set_grad_enabled(training):
                logits = network(clip)
            if training:
                nn.functional.cross_entropy(logits.float(), label).backward()
                for parameter in network.parameters():
                    parameter.grad = None

        runs[name] = run
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number >= 2:
                times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="repetitions (default 15)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="default: all")
    parser.add_argument("--write", action="store_true", help="put the figures into scripts/results/bench_cpu.json")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ENVIRONMENT})
    import torch
    from measured import write_result

    figures: dict[str, Any] = {}
    for task in options.tasks:
        times = {name: np.array(values) for name, values in measure(task, options.rounds).items()}
        first = next(iter(times.values()))
        ratios = {name: float(np.median(values / first)) for name, values in times.items()}
        figures[task] = {
            "ms": {name: round(1e3 * float(np.median(values)), 1) for name, values in times.items()},
            "ratio_to_first": {name: round(ratio, 3) for name, ratio in ratios.items()},
        }
        if task in BARS:
            figures[task]["bar"] = f"gn at most {BARS[task]}: {'met' if ratios['gn'] <= BARS[task] else 'not met'}"
        cells = "  ".join(f"{name} {1e3 * np.median(v):.1f} ms ({ratios[name]:.3f})" for name, v in times.items())
        print(f"{task:<20} {cells}  {figures[task].get('bar', '')}", flush=True)
    if options.write:
        print(write_result("bench_cpu", f"{torch.get_num_threads()} threads", {"rounds": options.rounds, **figures}))


if __name__ == "__main__":
    main()
