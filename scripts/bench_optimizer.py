"""Time of one optimiser step of the I3D ResNet-50 on this CPU, torch's default against fused, taking turns.

OMP_NUM_THREADS=1 python scripts/bench_optimizer.py
"""

import argparse
import statistics
import time

import torch
from measured import write_result

from videogn.module import VideoClassifier
from videogn.optim import Recipe, make_optimizer


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    network = VideoClassifier(norm="gn").network
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    cases = {
        (kind, fused): make_optimizer(network, Recipe(optimizer=kind), 1e-4, fused=fused)
        for kind in ("sgd", "adamw")
        for fused in (False, True)
    }
    seconds: dict[tuple[str, bool], list[float]] = {case: [] for case in cases}
    for i in range(options.rounds + 1):
        for case, optimizer in cases.items():
            start = time.perf_counter()
            optimizer.step()
            if i > 0:
                seconds[case].append(time.perf_counter() - start)
    rows = {}
    for (kind, fused), times in seconds.items():
        name = f"{kind}, {'fused' if fused else 'default'}"
        rows[name] = round(statistics.median(times) * 1000, 1)
        print(f"{name:16} {rows[name]:8.1f} ms")
    fields = {"network": "I3D ResNet-50, gn", "threads": torch.get_num_threads(), "milliseconds": rows}
    write_result("bench_optimizer", "step", fields)


if __name__ == "__main__":
    main()
