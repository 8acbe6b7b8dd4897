"""One video file to a smaller one: the same frames at the same times, as H.264 that decodes fast."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.filter import Graph
from av.video.frame import PictureType

from videogn.data.decode import VideoInfo, VideoReader
from videogn.data.decode.opening import DEFAULT_LIMITS, FFMPEG_ERRORS, Limits, reason_of
from videogn.data.decode.pyav import PyAVDecoder
from videogn.data.decode.rgb import Filters, build_graph, displayed_size, orientation
from videogn.data.files import cannot_write
from videogn.errors import UsageError, VideoError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_FINEST_TICK = Fraction(1, 1_000_000)  # an mp4 counts a frame's duration in 32 bits
_USUAL_TICK = Fraction(1, 90_000)
_UNSPECIFIED, _LIMITED_RANGE = 2, 1  # AVCOL_SPC_UNSPECIFIED, AVCOL_RANGE_MPEG


@dataclass(frozen=True)
class Encoding:
    """How videos are re-encoded.

    Attributes:
        short_side: of the picture in pixels, even; smaller pictures keep their size.
        crf: x264's quality, 0 (lossless) to 51.
        gop: most frames from one key frame to the next: what a reader decodes at most to get at a frame.
    """

    short_side: int = 256
    crf: int = 20
    gop: int = 32

    def __post_init__(self) -> None:
        if self.short_side < 16 or self.short_side % 2:
            raise UsageError(f"--short-side: expected an even number of at least 16, found {self.short_side}")
        if not 0 <= self.crf <= 51:
            raise UsageError(f"--crf: expected 0 to 51, found {self.crf}")
        if self.gop < 1:
            raise UsageError(f"--gop: expected at least 1, found {self.gop}")


def encoded_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) after resizing: both even, the aspect kept, never larger than before."""
    short = min(height, width)
    if short <= short_side:
        return max(2, height // 2 * 2), max(2, width // 2 * 2)
    return round(height * short_side / short / 2) * 2, round(width * short_side / short / 2) * 2


def encode(
    source: str,
    target: str,
    encoding: Encoding,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[], None] = lambda: None,
) -> VideoInfo:
    """Writes the smaller video, flushes it to the disk, decodes it again and compares it with the source.

    H.264 in mp4 whose picture is small enough already is copied byte for byte.

    Args:
        source: video file.
        target: mp4 file to write, of any name; what a failed call leaves there is the caller's to delete.
        encoding: how.
        limits: what the source may at most be.
        progress: called for every packet that is decoded.

    Returns:
        What the target is.

    Raises:
        VideoError: a source that cannot be decoded to its end, or a target that is not as it should be.
        UsageError: a place that cannot be written.
    """
    decoder = PyAVDecoder(source, limits, progress=progress)
    try:
        first = decoder.first_frame()
        size = encoded_size(*displayed_size(first), encoding.short_side)
        ticks, tick = _ticks(decoder)
        try:
            if size == displayed_size(first) and _is_wanted_form(decoder, first):
                shutil.copyfile(source, target)
            else:
                _write(decoder, first, target, size, ticks, tick, encoding)
            _flush(target)
        except FFMPEG_ERRORS as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise cannot_write(os.path.dirname(target), error) from error
            raise VideoError(source, f"cannot be encoded ({reason_of(error)})") from error
        return _verify(source, target, size, decoder.index.times, tick, limits, progress)
    finally:
        decoder.close()


def _is_wanted_form(decoder: PyAVDecoder, first: VideoFrame) -> bool:
    """Whether only the size would be a reason to encode the file."""
    return (
        os.fspath(decoder.path).lower().endswith(".mp4")
        and (decoder.codec, decoder.container_name, decoder.pix_fmt) == ("h264", "mov", "yuv420p")
        and decoder.counted is None
        and not orientation(first)
    )


def _ticks(decoder: PyAVDecoder) -> tuple[np.ndarray, Fraction]:
    """Presentation time of every frame, int64 (N,), from 0 on, and the unit in seconds: the source's if it will do."""
    times = decoder.index.times
    own = decoder.stream.time_base or _USUAL_TICK
    for tick in (own, _USUAL_TICK):
        ticks = np.round(times / float(tick)).astype(np.int64)
        if tick >= _FINEST_TICK and (np.diff(ticks) > 0).all() and np.abs(ticks * float(tick) - times).max() < 1e-3:
            return ticks, tick
    raise VideoError(decoder.path, "two frames have the same presentation time")


