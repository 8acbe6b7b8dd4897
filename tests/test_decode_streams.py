"""Which stream of a file is shown, and which way up."""

import av
import numpy as np
import pytest
from video_files import full_decode, read_number, set_display_matrix, write_video

from videogn.data.decode import VideoReader, probe, read_frames

# The eight ways to hang a picture: (a, b, c, d) of the display matrix, by which a stored point (x, y) is shown at
# (ax + cy, bx + dy), y downwards, and what that does to an array (T, H, W, 3).
ORIENTATIONS = {
    "upright": ((1, 0, 0, 1), lambda stored: stored),
    "clockwise": ((0, 1, -1, 0), lambda stored: np.rot90(stored, -1, (1, 2))),
    "half turn": ((-1, 0, 0, -1), lambda stored: np.rot90(stored, 2, (1, 2))),
    "counter-clockwise": ((0, -1, 1, 0), lambda stored: np.rot90(stored, 1, (1, 2))),
    "mirrored": ((-1, 0, 0, 1), lambda stored: stored[:, :, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda stored: stored[:, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda stored: stored.swapaxes(1, 2)),
    "transposed the other way": ((0, -1, -1, 0), lambda stored: stored[:, ::-1, ::-1].swapaxes(1, 2)),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_pictures_are_turned_and_mirrored(tmp_path, name, codec):
    matrix, show = ORIENTATIONS[name]
    path = write_video(tmp_path / "turned.mp4", 20, codec=codec, bframes=2)
    stored = full_decode(path)
    set_display_matrix(path, matrix)
    expected = show(stored)
    info = probe(path)
    assert (info.height, info.width) == expected.shape[1:3]
    np.testing.assert_array_equal(read_frames(path, [0, *range(19, 0, -1)]).numpy(), expected[[0, *range(19, 0, -1)]])


@pytest.mark.parametrize("container", ["mov", "mkv"])
@pytest.mark.parametrize(("degrees", "turns", "clockwise"), [(90, 1, 270), (180, 2, 180), (270, 3, 90)])
def test_rotation_is_applied(tmp_path, container, degrees, turns, clockwise):
    path = write_video(tmp_path / f"turned.{container}", 20, bframes=2, rotation=degrees)
    stored = full_decode(path)
    info = probe(path)
    assert info.rotation == clockwise
    assert (info.height, info.width) == (stored.shape[1:3] if turns == 2 else stored.shape[2:0:-1])
    shown = read_frames(path, range(20)).numpy()
    np.testing.assert_array_equal(shown, np.rot90(stored, turns, axes=(1, 2)))


@pytest.mark.parametrize(
    ("container", "first_frames", "marked", "best"),
    [
        ("mkv", 2, False, 1),  # the one with more frames and bits
        ("ts", 2, False, 1),
        ("mkv", 40, False, 0),
        ("ts", 40, False, 0),
        ("mp4", 2, False, 0),  # the muxer marks the first
        ("mp4", 40, True, 1),  # the marked one
        ("mov", 40, True, 1),
        ("mkv", 40, True, 1),
    ],
)
def test_several_video_streams(tmp_path, container, first_frames, marked, best):
    width, height = (48, 32) if first_frames == 2 else (192, 128)
    first = {"width": width, "height": height, "num_frames": first_frames}
    path = write_video(tmp_path / f"two.{container}", 20, before=first, marked=marked)
    with av.open(str(path)) as opened:
        assert opened.streams.best("video").index == best
    expected = list(range(20)) if best else list(range(1000, 1000 + first_frames))
    with VideoReader(path) as reader:
        assert [read_number(frame) for frame in reader.read(range(reader.num_frames))] == expected
        last = len(expected) - 1
        assert [read_number(frame) for frame in reader.read([last, 1])] == [expected[last], expected[1]]
