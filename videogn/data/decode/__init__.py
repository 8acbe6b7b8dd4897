"""Video files to frames: :func:`probe`, :class:`VideoReader` and :func:`read_frames`.

Frame i is the i-th frame that ``ffmpeg -i file -vsync 0`` shows, bit for bit as rgb24, turned as a player turns it.
Audio is never decoded. A file opens nothing but itself. Everything wrong with a file is a
:class:`~videogn.errors.VideoError`; FFmpeg's messages stay off the terminal (PyAV's default, which is not changed).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
import torch

from videogn.data.decode.opening import DEFAULT_LIMITS, Limits, reason_of
from videogn.data.decode.other import Read, open_other, require
from videogn.data.decode.pyav import PyAVDecoder
from videogn.data.decode.rgb import display_rotation, displayed_size
from videogn.data.view import ChooseView, apply_view, whole
from videogn.errors import UsageError

Backend = Literal["pyav", "decord", "torchcodec"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

_FRAMES_AT_ONCE = 32  # by backends that give whole pictures, before they are cut and scaled

Path = str | os.PathLike[str]
Indices = Sequence[int] | np.ndarray | torch.Tensor


@dataclass(frozen=True)
class VideoInfo:
    """What a video file is.

    Attributes:
        path: as given.
        num_frames: frames that a full decode shows.
        fps: frames per second, the average where the rate varies.
        duration: seconds from the first frame's presentation to the end of the last frame's.
        height: pixels, as displayed.
        width: pixels, as displayed.
        codec: FFmpeg's name, such as ``h264``.
        container: FFmpeg's name, such as ``mov`` (also for mp4) or ``matroska`` (also for webm).
        rotation: clockwise degrees, 0, 90, 180 or 270, that were applied to the stored picture.
    """

    path: str
    num_frames: int
    fps: float
    duration: float
    height: int
    width: int
    codec: str
    container: str
    rotation: int


class VideoReader:
    """Frames of one open file, by number. A context manager; it belongs to the process and thread that opened it.

    ``backend="pyav"`` reads every file exactly. ``"decord"`` and ``"torchcodec"`` read the files that they are known to
    read exactly, with equal bytes (the table in :mod:`videogn.data.decode.other`), and leave the others to PyAV; then
    :attr:`fallback` says why. decord can deadlock inside native code (its issues 154, 269 and 373), which nothing in
    this process can interrupt.

    Args:
        path: the video file.
        backend: one of :data:`BACKENDS`.
        limits: what the video may at most be.
        num_frames: what is already known of this very file; where frames have to be counted, that spares a full decode.
        progress: called whenever decoding gets on; by PyAV for every packet.

    Attributes:
        num_frames: frames that a full decode shows.
        counted: why frames are counted by decoding from the first one on; None if they are sought.
        fallback: why another backend than the one asked for reads this file; None if it does not.

    Raises:
        UsageError: an unknown backend, or one that is not installed.
        VideoError: no such file, no video that can be read, or one beyond the limits.
    """

    def __init__(
        self,
        path: Path,
        backend: str = "pyav",
        *,
        limits: Limits = DEFAULT_LIMITS,
        num_frames: int | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        check_backend(backend)
        self._decoder = PyAVDecoder(path, limits, num_frames, progress)
        self._info: VideoInfo | None = None
        self._other: Read | None = None
        self.fallback: str | None = None
        if backend != "pyav":
            try:
                opened = open_other(backend, self._decoder)
            except BaseException:
                self._decoder.close()
                raise
            if isinstance(opened, str):
                self.fallback = opened
            else:
                self._other = opened

    @property
    def num_frames(self) -> int:
        return self._decoder.num_frames

    @property
    def counted(self) -> str | None:
        return self._decoder.counted

    @property
    def info(self) -> VideoInfo:
        """Decodes the first frame, once: the rotation is not known before."""
        if self._info is None:
            decoder = self._decoder
            frame = decoder.first_frame()
            height, width = displayed_size(frame)
            rate, duration = decoder.stream.average_rate, decoder.index.duration
            self._info = VideoInfo(
                path=os.fspath(decoder.path),
                num_frames=self.num_frames,
                fps=float(rate) if rate else self.num_frames / duration if duration else 0.0,
                duration=duration,
                height=height,
                width=width,
                codec=decoder.codec,
                container=decoder.container_name,
                rotation=display_rotation(frame),
            )
        return self._info

    def times(self) -> np.ndarray:
        """Presentation time of every frame: float64 (num_frames,), in seconds from the first frame's.

        The frame on display at ``t`` seconds is ``np.searchsorted(reader.times(), t, side="right") - 1``, at any rate.
        """
        return self._decoder.index.times.copy()

    def check(self) -> None:
        """Decodes every frame and converts none.

        Raises:
            VideoError: the first frame that cannot be decoded, or has another size than those before.
        """
        self._decoder.check()

    def read(self, indices: Indices, view: ChooseView | None = None) -> torch.Tensor:
        """Frames by number.

        Args:
            indices: (T,) integers within [0, num_frames), T at least 1, in any order, repeated or not.
            view: called once with (height, width) of the picture as displayed; the part of it that is returned, and in
                which size. Cheaper than all of the picture: the rest is never converted to RGB.

        Returns:
            uint8 (T, H, W, 3), RGB; the bytes that :func:`~videogn.data.view.apply_view` makes of the whole frames.

        Raises:
            IndexError: a number outside [0, num_frames).
            ValueError: no numbers, or not a flat row of integers.
            VideoError: a frame that cannot be decoded.
        """
        numbers = self._check(indices)
        if self._other is not None:
            try:
                return self._read_other(self._other, numbers, view)
            except Exception as error:  # the types are the libraries' own; PyAV decides whether the file is bad
                self.fallback = f"failed while reading ({reason_of(error)})"
                self._other = None
        return self._decoder.read(numbers, view or whole)

    def close(self) -> None:
        """Closes the file. Calling it again does nothing."""
        self._other = None
        self._decoder.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_other(self, read: Read, numbers: np.ndarray, choose: ChooseView | None) -> torch.Tensor:
        if choose is None:
            return read(numbers)
        first = read(numbers[:_FRAMES_AT_ONCE])
        view = choose(first.shape[1], first.shape[2])
        rest = range(_FRAMES_AT_ONCE, len(numbers), _FRAMES_AT_ONCE)
        parts = [apply_view(first, view)]
        del first
        parts += [apply_view(read(numbers[at : at + _FRAMES_AT_ONCE]), view) for at in rest]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _check(self, indices: Indices) -> np.ndarray:
        numbers: Any = indices.detach().cpu().numpy() if isinstance(indices, torch.Tensor) else np.asarray(indices)
        path = os.fspath(self._decoder.path)
        if numbers.ndim != 1 or not len(numbers) or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(
                f"{path}: expected frame numbers as a row of at least one integer, found shape {numbers.shape} of "
                f"{numbers.dtype}"
            )
        outside = (numbers < 0) | (numbers >= self.num_frames)
        if outside.any():
            raise IndexError(
                f"{path}: frame {numbers[outside][0]} asked for, but the video has {self.num_frames} frames, "
                f"0 to {self.num_frames - 1}"
            )
        return numbers.astype(np.int64)


def probe(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> VideoInfo:
    """What a video file is, without decoding more than it must (all of it only where packets do not tell the frames).

    Raises:
        VideoError: no such file, or no video that can be read.
    """
    with VideoReader(path, limits=limits) as reader:
        return reader.info


def read_frames(
    path: Path, indices: Indices, backend: str = "pyav", *, limits: Limits = DEFAULT_LIMITS
) -> torch.Tensor:
    """Frames of a video file by number: uint8 (T, H, W, 3), RGB. See :meth:`VideoReader.read`, also for the errors."""
    with VideoReader(path, backend, limits=limits) as reader:
        return reader.read(indices)


def check_backend(backend: str) -> None:
    """Raises UsageError for an unknown backend and for one that cannot be used on this machine."""
    if backend not in BACKENDS:
        raise UsageError(f"backend: expected one of {', '.join(BACKENDS)}, found {backend!r}")
    if backend != "pyav":
        require(backend)
