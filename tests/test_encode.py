"""A smaller video is the same video: frame i shows what frame i showed, at the same time, in the same colours."""

import itertools
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import PictureType
from video_files import SHARED_VIDEOS, cut_by_edit_list, numbered_frame, read_number, write_video

from videogn.data import encode as module
from videogn.data.decode import VideoReader
from videogn.data.decode.opening import Limits
from videogn.data.decode.pyav import PyAVDecoder
from videogn.data.encode import Encoding, encode, encoded_size
from videogn.errors import UsageError, VideoError

SMALL = Encoding(short_side=48, gop=8)
VARIABLE = [0, 40, 50, 130, 200, 210, 220, 400, 1000, 1001, 1040, 1500]


def read_all(path: Path) -> tuple[list[int], np.ndarray, tuple[int, int]]:
    """Numbers of the frames, their times and (height, width)."""
    with VideoReader(path) as reader:
        frames = reader.read(np.arange(reader.num_frames))
        return [read_number(frame) for frame in frames], reader.times(), tuple(frames.shape[1:3])


def plain(folder: Path) -> Path:
    return write_video(folder / "plain.mp4", 30, bframes=3)


def variable_rate(folder: Path) -> Path:
    return write_video(folder / "variable.mkv", len(VARIABLE), milliseconds=VARIABLE, bframes=2)


def edit_list(folder: Path) -> Path:
    return cut_by_edit_list(plain(folder), folder / "cut.mp4", 5)


def avi(folder: Path) -> Path:
    return write_video(folder / "old.avi", 20, codec="mpeg4", fps=15)


def second_stream(folder: Path) -> Path:
    return write_video(
        folder / "two.mkv", 12, width=192, height=128, before={"width": 64, "height": 64, "num_frames": 5}
    )


def audio(folder: Path) -> Path:
    return write_video(folder / "loud.mp4", 12, audio_seconds=0.5)


def transport_stream(folder: Path) -> Path:
    return write_video(folder / "cast.ts", 24, bframes=2)


