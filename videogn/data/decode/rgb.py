"""Decoded frames to RGB pixels, by the filters of the ``ffmpeg`` command, so that the bytes are the same."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from av.filter import Graph

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from videogn.data.view import View

# Formats whose pixels FFmpeg converts one by one, so that a part of a picture gets the same bytes as the whole.
_PIXELWISE = ("yuv420p", "yuvj420p")
_ALIGN = 16  # columns; FFmpeg converts as many at a time


Filters = tuple[tuple[str, str], ...]


class RGBConverter:
    """Turns frames upright and converts them to 8-bit RGB, in one thread.

    A filter graph rather than PyAV's ``to_ndarray``: the two differ by up to 28 levels in interlaced, 10-bit and
    odd-sized video, where they place the chroma samples differently.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._graph: Graph | None = None
        self._top = self._left = 0

    def __call__(self, frame: VideoFrame, view: View, filters: Filters) -> np.ndarray:
        """uint8 (height, width, 3): the view's rectangle of the frame as displayed, not scaled.

        The array lies in the converter's memory and is valid as long as it is referred to.

        Args:
            filters: what shows the frame upright, from :func:`orientation`.

        Raises:
            av.FFmpegError: a pixel format that cannot be converted.
        """
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, view, *filters)
        if self._graph is None or key != self._key:
            box = aligned_box(frame, view)
            self._top, self._left = (view.top - box[0], view.left - box[1]) if box else (view.top, view.left)
            crop = (("crop", "{3}:{2}:{1}:{0}".format(*box)),) if box else ()
            # FFmpeg would insert the scaler by itself; named, its flags are the command's default in every version.
            chain = (*filters, *crop, ("scale", "flags=bicubic"), ("format", "rgb24"))
            self._graph, self._key = build_graph(frame, chain), key
        try:
            self._graph.vpush(frame)
            rgb = self._graph.vpull()
        except BaseException:
            self._graph = None  # what is left inside would come out with the next frame
            raise
        plane: Any = rgb.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(rgb.height, plane.line_size)
        pixels = rows[:, : rgb.width * 3].reshape(rgb.height, rgb.width, 3)
        return pixels[self._top : self._top + view.height, self._left : self._left + view.width]


_THREAD = threading.local()


def thread_converter() -> RGBConverter:
    """The converter of this thread: files of one kind share its graph, which costs more to set up than a frame."""
    if not hasattr(_THREAD, "converter"):
        _THREAD.converter = RGBConverter()
    return _THREAD.converter


def displayed_size(frame: VideoFrame) -> tuple[int, int]:
    """(height, width) of the frame as displayed."""
    return (frame.width, frame.height) if display_rotation(frame) % 180 else (frame.height, frame.width)


def aligned_box(frame: VideoFrame, view: View) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) that holds the view's rectangle and can be converted alone; None for the whole frame.

    FFmpeg then leaves the rest of the picture unconverted, and the bytes are those of the whole picture's conversion.
    """
    height, width = displayed_size(frame)
    if frame.format.name not in _PIXELWISE or height % 2 or width % 2 or frame.interlaced_frame:
        return None
    top, left = view.top // 2 * 2, view.left // _ALIGN * _ALIGN
    bottom = min(height, -(-(view.top + view.height) // 2) * 2)
    right = min(width, -(-(view.left + view.width) // _ALIGN) * _ALIGN)
    return (top, left, bottom - top, right - left) if (bottom - top, right - left) != (height, width) else None


def display_rotation(frame: VideoFrame) -> int:
    """Clockwise degrees, 0, 90, 180 or 270, by which the stored picture is turned for display."""
    return -round(frame.rotation / 90) % 4 * 90


def only_turned(frame: VideoFrame) -> bool:
    """Whether the display matrix turns by quarters and does nothing else: no mirror, no shear, not zero."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return True
    a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
    return a == d and b == -c and (a == 0) != (b == 0)


def orientation(frame: VideoFrame) -> Filters:
    """Filters (name, arguments) that show the stored picture as the container's display matrix says.

    To be asked for one frame of a file: in PyAV 18.1 a frame and its side data refer to each other, so that the frame's
    memory is free only after a collection of cycles.

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


def build_graph(frame: VideoFrame, filters: Filters) -> Graph:
    """A chain of filters for frames such as this one, in one thread: ``vpush`` a frame, ``vpull`` the result."""
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
    graph.link_nodes(*chain, graph.add("buffersink")).configure()
    return graph


def _display_matrix(frame: VideoFrame) -> np.ndarray | None:
    side_data: Any = frame.side_data
    for item in side_data:
        if item.type.name == "DISPLAYMATRIX":
            return np.frombuffer(item, np.int32)
    return None
