"""Decoded frames to RGB pixels, by the filters of the ``ffmpeg`` command, so that the bytes are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from av.filter import Graph

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class RGBConverter:
    """Turns frames upright and converts them to 8-bit RGB, in one thread.

    A filter graph rather than PyAV's ``to_ndarray``: the two differ by up to 28 levels in interlaced, 10-bit and
    odd-sized video, where they place the chroma samples differently.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._graph: Graph | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """uint8 (H, W, 3) view of the frame as displayed; valid as long as it is referred to.

        Raises:
            av.FFmpegError: a pixel format that cannot be converted.
        """
        filters = orientation(frame)
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, *filters)
        if self._graph is None or key != self._key:
            self._graph, self._key = _graph(frame, filters), key
        self._graph.vpush(frame)
        rgb = self._graph.vpull()
        plane: Any = rgb.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(rgb.height, plane.line_size)
        return rows[:, : rgb.width * 3].reshape(rgb.height, rgb.width, 3)


def display_rotation(frame: VideoFrame) -> int:
    """Clockwise degrees, 0, 90, 180 or 270, by which the stored picture is turned for display."""
    return -round(frame.rotation / 90) % 4 * 90


def orientation(frame: VideoFrame) -> tuple[tuple[str, str], ...]:
    """Filters (name, arguments) that show the stored picture as the container's display matrix says.

    Source: the automatic rotation of ``fftools/ffmpeg_filter.c`` in FFmpeg. Angles between quarter turns are rounded.
    """
    matrix = _display_matrix(frame)
    if matrix is None:
        return ()
    turn = display_rotation(frame)
    if turn == 90:
        return (("transpose", "cclock_flip" if matrix[3] > 0 else "clock"),)
    if turn == 270:
        return (("transpose", "clock_flip" if matrix[3] < 0 else "cclock"),)
    flips = (("hflip", matrix[0] < 0), ("vflip", matrix[4] < 0))
    return tuple((name, "") for name, wanted in flips if wanted)


def _graph(frame: VideoFrame, filters: tuple[tuple[str, str], ...]) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    chain = [source, *(graph.add(name, arguments or None) for name, arguments in filters)]
    # FFmpeg would insert the scaler by itself; named, its flags are the command's default in every version.
    chain += [graph.add("scale", "flags=bicubic"), graph.add("format", "rgb24"), graph.add("buffersink")]
    graph.link_nodes(*chain).configure()
    return graph


def _display_matrix(frame: VideoFrame) -> np.ndarray | None:
    side_data: Any = frame.side_data
    for item in side_data:
        if item.type.name == "DISPLAYMATRIX":
            return np.frombuffer(item, np.int32)
    return None
