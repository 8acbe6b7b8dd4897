"""decord and torchcodec behind one function each, and the files for which they are not asked.

Measured with decord 0.6.0 and torchcodec 0.17 against FFmpeg's own full decode. ``ok``: the same frames, bit for bit.
Every other entry is a file that :class:`~videogn.data.decode.VideoReader` leaves to PyAV:

======================================  =========================================  ====================================
file                                    decord                                     torchcodec
======================================  =========================================  ====================================
H.264, VP9 in mp4, mov, mkv, webm       ok (B-frames, variable rate, 4:4:4, turn)  ok
HEVC                                    wrong frames after a seek                  ok
AV1                                     cannot open                                ok
H.264, key frames that are no IDR       wrong frames after a seek                  an error (gradual intra refresh)
edit list that cuts frames              shows the frames that were cut             ok
several video streams                   not always FFmpeg's choice                 ok
10 bit, odd size in 4:2:0, interlaced   colours differ by up to 28 levels          colours differ by up to 28 levels
AVI, MPEG-PS, MPEG-TS, WMV, MPEG-4      wrong frames after a seek                  wrong frames or an error
======================================  =========================================  ====================================

Both use an FFmpeg of their own that knows playlists, so that they are handed nothing but files whose first bytes are
those of mp4 or Matroska and whose streams PyAV has read under its restrictions.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from videogn.data.decode.opening import is_mp4_or_matroska, reason_of
from videogn.data.decode.rgb import only_turned
from videogn.errors import UsageError

if TYPE_CHECKING:
    from videogn.data.decode.pyav import PyAVDecoder

Read = Callable[[np.ndarray], torch.Tensor]

EXACT_CODECS = {"decord": ("h264", "vp9"), "torchcodec": ("h264", "hevc", "vp9", "av1")}
EXACT_PIXELS = ("yuv420p", "yuvj420p", "yuv444p")


def require(backend: str) -> None:
    """Raises UsageError, with what to install, if the backend cannot be used."""
    if importlib.util.find_spec(backend) is None:
        raise UsageError(f"backend {backend!r} is not installed: pip install {backend}, or use backend='pyav'")
    if backend == "torchcodec":
        try:
            from torchcodec.decoders import VideoDecoder  # noqa: F401
        except (ImportError, RuntimeError, OSError) as error:
            raise _torchcodec_unusable(error) from error


def open_other(backend: str, decoder: PyAVDecoder) -> Read | str:
    """A function that reads (T,) frame numbers as uint8 (T, H, W, 3), or why PyAV has to read this file.

    Raises:
        UsageError: the backend is not installed.
    """
    require(backend)
    reason = unfit(backend, decoder)
    if reason is not None:
        return reason
    path = os.path.abspath(decoder.path)
    try:
        length, read = (_open_decord if backend == "decord" else _open_torchcodec)(path)
    except UsageError:
        raise
    except Exception as error:  # the types are the libraries' own
        return f"{backend} cannot open it ({reason_of(error)})"
    if length != decoder.num_frames:
        return f"{backend} counts {length} frames instead of {decoder.num_frames}"
    return read


def unfit(backend: str, decoder: PyAVDecoder) -> str | None:
    """Why ``backend`` would not give exactly FFmpeg's frames for this file, or None."""
    codec = decoder.stream.codec_context
    if decoder.counted is not None:
        return decoder.counted
    if not is_mp4_or_matroska(decoder.path):
        return "not an mp4 or Matroska file"
    if decoder.codec not in EXACT_CODECS[backend]:
        return f"{backend} is not exact for {decoder.codec}"
    odd = codec.width % 2 or codec.height % 2
    if decoder.pix_fmt not in EXACT_PIXELS or (odd and decoder.pix_fmt != "yuv444p"):
        return f"{backend} gives other colours for {decoder.pix_fmt} of {codec.width}x{codec.height}"
    if not only_turned(decoder.first_frame()):
        return f"{backend} does not mirror pictures"
    if decoder.codec == "h264" and not keys_are_idr(decoder):
        return f"{backend} is not exact for key frames that are no IDR (open groups of pictures, intra refresh)"
    if backend == "decord" and len(decoder.packets.container.streams.video) > 1:
        return "decord may choose another of several video streams"
    if backend == "decord" and len(decoder.packets) != decoder.num_frames:
        return "decord ignores edit lists"
    return None


def keys_are_idr(decoder: PyAVDecoder) -> bool:
    """Whether every key frame of an H.264 stream forgets all frames before it (NAL unit type 5)."""
    extra = decoder.stream.codec_context.extradata or b""
    length_size = (extra[4] & 3) + 1 if len(extra) > 4 and extra[0] == 1 else 0
    packets = itertools.islice(decoder.packets.start_at(0), len(decoder.packets))
    return all(5 in nal_types(bytes(packet), length_size) for _, packet in packets if packet.is_keyframe)


def nal_types(data: bytes, length_size: int) -> set[int]:
    """Types of the NAL units of an H.264 packet: after lengths of ``length_size`` bytes, or after start codes if 0."""
    if length_size == 0:
        return {unit[0] & 31 for unit in data.split(b"\0\0\1")[1:] if unit}
    types, at = set(), 0
    while at + length_size < len(data):
        types.add(data[at + length_size] & 31)
        at += length_size + int.from_bytes(data[at : at + length_size], "big")
    return types


def _open_decord(path: str) -> tuple[int, Read]:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    # One thread: more of them is what its deadlocks are reported with.
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)

    def read(indices: np.ndarray) -> torch.Tensor:
        # asnumpy, because decord's bridge to torch is a switch for the whole process.
        # Another part of the program may have turned that switch, so the result can be a tensor all the same.
        frames: Any = reader.get_batch(indices.tolist())
        return torch.as_tensor(frames.asnumpy() if hasattr(frames, "asnumpy") else frames)

    return len(reader), read


def _open_torchcodec(path: str) -> tuple[int, Read]:
    from torchcodec.decoders import VideoDecoder

    try:
        decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    except RuntimeError as error:
        if "libtorchcodec" in str(error):
            raise _torchcodec_unusable(error) from error
        raise
    return len(decoder), lambda indices: decoder.get_frames_at(indices.tolist()).data


def _torchcodec_unusable(error: Exception) -> UsageError:
    return UsageError(
        "backend 'torchcodec' cannot be loaded: it needs FFmpeg's shared libraries (such as `apt install ffmpeg` or "
        f"`conda install ffmpeg`) and the torch that it was built for ({reason_of(error)}). Or use backend='pyav'."
    )