def _write(
    decoder: PyAVDecoder,
    first: VideoFrame,
    target: str,
    size: tuple[int, int],
    ticks: np.ndarray,
    tick: Fraction,
    encoding: Encoding,
) -> None:
    scaler = _Scaler(decoder.path, size)
    index = decoder.index
    last = max(1, round((index.duration - index.times[-1]) / float(tick)))
    durations = np.append(np.diff(ticks), last).tolist()
    with av.open(target, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = _add_stream(container, scaler(first), tick, decoder, encoding)
        for i, frame in decoder.frames():
            small = scaler(frame)
            small.pts, small.time_base, small.duration = int(ticks[i]), tick, durations[i]
            small.pict_type = PictureType.NONE  # else x264 makes key frames where the source has them
            container.mux(stream.encode(small))
        container.mux(stream.encode(None))


def _add_stream(container: Any, picture: VideoFrame, tick: Fraction, decoder: PyAVDecoder, encoding: Encoding) -> Any:
    rate = decoder.stream.average_rate or decoder.stream.guessed_rate or Fraction(25)
    stream = container.add_stream("libx264", rate=rate)
    stream.height, stream.width, stream.pix_fmt = picture.height, picture.width, "yuv420p"
    context = stream.codec_context
    context.time_base = tick
    context.thread_count = 1
    context.gop_size = encoding.gop
    # Frames that no other is predicted from can be skipped: all B-frames are to be such.
    # preset "fast": the size and quality of "medium" within 1 % on small pictures, in three quarters of the time.
    context.options = {"preset": "fast", "crf": str(encoding.crf), "x264-params": "b-pyramid=none:open-gop=0"}
    context.color_range = _LIMITED_RANGE
    context.colorspace = int(picture.colorspace) or _UNSPECIFIED  # 0 is RGB, which the picture no longer is
    context.color_primaries, context.color_trc = int(picture.color_primaries), int(picture.color_trc)
    return stream


class _Scaler:
    """Turns frames upright and scales them to one size in 8-bit 4:2:0, from their own format, in one thread."""

    def __init__(self, path: str | os.PathLike[str], size: tuple[int, int]) -> None:
        self.path = path
        self.height, self.width = size
        self._shape: tuple[int, int] | None = None
        self._turn: Filters | None = None
        self._key: tuple[Any, ...] = ()
        self._graph: Graph | None = None

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        shape = displayed_size(frame)
        if self._shape is None:
            self._shape = shape
        if shape != self._shape:
            raise VideoError(self.path, f"the frame size changes from {self._shape[::-1]} to {shape[::-1]}")
        if self._turn is None:
            self._turn = orientation(frame)
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if self._graph is None or key != self._key:
            size = f"{self.width}:{self.height}:flags=bicubic:out_range=limited"
            chain = (*self._turn, ("scale", size), ("format", "yuv420p"))
            self._graph, self._key = build_graph(frame, chain), key
        self._graph.vpush(frame)
        return self._graph.vpull()


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verify(
    source: str,
    target: str,
    size: tuple[int, int],
    times: np.ndarray,
    tick: Fraction,
    limits: Limits,
    progress: Callable[[], None],
) -> VideoInfo:
    """Decodes the target to its end; raises VideoError where it is not what was meant to be written."""
    try:
        with VideoReader(target, limits=limits, progress=progress) as reader:
            reader.check()
            info, found, counted = reader.info, reader.times(), reader.counted
    except VideoError as error:
        raise VideoError(source, f"the re-encoded file cannot be read ({error.reason})") from error
    wrong = None
    if info.num_frames != len(times):
        wrong = f"{info.num_frames} frames instead of {len(times)}"
    elif (info.height, info.width) != size:
        wrong = f"{info.width}x{info.height} pixels instead of {size[1]}x{size[0]}"
    elif (late := np.abs(found - times).max()) > tick * 1.001:
        wrong = f"presentation times up to {late:g} s off"
    elif counted is not None:
        wrong = f"frames that cannot be sought: {counted}"
    if wrong:
        raise VideoError(source, f"the re-encoded file is not the same video: {wrong}")
    return info
