"""Loaders of small clips, with workers and guards as a data module makes them."""

from pathlib import Path

from torch.utils.data import Dataset, Sampler

from videogn.data.batches import ClipBatch, VideoBatch
from videogn.data.dataset import EvalVideos, TrainClips
from videogn.data.demo import DemoSpec, generate_demo
from videogn.data.index import VideoIndex
from videogn.data.loader import TimedLoader, guarded, start_worker
from videogn.data.samplers import EvalSampler, TrainSampler
from videogn.spec import ClipSpec, Protocol

CLIP = ClipSpec(frames=4, stride=2, train_short_side=(24, 28), train_crop=20, protocol=Protocol(short_side=24, clips=3))


def demo_index(folder: Path) -> VideoIndex:
    """16 videos of 8 classes, of 12 frames of 32x32."""
    root = Path(generate_demo(folder, DemoSpec(2, 1, 32, 12)))
    paths = sorted(str(path.relative_to(root)) for path in root.glob("train/*/*.mp4"))
    return VideoIndex.build(str(root), paths, [i // 2 for i in range(16)], [str(i) for i in range(8)])


def train_loader(
    index: VideoIndex, workers: int, batch: int = 2, timeout: float | None = 30.0, seed: int = 3, **options
) -> TimedLoader:
    data = guarded(TrainClips(index, CLIP, seed), timeout, workers)
    return loader(data, TrainSampler(len(index), batch, seed), ClipBatch.collate, workers, batch, **options)


def eval_loader(index: VideoIndex, workers: int, timeout: float | None = 30.0, **options) -> TimedLoader:
    data = guarded(EvalVideos(index, CLIP), timeout, workers)
    return loader(data, EvalSampler(len(index)), VideoBatch.collate, workers, 2, **options)


def loader(data: Dataset, sampler: Sampler | None, collate, workers: int, batch: int, **options) -> TimedLoader:
    return TimedLoader(
        data,
        batch,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
        persistent_workers=workers > 0,
        **options,
    )
