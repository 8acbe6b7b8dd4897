"""Files per second of `videogn classify` beside a loop over predict_video and the bound of the machine's cores."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from measured import write_result
from natural_video import write_natural_video

from videogn import ClipSpec, Protocol, VideoClassifier, predict_video
from videogn.classify import classify_videos
from videogn.data.cores import available_cores
from videogn.inference import for_inference, read_video
from videogn.lanes import Plan, keep_freed_memory, split

SIZES = [(256, 340, 300), (256, 456, 250), (360, 640, 200), (480, 270, 150)]
"""Height, width and frames of the videos."""
CASES = {
    # name: width of the network, variant, frames, stride, short side, clips
    "small network": (16, "8x8", 16, 2, 64, 10),
    "balanced": (32, "8x8", 8, 8, 112, 10),
    "full network": (64, "32x2", 32, 2, 112, 10),
    "full network, one clip": (64, "32x2", 32, 2, 224, 1),
}


def measure_throughput(rounds: int, copies: int, cases: Sequence[str]) -> None:
    """For every case: the share of the bound that the pipeline reaches, and the loop; median of interleaved rounds.

    The bound is the CPU time of reading all files plus that of computing their clips as the pipeline does, each
    measured alone on one thread, divided by the number of cores.
    """
    cores = available_cores()
    keep_freed_memory()  # as the command does; here for the loop and the bound, too
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_videos(Path(folder), copies)
        for name in cases:
            rows = [_round(name, paths) for _ in range(rounds + 1)][1:]
            fields = {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}
            fields["share_of_bound"] = round(statistics.median(r["bound_s"] / r["pipeline_s"] for r in rows), 3)
            fields["loops_share_of_bound"] = round(statistics.median(r["bound_s"] / r["loop_s"] for r in rows), 3)
            print(
                f"{name:24} decode {fields['decode_cpu_s']:6.2f} s + compute {fields['compute_cpu_s']:6.2f} s on "
                f"{cores} cores: bound {fields['bound_s']:6.2f} s   classify {fields['pipeline_s']:6.2f} s = "
                f"{fields['share_of_bound']:.3f} of it   loop {fields['loop_s']:6.2f} s = "
                f"{fields['loops_share_of_bound']:.3f}",
                flush=True,
            )
            width, variant, frames, stride, side, clips = CASES[name]
            network = f"I3D ResNet-50 {variant}, width {width}, gn; {clips} x {frames}x{stride}, short side {side}"
            sizes = f"{len(paths)} generated H.264 files: " + ", ".join(f"{n} x {w}x{h}" for h, w, n in SIZES)
            write_result(
                "bench_inference",
                f"throughput, {name}",
                {"network": network, "videos": sizes, "cores": cores, "rounds": rounds, **fields},
            )


def _write_videos(folder: Path, copies: int) -> list[str]:
    paths = []
    for seed, (height, width, frames) in enumerate(SIZES):
        first = write_natural_video(folder / f"{seed}.mp4", seed=seed, num_frames=frames, height=height, width=width)
        for copy in range(copies):
            path = folder / f"{seed}_{copy}.mp4"
            os.link(first, path)
            paths.append(str(path))
    return sorted(paths, key=lambda path: path.rpartition("_")[2])  # sizes take turns


def _round(name: str, paths: Sequence[str]) -> dict[str, float]:
    """Seconds of each part, one after another."""
    width, variant, frames, stride, side, clips = CASES[name]
    torch.manual_seed(0)
    model = VideoClassifier(width=width, variant=variant, norm="gn", norm_kwargs={"num_groups": 8})
    clip = ClipSpec(frames=frames, stride=stride, protocol=Protocol(short_side=side, clips=clips))
    model.clip, model.class_names = clip, tuple(map(str, range(400)))
    model = for_inference(model)
    at_once = Plan.of(model, clip, len(paths)).views
    videos = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    decode = _cpu_seconds(lambda: videos.extend(read_video(path, clip) for path in paths))

    def compute() -> None:
        with torch.inference_mode():
            for video in videos:
                for part in split(video, at_once):
                    model.probabilities([part])

    computed = _cpu_seconds(compute)
    videos.clear()
    torch.set_num_threads(threads)
    start = time.perf_counter()
    for _ in classify_videos(model, paths):
        pass
    pipeline = time.perf_counter() - start
    start = time.perf_counter()
    for path in paths:
        predict_video(model, path, num_clips=clips)
    loop = time.perf_counter() - start
    bound = (decode + computed) / available_cores()
    return {
        "decode_cpu_s": decode,
        "compute_cpu_s": computed,
        "bound_s": bound,
        "pipeline_s": pipeline,
        "loop_s": loop,
    }


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
