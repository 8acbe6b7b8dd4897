"""Pictures as clips of one frame: what is read of files of every kind, the views, against Pillow and torchvision."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from pictures import texture
from PIL import Image, ImageOps
from torchvision.transforms import v2

from videogn.data.datamodule_images import PICTURE
from videogn.data.images import MAX_PIXELS, random_resized_crop, read_picture
from videogn.data.view import View
from videogn.errors import VideoError


def png_header(width, height):
    """The beginning of a PNG of that size, 8 bits, RGB, and a little of its pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *((mode, "png") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        *((mode, "jpg") for mode in ("RGB", "L", "CMYK")),
        ("RGB", "webp"),
        ("RGBA", "webp"),
        ("RGB", "bmp"),
        ("P", "gif"),
    ],
)
def test_every_kind_of_pixels_becomes_what_pillow_makes_of_it(tmp_path, mode, suffix):
    path = tmp_path / f"x.{suffix}"
    picture = Image.fromarray(texture(0))
    if "A" in mode:
        picture.putalpha(Image.fromarray(texture(1)[..., 0]))
    picture.convert(mode).save(path)
    with Image.open(path) as stored:
        assert stored.mode == mode
        expected = np.array(stored.convert("RGB"))
    found = read_picture(path)
    assert found.is_contiguous()
    np.testing.assert_array_equal(found.numpy(), expected)


def test_transparent_palettes_keep_their_colours(tmp_path):
    picture = Image.fromarray(texture(0)).quantize(16)
    picture.save(tmp_path / "x.png", transparency=bytes(range(0, 256, 16)))
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png").numpy(), np.array(picture.convert("RGB")))


