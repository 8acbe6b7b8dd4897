"""Scores over time: a window as long as a clip slides over a video, which is decoded once, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from videogn.data.batches import EvalVideo
from videogn.data.decode.pyav import PyAVDecoder
from videogn.data.decode.stream import read_in_pieces
from videogn.data.guard import AVAILABLE, Beat, Guard
from videogn.data.sampling import eval_indices, unique_frames
from videogn.data.transforms import Box, eval_crops, eval_view
from videogn.errors import UsageError
from videogn.inference import clip_of, mean_of_views
from videogn.lanes import Lanes, Plan
from videogn.module import VideoClassifier
from videogn.spec import ClipSpec

_AT_ONCE = 64  # frames that travel from the reading process at a time
_PICTURES = 12
_PICTURE_HEIGHT = 96  # pixels
_SOON = 1e-6  # seconds by which a frame may be late and still be the one of a moment
_MOST = 1_000_000  # windows of a video

Piece = tuple[np.ndarray, Tensor, list[Box]]
"""Numbers (P,) of some frames, the frames, and the crops of them."""


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of a video. Times are those of presentation, in seconds from the first frame's.

    Attributes:
        first: int64 (W,), first frame of each window.
        end: int64 (W,), the frame after its last, at most the number of frames.
        starts: float64 (W,), seconds.
        ends: float64 (W,), seconds.
        frames: int64 (W, T), the frames that the network sees.
        times: float64 (N,), seconds, of every frame of the video.
        duration: of the video, in seconds.
    """

    first: np.ndarray
    end: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    frames: np.ndarray
    times: np.ndarray
    duration: float


@dataclass(frozen=True, eq=False)
class Timeline:
    """Scores over time.

    Attributes:
        windows: where the scores are from.
        probabilities: float32 (W, num_classes).
        pictures: (seconds, uint8 (h, w, 3)) of some frames, as the network sees them but smaller.
    """

    windows: Windows
    probabilities: np.ndarray
    pictures: list[tuple[float, np.ndarray]] = field(repr=False)


def windows_of(times: np.ndarray, duration: float, clip: ClipSpec, every: float | None = None) -> Windows:
    """Where a window of one clip's span stands.

    It starts with the frame on display at 0, ``every``, 2 ``every`` ... seconds, and last where it ends with the video;
    no two start with one frame. A video shorter than a clip has one window.

    Args:
        times: float64 (N,), presentation time of every frame, from 0.
        duration: of the video, in seconds.
        clip: how clips are cut.
        every: seconds from one window to the next; None is half a window, on average over the video.

    Raises:
        UsageError: so many windows that nobody can mean it.
    """
    span, number = (clip.eval_frames - 1) * clip.eval_stride + 1, len(times)
    last = max(number - span, 0)
    if every is None:
        every = span * duration / number / 2
    if times[last] > every * _MOST:
        raise UsageError(
            f"--every: expected at least {times[last] / _MOST:.3g} seconds for this video, found {every:g}"
        )
    moments = np.arange(0.0, times[last] + _SOON, max(every, _SOON))
    first = np.unique(np.append(np.searchsorted(times, moments + _SOON, side="right") - 1, last))
    first = first[first <= last]
    end = np.minimum(first + span, number)
    one = clip.with_protocol(clips=1)
    frames = np.concatenate([eval_indices(b - a, one) + a for a, b in zip(first.tolist(), end.tolist(), strict=True)])
    return Windows(first, end, times[first], np.append(times, duration)[end], frames, times, duration)


