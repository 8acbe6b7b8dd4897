"""Which frame comes back: every kind of file and every way of asking, against a plain full decode."""

import hashlib
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video_files import SHARED_VIDEOS, full_decode, numbered_frame, read_number, write_video
from video_table import FPS, KINDS, UNEVEN, make

from videogn.data.decode import VideoReader, probe, read_frames
from videogn.data.decode.index import FrameIndex, decode_runs
from videogn.data.decode.pyav import PyAVDecoder
from videogn.data.decode.rgb import RGBConverter
from videogn.errors import VideoError

FRAMES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(params=KINDS)
def video(request, folder) -> Path:
    return make(request.param, folder)


def test_every_frame_in_every_order(video):
    kind = KINDS[video.name]
    reference = full_decode(video)
    assert [read_number(picture) for picture in reference] == list(kind.shown)
    n = len(reference)
    rng = np.random.default_rng(0)
    orders = [np.arange(n), np.arange(n)[::-1], np.array([n - 1]), np.array([7, 7, 3, 7, n - 1, 0])]
    orders += [rng.integers(0, n, rng.integers(1, 6)) for _ in range(20)]
    orders += [np.arange(start, n, stride) for start, stride in ((1, 2), (5, 7), (13, 3), (n - 10, 2))]
    with VideoReader(video) as reader:
        assert reader.num_frames == reader.info.num_frames == n
        for order in orders:
            frames = reader.read(order)
            assert frames.dtype == torch.uint8
            np.testing.assert_array_equal(frames.numpy(), reference[order], err_msg=f"{video.name} {order}")
    np.testing.assert_array_equal(read_frames(video, [20, 5]).numpy(), reference[[20, 5]])


def test_only_trusted_files_are_sought(video):
    with VideoReader(video) as reader:
        assert (reader.counted is None) == KINDS[video.name].sought, reader.counted


def test_info_and_times(video):
    kind = KINDS[video.name]
    info = probe(video)
    assert (info.width, info.height) == kind.size
    assert info.path == str(video)
    with VideoReader(video) as reader:
        times = reader.times()
    assert times.dtype == np.float64
    even = "milliseconds" not in kind.keywords
    expected = np.arange(len(kind.shown)) / FPS if even else np.array(UNEVEN) / 1000
    np.testing.assert_allclose(times, expected, atol=2e-3)
    if even:
        assert info.fps == pytest.approx(FPS)
        assert info.duration == pytest.approx(len(kind.shown) / FPS, abs=2e-3)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.sought])
def test_the_files_are_what_their_names_say(folder, name):
    """Key frames, leading frames and first times, as FFmpeg's demuxer tells them."""
    kind = KINDS[name]
    with av.open(str(make(name, folder))) as container:
        stream = container.streams.best("video")
        packets = [packet for packet in container.demux(stream) if packet.size]
        seconds = float(packets[0].pts * stream.time_base)
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    leading = [i for i, packet in enumerate(packets) if any(packet.pts < packets[k].pts for k in keys if 0 < k < i)]
    if "intra_refresh" not in name:
        assert bool(leading) == kind.leading
    if name == "gop_1.mp4":
        assert len(keys) == FRAMES
    if name.startswith("gop_250"):
        assert keys == [0, 250, 500]
    if name.startswith("late_start"):
        assert seconds == pytest.approx(50 / FPS)
    if name.startswith("negative_offsets"):
        data = (folder / name).read_bytes()
        assert data[data.index(b"ctts") + 4] == 1  # the version of the box whose offsets are signed


# -- readers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 5])
def test_short_videos(tmp_path, frames):
    path = write_video(tmp_path / "short.mp4", frames, bframes=2)
    assert probe(path).num_frames == frames
    assert [read_number(f) for f in read_frames(path, [frames - 1, 0])] == [frames - 1, 0]


def test_ways_to_write_indices(folder):
    path = write_video(folder / "ways.mp4", 12)
    expected = read_frames(path, [4, 2])
    for indices in ((4, 2), np.array([4, 2], np.int32), torch.tensor([4, 2]), range(4, 1, -2)):
        assert torch.equal(read_frames(path, indices), expected)


@pytest.mark.parametrize("indices", [[12], [-1], [0, 100]])
def test_indices_outside_the_video(folder, indices):
    path = write_video(folder / "outside.mp4", 12)
    with pytest.raises(IndexError, match=r"outside\.mp4: frame -?\d+ asked for, but the video has 12 frames, 0 to 11"):
        read_frames(path, indices)


