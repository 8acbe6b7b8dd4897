"""The demo data set: class folders of short H.264 videos of moving shapes, from :mod:`videogn.data.motions`.

Imports no torch.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction

import av
import numpy as np

from videogn.data.motions import MOTIONS, render_motion
from videogn.errors import UsageError

MARKER = "demo.json"
_FORMAT = 3  # raised when the same specification gives other videos


@dataclass(frozen=True)
class DemoSpec:
    """The generated motion videos: how many, how large, which seed.

    Attributes:
        train_per_class: training videos of each class.
        val_per_class: validation videos of each class.
        size: width and height of the videos in pixels, even.
        frames: frames per video.
        fps: frames per second, written into the files.
        seed: other seeds give other videos.
        classes: motions, names in ``MOTIONS``; all eight by default. The videos of a class do not depend on which
            others there are.
    """

    train_per_class: int = 80
    val_per_class: int = 20
    size: int = 64
    frames: int = 24
    fps: int = 12
    seed: int = 0
    classes: tuple[str, ...] = tuple(MOTIONS)

    def __post_init__(self) -> None:
        for name, low in (("train_per_class", 1), ("val_per_class", 1), ("size", 16), ("frames", 2), ("fps", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"demo.{name}: expected at least {low}, found {getattr(self, name)}")
        if self.size % 2:
            raise ValueError(f"demo.size: expected an even number (the videos are 4:2:0), found {self.size}")
        unknown = [name for name in self.classes if name not in MOTIONS]
        if unknown or not self.classes:
            raise ValueError(
                f"demo.classes: expected some of {', '.join(MOTIONS)}, found {', '.join(unknown) or 'none'}"
            )
        # Written in another order they are the same set.
        object.__setattr__(self, "classes", tuple(name for name in MOTIONS if name in self.classes))


def generate_demo(
    root: str | os.PathLike[str],
    spec: DemoSpec | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Writes the demo data set as class folders, ``root/{train,val}/<motion>/0000.mp4``, once.

    The videos are written beside the root and moved there when all are complete, with a file ``demo.json`` that holds
    the specification. The same specification gives the same videos on every run.

    Args:
        root: folder to create; it may exist if it is empty.
        spec: what to generate; None is ``DemoSpec()``.
        progress: called with the number of videos written and the number of all videos.

    Returns:
        The absolute path of the root. A root that already holds this very set is returned at once.

    Raises:
        UsageError: the root holds a demo set of another specification, an incomplete one, or anything else.
    """
    spec = spec or DemoSpec()
    root = os.path.abspath(os.path.expanduser(os.fspath(root)))
    if _is_complete(root, spec):
        return root
    parent, name = os.path.split(root)
    os.makedirs(parent, exist_ok=True)
    partial = tempfile.mkdtemp(prefix=f".{name}.partial-", dir=parent)
    try:
        os.chmod(partial, 0o755)  # mkdtemp makes folders that nobody else may read
        _write_videos(partial, spec, progress)
        with open(os.path.join(partial, MARKER), "w", encoding="utf-8") as file:
            json.dump(_marker(spec), file, indent=2)
        try:
            os.replace(partial, root)
        except OSError:
            if not _is_complete(root, spec):  # another process may have been faster with the same set
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _write_videos(root: str, spec: DemoSpec, progress: Callable[[int, int], None] | None) -> None:
    jobs = []
    for split, (name, count) in enumerate({"train": spec.train_per_class, "val": spec.val_per_class}.items()):
        for number, motion in enumerate(MOTIONS):
            if motion not in spec.classes:
                continue
            folder = os.path.join(root, name, motion)
            os.makedirs(folder)
            for i in range(count):
                jobs.append((os.path.join(folder, f"{i:04d}.mp4"), motion, (spec.seed, split, number, i)))

    def write(job: tuple[str, str, tuple[int, ...]]) -> None:
        path, motion, seed = job
        _encode(path, render_motion(motion, spec, np.random.default_rng(seed)), spec.fps)

    # Threads are enough: the encoder and most of the drawing run outside the interpreter's lock.
    with ThreadPoolExecutor(max_workers=4) as pool:
        for done, _ in enumerate(pool.map(write, jobs), 1):
            if progress is not None:
                progress(done, len(jobs))


def _encode(path: str, frames: np.ndarray, fps: int) -> None:
    with av.open(path, "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # One thread: the bytes do not depend on the machine's cores. No macroblock tree: on pictures this small, x264's
        # takes what happens to lie in memory behind them into its decisions, and each run gives other bytes.
        stream.options = {"crf": "18", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _marker(spec: DemoSpec) -> dict[str, object]:
    fields = {**asdict(spec), "classes": list(spec.classes)}  # as JSON gives them back
    return {"data": "videogn demo: generated motion videos", "format": _FORMAT, "spec": fields}


def _is_complete(root: str, spec: DemoSpec) -> bool:
    """True when the root holds exactly this set, False when there is nothing yet."""
    if not os.path.lexists(root) or (os.path.isdir(root) and not os.listdir(root)):
        return False
    try:
        with open(os.path.join(root, MARKER), encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict) or "spec" not in found:
            raise ValueError
    except (OSError, ValueError):
        raise UsageError(
            f"{root}: expected an empty or new folder for the demo data, found files of another kind. "
            "Nothing was written; give another data.root."
        ) from None
    wanted = _marker(spec)
    if found != wanted:
        raise UsageError(
            f"{root}: expected the demo data of {wanted['spec']}, format {_FORMAT}, found that of {found['spec']}, "
            f"format {found.get('format')}. "
            "Delete the folder to generate it again, or give another data.root."
        )
    counts = {"train": spec.train_per_class, "val": spec.val_per_class}
    for split, count in counts.items():
        for motion in spec.classes:
            folder = os.path.join(root, split, motion)
            held = len(os.listdir(folder)) if os.path.isdir(folder) else 0
            if held < count:
                raise UsageError(
                    f"{folder}: expected {count} videos, found {held}. Delete {root} to generate it again."
                )
    return True
