"""Pictures as clips of one frame: reading a file, the views of training and evaluation, the data sets.

Pillow decodes, as in torchvision's ``ImageFolder``, of whose pixels these are the same: it takes as long as
``torchvision.io``, which torchvision has deprecated, and reads palettes, CMYK and 16 bits.
"""

from __future__ import annotations

import io
import math
import os
import stat
import warnings
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from videogn.data.dataset import Draw, EvalVideos, TrainClips, Views
from videogn.data.transforms import eval_crops, eval_view
from videogn.data.view import ChooseView, View, apply_view, whole
from videogn.errors import VideoError
from videogn.spec import ClipSpec

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB, where Pillow begins to warn; ImageNet stays below

_MAX_BYTES = 4 * MAX_PIXELS
# Each scan of a progressive JPEG goes over all pixels again and may have no more than a few bytes; cameras and programs
# write about ten.
_JPEG, _JPEG_SCAN, _MAX_SCANS = b"\xff\xd8", b"\xff\xda", 500

# Decoders that open nothing but the file they are given, whatever its name; Pillow's others start programs (EPS) or
# read text.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B")
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_ORIENTATION = 0x0112  # EXIF's tag, and what turns a picture of each value upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Szegedy et al., "Going Deeper with Convolutions", as everyone trains on ImageNet.
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


def _nothing() -> None:
    pass


def read_picture(path: str | os.PathLike[str], choose: ChooseView = whole) -> Tensor:
    """A view of a picture as RGB.

    Grey and palette pictures become RGB, CMYK by Pillow's formula without colour profiles; of 16 bits the upper 8 are
    taken; transparency is dropped; an animation gives its first picture; EXIF's orientation is applied, as players and
    browsers do (``ImageFolder`` does not).

    Args:
        path: a JPEG, PNG, WebP, BMP or GIF file, recognised by content.
        choose: (height, width) of the upright picture -> the view.

    Returns:
        uint8 (out_height, out_width, 3), contiguous.

    Raises:
        VideoError: no regular file, not a picture, cut off, damaged, of more than :data:`MAX_PIXELS` pixels, or of
            hundreds of scans.
    """
    try:
        # Looked at before it is opened: a pipe would be waited for.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(path, "not a regular file")
        if status.st_size == 0:
            raise VideoError(path, "empty file (0 bytes)")
        if status.st_size > _MAX_BYTES:
            raise VideoError(path, f"more than {_MAX_BYTES:,} bytes")
        with open(path, "rb") as file:
            data = file.read()
        if data.count(_JPEG_SCAN) > _MAX_SCANS and data.startswith(_JPEG):
            raise VideoError(path, f"a JPEG of more than {_MAX_SCANS} scans, which take for ever")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF and of large pictures, which are refused here
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                return _view(path, picture, choose)
    except VideoError:
        raise
    except FileNotFoundError as error:
        raise VideoError(path, "no such file") from error
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except Image.UnidentifiedImageError as error:
        raise VideoError(path, f"not a picture ({', '.join(_FORMATS)} are read)") from error
    except Exception as error:  # Pillow raises many types, down to struct.error, for damaged bytes
        raise VideoError(path, f"cannot be read as a picture ({str(error) or type(error).__name__})") from error


def _view(path: str | os.PathLike[str], picture: Image.Image, choose: ChooseView) -> Tensor:
    if picture.width * picture.height > MAX_PIXELS:
        raise _too_large(path)
    upright: Image.Image = picture
    turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    if turn is not None:
        upright = picture.transpose(turn)
    view = choose(upright.height, upright.width)
    # Cut by Pillow, because its pixels are copied on the way to torch.
    part = upright.crop((view.left, view.top, view.left + view.width, view.top + view.height))
    if part.mode in _SIXTEEN_BITS:
        grey = np.array(part) >> 8  # Pillow's own conversion to 8 bits makes white of all above 255
        pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    elif part.mode in _EIGHT_BITS:
        pixels = np.array(part if part.mode == "RGB" else part.convert("RGB"))
    else:
        raise VideoError(path, f"pixels of Pillow's mode {part.mode!r}, which are not read; convert the file to RGB")
    at_origin = View(0, 0, view.height, view.width, view.out_height, view.out_width, view.flip)
    return apply_view(torch.from_numpy(pixels)[None], at_origin)[0]


def _too_large(path: str | os.PathLike[str]) -> VideoError:
    return VideoError(path, f"more than {MAX_PIXELS:,} pixels; make it smaller")


def random_resized_crop(height: int, width: int, spec: ClipSpec, rng: np.random.Generator) -> View:
    """A random part of a picture, scaled to a square, and a random flip: torchvision's ``RandomResizedCrop``.

    The area is uniform over 8% to 100% of the picture's and the logarithm of width / height uniform over 3/4 to 4/3;
    after ten draws that do not fit, the central part whose ratio is nearest to the picture's.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        spec: ``train_crop`` and ``flip``.
        rng: consumed in the order area, ratio (up to ten times), top, left, flip.
    """
    out = spec.train_crop
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*_AREA)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = (int(rng.integers(0, free + 1)) for free in (height - h, width - w))
            break
    else:
        h, w = min(height, round(width / _RATIO[0])), min(width, round(height * _RATIO[1]))
        h, w = max(h, 1), max(w, 1)
        top, left = (height - h) // 2, (width - w) // 2
    return View(top, left, h, w, out, out, bool(rng.random() < spec.flip))


class TrainPictures(TrainClips):
    """One random view per picture, a pure function of (seed, epoch, picture); replacement as in :class:`TrainClips`."""

    def read(self, job: Draw, beat: Callable[[], None] = _nothing) -> Tensor:
        """A random view of a picture: uint8 (1, H, W, 3).

        Raises:
            VideoError: the file cannot be read.
        """
        picture, rng = job
        path = self.index.path(picture)
        return read_picture(path, lambda height, width: random_resized_crop(height, width, self.clip, rng))[None]


class EvalPictures(EvalVideos):
    """Each picture once, as a video of one frame and one clip; nothing is random."""

    def read(self, video: int, beat: Callable[[], None] = _nothing) -> Views:
        """All views of a picture; errors as those of :meth:`TrainPictures.read`."""
        frame = read_picture(self.index.path(video), lambda height, width: eval_view(height, width, self.clip))
        frames, crops = eval_crops(frame[None], self.clip)
        return frames, torch.zeros((1, 1), dtype=torch.int64), crops
