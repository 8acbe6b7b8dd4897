"""Video files made on the fly, whose frames carry their own number as sixteen black and white blocks."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder: errors alone

SHARED_VIDEOS = Path(__file__).parents[2] / "shared" / "videos"
GRID = 4  # blocks per side; GRID**2 bits


def numbered_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """uint8 (height, width, 3): ``number`` in binary as 4x4 blocks, most significant first, under coloured noise.

    Two frames of the same number are equal; the noise differs between numbers, so that each frame has bits to code.
    """
    bits = np.array([(number >> (GRID**2 - 1 - i)) & 1 for i in range(GRID**2)]).reshape(GRID, GRID)
    rows = np.arange(height) * GRID // height
    columns = np.arange(width) * GRID // width
    blocks = np.where(bits[rows][:, columns, None] == 1, 200, 50)
    noise = np.random.default_rng(number).integers(-20, 21, (height // 4 + 1, width // 4 + 1, 3))
    texture = noise.repeat(4, 0).repeat(4, 1)[:height, :width]
    return (blocks + texture).astype(np.uint8)


def read_number(frame: Any) -> int:
    """The number that :func:`numbered_frame` wrote into a (height, width, 3) frame, read after lossy compression."""
    pixels = np.asarray(frame).astype(np.float64).mean(axis=2)
    height, width = pixels.shape
    number = 0
    for row in range(GRID):
        for column in range(GRID):
            top, bottom = height * row // GRID, height * (row + 1) // GRID
            left, right = width * column // GRID, width * (column + 1) // GRID
            number = 2 * number + int(pixels[top + 3 : bottom - 3, left + 3 : right - 3].mean() > 125)
    return number


def has_encoder(codec: str) -> bool:
    """Whether this FFmpeg writes a codec."""
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def write_video(
    path: Path,
    num_frames: int = 40,
    *,
    frames: Sequence[np.ndarray] | None = None,
    width: int = 96,
    height: int = 64,
    codec: str = "libx264",
    fps: int = 25,
    gop: int = 12,
    bframes: int = 0,
    pix_fmt: str = "yuv420p",
    milliseconds: Sequence[int] | None = None,
    start: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    format: str | None = None,
    rotation: int = 0,
    audio_seconds: float = 0.0,
    before: dict[str, Any] | None = None,
    marked: bool = False,
) -> Path:
    """Writes a video whose frame i shows the number i (or the given ``frames``), and returns its path.

    Args:
        gop: distance of key frames; no key frames are added at scene cuts.
        bframes: B-frames in a row.
        milliseconds: presentation time of each frame, increasing, for a variable frame rate; else constant ``fps``.
        start: presentation time of the first frame, in frames.
        options: of the encoder, added to those above.
        container_options: of the muxer, such as ``movflags``.
        format: of the container; else from the file name.
        rotation: degrees counter-clockwise that a player turns the picture (mov and mp4).
        audio_seconds: length of a mono AAC track, 0 for none.
        before: keywords (width, height, num_frames, first) of another video stream that precedes this one in the file.
        marked: marks this stream as the default one, where there are two.
    """
    pictures = list(frames) if frames is not None else [numbered_frame(i, width, height) for i in range(num_frames)]
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w", format=format, options=container_options or {}) as container:
        tracks = []
        if before is not None:
            first = before.get("first", 1000)
            other = [numbered_frame(first + i, before["width"], before["height"]) for i in range(before["num_frames"])]
            tracks.append((_video_stream(container, codec, fps, other[0], gop, 0, pix_fmt, options), other, None))
        main = _video_stream(container, codec, fps, pictures[0], gop, bframes, pix_fmt, options)
        if marked:
            main.disposition = av.stream.Disposition.default
        if rotation:
            main.set_display_rotation(rotation)
        if milliseconds is not None:
            main.codec_context.time_base = Fraction(1, 1000)
        tracks.append((main, pictures, milliseconds))
        sound: Any = container.add_stream("aac", rate=16000, layout="mono") if audio_seconds else None
        for stream, images, times in tracks:
            for i, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts = start + i if times is None else times[i]
                frame.time_base = Fraction(1, fps) if times is None else Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if sound is not None:
            _write_audio(container, sound, audio_seconds)
    return path


def write_audio_only(path: Path, seconds: float = 0.5) -> Path:
    """An AAC file without a video stream."""
    with av.open(str(path), "w") as container:
        _write_audio(container, container.add_stream("aac", rate=16000, layout="mono"), seconds)
    return path


def full_decode(path: Path) -> np.ndarray:
    """(N, H, W, 3): every frame, in order, by FFmpeg's own filters, with nothing skipped and nothing sought."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        graph = av.filter.Graph()
        source = graph.add_buffer(template=stream)
        graph.link_nodes(source, graph.add("format", "rgb24"), graph.add("buffersink")).configure()
        pictures = []
        for frame in container.decode(stream):
            graph.vpush(frame)
            pictures.append(graph.vpull().to_ndarray())
    return np.stack(pictures)


def cut_by_edit_list(source: Path, target: Path, frames: int, fps: int = 25) -> Path:
    """Copies an mp4 of constant ``fps`` so that players start ``frames`` frames later; the coded data stay the same.

    Changes the last entry of the edit list (ISO/IEC 14496-12, 8.6.6) that FFmpeg's muxer writes.
    """
    data = bytearray(source.read_bytes())
    timescale = struct.unpack(">I", data[(at := data.index(b"mdhd") + 16) : at + 4])[0]
    at = data.index(b"elst") + 4
    version, count = data[at], struct.unpack(">I", data[at + 4 : at + 8])[0]
    assert version == 0
    entry = at + 8 + 12 * (count - 1)
    duration, media_time = struct.unpack(">Ii", data[entry : entry + 8])
    movie_timescale = struct.unpack(">I", data[(at := data.index(b"mvhd") + 16) : at + 4])[0]
    data[entry : entry + 8] = struct.pack(
        ">Ii", duration - frames * movie_timescale // fps, media_time + frames * timescale // fps
    )
    target.write_bytes(data)
    return target


def set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Has players show the stored point (x, y) of an mp4 at (ax + cy, bx + dy), ``matrix`` being (a, b, c, d).

    Source: ISO/IEC 14496-12, 8.3.2 (track header of the first track).
    """
    a, b, c, d = (factor << 16 for factor in matrix)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def _video_stream(
    container: Any, codec: str, fps: int, picture: np.ndarray, gop: int, bframes: int, pix_fmt: str, options: Any
) -> Any:
    stream = container.add_stream(codec, rate=fps)
    stream.height, stream.width = picture.shape[:2]
    stream.pix_fmt = pix_fmt
    stream.gop_size = gop
    stream.max_b_frames = bframes
    stream.thread_count = 1
    chosen = {"libx264": {"preset": "veryfast", "crf": "23", "sc_threshold": "0"}, "libx265": _X265}.get(codec, {})
    stream.options = {**chosen, **(options or {})}
    return stream


_X265 = {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1:bframes=2:keyint=12:scenecut=0"}


def _write_audio(container: Any, stream: Any, seconds: float) -> None:
    rate, size = 16000, 1024
    for start in range(0, int(seconds * rate), size):
        wave = np.sin(np.arange(start, start + size) * 0.05).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
