"""Damaged video files, made from sound ones by a seed, and what reading one of them comes to.

Shared by ``test_fuzz.py`` and ``scripts/fuzz_decode.py``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from video_files import has_encoder, write_video

from videogn.data.decode import probe, read_frames
from videogn.data.guard import Beat
from videogn.errors import VideoError

VP9 = {"deadline": "realtime", "cpu-used": "8"}
SEEDS = {
    "plain.mp4": {"bframes": 2},
    "faststart.mp4": {"bframes": 2, "container_options": {"movflags": "faststart"}},
    "fragmented.mp4": {"bframes": 2, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "audio.mp4": {"audio_seconds": 1.0},
    "turned.mov": {"rotation": 90},
    "hevc.mp4": {"codec": "libx265"},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "plain.mkv": {"bframes": 2},
    "ten_bit.mkv": {"pix_fmt": "yuv420p10le"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP9},
    "vp8.webm": {"codec": "libvpx"},
    "part2.avi": {"codec": "mpeg4", "bframes": 2},
    "stream.ts": {"bframes": 2},
    "program.mpg": {"codec": "mpeg2video", "bframes": 2},
    "stream.flv": {"bframes": 2},
    "old.wmv": {"codec": "wmv2"},
}


def write_seeds(folder: Path) -> list[Path]:
    """The sound files, 16 frames of 96x64 each; those that this FFmpeg cannot encode are left out."""
    return [
        write_video(folder / name, 16, **keywords)
        for name, keywords in SEEDS.items()
        if has_encoder(keywords.get("codec", "libx264"))
    ]


# -- mutations: (data, another file's data, random generator) -> data -------------------------------------------------

Mutation = Callable[[bytearray, bytes, np.random.Generator], bytearray]

# Names of boxes, chunks and elements whose neighbouring bytes are sizes, counts, dimensions and codec headers.
_MP4 = rb"ftyp|moov|trak|tkhd|mdia|mdhd|hdlr|stsd|avc1|avcC|hev1|hvcC|av01|av1C|stts|ctts|stsc|stsz|stco|co64|stss|elst"
_MP4_TOO = rb"|edts|mdat|moof|traf|tfhd|trun|tfdt|mvex|trex|mfra|dinf|dref|mvhd"
_RIFF = rb"|RIFF|LIST|avih|strh|strf|movi|idx1|00dc"
_EBML = (
    rb"|\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x11\x4d\x9b\x74|\x15\x49\xa9\x66|\x16\x54\xae\x6b|\x1f\x43\xb6\x75"
    rb"|\x1c\x53\xbb\x6b|\x63\xa2|\xb0\x81|\xba\x81|\xae\x01|\xe0\x01"
)
_START_CODES = rb"|\x00\x00\x01[\xb3\xb5\xb8\xba\xbb\xe0\xbd]|\x47[\x40\x41][\x00-\x20]"
_MARKS = re.compile(_MP4 + _MP4_TOO + _RIFF + _EBML + _START_CODES)


def flip_few(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    return _flip(data, rng, int(rng.integers(1, 9)))


def flip_many(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    return _flip(data, rng, max(1, len(data) // int(rng.integers(20, 400))))


def flip_header(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """Bytes within 64 of a box, chunk or element name."""
    marks = _marks(data)
    for mark in rng.choice(marks, int(rng.integers(1, 6))):
        at = int(mark + rng.integers(0, 64))
        if at < len(data):
            data[at] = rng.integers(0, 256)
    return data


def sizes(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """The four bytes before or after a name become 0, a large number, or a little more or less."""
    for mark in rng.choice(_marks(data), int(rng.integers(1, 4))):
        at = max(0, int(mark) + int(rng.choice([-4, 4, 8, 12])))
        value = int.from_bytes(data[at : at + 4], "big")
        value = int(
            rng.choice([0, 1, value + 1, value - 1, value * 256, 0x7FFFFFFF, 0xFFFFFFFF, rng.integers(1 << 32)])
        )
        data[at : at + 4] = (value % (1 << 32)).to_bytes(4, "big")
    return data


def cut(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(1, len(data)))]


def cut_out(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, stop = _block(data, rng)
    del data[start:stop]
    return data


def zero(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, stop = _block(data, rng)
    data[start:stop] = bytes(stop - start)
    return data


def duplicate(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, stop = _block(data, rng)
    at = int(rng.integers(0, len(data)))
    data[at:at] = data[start:stop]
    return data


def insert(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(0, len(data)))
    data[at:at] = rng.bytes(int(rng.integers(1, 300)))
    return data


def splice(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """The head of one file before the tail of another, which may be of another container."""
    return data[: int(rng.integers(1, len(data)))] + other[int(rng.integers(0, len(other))) :]


def overlay(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """A piece of another file in place of as many bytes."""
    start, stop = _block(other, rng)
    at = int(rng.integers(0, len(data)))
    data[at : at + stop - start] = other[start:stop]
    return data


MUTATIONS: dict[str, Mutation] = {
    function.__name__: function
    for function in (flip_few, flip_many, flip_header, sizes, cut, cut_out, zero, duplicate, insert, splice, overlay)
}


def _flip(data: bytearray, rng: np.random.Generator, count: int) -> bytearray:
    for at in rng.integers(0, len(data), count):
        data[at] = rng.integers(0, 256)
    return data


def _block(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(0, len(data)))
    return start, start + int(rng.integers(1, max(2, min(4000, len(data) // 2))))


def _marks(data: bytes) -> list[int]:
    return [match.start() for match in _MARKS.finditer(bytes(data))] or [0]


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One damaged file: made and read by :func:`read_damaged`."""

    source: Path
    other: Path
    mutation: str
    seed: int
    backend: str
    folder: Path

    @property
    def name(self) -> str:
        """Tells all of the job but the folder and the source's extension, which it keeps."""
        return f"{self.source.stem}-{self.mutation}-{self.seed}{self.source.suffix}"

    def data(self) -> bytearray:
        """The damaged file: a function of the sources and the seed alone."""
        rng = np.random.default_rng(self.seed)
        return MUTATIONS[self.mutation](bytearray(self.source.read_bytes()), self.other.read_bytes(), rng)


