"""Everything that has to be measured on a GPU, in one command of less than 8 minutes.

    python scripts/gpu_suite.py --out gpu_suite.json
    python scripts/gpu_suite.py --tiny --device cpu --out tiny.json        # the same paths in seconds, without a GPU

Sections, in this order, each with a share of the time; what one does not use goes to the next ones:

    correctness   norm layers on the device against float64 on the CPU; memory options of the network
    sites         forward and backward time of every norm site against a device copy of the same bytes
    steps         training step: BN, nn.GroupNorm, ours; 32 and 64 frames; batch 1, 2, 4, 8; eager, compiled; memory
    evaluation    clips per second at 32x256x256

One JSON, written anew every few seconds, holds every row from the start: a row that did not fit into the time says so,
one that fails holds its message, and the suite goes on. The tables come last, on the standard output. Exit code 1 if a
correctness check fails or cannot be made because of an error, 2 for a wrong command line, else 0.

Needs torch, torchvision, numpy, and pytorchvideo with fvcore, iopath and termcolor; triton for what is compiled.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

# The package beside this folder, where it is not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

_RESERVE = 0.03  # of the time: nothing starts in it, so that what runs then can end


def main(arguments: list[str] | None = None) -> int:
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_suite.json"), help="(default gpu_suite.json)")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything together (default 8)")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: shows that the suite works, measures nothing")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(default cuda)")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes: expected a number above 0, found {options.minutes}")

    # Not at the top: they import torch, which takes seconds that count.
    import torch
    from gpu_suite_correctness import norm_groups
    from gpu_suite_environment import environment, use_settings
    from gpu_suite_network import network_groups
    from gpu_suite_plan import full_plan, tiny_plan
    from gpu_suite_report import report
    from gpu_suite_run import Budget, Results, Section, run_sections
    from gpu_suite_sites import site_groups
    from gpu_suite_steps import eval_groups, step_groups

    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: expected a CUDA device, found none; to try the suite use --device cpu --tiny")
    device = torch.device(options.device)
    use_settings()
    plan = (tiny_plan if options.tiny else full_plan)(device)
    results = Results(options.out, environment(device) | {"minutes": options.minutes, "tiny": options.tiny})
    sections = [
        Section("correctness", 1.5, lambda: network_groups(plan) + norm_groups(plan)),
        Section("sites", 2.0, lambda: site_groups(plan)),
        Section("steps", 5.0, lambda: step_groups(plan)),
        Section("evaluation", 1.5, lambda: eval_groups(plan)),
    ]
    run_sections(sections, results, Budget(begin + options.minutes * 60 * (1 - _RESERVE)))
    results.finished = True
    results.save()
    print(report(results.environment, results.sections))
    print(f"\n{time.monotonic() - begin:.0f} s; all numbers: {options.out}")
    return int(any(row["status"] in ("failed", "error") for row in results.rows("correctness")))


if __name__ == "__main__":
    sys.exit(main())
