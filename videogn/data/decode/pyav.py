"""Exact frames through PyAV, in one thread, at the cost of decoding the frames that are needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from videogn.data.decode.index import FrameIndex, decode_runs, distrust, index_counted, index_packets
from videogn.data.decode.opening import DEFAULT_LIMITS, FFMPEG_ERRORS, Limits, reason_of
from videogn.data.decode.packets import PacketReader
from videogn.data.decode.rgb import displayed_size, orientation, thread_converter
from videogn.data.view import ChooseView, ViewWriter, whole
from videogn.errors import VideoError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


class PyAVDecoder:
    """Reads frames of one file by number. Holds the file open until :meth:`close`; belongs to one process and thread.

    Frames are sought by presentation time where the container can be trusted; in other files (``counted``) every frame
    from the first is decoded and counted. Only what is returned is converted to RGB.

    Args:
        path: the video file.
        limits: what it may at most be.
        num_frames: frames of a counted file, where they are known; spares decoding all of it once.
        progress: called for every packet that is read or decoded.

    Attributes:
        packets: what is decoded.
        num_frames: frames that a full decode shows.
        counted: why frames are counted from the start of the stream; None if they are sought.
        codec: FFmpeg's name, such as ``h264``.
        container_name: FFmpeg's name, such as ``mov`` (also for mp4) or ``matroska`` (also for webm).
        pix_fmt: FFmpeg's name of the stored pixels' format, such as ``yuv420p``.

    Raises:
        VideoError: see :func:`~videogn.data.decode.opening.open_video`; also, from the reading methods, damaged frames.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        limits: Limits = DEFAULT_LIMITS,
        num_frames: int | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self._progress = progress
        self.packets = PacketReader(path, limits, progress)
        self._primed: VideoStream | None = None
        try:
            self.codec: str = self.stream.codec_context.codec.canonical_name
            self.container_name: str = self.packets.container.format.name.split(",")[0]
            self.pix_fmt: str = self.stream.codec_context.pix_fmt or "unknown"
            self.counted = distrust(self.packets.container, self.stream, self.packets.listed)
            self._index: FrameIndex | None = None
            self._flaw: VideoError | None = None
            self.num_frames = num_frames if num_frames is not None and self.counted else len(self.index)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.packets.close()

    @property
    def stream(self) -> VideoStream:
        return self.packets.stream

    @property
    def index(self) -> FrameIndex:
        """Which packet holds which frame; for a counted file, built by decoding all of it once."""
        if self._index is None:
            counted = self.counted is not None
            self._index = self._count() if counted else index_packets(self.packets.listed, self.stream)
        return self._index

    def _count(self) -> FrameIndex:
        pts: list[int | None] = []
        size: tuple[int, int] | None = None
        for i, frame in enumerate(self._decode_all()):
            pts.append(frame.pts)
            try:
                size = self._same_size(i, frame, size)
            except VideoError as error:  # no matter to those who read frames before
                self._flaw = self._flaw or error
        if not pts:
            raise VideoError(self.path, "no frame can be decoded")
        return index_counted(pts, self.packets.listed, self.stream)

    def read(self, indices: np.ndarray, choose: ChooseView = whole) -> torch.Tensor:
        """Frames by number.

        Args:
            indices: (T,) int64 within [0, num_frames), in any order, repeated or not.
            choose: the view of them, called once; all of the picture by default.

        Returns:
            uint8 (T, H, W, 3), RGB, turned as displayed.
        """
        wanted, inverse = np.unique(indices, return_inverse=True)
        frames = self._read_unique(wanted, choose)
        if len(wanted) == len(indices) and (inverse == np.arange(len(indices))).all():
            return frames
        return frames[torch.from_numpy(inverse)]

    def first_frame(self) -> VideoFrame:
        """The first frame, decoded but not converted: what a header does not tell is in there."""
        for _, frame in self._decode(np.zeros(1, np.int64)):
            return frame
        raise VideoError(self.path, "the first frame cannot be decoded")

    def frames(self) -> Iterator[tuple[int, VideoFrame]]:
        """(number, frame) of every frame in order, decoded but neither turned nor converted.

        Raises:
            VideoError: at the first frame that cannot be decoded, or at the end if frames are missing.
        """
        return self._decode(np.arange(self.num_frames))

    def check(self) -> None:
        """Decodes every frame and converts none; raises VideoError as :meth:`read` of all frames would."""
        size: tuple[int, int] | None = None
        if self.counted is None or self._index is None:  # else all frames were decoded when they were counted
            for i, frame in self.frames():
                size = self._same_size(i, frame, size)
        elif self._flaw is not None:
            raise self._flaw

    def _read_unique(self, wanted: np.ndarray, choose: ChooseView) -> torch.Tensor:
        out: ViewWriter | None = None
        size: tuple[int, int] | None = None
        slot = {int(i): n for n, i in enumerate(wanted)}
        for i, frame in self._decode(wanted):
            size = self._same_size(i, frame, size)
            if out is None:
                filters = orientation(frame)
                view = choose(*size)
                out = ViewWriter(len(wanted), view)
            try:
                out.put(slot[i], thread_converter()(frame, view, filters))
            except FFMPEG_ERRORS as error:
                raise VideoError(self.path, f"frame {i} cannot be converted to RGB ({reason_of(error)})") from error
        if out is None:
            raise VideoError(self.path, "no frame was asked for")
        return out.finish()

    def _same_size(self, i: int, frame: VideoFrame, before: tuple[int, int] | None) -> tuple[int, int]:
        """(height, width) of frame i as displayed, which is that of the frames before it."""
        size = displayed_size(frame)
        if before is not None and size != before:
            raise VideoError(self.path, f"the frame size changes from {before[::-1]} to {size[::-1]} at frame {i}")
        return size

    def _decode(self, wanted: np.ndarray) -> Iterator[tuple[int, VideoFrame]]:
        """(number, frame) for each of the sorted, unique ``wanted``, each once."""
        if self.counted is not None:
            yield from self._decode_counting(wanted)
            return
        missing = set(wanted.tolist())
        for start, stop, numbers in decode_runs(self.index, wanted):
            for i, frame in self._decode_run(start, stop, numbers):
                missing.discard(i)
                yield i, frame
        if missing:
            # Key frames that do not stand alone (gradual intra refresh): from the first packet all are shown.
            last = int(self.index.packet[list(missing)].max())
            for i, frame in self._decode_run(0, last, missing.copy()):
                missing.discard(i)
                yield i, frame
        if missing:
            raise VideoError(self.path, f"frame {min(missing)} of {self.num_frames} cannot be decoded")

    def _decode_run(self, start: int, stop: int, numbers: set[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The frames ``numbers``, by decoding the packets from ``start`` to ``stop``, both counted."""
        frame_of_pts = self.index.frame_of_pts
        skipping = False
        number = start
        if start > 0 and self.codec == "h264" and self._primed is not self.stream:
            self._prime()
        try:
            for number, packet in self.packets.start_at(start):
                context = self.stream.codec_context
                if self.codec == "h264" and skipping != (frame_of_pts.get(packet.pts, -1) not in numbers):
                    # No frame is predicted from a non-reference frame, so the decoder may drop those nobody wants.
                    skipping = not skipping
                    context.skip_frame = "NONREF" if skipping else "DEFAULT"
                decoded = context.decode(packet)
                self._progress()
                if number == stop:
                    decoded += context.decode(None)
                for frame in decoded:
                    i = frame_of_pts.get(frame.pts, -1)
                    if i in numbers:
                        if frame.is_corrupt:
                            raise VideoError(self.path, f"frame {i} of {self.num_frames} is damaged")
                        yield i, frame
                if number == stop:
                    return
        except FFMPEG_ERRORS as error:
            at = np.flatnonzero(self.index.packet == number)
            which = f"frame {at[0]} of {self.num_frames}" if len(at) else f"packet {number}"
            raise VideoError(self.path, f"{which} cannot be decoded ({reason_of(error)})") from error
        finally:
            self.stream.codec_context.skip_frame = "DEFAULT"
            self.stream.codec_context.flush_buffers()

    def _decode_counting(self, wanted: np.ndarray) -> Iterator[tuple[int, VideoFrame]]:
        missing = set(wanted.tolist())
        last = int(wanted[-1])
        for i, frame in enumerate(self._decode_all()):
            if i in missing:
                missing.discard(i)
                yield i, frame
            if i == last:
                return
        raise VideoError(self.path, f"frame {min(missing)} of {self.num_frames} cannot be decoded")

    def _decode_all(self) -> Iterator[VideoFrame]:
        """Every frame from the first, as ``ffmpeg`` shows them."""
        shown = 0
        try:
            for packet in self.packets.all():
                self._progress()
                try:
                    frames = self.stream.codec_context.decode(packet)
                except FFMPEG_ERRORS:
                    if shown == 0:  # begins between two key frames: FFmpeg, too, drops what it cannot show
                        continue
                    raise
                for frame in frames:
                    shown += 1
                    yield frame
        except FFMPEG_ERRORS as error:
            raise VideoError(self.path, f"frame {shown} cannot be decoded ({reason_of(error)})") from error

    def _prime(self) -> None:
        """Shows packet 0 to the decoder before the first seek.

        The encoder's version stands there alone, and FFmpeg needs it to decode old x264 streams as they were meant
        (4:4:4 above all). For 4:2:0 the headers do, and no picture is decoded.
        """
        _, packet = next(self.packets.start_at(0))
        context = self.stream.codec_context
        context.skip_frame = "ALL" if self.pix_fmt in ("yuv420p", "yuvj420p") else "DEFAULT"
        context.decode(packet)
        context.decode(None)
        context.flush_buffers()
        context.skip_frame = "DEFAULT"
        self._primed = self.stream
