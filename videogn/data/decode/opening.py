"""Opens one video file and nothing else, and gives plain reasons for what is no video."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av

from videogn.data.decode.headers import EBML, MP4_FIRST_BOXES, complaint
from videogn.errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# FFmpeg's demuxers that read the file they are given and no other. Absent on purpose: hls, dash, concat and imf
# (playlists that name other files or addresses), image2 (a folder) and raw streams, which match almost any bytes.
CONTAINERS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg")
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}


@dataclass(frozen=True)
class Limits:
    """What a video may at most be: a file of a few bytes can ask for gigabytes, or for hours.

    Attributes:
        max_pixels: pixels per frame; 8192 x 4608 by default, a little more than 8K.
        max_frames: frames per video; a million by default, nine hours at 30 frames per second.

    Raises:
        ValueError: a limit below 1.
    """

    max_pixels: int = 8192 * 4608
    max_frames: int = 1_000_000

    def __post_init__(self) -> None:
        for name, value in (("max_pixels", self.max_pixels), ("max_frames", self.max_frames)):
            if value < 1:
                raise ValueError(f"limits.{name}: expected at least 1, found {value}")


DEFAULT_LIMITS = Limits()

_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<MPD", b"<?xml", b"[playlist]", b"<ASX")

FFMPEG_ERRORS: tuple[type[Exception], ...] = (
    av.FFmpegError,
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    MemoryError,
)
"""What PyAV raises on damaged input; always reported as :class:`~videogn.errors.VideoError`."""


def open_video(path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> tuple[InputContainer, VideoStream]:
    """Opens a video file and its best video stream, for decoding in this thread alone. Other streams are discarded.

    Only the containers of :data:`CONTAINERS` and only the ``file`` protocol are allowed, so that a playlist with a
    video's name opens no other file and no network address.

    Raises:
        VideoError: no regular file, empty, cut off, not a video, without a video stream, or with frames that are too
            large.
    """
    check_file(path)
    try:
        # An absolute path can never be taken for a protocol ("http:...") by FFmpeg.
        # The limit goes along because FFmpeg decodes the first frames while it opens a file.
        options = {**OPTIONS, "max_pixels": _codec_limit(limits)}
        container = av.open(os.path.abspath(path), options=options, metadata_errors="replace")
    except FFMPEG_ERRORS as error:
        raise VideoError(path, f"not a video file, or too damaged to open ({reason_of(error)})") from error
    try:
        stream = _best_stream(container, path, limits)
        for other in container.streams:
            if other.index != stream.index:
                other.discard = av.stream.Discard.all
    except BaseException:
        container.close()
        raise
    return container, stream


def check_file(path: str | os.PathLike[str]) -> None:
    """Raises VideoError for what can be seen to be no video, or a part of one, without opening it as a video."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise VideoError(path, "a directory, not a video file")
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(path, "not a regular file")
        if status.st_size == 0:
            raise VideoError(path, "empty file (0 bytes)")
        with open(path, "rb") as file:
            head = file.read(64)
            if any(head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(mark) for mark in _PLAYLISTS):
                raise VideoError(path, "not a video file: a playlist or text that refers to other files")
            reason = complaint(file, head, status.st_size)
    except FileNotFoundError as error:
        raise VideoError(path, "no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise VideoError(path, f"cannot be read: {reason_of(error)}") from error
    if reason:
        raise VideoError(path, reason)


def is_mp4_or_matroska(path: str | os.PathLike[str]) -> bool:
    """Whether the first bytes are those of an ISO media (mp4, mov) or a Matroska (mkv, webm) file."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[4:8] in MP4_FIRST_BOXES or head[:4] == EBML


def reason_of(error: BaseException) -> str:
    """One line, without FFmpeg's error number and without the path, which VideoError has already."""
    text = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    return text.splitlines()[0][:200].rstrip(".:")


def _best_stream(container: InputContainer, path: str | os.PathLike[str], limits: Limits) -> VideoStream:
    cover = av.stream.Disposition.attached_pic
    films = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not films:
        kinds = sorted({stream.type for stream in container.streams} - {"video"})
        raise VideoError(path, f"no video stream ({' and '.join(kinds)} only)" if kinds else "no video stream")
    best: Any = container.streams.best("video")
    stream = best if best is not None and not best.disposition & cover else films[0]
    codec = stream.codec_context
    if codec is None:
        raise VideoError(path, "the video's codec is not known to this FFmpeg")
    if codec.width * codec.height == 0 and container.format.name.startswith(("mov", "matroska")):
        # FFmpeg forgets the size that the header gives when the decoder refuses it.
        raise VideoError(path, f"frames cannot be decoded, or have more than the {limits.max_pixels:,} of max_pixels")
    if codec.width * codec.height > limits.max_pixels:
        raise VideoError(
            path, f"frames of {codec.width}x{codec.height} pixels, more than the {limits.max_pixels:,} of max_pixels"
        )
    codec.thread_type = av.codec.context.ThreadType.NONE
    codec.thread_count = 1
    codec.options = {"max_pixels": _codec_limit(limits)}  # for sizes that change on the way
    return stream


def _codec_limit(limits: Limits) -> str:
    """The decoder's own limit: twice, because FFmpeg counts the padding of its buffers, too."""
    return str(min(2 * limits.max_pixels + 65536, 2**31 - 1))
