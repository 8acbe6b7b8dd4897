"""Generated videos that cost a decoder about as much as filmed ones: textures that move, objects before them, noise."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_natural_video(
    path: Path,
    *,
    seed: int = 0,
    num_frames: int = 300,
    height: int = 256,
    width: int = 340,
    codec: str = "libx264",
    gop: int = 250,
    bframes: int = 3,
) -> Path:
    """Writes 30 frames per second of a panning texture, eight moving objects and camera noise; returns the path.

    libx264 with preset medium and crf 23, the defaults with which the clips of Kinetics are cut.
    """
    rng = np.random.default_rng(seed)
    world = texture(rng, height + 200, width + 200)
    objects = [texture(rng, height // 4, width // 5) for _ in range(8)]
    at, speed = rng.random((8, 2)), rng.normal(0, 0.004, (8, 2))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size, stream.max_b_frames, stream.thread_count = gop, bframes, 1
        stream.options = {"preset": "medium", "crf": "23"} if codec == "libx264" else {"qscale": "3"}
        for i in range(num_frames):
            angle = 2 * np.pi * i / 300
            top, left = int(100 + 90 * np.sin(angle)), int(100 + 90 * np.sin(1.7 * angle))
            picture = world[top : top + height, left : left + width].copy()
            for patch, place in zip(objects, (at + speed * i) % 1, strict=True):
                rows, columns, _ = patch.shape
                y, x = int(place[0] * (height - rows)), int(place[1] * (width - columns))
                picture[y : y + rows, x : x + columns] = patch
            picture += rng.normal(0, 2, (height, width, 1))
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """float64 (height, width, 3) in about 30..220: noise of several scales, as in pictures of nature."""
    total = np.zeros((height, width, 3))
    for step in (64, 32, 16, 8, 4):
        coarse = rng.normal(0, step**0.75, (height // step + 2, width // step + 2, 3))
        rows, columns = np.arange(height) / step, np.arange(width) / step
        y, x = rows.astype(int), columns.astype(int)
        fy, fx = (rows - y)[:, None, None], (columns - x)[None, :, None]
        upper = coarse[y][:, x] * (1 - fx) + coarse[y][:, x + 1] * fx
        lower = coarse[y + 1][:, x] * (1 - fx) + coarse[y + 1][:, x + 1] * fx
        total += upper * (1 - fy) + lower * fy
    return (125 + total * 30 / total.std()).clip(30, 220)
