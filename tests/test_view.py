"""A view that the reader applies while it decodes has the bytes of the same view of whole frames."""

import numpy as np
import pytest
import torch
from video_files import SHARED_VIDEOS, write_video

from videogn.data.decode import VideoReader
from videogn.data.view import View, ViewWriter, apply_view, whole

FILES = {
    "plain.mp4": {"width": 170, "height": 128, "bframes": 2},
    "turned.mp4": {"width": 170, "height": 128, "rotation": 90},
    "odd.mp4": {"width": 97, "height": 65, "pix_fmt": "yuv444p"},
    "odd_420.avi": {"width": 97, "height": 65, "codec": "mpeg4"},
    "ten_bit.mkv": {"width": 170, "height": 128, "pix_fmt": "yuv420p10le"},
    "full_range.mp4": {"width": 170, "height": 128, "pix_fmt": "yuvj420p"},
    "interlaced.mp4": {"width": 170, "height": 128, "options": {"x264-params": "interlaced=1"}},
    "large.mp4": {"width": 1280, "height": 720},
}
INDICES = [0, 7, 3, 7, 9]


def views(height, width, count=12):
    """Some views: all, mirrored, one pixel, edges, and random rectangles scaled down and up."""
    rng = np.random.default_rng(height * width)
    yield whole(height, width)
    yield View(0, 0, height, width, height, width, flip=True)
    yield View(height - 1, width - 1, 1, 1, 1, 1)
    yield View(1, 1, height - 1, width - 1, 40, 30)
    for _ in range(count):
        rows, columns = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
        scaled = (rows, columns) if rng.random() < 0.3 else tuple(rng.integers(1, 90, 2).tolist())
        yield View(top, left, rows, columns, *scaled, flip=bool(rng.random() < 0.5))


@pytest.mark.parametrize("name", FILES)
def test_the_same_bytes_as_from_whole_frames(tmp_path, name):
    path = write_video(tmp_path / name, 12, **FILES[name])
    with VideoReader(path) as reader:
        frames = reader.read(INDICES)
        for view in views(*frames.shape[1:3]):
            sizes = []

            def choose(height, width, view=view, sizes=sizes):
                sizes.append((height, width))
                return view

            got = reader.read(INDICES, choose)
            assert sizes == [tuple(frames.shape[1:3])]
            assert got.is_contiguous()
            assert torch.equal(got, apply_view(frames, view)), view


@pytest.mark.skipif(not SHARED_VIDEOS.is_dir(), reason="no shared videos")
@pytest.mark.parametrize("name", ["kinetics_arm_wrestling_340x256.mp4", "rotated_90_568x320.mov"])
def test_the_same_bytes_in_real_files(name):
    with VideoReader(SHARED_VIDEOS / name) as reader:
        frames = reader.read([0, 2])
        for view in views(*frames.shape[1:3], count=40):
            assert torch.equal(reader.read([0, 2], lambda height, width, view=view: view), apply_view(frames, view))


def test_other_backends_read_in_parts(tmp_path, monkeypatch):
    path = write_video(tmp_path / "plain.mp4", 80)
    asked = []
    with VideoReader(path) as exact, VideoReader(path) as reader:

        def read(numbers):
            asked.append(len(numbers))
            return exact.read(numbers)

        reader._other = read
        view = View(3, 5, 40, 60, 20, 30, flip=True)
        indices = np.arange(75) % 70
        got = reader.read(indices, lambda height, width: view)
        assert torch.equal(got, apply_view(exact.read(indices), view))
    assert asked == [32, 32, 11]


def test_a_clip_of_a_large_source_is_never_held_at_its_size():
    view = View(0, 0, 2160, 3840, 256, 455)
    writer = ViewWriter(100, view)
    assert len(writer._held) * 2160 * 3840 <= 2**23
    picture = np.full((2160, 3840, 3), 7, np.uint8)
    for slot in (3, 0, 2, 1):
        writer.put(slot, picture + slot)
    assert writer.finish()[:4, 100, 100, 0].tolist() == [7, 8, 9, 10]
