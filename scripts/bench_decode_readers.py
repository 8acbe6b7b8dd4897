"""The readers that ``bench_decode.py`` compares, one per process: ``python bench_decode_readers.py NAME CORE``.

Reads requests from standard input, one JSON object per line, and answers each with the CPU seconds that it took.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

READERS = ("limit", "videogn", "decord", "torchcodec", "pytorchvideo")
TASKS = ("clip 32x2", "clip 64x1", "10 clips", "sample")
FPS = 30  # by which pytorchvideo, which asks in seconds, finds the length of a clip

Timed = Callable[[], Any]


def indices_of(task: str, num_frames: int, seed: int) -> np.ndarray:
    """Frame numbers, (T,) or for ten clips (10, T)."""
    from videogn.data.sampling import eval_indices, train_indices
    from videogn.spec import ClipSpec

    clip = ClipSpec(frames=64, stride=1) if task == "clip 64x1" else ClipSpec(frames=32, stride=2)
    if task == "10 clips":
        return eval_indices(num_frames, clip)
    return train_indices(num_frames, clip, np.random.default_rng(seed))


def view_of(seed: int) -> Any:
    """The random view of a training sample."""
    from videogn.data.transforms import train_view
    from videogn.spec import ClipSpec

    return lambda height, width: train_view(height, width, ClipSpec(), np.random.default_rng(seed))


def limit(task: str, path: str, seed: int, num_frames: int) -> Timed | None:
    """FFmpeg's own work, by one who knows already where the frames are; what is done to RGB pixels is not counted."""
    import av

    from videogn.data.decode.index import decode_runs
    from videogn.data.decode.pyav import PyAVDecoder
    from videogn.data.decode.rgb import RGBConverter
    from videogn.data.view import whole

    if task == "sample":
        return None
    wanted = np.unique(indices_of(task, num_frames, seed))
    decoder = PyAVDecoder(path)
    if decoder.counted is None:
        pts, number_of = decoder.packets.listed.pts, decoder.index.frame_of_pts
        runs = decode_runs(decoder.index, wanted)
    else:  # packets and frames are both counted; the decoder holds back at most two
        pts, number_of = None, None
        runs = [(0, min(int(wanted[-1]) + 2, num_frames - 1), set(wanted.tolist()))]
    decoder.close()
    skips = decoder.codec == "h264" and number_of is not None
    to_rgb = RGBConverter()

    def run() -> None:
        container = av.open(path)
        stream = container.streams.best("video")
        stream.thread_type, context = "NONE", stream.codec_context
        for start, stop, numbers in runs:
            if pts is not None:
                container.seek(int(pts[start]), stream=stream)
            shown = 0
            for at, packet in enumerate(container.demux(stream), start):
                if skips:
                    wish = "DEFAULT" if number_of[packet.pts] in numbers else "NONREF"
                    if context.skip_frame != wish:
                        context.skip_frame = wish
                frames = context.decode(packet)
                if at == stop:
                    frames += context.decode(None)
                for frame in frames:
                    number = number_of[frame.pts] if number_of is not None else shown
                    shown += 1
                    if number in numbers:
                        to_rgb(frame, whole(frame.height, frame.width), ())
                if at == stop:
                    break
            context.skip_frame = "DEFAULT"
            context.flush_buffers()
        container.close()

    return run


def videogn(task: str, path: str, seed: int, num_frames: int) -> Timed:
    """This project."""
    from videogn.data.decode import VideoReader
    from videogn.data.sampling import unique_frames

    def run() -> Any:
        with VideoReader(path) as reader:
            wanted = indices_of(task, reader.num_frames, seed)
            if task == "10 clips":
                wanted, _ = unique_frames(wanted)
            return reader.read(wanted, view_of(seed) if task == "sample" else None)

    return run


def decord(task: str, path: str, seed: int, num_frames: int) -> Timed:
    """decord, with one thread."""
    import decord as library
    import torch

    def run() -> Any:
        reader = library.VideoReader(path, ctx=library.cpu(0), num_threads=1)
        wanted = np.unique(indices_of(task, len(reader), seed))
        return _ready(torch.from_numpy(reader.get_batch(wanted.tolist()).asnumpy()), task, seed)

    return run


