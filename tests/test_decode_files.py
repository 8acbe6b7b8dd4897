"""Files that are no videos, or not whole: one VideoError each, at once."""

import contextlib
import os
import pickle
import subprocess
import sys

import av
import numpy as np
import pytest
from video_files import numbered_frame, write_audio_only, write_video

from videogn.data.decode import Limits, VideoReader, probe, read_frames
from videogn.errors import UsageError, VideoError


def refuse(path, pattern):
    for call in (probe, lambda p: read_frames(p, [0])):
        with pytest.raises(VideoError, match=pattern) as caught:
            call(path)
        assert caught.value.path == str(path)
        assert str(caught.value).count(str(path)) == 1


def test_missing(tmp_path):
    refuse(tmp_path / "nothing.mp4", "no such file")


def test_directory(tmp_path):
    refuse(tmp_path, "a directory")


def test_empty(tmp_path):
    (tmp_path / "empty.mp4").touch()
    refuse(tmp_path / "empty.mp4", r"empty file \(0 bytes\)")


@pytest.mark.parametrize("content", [b"hello world\n" * 50, b"\x00" * 1000, b"\x89PNG\r\n\x1a\n" + b"x" * 100])
def test_no_video(tmp_path, content):
    path = tmp_path / "text.mp4"
    path.write_bytes(content)
    refuse(path, "not a video file")


def test_random_bytes(tmp_path):
    path = tmp_path / "random.mp4"
    for seed in range(5):
        path.write_bytes(np.random.default_rng(seed).bytes(5000))
        refuse(path, "random.mp4: ")


def test_audio_only(tmp_path):
    refuse(write_audio_only(tmp_path / "sound.m4a"), r"no video stream \(audio only\)")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_would_wait_for_ever(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    refuse(tmp_path / "pipe.mp4", "not a regular file")


def test_an_absurd_frame_size(tmp_path):
    path = write_video(tmp_path / "large.mp4", 3)
    for call in (probe, lambda p, limits: read_frames(p, [0], limits=limits)):
        with pytest.raises(VideoError, match="frames of 96x64 pixels, more than the 1,000 of max_pixels"):
            call(path, limits=Limits(max_pixels=1000))
        with pytest.raises(VideoError, match="more than the 2 frames of max_frames"):
            call(path, limits=Limits(max_frames=2))
    assert probe(path, limits=Limits(max_pixels=96 * 64, max_frames=3)).num_frames == 3


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
def test_cut_mp4(tmp_path, keep, options):
    path = tmp_path / "cut.mp4"
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(i), format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    refuse(path, r"truncated: \d+ of 40 frames are in the file" if options and keep > 0.3 else "truncated")


@pytest.mark.parametrize("name", ["cut.mkv", "cut.webm", "cut.avi"])
def test_cut_other_containers(tmp_path, name):
    codec = {"cut.mkv": "libx264", "cut.webm": "libvpx", "cut.avi": "mpeg4"}[name]
    path = write_video(tmp_path / name, 40, codec=codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refuse(path, "truncated")


def test_a_frame_size_that_changes(tmp_path):
    small = write_video(tmp_path / "small.ts", 10)
    large = write_video(tmp_path / "large.ts", 10, width=128, height=96)
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with VideoReader(path) as reader:
        assert reader.read([0, 5]).shape == (2, 64, 96, 3)
        with pytest.raises(VideoError, match=r"the frame size changes from \(96, 64\) to \(128, 96\) at frame 10"):
            reader.read([0, reader.num_frames - 1, 10])
        with pytest.raises(VideoError, match=r"the frame size changes from \(96, 64\) to \(128, 96\) at frame 10"):
            reader.check()


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi", "ts"])
def test_flipped_bytes_give_frames_or_one_error(tmp_path, container):
    codec = "mpeg4" if container == "avi" else "libx264"
    data = write_video(tmp_path / f"whole.{container}", 24, codec=codec, bframes=2).read_bytes()
    path = tmp_path / f"flipped.{container}"
    for seed in range(25):
        rng = np.random.default_rng(seed)
        damaged = bytearray(data)
        for _ in range(int(rng.integers(1, 20))):
            damaged[rng.integers(0, len(data))] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(VideoError), VideoReader(path) as reader:
            frames = reader.read(np.arange(reader.num_frames))
            assert frames.shape[0] == reader.num_frames
            assert frames.shape[3] == 3


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_unknown_backend(tmp_path):
    with pytest.raises(UsageError, match="expected one of pyav, decord, torchcodec, found 'opencv'"):
        VideoReader(tmp_path / "a.mp4", "opencv")


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
def test_a_backend_that_is_not_installed(tmp_path, monkeypatch, backend):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=f"pip install {backend}"):
        VideoReader(write_video(tmp_path / "a.mp4", 3), backend)


def test_errors_travel_between_processes(tmp_path):
    with pytest.raises(VideoError) as caught:
        probe(tmp_path / "nothing.mp4")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason) == (str(caught.value), "no such file")


def test_quiet_and_lazy(tmp_path):
    path = write_video(tmp_path / "damaged.mp4", 24, bframes=2)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 2000
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    code = f"""
import sys
from videogn.data.decode import read_frames
from videogn.errors import VideoError
assert not {{"decord", "torchcodec"}} & set(sys.modules)
try:
    read_frames({str(path)!r}, range(24))
except VideoError:
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["counted.avi", "sought.mp4"])
def test_a_check_decodes_every_frame_once(tmp_path, name):
    path = write_video(tmp_path / name, 20, codec="mpeg4" if name.endswith("avi") else "libx264")
    steps = []
    with VideoReader(path, progress=lambda: steps.append(1)) as reader:
        assert bool(reader.counted) == (name == "counted.avi")
        reader.check()
    assert len(steps) <= 2 * 20 + 4  # packets are read once and decoded once; the last ones are empty