def timeline(
    model: VideoClassifier,
    path: str,
    clip: ClipSpec | None = None,
    *,
    every: float | None = None,
    timeout: float = 60.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Timeline:
    """Scores over time of one video; each window's are those of ``predict_video`` for its frames and one clip.

    The video is read by a process of its own while the network computes what came before; in memory is what a few
    windows show. A file whose frames have to be counted (AVI and others) is decoded a first time for that.

    Args:
        model: of :func:`videogn.load` or :func:`videogn.inference.for_inference`.
        path: the video file.
        clip: how clips are cut, and which crops are averaged; the model's by default.
        every: seconds from one window to the next; None is half a window.
        timeout: seconds without progress after which the reading is given up.
        progress: called with the number of windows that are done and of all.

    Raises:
        VideoError: the file cannot be decoded.
        UsageError: ``every`` is not above 0, or a model without class names.
        FloatingPointError: the network's output is not finite.
    """
    clip = (clip or clip_of(model)).with_protocol(clips=1)
    if every is not None and not every > 0:
        raise UsageError(f"every: expected more than 0 seconds, found {every}")
    with _Reader(path, clip, every, timeout) as reader:
        windows = reader.windows()
        plan = Plan.of(model, clip, len(windows.first))
        with Lanes(model, plan) as lanes:
            slide = _Slide(path, windows, lanes, max(1, plan.views // clip.protocol.num_crops), plan.lanes, progress)
            for numbers, frames, crops in reader.pieces():
                slide.take_frames(numbers, frames, crops)
            slide.wait()
    return Timeline(windows, torch.stack(slide.scores).numpy(), slide.pictures)  # type: ignore[arg-type]


class _Slide:
    """The windows on their way: holds the frames that a window still needs."""

    def __init__(
        self,
        path: str,
        windows: Windows,
        lanes: Lanes,
        together: int,
        ahead: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self.path, self.windows, self.lanes, self.together, self.ahead = path, windows, lanes, together, ahead
        self.progress = progress
        self.needed = windows.frames.max(axis=1)
        self.scores: list[Tensor | None] = [None] * len(windows.first)
        self.pictures: list[tuple[float, np.ndarray]] = []
        self.held: dict[int, Tensor] = {}
        self.next = self.done = 0
        seen = np.unique(windows.frames)
        self.shown = set(seen[np.linspace(0, len(seen) - 1, min(_PICTURES, len(seen))).round().astype(int)].tolist())

    def take_frames(self, numbers: np.ndarray, frames: Tensor, crops: list[Box]) -> None:
        for number, frame in zip(numbers.tolist(), frames, strict=True):
            self.held[number] = frame
            if number in self.shown:
                self.pictures.append((float(self.windows.times[number]), _small(frame)))
        ready = int(np.searchsorted(self.needed, numbers[-1], side="right"))
        while self.next < ready:
            upto = min(self.next + self.together, ready)
            unique, index = unique_frames(self.windows.frames[self.next : upto])
            pixels = torch.stack([self.held[number] for number in unique.tolist()])
            part = EvalVideo(pixels, torch.as_tensor(index), crops, label=-1, video=0, path=self.path)
            self.lanes.submit((self.next, upto), [part])
            self.next = upto
            while self.lanes.waiting > 2 * self.ahead:
                self._take_scores()
        if self.next < len(self.needed):
            first = int(self.windows.frames[self.next].min())
            self.held = {number: frame for number, frame in self.held.items() if number >= first}

    def wait(self) -> None:
        """Until every window has its scores."""
        while self.lanes.waiting:
            self._take_scores()

    def _take_scores(self) -> None:
        (first, upto), found = self.lanes.take()
        if isinstance(found, Exception):
            raise found
        for i, views in enumerate(found[0].chunk(upto - first), first):
            where = f"{self.path}, {self.windows.starts[i]:.3f} to {self.windows.ends[i]:.3f} s"
            self.scores[i] = mean_of_views(views, where)
        self.done += upto - first
        self.progress(self.done, len(self.scores))


class _Reader:
    """Windows and frames of a file, read in a child process where there are any. A context manager."""

    def __init__(self, path: str, clip: ClipSpec, every: float | None, timeout: float) -> None:
        self._path, self._clip, self._every = path, clip, every
        self._decoder: PyAVDecoder | None = None
        self._pieces: Iterator[Piece] = iter(())
        self._guard = Guard(self._answer, timeout) if AVAILABLE else None

    def windows(self) -> Windows:
        found = self._guard.call(self._path, "windows") if self._guard else self._answer("windows", lambda: None)
        assert isinstance(found, Windows)
        return found

    def pieces(self) -> Iterator[Piece]:
        """The frames of all windows, in order; the next ones are read while the last ones are used."""
        guard = self._guard
        if guard is None:
            yield from self._pieces
            return
        guard.start(self._path, "piece")
        while True:
            while not guard.done(wait_for=1.0):
                pass
            piece = guard.result()
            if piece is None:
                return
            guard.start(self._path, "piece")
            yield piece

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._guard is not None:
            self._guard.close()
        if self._decoder is not None:
            self._decoder.close()

    def _answer(self, what: str, beat: Beat) -> Windows | Piece | None:
        """In the child, which keeps the file open from one call to the next."""
        if what == "piece":
            return next(self._pieces, None)
        decoder = self._decoder = PyAVDecoder(self._path, progress=beat)
        windows = windows_of(decoder.index.times, decoder.index.duration, self._clip, self._every)
        self._pieces = self._read(decoder, np.unique(windows.frames))
        return windows

    def _read(self, decoder: PyAVDecoder, numbers: np.ndarray) -> Iterator[Piece]:
        clip = self._clip
        for piece, resized in read_in_pieces(decoder, numbers, lambda h, w: eval_view(h, w, clip), _AT_ONCE):
            yield piece, *eval_crops(resized, clip)


def _small(frame: Tensor) -> np.ndarray:
    step = max(1, frame.shape[0] // _PICTURE_HEIGHT)
    return frame[::step, ::step].contiguous().numpy()
