"""The packets of a video stream: read once as a list, and again from any of them on. Nothing is decoded."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from videogn.data.decode.opening import FFMPEG_ERRORS, Limits, open_video, reason_of
from videogn.errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
"""FFmpeg's name of the container that mp4 and mov files are."""

MISSING = np.iinfo(np.int64).min
_HELD_BYTES = 32 << 20


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


class PacketReader:
    """One open video file: a list of its packets, and the packets themselves from any of them on.

    Args:
        path: the video file.
        limits: what it may at most be.
        progress: called for every packet of the list as it is made.

    Attributes:
        container, stream: FFmpeg's, as PyAV gives them; others after :meth:`all`, and after a :meth:`start_at` that
            could not seek.
        listed: the packets in decode order.

    Raises:
        VideoError: see :func:`~videogn.data.decode.opening.open_video` and :func:`read_packets`.
    """

    def __init__(self, path: str | os.PathLike[str], limits: Limits, progress: Callable[[], None]) -> None:
        self._path = path
        self._limits = limits
        self._reading: Any = None
        self.container, self.stream = open_video(path, limits)
        try:
            self.listed = read_packets(self.container, self.stream, path, limits, progress)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.listed.pts)

    def close(self) -> None:
        self._end_demux()
        self.container.close()

    def all(self) -> Iterator[Packet]:
        """Every packet, of a file that is opened anew (its decoder has seen nothing), and an empty one at the end."""
        self.close()
        self.container, self.stream = open_video(self._path, self._limits)
        return self._demux()

    def start_at(self, start: int) -> Iterator[tuple[int, Packet]]:
        """(number, packet) from packet ``start`` on, or from packet 0 where no seek leads to ``start`` or before it."""
        if self.listed.held is not None:
            yield from enumerate(self.listed.held[start:], start)
            raise VideoError(self._path, f"ends before packet {len(self)}")
        number, packets = self._seek(start)
        for number, packet in enumerate(packets, number):  # noqa: B020
            if packet.size == 0:
                break
            if number >= len(self) or packet.pts != self.listed.pts[number]:
                raise VideoError(self._path, f"packet {number} differs from one reading to the next")
            if number >= start:
                yield number, packet
        raise VideoError(self._path, f"ends before packet {len(self)}")

    def _seek(self, start: int) -> tuple[int, Iterator[Packet]]:
        """The packets from some packet at or before ``start``, and the number of the first of them."""
        for target in (int(self.listed.pts[start]), int(self.listed.dts[start])):
            try:
                self.container.seek(target, stream=self.stream)
                packets = self._demux()
                first = next(packets, None)
            except FFMPEG_ERRORS:
                continue
            if first is None:
                continue
            dts = MISSING if first.dts is None else first.dts
            at = np.flatnonzero((self.listed.pts == first.pts) & (self.listed.dts == dts))
            if len(at) == 1 and at[0] <= start:
                return int(at[0]), itertools.chain([first], packets)
        return 0, self.all()

    def _demux(self) -> Iterator[Packet]:
        """All packets from here on, and an empty one at the end."""
        self._end_demux()
        self._reading = self.container.demux(self.stream)
        return self._reading

    def _end_demux(self) -> None:
        # PyAV 18.1 loses memory (150 bytes) where its generator is dropped half-way and not closed.
        if self._reading is not None:
            self._reading.close()
            self._reading = None


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


def _check_samples(stream: VideoStream, path: str | os.PathLike[str], limits: Limits) -> None:
    """An mp4's index names the bytes of each frame: all of them must be in the file."""
    if stream.container.format.name != MP4:
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