@dataclass(frozen=True)
class Outcome:
    """What a damaged file came to: ``frames``, ``error`` (one VideoError), ``finding`` (what must not be)."""

    kind: str
    text: str
    seconds: float
    peak: int
    """Largest resident memory while reading, in bytes; 0 where the system does not tell."""


def jobs(sources: list[Path], count: int, seed: int, backend: str, folder: Path) -> Iterator[Job]:
    """``count`` jobs, every source and every mutation as often as the others."""
    rng = np.random.default_rng(seed)
    mutations = list(MUTATIONS)
    for number in range(count):
        source = sources[number % len(sources)]
        mutation = mutations[number // len(sources) % len(mutations)]
        yield Job(source, sources[rng.integers(len(sources))], mutation, seed * 1_000_000 + number, backend, folder)


def read_damaged(job: Job, beat: Beat) -> Outcome:
    """Writes the damaged file, asks for frames in random order, judges what came, and removes the file."""
    path = job.folder / job.name
    path.write_bytes(job.data())
    _reset_peak()
    start = time.perf_counter()
    try:
        kind, text = _read(path, np.random.default_rng(job.seed), job.backend)
    except VideoError as error:
        sound = error.path == str(path) and error.reason and "\n" not in str(error)
        kind, text = ("error", error.reason) if sound else ("finding", f"a poor message: {error}")
    except Exception as error:
        kind, text = "finding", f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    path.unlink()
    return Outcome(kind, text, seconds, resident_peak())


def _read(path: Path, rng: np.random.Generator, backend: str) -> tuple[str, str]:
    info = probe(path)
    if info.num_frames < 1:
        return "finding", f"{info.num_frames} frames"
    indices = rng.integers(0, info.num_frames, rng.integers(1, 9))
    frames = read_frames(path, indices, backend)
    shape = tuple(frames.shape)
    if frames.dtype != torch.uint8 or shape[:1] != indices.shape or shape[3:] != (3,) or min(shape) < 1:
        return "finding", f"{shape} of {frames.dtype} for {len(indices)} frames"
    if shape[1:3] != (info.height, info.width):
        # A file may change its frame size; its first frame alone is what the probe told.
        return ("frames" if 0 not in indices else "finding"), f"{shape}, but probed {info.height}x{info.width}"
    return "frames", str(shape)


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def resident_peak() -> int:
    """The most that this process has held since the last reset, or its beginning, in bytes; 0 where nobody knows."""
    try:
        status = Path(f"/proc/{os.getpid()}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
