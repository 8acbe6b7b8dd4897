"""What a file's own headers say against it, before FFmpeg sees them: cut off, or with more frames than bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
EBML = b"\x1a\x45\xdf\xa3"

_SEGMENT = b"\x18\x53\x80\x67"  # the EBML element that holds everything in a Matroska file
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}
_DEPTH = 6  # of boxes in boxes; a sane file has no more
_COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4}
"""Boxes that give a number of frames, and at which byte (ISO/IEC 14496-12, 8.7.3 and 8.8.8)."""


def complaint(file: BinaryIO, head: bytes, size: int) -> str | None:
    """Why the file cannot be what its headers say, or None.

    Args:
        file: the open file.
        head: its first 64 bytes.
        size: its length in bytes.
    """
    if head[4:8] in MP4_FIRST_BOXES:
        return _of_mp4(file, head, size)
    if head[:4] == EBML and (at := head.find(_SEGMENT)) >= 0 and len(head) > at + 12:
        length = 9 - head[at + 4].bit_length()  # an EBML number: leading zero bits give its length in bytes
        value = int.from_bytes(head[at + 4 : at + 4 + length], "big") & ((1 << 7 * length) - 1)
        end = at + 4 + length + value
        if length <= 8 and value != (1 << 7 * length) - 1 and end > size:  # all ones: size unknown, as in a live stream
            return f"truncated: {size} of {end} bytes"
    return None


def _of_mp4(file: BinaryIO, head: bytes, size: int) -> str | None:
    seen = set()
    for kind, body, end in _boxes(file, 0, size):
        seen.add(kind)
        if kind == b"moov" and end > size:
            return f"truncated: the index (moov box) ends at byte {end}, the file at {size}"
        # FFmpeg takes memory for as many frames as an index names, which a few bytes can make billions.
        frames = _most_frames(file, kind, body, min(end, size))
        if frames > size:
            return f"damaged: its index names {frames:,} frames in {size} bytes"
    if head[4:8] == b"ftyp" and b"moov" not in seen:
        return f"truncated or never finished: {size} bytes without an index (moov box)"
    return None


def _most_frames(file: BinaryIO, kind: bytes, body: int, end: int, depth: int = 0) -> int:
    """The largest number of frames that a box, or one inside it, names."""
    if kind in _CONTAINERS and depth < _DEPTH:
        inside = _boxes(file, body, end)
        return max((_most_frames(file, k, at, min(stop, end), depth + 1) for k, at, stop in inside), default=0)
    if kind not in _COUNT_AT:
        return 0
    file.seek(body + _COUNT_AT[kind])
    return int.from_bytes(file.read(4), "big")


def _boxes(file: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its body begins, where it ends) of the boxes from ``at`` to ``end`` (ISO/IEC 14496-12, 4.2)."""
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head[:8])
        body = at + 8
        if length == 1 and len(head) == 16:
            length, body = struct.unpack(">Q", head[8:])[0], at + 16
        elif length == 0:  # to the end
            length = end - at
        if length < body - at or not kind.isascii():  # bytes after the last box: FFmpeg ignores them, too
            return
        yield kind, body, at + length
        at += length
