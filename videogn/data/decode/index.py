"""Which packet of a video stream holds which frame: one pass over the packets, with nothing decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from videogn.data.decode.opening import FFMPEG_ERRORS, Limits, reason_of
from videogn.errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# Containers that store a presentation time per frame, and codecs of which every packet holds exactly one shown frame.
# AVI stores none (FFmpeg makes them up); transport streams seek inexactly and may begin in the middle of a group of
# pictures; VP8 has packets of hidden frames; MPEG-4 part 2 has packed B-frames and skipped pictures.
TRUSTED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
TRUSTED_CODECS = ("h264", "hevc", "vp9", "av1")


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The frames of a video stream in presentation order, and the packets they come from.

    Attributes:
        pts: (P,) int64, presentation time of every packet, in decode order and in the stream's time base.
        dts: (P,) int64, decode time of every packet.
        packet: (N,) int64, packet of frame i. Empty if frames are counted.
        start: (N,) int64, the key packet from which decoding must start to show frame i. Empty if frames are counted.
        times: (N,) float64, seconds from the first frame's presentation to frame i's.
        duration: seconds from the first frame's presentation to the end of the last.
    """

    pts: np.ndarray
    dts: np.ndarray
    packet: np.ndarray
    start: np.ndarray
    times: np.ndarray
    duration: float
    frame_of_pts: dict[int | None, int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True, eq=False)
class Packets:
    """The packets of a stream in decode order; a missing time is :data:`MISSING`."""

    pts: np.ndarray
    dts: np.ndarray
    key: np.ndarray
    discard: np.ndarray
    duration: int
    """Of the last packet in presentation order, in the time base; 0 if unknown."""
    held: list[Packet] | None
    """The packets themselves; None where they are too many bytes to keep."""


MISSING = np.iinfo(np.int64).min
_HELD_BYTES = 32 << 20


def read_packets(
    container: InputContainer,
    stream: VideoStream,
    path: str | os.PathLike[str],
    limits: Limits,
    progress: Callable[[], None],
) -> Packets:
    """Reads all packets once and decodes nothing; keeps those of a short video, so that they are not read again.

    Raises:
        VideoError: the file ends in the middle of a packet, has none, or more than ``limits`` allow.
    """
    _check_samples(stream, path, limits)
    # In a transport stream the flag tells of a lost packet somewhere, and decoding goes on.
    whole = container.format.name != "mpegts"
    rows: list[tuple[int | None, int | None, bool, bool, int | None]] = []
    held: list[Packet] = []
    total = 0
    demuxed: Any = container.demux(stream)
    try:
        for packet in demuxed:
            progress()
            size = packet.size
            if size == 0:
                continue
            if whole and packet.is_corrupt:
                raise VideoError(path, f"truncated or damaged: packet {len(rows)} of the video is incomplete")
            if len(rows) == limits.max_frames:
                raise VideoError(path, f"more than the {limits.max_frames:,} frames of max_frames")
            rows.append((packet.pts, packet.dts, packet.is_keyframe, packet.is_discard, packet.duration))
            total += size
            if total <= _HELD_BYTES:
                held.append(packet)
            elif held:
                held = []
    except FFMPEG_ERRORS as error:
        raise VideoError(path, f"damaged after packet {len(rows)} of the video ({reason_of(error)})") from error
    finally:
        demuxed.close()  # PyAV 18.1 loses memory where its generator is dropped half-way
    if not rows:
        raise VideoError(path, "the video stream holds no frames")
    pts, dts, key, discard, duration = zip(*rows, strict=True)
    times = np.array([MISSING if time is None else time for time in pts], np.int64)
    return Packets(
        times,
        np.array([MISSING if time is None else time for time in dts], np.int64),
        np.array(key),
        np.array(discard),
        duration[int(times.argmax())] or 0,
        held if total <= _HELD_BYTES else None,
    )