def torchcodec(task: str, path: str, seed: int, num_frames: int) -> Timed:
    """torchcodec in its exact mode, with one thread."""
    from torchcodec.decoders import VideoDecoder

    def run() -> Any:
        decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        wanted = np.unique(indices_of(task, len(decoder), seed))
        return _ready(decoder.get_frames_at(wanted.tolist()).data, task, seed)

    return run


def _ready(frames: Any, task: str, seed: int) -> Any:
    from videogn.data.view import apply_view

    return apply_view(frames, view_of(seed)(*frames.shape[1:3])) if task == "sample" else frames


def pytorchvideo(task: str, path: str, seed: int, num_frames: int) -> Timed:
    """pytorchvideo's EncodedVideo (PyAV, without sound), get_clip by get_clip, as its own samplers ask."""
    from pytorchvideo.data.encoded_video import EncodedVideo

    transform = _pytorchvideo_transform(64 if task == "clip 64x1" else 32, task == "sample")

    def run() -> Any:
        clips = np.atleast_2d(indices_of(task, num_frames, seed))
        video = EncodedVideo.from_path(path, decode_audio=False, decoder="pyav")
        out = [transform(video.get_clip(clip[0] / FPS, (clip[-1] + 1) / FPS)["video"]) for clip in clips]
        video.close()
        return out

    return run


def _pytorchvideo_transform(frames: int, sample: bool) -> Any:
    import torchvision

    # pytorchvideo.transforms imports a module that torchvision has removed; its functions are elsewhere.
    sys.modules.setdefault("torchvision.transforms.functional_tensor", torchvision.transforms.functional)
    from pytorchvideo.transforms import Normalize, RandomShortSideScale, UniformTemporalSubsample
    from torchvision.transforms import Compose, Lambda, RandomCrop, RandomHorizontalFlip

    steps = [UniformTemporalSubsample(frames)]
    if sample:
        steps += [
            Lambda(lambda clip: clip / 255.0),
            Normalize((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
            RandomShortSideScale(min_size=256, max_size=320),
            RandomCrop(224),
            RandomHorizontalFlip(0.5),
        ]
    return Compose(steps)


def is_h264_mp4_or_mkv(path: Path) -> bool:
    """Whether the bars are about this file."""
    from videogn.data.decode import probe

    info = probe(path)
    return info.codec == "h264" and info.container in ("mov", "matroska")


def send(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def receive(stream: Any) -> dict[str, Any]:
    line = stream.readline()
    return json.loads(line) if line else {"error": "the process ended"}


def memory_mb(field: str) -> float:
    """A field of this process's status in MB: VmRSS is what it holds, VmHWM what it held at most."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def main(name: str, core: int) -> None:
    """Serve one reader."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print does not disturb the answers
    os.sched_setaffinity(0, {core})
    try:
        import torch

        torch.set_num_threads(1)
        own = {
            "torchcodec": "torchcodec.decoders",
            "pytorchvideo": "pytorchvideo.data.encoded_video",
            "decord": "decord",
        }
        for module in ("videogn.data.decode", "videogn.data.transforms", own.get(name, "videogn")):
            importlib.import_module(module)
        if name == "pytorchvideo":
            _pytorchvideo_transform(32, True)
    except Exception as error:
        send(answers, {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"})
        return
    send(answers, {})
    from videogn.data.decode import VideoReader

    known: dict[str, int] = {}
    before: float | None = None
    for line in sys.stdin:
        request = json.loads(line)
        path = request["path"]
        try:
            if name in ("limit", "pytorchvideo") and path not in known:
                with VideoReader(path) as reader:
                    known[path] = reader.num_frames
            run = globals()[name](request["task"], path, request["seed"], known.get(path, 0))
            if run is None:
                send(answers, {"error": "-"})
                continue
            before = memory_mb("VmRSS") if before is None else before
            began = time.process_time()
            result = run()
            seconds = time.process_time() - began
            del result
        except Exception as error:
            send(answers, {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"})
        else:
            send(answers, {"seconds": seconds, "memory_mb": memory_mb("VmHWM") - before})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