def test_of_16_bits_the_upper_8_are_taken(tmp_path):
    values = np.random.default_rng(0).integers(0, 1 << 16, (20, 30)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    found = read_picture(tmp_path / "grey.png")
    np.testing.assert_array_equal(found.numpy(), np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations_give_their_first_picture(tmp_path, suffix):
    colours = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    lossless = {"lossless": True} if suffix == "webp" else {}
    colours[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=colours[1:], **lossless)
    np.testing.assert_array_equal(read_picture(tmp_path / f"x.{suffix}").numpy(), np.array(colours[0]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_pictures_stand_upright(tmp_path, suffix, orientation):
    picture = Image.fromarray(texture(0))
    picture.getexif()[0x0112] = orientation
    picture.save(tmp_path / f"x.{suffix}", exif=picture.getexif())
    with Image.open(tmp_path / f"x.{suffix}") as stored:
        expected = np.array(ImageOps.exif_transpose(stored))
    part = View(3, 5, 20, 30, 20, 30, flip=True)
    np.testing.assert_array_equal(read_picture(tmp_path / f"x.{suffix}").numpy(), expected)
    found = read_picture(tmp_path / f"x.{suffix}", lambda height, width: part)
    np.testing.assert_array_equal(found.numpy(), expected[3:23, 5:35][:, ::-1])


def make_bad(kind, path):
    jpeg = io.BytesIO()
    Image.fromarray(texture(0)).save(jpeg, "jpeg")
    contents = {
        "cut off": jpeg.getvalue()[:-200],
        "only a header": jpeg.getvalue()[:40],
        "empty": b"",
        "text": b"#EXTM3U\nhttp://example.org/x.jpg\n",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) run\n%%EOF\n",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
        "of many scans": jpeg.getvalue() + b"\xff\xda" * 500,
        "large": png_header(9460, 9460),
        "very large": png_header(1 << 20, 1 << 20),
    }
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "32-bit TIFF":
        Image.fromarray(np.zeros((4, 4), np.float32)).save(path, "tiff")
    elif kind != "missing":
        path.write_bytes(contents[kind])


BAD = {
    "cut off": "truncated",
    "only a header": "cannot be read as a picture|not a picture",
    "empty": "empty file",
    "text": "not a picture",
    "EPS": "not a picture",
    "SVG": "not a picture",
    "32-bit TIFF": "not a picture",
    "of many scans": "more than 500 scans",
    "large": f"more than {MAX_PIXELS:,} pixels",
    "very large": f"more than {MAX_PIXELS:,} pixels",
    "folder": "not a regular file",
    "pipe": "not a regular file",
    "missing": "no such file",
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("error")
def test_bad_files_are_refused_in_words(tmp_path, kind):
    make_bad(kind, tmp_path / "x.jpg")
    with pytest.raises(VideoError, match=BAD[kind]) as caught:
        read_picture(tmp_path / "x.jpg")
    assert caught.value.path == str(tmp_path / "x.jpg")


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp"])
@pytest.mark.filterwarnings("error")
def test_damaged_files_give_pixels_or_a_video_error(tmp_path, kind):
    file = io.BytesIO()
    Image.fromarray(texture(0)).save(file, kind, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
    good = np.frombuffer(file.getvalue(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = good[: rng.integers(1, len(good) + 1)].copy()
        places = rng.integers(0, min(len(damaged), 400), 4)
        damaged[places] = rng.integers(0, 256, 4)
        (tmp_path / "x").write_bytes(damaged.tobytes())
        try:
            found = read_picture(tmp_path / "x")
        except VideoError:
            continue
        assert found.dtype == torch.uint8
        assert found.shape[2] == 3


def test_a_picture_opens_no_other_file(tmp_path):
    """Python's own record of what is opened while files of all kinds are read; a first one loads the decoders."""
    for i, kind in enumerate(["EPS", "SVG", "text", "cut off", "32-bit TIFF"]):
        make_bad(kind, tmp_path / f"{i}.jpg")
    for suffix in ("jpg", "png", "webp", "gif", "bmp"):
        Image.fromarray(texture(0)).save(tmp_path / f"good.{suffix}")
    code = """
import os, sys
from videogn.data.images import read_picture
from videogn.errors import VideoError
def read_all():
    for entry in sorted(os.listdir(sys.argv[1])):
        try: read_picture(os.path.join(sys.argv[1], entry))
        except VideoError: pass
read_all()
seen = []
sys.addaudithook(lambda event, found: seen.append((event, str(found[0])))
                 if event in ("open", "subprocess.Popen", "os.system", "socket.connect", "os.exec") else None)
read_all()
print("\\n".join(f"{event} {path}" for event, path in seen))
"""
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True).stdout
    assert set(out.split("\n")) - {""} == {f"open {path}" for path in tmp_path.iterdir()}


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (100, 700)])
def test_random_crops_are_distributed_as_torchvisions(height, width):
    """Mean and spread of area, ratio and place over 3000 draws, within 5 standard errors."""
    theirs_of = v2.RandomResizedCrop(224)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    views = [random_resized_crop(height, width, PICTURE, rng) for _ in range(3000)]
    ours = np.array([(v.top, v.left, v.height, v.width) for v in views], float)
    drawn = [theirs_of.make_params([torch.empty(3, height, width)]) for _ in range(3000)]
    theirs = np.array([[p[name] for name in ("top", "left", "height", "width")] for p in drawn], float)
    assert all((v.out_height, v.out_width) == (224, 224) for v in views)
    assert sum(v.flip for v in views) == pytest.approx(1500, abs=5 * np.sqrt(750))
    for figure in (
        lambda r: r,
        lambda r: r[:, 2:3] * r[:, 3:4],
        lambda r: np.log(r[:, 3:4] / r[:, 2:3]),
        lambda r: (r[:, 2:3] * r[:, 3:4]) ** 2,
        lambda r: np.log(r[:, 3:4] / r[:, 2:3]) ** 2,
    ):
        a, b = figure(ours), figure(theirs)
        error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / 3000)
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) <= 5 * error + 1e-9).all()


@pytest.mark.parametrize(("height", "width"), [(4, 3000), (3000, 4), (1, 1)])
def test_pictures_that_no_crop_fits_give_torchvisions_middle(height, width):
    theirs = v2.RandomResizedCrop(224).make_params([torch.empty(3, height, width)])
    view = random_resized_crop(height, width, PICTURE, np.random.default_rng(0))
    assert (view.top, view.left, view.height, view.width) == tuple(
        theirs[name] for name in ("top", "left", "height", "width")
    )
