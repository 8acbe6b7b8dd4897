"""The kinds of files that every backend is tested on, in one table, and how each is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import av
import pytest
from video_files import cut_by_edit_list, has_encoder, write_video

FPS = 25
GOP = 12  # where nothing else is said, as in write_video
UNEVEN = tuple(i * 40 + (i % 5) * 7 + (i // 10) * 300 for i in range(40))


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        keywords: of :func:`video_files.write_video`.
        sought: whether the packets alone tell which frame is which; else frames are counted from the first.
        decord: whether decord reads it itself; else it is left to PyAV.
        torchcodec: the same.
        frames: that are written.
        first: number of the first frame that is shown.
        leading: whether some frames come after a key frame in the file and before it on the screen.
        change: what happens to the written file.
    """

    keywords: dict[str, Any] = field(default_factory=dict)
    sought: bool = True
    decord: bool = True
    torchcodec: bool = True
    frames: int = 40
    first: int = 0
    leading: bool = False
    change: Callable[[Path], object] | None = None

    @property
    def codec(self) -> str:
        """FFmpeg's name of the encoder."""
        return self.keywords.get("codec", "libx264")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as written."""
        return self.keywords.get("width", 96), self.keywords.get("height", 64)

    @property
    def shown(self) -> range:
        """Numbers of the frames that are shown, in order."""
        return range(self.first, self.frames)


def x264(parameters: str, **keywords: Any) -> dict[str, Any]:
    return {"bframes": 2, **keywords, "options": {"x264-params": parameters}}


def x265(parameters: str, **keywords: Any) -> dict[str, Any]:
    fixed = "log-level=none:pools=1:frame-threads=1:scenecut=0:keyint=12:min-keyint=12"
    return {**keywords, "codec": "libx265", "options": {"x265-params": f"{fixed}:{parameters}"}}


def counted(**keywords: Any) -> Kind:
    """A file whose packets do not tell the frames; no backend but PyAV reads it."""
    return Kind(keywords, sought=False, decord=False, torchcodec=False)


def pyav_only(keywords: dict[str, Any]) -> Kind:
    """A file that is sought, but of which the other backends would show other frames or colours."""
    return Kind(keywords, decord=False, torchcodec=False)


def cut(frames: int, **keywords: Any) -> Kind:
    """A file whose edit list leaves out the first frames (up to a key frame: not even their packets come)."""
    change = partial(_cut, frames=frames)
    return Kind(keywords, decord=frames % GOP == 0, first=frames, change=change)


def _cut(path: Path, frames: int) -> None:
    cut_by_edit_list(path, path, frames)


def void_cues(path: Path) -> None:
    """Takes the index from a Matroska file: its element becomes a Void element of the same length."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"\x1c\x53\xbb\x6b") + 4
    length = 9 - data[at].bit_length()
    size = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    void = b"\xec" + ((1 << 7 * (length + 3)) | size).to_bytes(length + 3, "big")
    data[at - 4 : at + length] = void
    path.write_bytes(data)


def begin_within_a_group(path: Path) -> None:
    """Cuts the transport packets before the fourth coded picture of a stream."""
    with av.open(str(path)) as container:
        start = [packet.pos for packet in container.demux(video=0) if packet.size][3]
    path.write_bytes(path.read_bytes()[start:])


VP8 = {"codec": "libvpx", "options": {"lag-in-frames": "10", "auto-alt-ref": "1"}}
VP9 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "10", "auto-alt-ref": "1"}
AV1 = {"codec": "libsvtav1", "options": {"preset": "12"}}

