"""videogn: video classification in which the normalisation layer is the variable."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videogn import data
    from videogn.i3d import i3d_resnet
    from videogn.inference import load, predict_video
    from videogn.module import VideoClassifier
    from videogn.norms import NORMS, make_norm, replace_norms
    from videogn.spec import ClipSpec, Protocol

__all__ = [
    "NORMS",
    "ClipSpec",
    "Protocol",
    "VideoClassifier",
    "data",
    "i3d_resnet",
    "load",
    "make_norm",
    "predict_video",
    "replace_norms",
]

_HOME = {
    "NORMS": "videogn.norms",
    "make_norm": "videogn.norms",
    "replace_norms": "videogn.norms",
    "i3d_resnet": "videogn.i3d",
    "VideoClassifier": "videogn.module",
    "load": "videogn.inference",
    "predict_video": "videogn.inference",
    "ClipSpec": "videogn.spec",
    "Protocol": "videogn.spec",
}


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds; `videogn --help` and the index must not wait for it.
    if name == "data":
        return import_module("videogn.data")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'videogn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
