"""Which frames a clip is made of: integers alone, so that the same numbers come out on every machine."""

from __future__ import annotations

import numpy as np

from videogn.spec import ClipSpec, ShortVideo


def train_indices(num_frames: int, spec: ClipSpec, rng: np.random.Generator) -> np.ndarray:
    """One clip at a random place: int64 (T,).

    The first frame is uniform over 0 ... ``num_frames - span``, both included, or 0 in a video shorter than the clip.

    Raises:
        ValueError: ``num_frames`` below 1.
    """
    start = int(rng.integers(0, _free(num_frames, spec.span) + 1))
    return _clips(np.array([start]), num_frames, spec.frames, spec.stride, spec.short_video)[0]


def eval_indices(num_frames: int, spec: ClipSpec) -> np.ndarray:
    """The K clips of the protocol, regularly spaced over the video: int64 (K, T).

    With ``free = max(num_frames - span, 0)``, clip i starts at frame (rounded down)

    - ``free * i / (K - 1)`` for ``positions="ends"`` (``free / 2`` when K is 1): the last clip ends with the video;
    - ``free * i / K`` for ``positions="segments"``.

    For a part of a video, pass the part's number of frames and add its first frame to the result.

    >>> spec = ClipSpec(frames=2, stride=2, protocol=Protocol(clips=3))
    >>> eval_indices(10, spec).tolist()
    [[0, 2], [3, 5], [7, 9]]

    Raises:
        ValueError: ``num_frames`` below 1.
    """
    frames, stride, clips = spec.eval_frames, spec.eval_stride, spec.protocol.clips
    free = _free(num_frames, spec.eval_span)
    number = np.arange(clips, dtype=np.int64)
    if spec.protocol.positions == "segments":
        starts = free * number // clips
    elif clips == 1:
        starts = np.array([free // 2], np.int64)
    else:
        starts = free * number // (clips - 1)
    return _clips(starts, num_frames, frames, stride, spec.short_video)


def unique_frames(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frames that overlapping clips share, once each.

    Args:
        indices: int64 (K, T) frame numbers.

    Returns:
        ``unique`` int64 (U,), increasing, and ``index`` int64 (K, T), with ``unique[index] == indices``.
    """
    unique, index = np.unique(indices, return_inverse=True)
    return unique, index.reshape(indices.shape).astype(np.int64)


def _free(num_frames: int, span: int) -> int:
    if num_frames < 1:
        raise ValueError(f"num_frames: expected at least 1, found {num_frames}")
    return max(int(num_frames) - span, 0)


def _clips(starts: np.ndarray, num_frames: int, frames: int, stride: int, short_video: ShortVideo) -> np.ndarray:
    numbers = starts[:, None].astype(np.int64) + np.arange(frames, dtype=np.int64) * stride
    return numbers % num_frames if short_video == "loop" else np.minimum(numbers, num_frames - 1)
