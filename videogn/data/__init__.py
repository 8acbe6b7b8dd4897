"""From video files to clips: index, decoding, sampling, transforms, data sets, and the demo videos.

Names are imported when first used, so that the parts that need no torch load without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videogn.data.batches import ClipBatch as ClipBatch
    from videogn.data.batches import EvalVideo as EvalVideo
    from videogn.data.batches import VideoBatch as VideoBatch
    from videogn.data.datamodule import KineticsDataModule as KineticsDataModule
    from videogn.data.decode import VideoInfo as VideoInfo
    from videogn.data.decode import VideoReader as VideoReader
    from videogn.data.decode import probe as probe
    from videogn.data.decode import read_frames as read_frames
    from videogn.data.demo import DemoSpec as DemoSpec
    from videogn.data.demo import generate_demo as generate_demo
    from videogn.data.index import VideoIndex as VideoIndex
    from videogn.spec import ClipSpec as ClipSpec

_HOMES = {
    "ClipBatch": "videogn.data.batches",
    "ClipSpec": "videogn.spec",
    "DemoSpec": "videogn.data.demo",
    "EvalVideo": "videogn.data.batches",
    "KineticsDataModule": "videogn.data.datamodule",
    "VideoBatch": "videogn.data.batches",
    "VideoIndex": "videogn.data.index",
    "VideoInfo": "videogn.data.decode",
    "VideoReader": "videogn.data.decode",
    "generate_demo": "videogn.data.demo",
    "probe": "videogn.data.decode",
    "read_frames": "videogn.data.decode",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
