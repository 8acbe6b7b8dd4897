"""Contact sheets: the frames of a video that the model saw, clip by clip, as small JPEG pictures."""

from __future__ import annotations

import base64
import io
import os
import time
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from videogn.errors import VideoError
from videogn.report.markup import thinned
from videogn.spec import ClipSpec

if TYPE_CHECKING:
    from torch import Tensor

    from videogn.data.view import View

HEIGHT = 96
"""Of a frame on a sheet, in pixels, at most."""
FRAMES = 4
"""Per clip, evenly spread over the clip, its first and last frame among them."""
FRAMES_OF_CROPS = 2
"""The same where a clip has three crops, each of which is shown."""

MOST_CLIPS = 12
"""Clips shown of a video; of more, as many that are evenly spread."""

_WIDEST = 3 * HEIGHT
_GAP = 3
_QUALITY = 80
_SECONDS = 60.0


def contact_sheet(path: str, clip: ClipSpec) -> dict[int, bytes]:
    """A JPEG picture for each clip of the protocol, by its number: some frames, cropped and resized as in evaluation.

    The frames are then made smaller, to :data:`HEIGHT` pixels. Where a clip has three crops, they stand side by side,
    the frames of the first crop first. Where clips have one frame, ``path`` may be of a picture.

    Raises:
        VideoError: the file is missing, cannot be decoded any more, or takes longer than a minute.
    """
    if not os.path.isfile(path):
        raise VideoError(path, "no such file here")
    # Decoding needs torch, whose import takes seconds; a report without videos does without.
    from videogn.data.decode import VideoReader
    from videogn.data.images import PICTURE_SUFFIXES, read_picture
    from videogn.data.sampling import eval_indices, unique_frames
    from videogn.data.transforms import eval_crops, eval_view

    deadline = time.monotonic() + _SECONDS

    def give_up_late() -> None:
        if time.monotonic() > deadline:
            raise VideoError(path, f"took longer than {_SECONDS:.0f} s to decode")

    def view(height: int, width: int) -> View:
        return eval_view(height, width, clip)

    few = FRAMES if clip.protocol.num_crops == 1 else FRAMES_OF_CROPS
    shown = sorted(set(np.linspace(0, clip.eval_frames - 1, few).round().astype(int).tolist()))
    clips = thinned(range(clip.protocol.clips), MOST_CLIPS)
    if clip.eval_frames == 1 and path.lower().endswith(PICTURE_SUFFIXES):  # of pre-training
        frames, index = read_picture(path, view)[None], np.zeros((len(clips), 1), np.int64)
    else:
        with VideoReader(path, progress=give_up_late) as reader:
            unique, index = unique_frames(eval_indices(reader.num_frames, clip)[np.ix_(clips, shown)])
            frames = reader.read(unique, view)
    frames, boxes = eval_crops(frames, clip)
    return {
        k: _jpeg([_small(frames[i, top : top + h, left : left + w]) for top, left, h, w in boxes for i in row])
        for k, row in zip(clips, index.tolist(), strict=True)
    }


def data_uri(jpeg: bytes) -> str:
    """A picture as an address that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _small(frame: Tensor) -> Image.Image:
    picture = Image.fromarray(frame.numpy())
    picture.thumbnail((_WIDEST, HEIGHT), Image.Resampling.LANCZOS)
    return picture


def _jpeg(pictures: list[Image.Image]) -> bytes:
    width = sum(p.width for p in pictures) + _GAP * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + _GAP
    out = io.BytesIO()
    row.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
