"""Frames of a long video in order, a few at a time: decoded once, in memory for a few frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from videogn.data.decode.opening import FFMPEG_ERRORS, reason_of
from videogn.data.decode.pyav import PyAVDecoder
from videogn.data.decode.rgb import displayed_size, orientation, thread_converter
from videogn.data.view import ChooseView, ViewWriter
from videogn.errors import VideoError


def read_in_pieces(
    decoder: PyAVDecoder, numbers: np.ndarray, choose: ChooseView, at_once: int
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """The frames that :meth:`PyAVDecoder.read` gives, at most ``at_once`` at a time.

    Args:
        decoder: of the file; not to be used for anything else meanwhile.
        numbers: int64 (T,), increasing, within [0, num_frames).
        choose: the view of them, called once.
        at_once: frames that are in memory.

    Yields:
        Numbers int64 (P,) and frames uint8 (P, H, W, 3).

    Raises:
        VideoError: a frame that cannot be decoded, or has another size than those before.
    """
    left = iter(np.split(numbers, range(at_once, len(numbers), at_once)))
    piece, at = next(left), 0
    out: ViewWriter | None = None
    size: tuple[int, int] | None = None
    for i, frame in decoder.frames():
        if i != piece[at]:
            continue
        if size is None:
            size, filters = displayed_size(frame), orientation(frame)
            view = choose(*size)
        elif displayed_size(frame) != size:
            found = displayed_size(frame)[::-1]
            raise VideoError(decoder.path, f"the frame size changes from {size[::-1]} to {found} at frame {i}")
        out = out or ViewWriter(len(piece), view)
        try:
            out.put(at, thread_converter()(frame, view, filters))
        except FFMPEG_ERRORS as error:
            raise VideoError(decoder.path, f"frame {i} cannot be converted to RGB ({reason_of(error)})") from error
        at += 1
        if at < len(piece):
            continue
        yield piece, out.finish()
        out, at, following = None, 0, next(left, None)
        if following is None:
            return
        piece = following