@pytest.mark.parametrize("indices", [[], [0.5], [[1]], 3])
def test_indices_that_are_no_row_of_integers(folder, indices):
    path = write_video(folder / "row.mp4", 12)
    with pytest.raises(ValueError, match="expected frame numbers"):
        read_frames(path, indices)


def test_frames_are_converted_only_if_returned(folder, monkeypatch):
    path = write_video(folder / "converted.mp4", FRAMES, bframes=2)
    converted = []
    convert = RGBConverter.__call__

    def counting(self, frame, view, filters):
        converted.append(frame.pts)
        return convert(self, frame, view, filters)

    monkeypatch.setattr("videogn.data.decode.rgb.RGBConverter.__call__", counting)
    read_frames(path, [30, 5, 5, 30, 8])
    assert len(converted) == 3


def test_non_reference_frames_that_nobody_wants_are_skipped(folder):
    path = write_video(folder / "skipped.mp4", FRAMES, bframes=3, gop=FRAMES)
    reference = full_decode(path)
    decoder = PyAVDecoder(path)
    seen = []

    class Watched(dict):
        def get(self, pts, default):  # asked once for each packet that goes in and once for each frame that comes out
            seen.append(pts)
            return super().get(pts, default)

    object.__setattr__(decoder.index, "frame_of_pts", Watched(decoder.index.frame_of_pts))
    last = int(np.argmax(decoder.index.packet))
    assert decoder.read(np.arange(FRAMES)).numpy().tobytes() == reference.tobytes()
    assert len(seen) == 2 * FRAMES
    seen.clear()
    assert decoder.read(np.array([last])).numpy().tobytes() == reference[[last]].tobytes()
    assert FRAMES < len(seen) < 1.7 * FRAMES
    decoder.close()


def test_runs_jump_only_where_packets_can_be_left_out():
    # Two groups of 5 frames in display order 0 2 1 4 3: packets 0..4 and 5..9.
    packet = np.array([0, 2, 1, 4, 3, 5, 7, 6, 9, 8])
    start = np.repeat([0, 5], 5)
    index = FrameIndex(packet, start, np.zeros(10), 1.0)
    assert decode_runs(index, np.array([0, 1])) == [(0, 2, {0, 1})]
    assert decode_runs(index, np.array([1, 6])) == [(0, 2, {1}), (5, 7, {6})]
    assert decode_runs(index, np.array([3, 6])) == [(0, 7, {3, 6})]


def test_a_reader_closes(folder):
    path = write_video(folder / "closed.mp4", 12)
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else None
    for _ in range(5):
        with VideoReader(path) as reader:
            reader.read([3])
        reader.close()
    if before is not None:
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_picture_code_is_readable():
    for number in (0, 1, 0xFFFF, 0xA5C3):
        assert read_number(numbered_frame(number, 97, 65)) == number


# -- real files -------------------------------------------------------------------------------------------------------

LISTED = json.loads((SHARED_VIDEOS / "frames.json").read_text()) if (SHARED_VIDEOS / "frames.json").exists() else {}
needs_shared = pytest.mark.skipif(not LISTED, reason="no shared videos")


def md5(frame: torch.Tensor) -> str:
    return hashlib.md5(frame.contiguous().numpy().tobytes()).hexdigest()[:8]


@needs_shared
@pytest.mark.parametrize("name", [name for name in LISTED if name != "corrupted.mp4"])
def test_real_files(name):
    expected = LISTED[name]
    hashes = expected["rgb24_md5_8"]
    info = probe(SHARED_VIDEOS / name)
    assert info.num_frames == expected["frames"]
    assert f"{info.width}x{info.height}" == expected["size_wh"]
    rng = np.random.default_rng(0)
    with VideoReader(SHARED_VIDEOS / name) as reader:
        assert [md5(frame) for frame in reader.read(range(info.num_frames))] == hashes
        for _ in range(6):
            indices = rng.integers(0, info.num_frames, rng.integers(1, 6))
            assert [md5(frame) for frame in reader.read(indices)] == [hashes[i] for i in indices]
        start = info.num_frames // 3
        indices = np.arange(start, info.num_frames, 2)[:32]
        assert [md5(frame) for frame in reader.read(indices)] == [hashes[i] for i in indices]


@needs_shared
def test_a_damaged_real_file():
    path = SHARED_VIDEOS / "corrupted.mp4"
    with VideoReader(path) as reader:
        assert [md5(frame) for frame in reader.read([0, 10])] == [LISTED[path.name]["rgb24_md5_8"][i] for i in (0, 10)]
        with pytest.raises(VideoError, match=r"corrupted\.mp4: frame 30 of 50 cannot be decoded"):
            reader.read(range(reader.num_frames))
        assert len(reader.read([5])) == 1  # and the reader still works
