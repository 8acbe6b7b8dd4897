"""Speed of inference on this CPU: norms, folding and bfloat16, taking turns; and whether bfloat16 keeps the top-5.
Files per second of `videogn classify` beside a naive loop and the bound of the cores.

OMP_NUM_THREADS=1 python scripts/bench_inference.py
python scripts/bench_inference.py --throughput
OMP_NUM_THREADS=1 python scripts/bench_inference.py --checkpoint last.ckpt VIDEO ...
"""

import argparse
import statistics
import time

import torch
from bench_inference_files import CASES as FILE_CASES
from bench_inference_files import measure_throughput
from measured import write_result

from videogn import load, predict_video
from videogn.errors import VideoError
from videogn.inference import for_inference, has_bfloat16
from videogn.module import VideoClassifier
from videogn.spec import ClipSpec

CASES = {
    "bn": ("bn", None),
    "bn, folded": ("bn", "float32"),
    "bn, folded, bfloat16": ("bn", "bfloat16"),
    "gn": ("gn", None),
    "gn, bfloat16": ("gn", "bfloat16"),
    "gn_ws": ("gn_ws", None),
    "gn_ws, weights stored standardised": ("gn_ws", "float32"),
}


def measure_speed(options: argparse.Namespace) -> None:
    """Median clips/s of every case, and the median over rounds of its time as a share of plain bn's in that round."""
    models = {}
    for name, (norm, precision) in CASES.items():
        model = VideoClassifier(norm=norm).eval().requires_grad_(False)
        model.clip = ClipSpec(frames=options.frames)
        models[name] = model if precision is None else for_inference(model, precision)
    shape = (options.clips, options.frames, options.size, options.size, 3)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8).permute(0, 4, 1, 2, 3)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for i in range(options.rounds + 1):
            for name, model in models.items():
                start = time.perf_counter()
                model(clips)
                if i > 0:
                    seconds[name].append(time.perf_counter() - start)
    rows = {}
    for name, times in seconds.items():
        share = statistics.median(t / bn for t, bn in zip(times, seconds["bn"], strict=True))
        rows[name] = {"clips_per_s": round(options.clips / statistics.median(times), 2), "time_of_bn": round(share, 3)}
        print(f"{name:36} {rows[name]['clips_per_s']:8.2f} clips/s   {share:7.3f} x bn's time")
    network = f"I3D ResNet-50 32x2, {options.clips}x{options.frames}x{options.size}x{options.size}"
    write_result("bench_inference", "speed", {"network": network, **_machine(), "cases": rows})


def measure_agreement(options: argparse.Namespace) -> None:
    """On how many videos float32 and bfloat16 have the same five best classes, and the same best one."""
    model = load(options.checkpoint)
    models = [for_inference(model, "float32"), for_inference(model, "bfloat16")]
    same_five = same_first = videos = 0
    largest = 0.0
    for path in options.videos:
        try:
            found = [
                {p.label: p.probability for p in predict_video(m, path, topk=len(model.class_names))} for m in models
            ]
        except VideoError as error:
            print(f"left out: {error}")
            continue
        best, best_low = (list(probabilities)[:5] for probabilities in found)
        difference = max(abs(found[0][label] - found[1][label]) for label in found[0])
        videos += 1
        same_five += set(best) == set(best_low)
        same_first += best[0] == best_low[0]
        largest = max(largest, difference)
    print(f"same top-5 {same_five}/{videos}, same top-1 {same_first}/{videos}, largest difference {largest:.4f}")
    fields = {
        "videos": videos,
        "same_top5": same_five,
        "same_top1": same_first,
        "largest_difference": round(largest, 4),
    }
    network = {k: model.hparams[k] for k in ("num_classes", "depth", "variant", "width", "norm", "norm_kwargs")}
    write_result("bench_inference", f"top5 {options.name}", {"network": network, **_machine(), **fields})


def _machine() -> dict[str, object]:
    return {"threads": torch.get_num_threads(), "native_bfloat16": has_bfloat16(torch.device("cpu"))}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="with --checkpoint")
    parser.add_argument("--checkpoint", metavar="CKPT", help="compare predictions instead of speed")
    parser.add_argument("--name", default="videos", help="what the videos are, for the results file")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--clips", type=int, default=1, help="clips per forward pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--throughput", action="store_true", help="many files: classify, a loop, and the bound")
    parser.add_argument("--cases", nargs="+", choices=FILE_CASES, default=[*FILE_CASES], help="of --throughput")
    parser.add_argument("--copies", type=int, default=4, help="of each of the four files of --throughput")
    options = parser.parse_args()
    if options.throughput:
        measure_throughput(options.rounds, options.copies, options.cases)
    elif options.checkpoint:
        measure_agreement(options)
    else:
        measure_speed(options)


if __name__ == "__main__":
    main()