@pytest.mark.parametrize("make", [plain, variable_rate, edit_list, avi, second_stream, audio, transport_stream])
def test_same_frames_at_the_same_times(tmp_path, make):
    source = make(tmp_path)
    info = encode(str(source), str(tmp_path / "out"), SMALL)
    numbers, times, (height, width) = read_all(source)
    if make is edit_list:
        assert numbers == list(range(5, 30))
    elif make is not second_stream:
        assert numbers == list(range(len(numbers)))
    found, found_times, size = read_all(tmp_path / "out")
    assert found == numbers
    assert np.abs(found_times - times).max() < 1e-9
    assert size == (48, 48 * width // height) == (info.height, info.width)
    with av.open(str(tmp_path / "out")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.format.name.startswith("mov")
    head = (tmp_path / "out").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(tmp_path, degrees):
    source = write_video(tmp_path / "turned.mov", 6, rotation=degrees)
    encode(str(source), str(tmp_path / "out"), SMALL)
    with VideoReader(source) as before, VideoReader(tmp_path / "out") as after:
        assert after.info.rotation == 0
        frames = (before.read(range(6)), after.read(range(6)))
        size = (72, 48) if degrees % 180 else (48, 72)
        assert frames[1].shape == (6, *size, 3)
    back = [torch.rot90(clip, degrees // 90, dims=(1, 2)) for clip in frames]
    for clip in back:
        upright = clip if read_number(clip[1]) == 1 else torch.rot90(clip, 2, dims=(1, 2))
        assert [read_number(frame) for frame in upright] == list(range(6))


def test_sizes():
    assert encoded_size(1080, 1920, 256) == (256, 456)  # 455.1
    assert encoded_size(1920, 1080, 256) == (456, 256)
    assert encoded_size(256, 340, 256) == (256, 340)
    assert encoded_size(240, 320, 256) == (240, 320)
    assert encoded_size(239, 321, 256) == (238, 320)
    assert encoded_size(257, 257, 256) == (256, 256)
    assert encoded_size(1, 9, 256) == (2, 8)


def test_small_files_are_copied_if_they_are_what_is_wanted_anyway(tmp_path):
    source = write_video(tmp_path / "a.mp4", 8)
    encode(str(source), str(tmp_path / "same"), Encoding(64))
    assert (tmp_path / "same").read_bytes() == source.read_bytes()
    for name, options in (("b.mkv", {}), ("c.mp4", {"pix_fmt": "yuv444p"}), ("d.mp4", {"rotation": 180})):
        source = write_video(tmp_path / name, 8, **options)
        encode(str(source), str(tmp_path / f"{name}.out"), Encoding(256))
        assert (tmp_path / f"{name}.out").read_bytes() != source.read_bytes()
        assert read_all(tmp_path / f"{name}.out")[2] == (64, 96)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "options"),
    [
        ("libx264", "yuvj420p", {}),
        ("libx264", "yuv420p", {"colorprim": "bt709", "transfer": "bt709", "colormatrix": "bt709"}),
        ("libx264", "yuv444p10le", {}),
        ("libx264rgb", "rgb24", {}),
        ("ffv1", "bgr0", {}),
    ],
)
def test_colours_stay(tmp_path, codec, pix_fmt, options):
    picture = np.zeros((64, 96, 3), np.uint8)
    colours = np.array([[230, 20, 20], [20, 230, 20], [20, 20, 230], [230, 230, 20], [128, 128, 128], [250, 250, 250]])
    picture[:] = colours.repeat(16, 0)
    source = write_video(tmp_path / "a.mkv", frames=[picture] * 4, codec=codec, pix_fmt=pix_fmt, options=options)
    encode(str(source), str(tmp_path / "out"), Encoding(32, crf=5))
    with VideoReader(source) as before, VideoReader(tmp_path / "out") as after:
        middles = [before.read([1])[0, 16::32, 8::16].int(), after.read([1])[0, 8::16, 4::8].int()]
    assert (middles[0] - middles[1]).abs().max() <= 6


def test_b_frames_are_skippable_and_key_frames_near(tmp_path):
    frames = [numbered_frame(i // 4, 96, 64) for i in range(60)]
    source = write_video(tmp_path / "a.mp4", frames=frames, gop=250)
    encode(str(source), str(tmp_path / "out"), SMALL)
    with av.open(str(tmp_path / "out")) as container:
        stream = container.streams.video[0]
        keys, others = [], 0
        for number, packet in enumerate(container.demux(stream)):
            if packet.size:
                if packet.is_keyframe:
                    keys.append(number)
                data, at, unused = bytes(packet), 0, False
                while at < len(data):
                    kind, reference = data[at + 4] & 31, data[at + 4] >> 5 & 3
                    unused |= kind == 1 and reference == 0
                    at += 4 + int.from_bytes(data[at : at + 4], "big")
                others += unused
        assert max(b - a for a, b in itertools.pairwise([*keys, 60])) <= 8
        container.seek(0)
        shown = sum(PictureType(frame.pict_type) == PictureType.B for frame in container.decode(stream))
    assert shown == others > 10


def test_what_was_written_is_compared(tmp_path, monkeypatch):
    source = plain(tmp_path)
    frames = PyAVDecoder.frames
    monkeypatch.setattr(PyAVDecoder, "frames", lambda self: itertools.islice(frames(self), 29))
    with pytest.raises(
        VideoError, match=r"plain\.mp4: the re-encoded file is not the same video: 29 frames instead of 30"
    ):
        encode(str(source), str(tmp_path / "out"), SMALL)
    monkeypatch.undo()
    ticks = module._ticks
    monkeypatch.setattr(module, "_ticks", lambda decoder: (ticks(decoder)[0] * 2, ticks(decoder)[1]))
    with pytest.raises(VideoError, match=r"presentation times up to 1\.16 s off"):
        encode(str(source), str(tmp_path / "out"), SMALL)
    monkeypatch.undo()
    flush = module._flush
    monkeypatch.setattr(module, "_flush", lambda path: (Path(path).write_bytes(b"x" * 99), flush(path)))
    with pytest.raises(VideoError, match="the re-encoded file cannot be read"):
        encode(str(source), str(tmp_path / "out"), SMALL)


def test_bad_sources_and_places(tmp_path):
    source = plain(tmp_path)
    with pytest.raises(VideoError, match="more than the 29 frames"):
        encode(str(source), str(tmp_path / "out"), SMALL, Limits(max_frames=29))
    with pytest.raises(VideoError, match="no such file"):
        encode(str(tmp_path / "gone.mp4"), str(tmp_path / "out"), SMALL)
    with pytest.raises(UsageError, match=r"/dev: cannot be written \(No space left on device\)"):
        encode(str(source), "/dev/full", SMALL)
    for options in ({"short_side": 15}, {"short_side": 8}, {"crf": 52}, {"gop": 0}):
        with pytest.raises(UsageError, match="expected"):
            Encoding(**options)


@pytest.mark.skipif(not SHARED_VIDEOS.is_dir(), reason="no shared videos")
@pytest.mark.parametrize(
    "name", ["rotated_90_568x320.mov", "variable_fps_128x128.mp4", "xvid_bframes_no_pts_320x240.avi"]
)
def test_real_files(tmp_path, name):
    encode(str(SHARED_VIDEOS / name), str(tmp_path / "out"), Encoding(64))
    with VideoReader(SHARED_VIDEOS / name) as before, VideoReader(tmp_path / "out") as after:
        assert before.num_frames == after.num_frames
        assert np.abs(before.times() - after.times()).max() < 1e-6
        for i in (0, before.num_frames // 2, before.num_frames - 1):
            a, b = (reader.read([i]).permute(0, 3, 1, 2).float() for reader in (before, after))
            a = torch.nn.functional.interpolate(a, b.shape[-2:], mode="bicubic", antialias=True)
            assert (a - b).abs().mean() < 8