KINDS: dict[str, Kind] = {
    # H.264: groups of pictures
    "plain.mp4": Kind(),
    "bframes.mp4": Kind({"bframes": 3}),
    "bframes.mkv": Kind({"bframes": 3}),
    "gop_1.mp4": Kind({"gop": 1}),
    "gop_30.mkv": Kind({"gop": 30, "bframes": 2}),
    "gop_250.mp4": Kind({"gop": 250, "bframes": 2}, frames=520),
    "pyramid.mp4": Kind(x264("b-pyramid=normal:ref=4", bframes=8, gop=25)),
    "long_references.mp4": Kind(x264("ref=16:b-pyramid=normal:b-adapt=0", bframes=3, gop=40)),
    "open_gop.mp4": Kind(x264("open-gop=1"), decord=False, torchcodec=False, leading=True),
    "open_gop.mkv": Kind(x264("open-gop=1"), decord=False, torchcodec=False, leading=True),
    "open_gop_pyramid.mp4": Kind(
        x264("open-gop=1:b-pyramid=normal:ref=6", bframes=4), decord=False, torchcodec=False, leading=True
    ),
    "intra_refresh.mp4": pyav_only(x264("intra-refresh=1", bframes=0)),
    "intra_refresh_bframes.mkv": pyav_only(x264("intra-refresh=1")),
    # H.264: pixels
    "odd_444.mp4": Kind({"width": 97, "height": 65, "pix_fmt": "yuv444p", "bframes": 2}),
    "422.mp4": pyav_only({"pix_fmt": "yuv422p", "bframes": 2}),
    "ten_bit.mkv": pyav_only({"pix_fmt": "yuv420p10le", "bframes": 2}),
    "ten_bit_444.mkv": pyav_only({"pix_fmt": "yuv444p10le", "bframes": 2}),
    "full_range.mp4": Kind({"pix_fmt": "yuvj420p"}),
    "interlaced.mp4": counted(**x264("interlaced=1")),
    # mp4 and Matroska: how the file is laid out
    "faststart.mp4": Kind({"bframes": 2, "container_options": {"movflags": "faststart"}}),
    "fragmented.mp4": Kind({"bframes": 2, "container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "fragment_per_frame.mp4": Kind({"bframes": 2, "container_options": {"movflags": "frag_every_frame+empty_moov"}}),
    "negative_offsets.mp4": Kind({"bframes": 2, "container_options": {"movflags": "negative_cts_offsets"}}),
    "quicktime.mov": Kind({"bframes": 2}),
    "late_start.mp4": Kind({"bframes": 2, "start": 50}),
    "late_start.mkv": Kind({"bframes": 2, "start": 50}),
    "variable_rate.mp4": Kind({"bframes": 2, "milliseconds": UNEVEN}),
    "variable_rate.mkv": Kind({"milliseconds": UNEVEN}),
    "longer_audio.mp4": Kind({"bframes": 2, "audio_seconds": 3.0}),
    "longer_audio.mkv": Kind({"bframes": 2, "audio_seconds": 3.0}),
    "no_cues.mkv": Kind({"bframes": 2}, change=void_cues),
    "live.mkv": Kind({"bframes": 2, "container_options": {"live": "1"}}, decord=False),
    **{f"cut_{frames}.mp4": cut(frames) for frames in (5, 12, 15)},
    **{f"cut_{frames}_bframes.mp4": cut(frames, bframes=3) for frames in (5, 12, 15)},
    # other codecs
    "hevc.mp4": Kind(x265("bframes=2:open-gop=0"), decord=False),
    "hevc_open_gop.mp4": Kind(x265("bframes=2:open-gop=1"), decord=False, leading=True),
    "hevc_open_gop_pyramid.mkv": Kind(
        x265("preset=medium:bframes=4:b-pyramid=1:open-gop=1"), decord=False, leading=True
    ),
    "hevc_ten_bit.mkv": pyav_only(x265("bframes=2:open-gop=0", pix_fmt="yuv420p10le")),
    "vp9.webm": Kind({"codec": "libvpx-vp9", "options": VP9}),
    "vp9_hidden_frames.webm": Kind({"codec": "libvpx-vp9", "options": {**VP9, "deadline": "good", "cpu-used": "5"}}),
    "vp9_444.mkv": Kind({"codec": "libvpx-vp9", "pix_fmt": "yuv444p", "options": VP9}),
    "vp9_odd.webm": pyav_only({"codec": "libvpx-vp9", "width": 97, "height": 65, "options": VP9}),
    "vp9.mp4": Kind({"codec": "libvpx-vp9", "options": VP9}),
    "av1.mp4": Kind(AV1, decord=False),
    "av1.mkv": Kind(AV1, decord=False),
    "av1_ten_bit.mp4": pyav_only({**AV1, "pix_fmt": "yuv420p10le"}),
    # counted from the first frame
    "no_times.avi": counted(codec="mpeg4", bframes=2),
    "odd.avi": counted(codec="mpeg4", width=97, height=65),
    "h264.avi": counted(),
    "motion_jpeg.avi": counted(codec="mjpeg", pix_fmt="yuvj420p"),
    "part2.mp4": counted(codec="mpeg4", bframes=2),
    "part2.mkv": counted(codec="mpeg4", bframes=2),
    "stream.ts": counted(bframes=2),
    "late_start.ts": counted(bframes=2, start=50),
    "hevc.ts": counted(**x265("bframes=2:open-gop=1")),
    "begins_within_a_group.ts": Kind(
        {"bframes": 2}, sought=False, decord=False, torchcodec=False, first=12, change=begin_within_a_group
    ),
    "open_gop_begins_within_a_group.ts": Kind(
        x264("open-gop=1"), sought=False, decord=False, torchcodec=False, first=12, change=begin_within_a_group
    ),
    "stream.flv": counted(bframes=2),
    "program.mpg": counted(codec="mpeg2video", bframes=2),
    "hidden_frames.webm": counted(**VP8),
    "old.wmv": counted(codec="wmv2"),
}


def make(name: str, folder: Path) -> Path:
    """The file of a kind; skips the test where this FFmpeg does not write its codec."""
    kind, path = KINDS[name], folder / name
    if not has_encoder(kind.codec):
        pytest.skip(f"this FFmpeg does not write {kind.codec}")
    if not path.exists():
        write_video(path, kind.frames, **kind.keywords)
        if kind.change is not None:
            kind.change(path)
    return path
