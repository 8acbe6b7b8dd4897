"""Which packet of a video stream holds which frame, from the list of its packets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from videogn.data.decode.packets import MISSING, MP4, Packets

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Containers that store a presentation time per frame, and codecs of which every packet holds exactly one shown frame.
# AVI stores none (FFmpeg makes them up); transport streams seek inexactly and may begin in the middle of a group of
# pictures; VP8 has packets of hidden frames; MPEG-4 part 2 has packed B-frames and skipped pictures.
TRUSTED_CONTAINERS = (MP4, "matroska,webm")
TRUSTED_CODECS = ("h264", "hevc", "vp9", "av1")


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The frames of a video stream in presentation order, and the packets they come from.

    Attributes:
        packet: (N,) int64, packet of frame i. Empty if frames are counted.
        start: (N,) int64, the key packet from which decoding must start to show frame i. Empty if frames are counted.
        times: (N,) float64, seconds from the first frame's presentation to frame i's.
        duration: seconds from the first frame's presentation to the end of the last.
    """

    packet: np.ndarray
    start: np.ndarray
    times: np.ndarray
    duration: float
    frame_of_pts: dict[int | None, int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.times)


def distrust(container: InputContainer, stream: VideoStream, packets: Packets) -> str | None:
    """Why the times and key frames of these packets do not tell which frame is which; None if they do."""
    codec = stream.codec_context
    name = container.format.name
    if name not in TRUSTED_CONTAINERS:
        return f"a container ({name.split(',')[0]}) whose times are not stored per frame"
    if codec.codec.canonical_name not in TRUSTED_CODECS:
        return f"a codec ({codec.codec.canonical_name}) whose packets are not single frames"
    if codec.codec.canonical_name == "h264" and codec.field_order > 1:
        return "interlaced video, whose packets may be fields"
    if not packets.key[0]:
        return "the first packet is no key frame"
    if (packets.pts == MISSING).any():
        return "frames without a presentation time"
    if len(np.unique(packets.pts)) < len(packets.pts):
        return "repeated presentation times"
    shown = packets.pts[~packets.discard]
    hidden = packets.pts[packets.discard]
    if not len(shown) or ((hidden > shown.min()) & (hidden < shown.max())).any():
        return "an edit list with gaps"
    if (shown < packets.pts[0]).any():
        return "frames before the first key frame"
    return None


def index_packets(packets: Packets, stream: VideoStream) -> FrameIndex:
    """The index of a stream without :func:`distrust`: frame i has the i-th smallest presentation time."""
    shown = np.flatnonzero(~packets.discard)
    packet = shown[np.argsort(packets.pts[shown], kind="stable")]
    keys = np.flatnonzero(packets.key)
    # The last key packet not after the frame in decode order. Where its time is later than the frame's, the frame leads
    # an open group of pictures: it needs the group before.
    which = np.searchsorted(keys, packet, side="right") - 1
    while (early := packets.pts[keys[which]] > packets.pts[packet]).any():
        which[early] -= 1  # ends at packet 0, before which distrust() allows no frame
    pts = packets.pts[packet]
    times, duration = _seconds(pts, packets.duration, stream)
    return FrameIndex(packet, keys[which], times, duration, {int(p): i for i, p in enumerate(pts)})


def index_counted(pts: Sequence[int | None], packets: Packets, stream: VideoStream) -> FrameIndex:
    """The index of a stream whose frames were counted by decoding; ``pts`` are those of the decoded frames."""
    empty = np.zeros(0, np.int64)
    known = np.array([MISSING if p is None else p for p in pts], np.int64)
    if (known == MISSING).any() or (np.diff(known) <= 0).any():
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        times, duration = np.arange(len(known)) / rate, len(known) / rate
    else:
        times, duration = _seconds(known, packets.duration, stream)
    return FrameIndex(empty, empty, times, duration)


def decode_runs(index: FrameIndex, wanted: np.ndarray) -> list[tuple[int, int, set[int]]]:
    """Splits sorted, unique frame numbers into runs (start packet, stop packet, frames) with packets to skip between.

    A run goes on while the next frame's key packet lies within it or directly after it; else a jump saves decoding.
    """
    runs: list[tuple[int, int, set[int]]] = []
    for i in wanted.tolist():
        start, packet = int(index.start[i]), int(index.packet[i])
        if runs and start <= runs[-1][1] + 1:
            before = runs[-1]
            before[2].add(i)
            runs[-1] = (before[0], max(before[1], packet), before[2])
        else:
            runs.append((start, packet, {i}))
    return runs


def _seconds(pts: np.ndarray, last: int, stream: VideoStream) -> tuple[np.ndarray, float]:
    tick = float(stream.time_base or 0)
    times = (pts - pts[0]) * tick
    rate = stream.average_rate or stream.guessed_rate
    return times, float(times[-1]) + (last * tick or (1 / float(rate) if rate else 0.0))
