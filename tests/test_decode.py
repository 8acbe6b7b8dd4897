"""Which frame comes back: every kind of file and every way of asking, against a plain full decode."""

import hashlib
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video_files import SHARED_VIDEOS, cut_by_edit_list, numbered_frame, read_number, write_video

from videogn.data.decode import VideoReader, probe, read_frames
from videogn.data.decode_index import FrameIndex, decode_runs
from videogn.data.decode_pyav import PyAVDecoder
from videogn.errors import VideoError

UNEVEN = [i * 40 + (i % 5) * 7 + (i // 10) * 300 for i in range(40)]
VP9 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "10", "auto-alt-ref": "1"}

# name -> (keywords of write_video, whether the packets alone tell which frame is which)
FILES = {
    "plain.mp4": ({}, True),
    "bframes.mp4": ({"bframes": 3}, True),
    "every_frame_a_key.mp4": ({"gop": 1}, True),
    "gop_30.mkv": ({"gop": 30, "bframes": 2}, True),
    "gop_250.mkv": ({"gop": 250, "bframes": 2}, True),
    "pyramid.mp4": ({"bframes": 8, "gop": 25, "options": {"x264-params": "b-pyramid=normal:ref=4"}}, True),
    "open_gop.mp4": ({"bframes": 2, "options": {"x264-params": "open-gop=1"}}, True),
    "intra_refresh.mp4": ({"options": {"x264-params": "intra-refresh=1"}}, True),
    "variable_rate.mp4": ({"bframes": 2, "milliseconds": UNEVEN}, True),
    "variable_rate.mkv": ({"milliseconds": UNEVEN}, True),
    "no_times.avi": ({"codec": "mpeg4", "bframes": 2}, False),
    "odd_444.mp4": ({"width": 97, "height": 65, "pix_fmt": "yuv444p", "bframes": 2}, True),
    "odd.avi": ({"codec": "mpeg4", "width": 97, "height": 65}, False),
    "ten_bit.mkv": ({"pix_fmt": "yuv420p10le", "bframes": 2}, True),
    "full_range.mp4": ({"pix_fmt": "yuvj420p"}, True),
    "interlaced.mp4": ({"bframes": 2, "options": {"x264-params": "interlaced=1"}}, False),
    "longer_audio.mp4": ({"bframes": 2, "audio_seconds": 3.0}, True),
    "stream.ts": ({"bframes": 2}, False),
    "stream.flv": ({"bframes": 2}, False),
    "part2.mp4": ({"codec": "mpeg4", "bframes": 2}, False),
    "program.mpg": ({"codec": "mpeg2video", "bframes": 2}, False),
    "hidden_frames.webm": ({"codec": "libvpx", "options": {"lag-in-frames": "10", "auto-alt-ref": "1"}}, False),
    "vp9.webm": ({"codec": "libvpx-vp9", "options": VP9}, True),
    "hevc.mp4": ({"codec": "libx265"}, True),
    "av1.mp4": ({"codec": "libsvtav1", "options": {"preset": "12"}}, True),
}
FRAMES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(params=FILES)
def video(request, folder) -> Path:
    keywords, _ = FILES[request.param]
    codec = keywords.get("codec", "libx264")
    path = folder / request.param
    if not path.exists():
        try:
            av.codec.Codec(codec, "w")
        except av.codec.codec.UnknownCodecError:
            pytest.skip(f"this FFmpeg does not write {codec}")
        write_video(path, FRAMES, **keywords)
    return path


def full_decode(path: Path) -> np.ndarray:
    """(N, H, W, 3): every frame, in order, by FFmpeg's own filters, with nothing skipped and nothing sought."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        graph = av.filter.Graph()
        source = graph.add_buffer(template=stream)
        graph.link_nodes(source, graph.add("format", "rgb24"), graph.add("buffersink")).configure()
        pictures = []
        for frame in container.decode(stream):
            graph.vpush(frame)
            pictures.append(graph.vpull().to_ndarray())
    return np.stack(pictures)


def test_every_frame_in_every_order(video):
    reference = full_decode(video)
    assert [read_number(picture) for picture in reference] == list(range(FRAMES))
    rng = np.random.default_rng(0)
    orders = [np.arange(FRAMES), np.arange(FRAMES)[::-1], np.array([FRAMES - 1]), np.array([7, 7, 3, 7, 39, 0])]
    orders += [rng.integers(0, FRAMES, rng.integers(1, 6)) for _ in range(20)]
    orders += [np.arange(start, FRAMES, stride) for start, stride in ((1, 2), (5, 7), (13, 3), (30, 2))]
    with VideoReader(video) as reader:
        assert reader.num_frames == reader.info.num_frames == FRAMES
        for order in orders:
            frames = reader.read(order)
            assert frames.dtype == torch.uint8
            np.testing.assert_array_equal(frames.numpy(), reference[order], err_msg=f"{video.name} {order}")
    np.testing.assert_array_equal(read_frames(video, [20, 5]).numpy(), reference[[20, 5]])


def test_only_trusted_files_are_sought(video):
    decoder = PyAVDecoder(video)
    decoder.close()
    assert (decoder.counted is None) == FILES[video.name][1], decoder.counted


def test_info_and_times(video):
    info = probe(video)
    keywords = FILES[video.name][0]
    assert (info.width, info.height) == (keywords.get("width", 96), keywords.get("height", 64))
    assert info.path == str(video)
    with VideoReader(video) as reader:
        times = reader.times()
    assert times.dtype == np.float64
    expected = np.array(UNEVEN) / 1000 if "milliseconds" in keywords else np.arange(FRAMES) / 25
    np.testing.assert_allclose(times, expected, atol=2e-3)
    if "milliseconds" not in keywords:
        assert info.fps == pytest.approx(25)
        assert info.duration == pytest.approx(FRAMES / 25, abs=2e-3)


@pytest.mark.parametrize("name", ["plain.mp4", "bframes.mp4"])
@pytest.mark.parametrize("cut", [5, 12, 15])
def test_frames_that_an_edit_list_cuts_are_not_there(folder, name, cut):
    source = write_video(folder / f"source_{name}", FRAMES, **FILES[name][0])
    path = cut_by_edit_list(source, folder / f"cut_{cut}_{name}", cut)
    reference = full_decode(path)
    assert [read_number(picture) for picture in reference] == list(range(cut, FRAMES))
    with VideoReader(path) as reader:
        assert reader.num_frames == FRAMES - cut
        for order in (np.arange(FRAMES - cut), np.array([0]), np.array([20, 3]), np.array([FRAMES - cut - 1])):
            np.testing.assert_array_equal(reader.read(order).numpy(), reference[order])


@pytest.mark.parametrize(("degrees", "turns", "clockwise"), [(90, 1, 270), (180, 2, 180), (270, 3, 90)])
def test_rotation_is_applied(tmp_path, degrees, turns, clockwise):
    path = write_video(tmp_path / "turned.mp4", 20, bframes=2, rotation=degrees)
    stored = full_decode(path)
    info = probe(path)
    assert info.rotation == clockwise
    assert (info.height, info.width) == (stored.shape[1:3] if turns == 2 else stored.shape[2:0:-1])
    shown = read_frames(path, range(20)).numpy()
    np.testing.assert_array_equal(shown, np.rot90(stored, turns, axes=(1, 2)))


def test_several_video_streams(tmp_path):
    path = write_video(tmp_path / "two.mkv", 20, before={"width": 48, "height": 32, "num_frames": 3})
    with av.open(str(path)) as container:
        best = container.streams.best("video").index
    numbers = [read_number(frame) for frame in read_frames(path, range(probe(path).num_frames))]
    assert numbers == (list(range(20)) if best == 1 else [1000, 1001, 1002])


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
    convert = PyAVDecoder.read.__globals__["RGBConverter"].__call__

    def counting(self, frame, view):
        converted.append(frame.pts)
        return convert(self, frame, view)

    monkeypatch.setattr("videogn.data.decode_pyav.RGBConverter.__call__", counting)
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
    empty = np.zeros(10, np.int64)
    index = FrameIndex(empty, empty, packet, start, empty.astype(float), 1.0)
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