def distrust(container: InputContainer, stream: VideoStream, packets: Packets) -> str | None:
    """Why the times and key frames of these packets do not tell which frame is which; None if they do."""
    codec = stream.codec_context
    name = container.format.name
    if name not in TRUSTED_CONTAINERS:
        return f"a container ({name.split(',')[0]}) whose times are not stored per frame"
    if codec.codec.canonical_name not in TRUSTED_CODECS:
        return f"a codec ({codec.codec.canonical_name}) whose packets are not single frames"
    if codec.codec.canonical_name == "h264" and codec.field_order > 1:
        return "interlaced video, whose packets may be fields"
    if not packets.key[0]:
        return "the first packet is no key frame"
    if (packets.pts == MISSING).any():
        return "frames without a presentation time"
    if len(np.unique(packets.pts)) < len(packets.pts):
        return "repeated presentation times"
    shown = packets.pts[~packets.discard]
    hidden = packets.pts[packets.discard]
    if not len(shown) or ((hidden > shown.min()) & (hidden < shown.max())).any():
        return "an edit list with gaps"
    if (shown < packets.pts[0]).any():
        return "frames before the first key frame"
    return None


def index_packets(packets: Packets, stream: VideoStream) -> FrameIndex:
    """The index of a stream without :func:`distrust`: frame i has the i-th smallest presentation time."""
    shown = np.flatnonzero(~packets.discard)
    packet = shown[np.argsort(packets.pts[shown], kind="stable")]
    keys = np.flatnonzero(packets.key)
    # The last key packet not after the frame in decode order. Where its time is later than the frame's, the frame leads
    # an open group of pictures: it needs the group before.
    which = np.searchsorted(keys, packet, side="right") - 1
    while (early := packets.pts[keys[which]] > packets.pts[packet]).any():
        which[early] -= 1  # ends at packet 0, before which distrust() allows no frame
    pts = packets.pts[packet]
    times, duration = _seconds(pts, packets.duration, stream)
    return FrameIndex(
        packets.pts, packets.dts, packet, keys[which], times, duration, {int(p): i for i, p in enumerate(pts)}
    )


def index_counted(pts: Sequence[int | None], packets: Packets, stream: VideoStream) -> FrameIndex:
    """The index of a stream whose frames were counted by decoding; ``pts`` are those of the decoded frames."""
    empty = np.zeros(0, np.int64)
    known = np.array([MISSING if p is None else p for p in pts], np.int64)
    if (known == MISSING).any() or (np.diff(known) <= 0).any():
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        times, duration = np.arange(len(known)) / rate, len(known) / rate
    else:
        times, duration = _seconds(known, packets.duration, stream)
    return FrameIndex(packets.pts, packets.dts, empty, empty, times, duration)


def decode_runs(index: FrameIndex, wanted: np.ndarray) -> list[tuple[int, int, set[int]]]:
    """Splits sorted, unique frame numbers into runs (start packet, stop packet, frames) with packets to skip between.

    A run goes on while the next frame's key packet lies within it or directly after it; else a jump saves decoding.
    """
    runs: list[tuple[int, int, set[int]]] = []
    for i in wanted.tolist():
        start, packet = int(index.start[i]), int(index.packet[i])
        if runs and start <= runs[-1][1] + 1:
            before = runs[-1]
            before[2].add(i)
            runs[-1] = (before[0], max(before[1], packet), before[2])
        else:
            runs.append((start, packet, {i}))
    return runs


def _seconds(pts: np.ndarray, last: int, stream: VideoStream) -> tuple[np.ndarray, float]:
    tick = float(stream.time_base or 0)
    times = (pts - pts[0]) * tick
    rate = stream.average_rate or stream.guessed_rate
    return times, float(times[-1]) + (last * tick or (1 / float(rate) if rate else 0.0))


def _check_samples(stream: VideoStream, path: str | os.PathLike[str], limits: Limits) -> None:
    """An mp4's index names the bytes of each frame: all of them must be in the file."""
    if stream.container.format.name != TRUSTED_CONTAINERS[0]:
        return
    size = os.path.getsize(path)
    total = len(stream.index_entries)
    if total > limits.max_frames:  # before they are walked over
        raise VideoError(path, f"more than the {limits.max_frames:,} frames of max_frames")
    if total > size:
        raise VideoError(path, f"damaged: its index names {total:,} frames in {size} bytes")
    outside = sum(entry.pos + entry.size > size for entry in stream.index_entries)
    if outside:
        raise VideoError(path, f"truncated: {total - outside} of {total} frames are in the file ({size} bytes)")
