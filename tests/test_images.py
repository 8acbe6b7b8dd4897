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
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from videogn.data.datamodule_images import PICTURE, ImageDataModule
from videogn.data.images import MAX_PIXELS, random_resized_crop, read_picture
from videogn.data.view import View
from videogn.errors import UsageError, VideoError
from videogn.spec import ClipSpec

SMALL = ClipSpec(
    frames=1, stride=1, num_clips=1, train_crop=24, eval_short_side=32, eval_crop="center", eval_crop_size=24
)


def texture(seed, height=40, width=56):
    """A picture with coarse and fine structure: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return (np.asarray(coarse) * 0.8 + rng.integers(0, 51, (height, width, 3))).astype(np.uint8)


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


# -- folders and loaders -----------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    """Two classes of three pictures in each split."""
    for split in ("train", "val"):
        for label, name in enumerate(("b", "a")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                size = (40 + 5 * i, 56 - 3 * i)
                Image.fromarray(texture(10 * label + i, *size)).save(tmp_path / split / name / f"{i}.jpg")
    return tmp_path


def module(root, **options):
    data = ImageDataModule(str(root), SMALL, **{"num_workers": 0, "batch_size": 2, "seed": 3} | options)
    data.setup("fit")
    return data


def test_evaluation_sees_the_pixels_of_torchvisions_transforms(root):
    """ImageFolder, Resize and CenterCrop, to the last bit; and its classes, order and labels."""
    transform = v2.Compose([v2.PILToTensor(), v2.Resize(32, antialias=True), v2.CenterCrop(24)])
    theirs = ImageFolder(str(root / "val"), transform)
    data = module(root, eval_batch_size=4)
    assert list(data.class_names) == theirs.classes
    batches = list(data.val_dataloader())
    assert [len(batch) for batch in batches] == [4, 2]
    ours = [video for batch in batches for video in batch.videos]
    for video, (pixels, label), (path, _) in zip(ours, theirs, theirs.samples, strict=True):
        assert (video.path, video.label) == (path, label)
        assert video.index.tolist() == [[0]]
        assert video.crops == [(0, 0, 24, 24)]
        assert torch.equal(video.frames[0].permute(2, 0, 1), pixels)


def test_training_batches_are_the_same_whoever_reads_them(root):
    def batches(epoch, **options):
        loader = module(root, **options).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [(batch.clips.clone(), batch.labels.clone(), batch.videos.clone()) for batch in loader]

    alone = batches(1)
    assert [tuple(clips.shape) for clips, _, _ in alone] == [(2, 3, 1, 24, 24)] * 3
    assert all((labels == videos // 3).all() for _, labels, videos in alone)
    for options in ({"num_workers": 2}, {"num_workers": 1, "decode_timeout": None}):
        for ours, theirs in zip(alone, batches(1, **options), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(alone[0][0], batches(2)[0][0])
    assert not torch.equal(alone[0][0], batches(1, seed=4)[0][0])


def test_a_training_view_is_the_crop_of_its_generator(root):
    """Against torchvision's resized_crop and flip of the picture that Pillow decodes."""
    batch = next(iter(module(root, batch_size=6).train_dataloader()))
    paths = [path for path, _ in ImageFolder(str(root / "train")).samples]
    for clip, video in zip(batch.clips, batch.videos.tolist(), strict=True):
        picture = v2.functional.pil_to_tensor(Image.open(paths[video]))
        rng = np.random.default_rng(np.random.SeedSequence((3, 0, video)))
        view = random_resized_crop(*picture.shape[1:], SMALL, rng)
        expected = v2.functional.resized_crop(
            picture, view.top, view.left, view.height, view.width, [24, 24], antialias=True
        )
        assert torch.equal(clip[:, 0], expected.flip(2) if view.flip else expected)


def test_bad_pictures_are_replaced_in_training_and_counted_in_evaluation(root):
    for split in ("train", "val"):
        make_bad("cut off", root / split / "a" / "1.jpg")
    data = module(root, batch_size=6, eval_batch_size=6)
    (batch,) = data.train_dataloader()
    ((path, reason),) = batch.replaced
    assert path == str(root / "train" / "a" / "1.jpg")
    assert "truncated" in reason
    assert len(batch) == 6
    assert 1 not in batch.videos
    (batch,) = data.val_dataloader()
    assert [video.error is None for video in batch.videos] == [True, False, True, True, True, True]


def test_what_is_no_picture_is_not_listed(root):
    for name in (".hidden.jpg", "._0.jpg", "notes.txt"):
        (root / "train" / "a" / name).write_bytes(b"x")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "a" / "deeper").mkdir()
    Image.fromarray(texture(0)).save(root / "train" / "a" / "deeper" / "x.PNG")
    index = module(root).index("train")
    assert [index.video_id(i) for i in range(4)] == [
        *(f"train/a/{i}.jpg" for i in range(3)),
        "train/a/deeper/x.PNG",
    ]
    assert "7 pictures of 2 classes" in index.summary()


def test_class_folders_must_be_the_classes(root, tmp_path):
    (root / "val" / "a").rename(root / "val" / "c")
    with pytest.raises(UsageError, match=r"2 classes, found 1 others \(c\) and 1 missing \(a\)"):
        module(root).index("val")
    names = tmp_path / "names.txt"
    names.write_text("c\nb\na\nd\n")
    data = module(root, class_names=str(names))
    assert data.class_names == ("c", "b", "a", "d")
    assert data.index("train").labels.tolist() == [2, 2, 2, 1, 1, 1]
    assert data.index("val").labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert "classes without a picture: 2: a, d" in data.index("val").summary()


def test_the_flat_validation_folder_of_ilsvrc_is_refused_with_a_command_that_sorts_it(root):
    """The command of the message, run on a folder as the archive has it, makes it one that is read."""
    rows = ["ImageId,PredictionString"]
    for i, name in enumerate("abab"):
        Image.fromarray(texture(i)).save(root / "val" / f"ILSVRC2012_val_{i:08}.JPEG", "jpeg")
        rows.append(f"ILSVRC2012_val_{i:08},{name} 85 1 499 272 {name} 5 6 7 8")
    for name in "ab":
        for path in (root / "val" / name).iterdir():
            path.unlink()
        (root / "val" / name).rmdir()
    (root / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(UsageError, match="found 4 pictures without folders") as caught:
        module(root)
    command = str(caught.value).splitlines()[-1]
    subprocess.run(["bash", "-c", command], check=True, cwd=root)
    index = module(root).index("val")
    assert [index.video_id(i)[-6:] for i in range(4)] == ["0.JPEG", "2.JPEG", "1.JPEG", "3.JPEG"]
    assert index.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: root.rename(root.parent / "elsewhere"), "data.root: expected a folder, found nothing"),
        (lambda root: (root / "val").rename(root / "x"), r"expected a folder val/ .* found train, x"),
        (lambda root: [p.unlink() for p in (root / "val").rglob("*.jpg")], "found 2 folders without one"),
    ],
)
def test_other_layouts_are_refused_in_words(root, spoil, message):
    spoil(root)
    with pytest.raises(UsageError, match=message):
        module(root)


def test_a_clip_of_pictures_has_one_frame(root):
    with pytest.raises(UsageError, match=r"data\.clip\.num_clips: expected 1, .* found 10"):
        ImageDataModule(str(root), ClipSpec(frames=1))
    with pytest.raises(UsageError, match=r"data\.clip\.frames: expected 1, .* found 8"):
        ImageDataModule(str(root), ClipSpec(frames=8))
