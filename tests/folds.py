"""UCF101 and HMDB51 in small: videos that are empty files, with split files as they come."""

from pathlib import Path

from test_index import touch
from test_index_files import write

from videogn.data.classes import ClassList
from videogn.data.index import VideoIndex, listed_class_names, read_index
from videogn.data.layouts import find_source


def read(root: Path, split: str = "train", path_prefix: str | None = None, **options) -> VideoIndex:
    source = find_source(str(root), split, **options)
    train = find_source(str(root), "train", **options)
    return read_index(source, ClassList(listed_class_names(train)[0]), path_prefix)


def ucf101(root: Path, videos: str = "UCF-101", lists: str = "ucfTrainTestlist") -> Path:
    """Three classes, in an order that sorting would change, of two videos each; three folds."""
    names = ("Archery", "BabyCrawling", "ApplyLipstick")
    write(root / lists, "classInd.txt", *(f"{i} {name}" for i, name in enumerate(names, 1)))
    for fold in (1, 2, 3):
        train, test = (1, 2) if fold == 1 else (2, 1)
        file = "{0}/v_{0}_g{1:02d}_c01.avi"
        train_lines = [f"{file.format(name, train)} {i}" for i, name in enumerate(names, 1)]
        write(root / lists, f"trainlist{fold:02d}.txt", *train_lines)
        write(root / lists, f"testlist{fold:02d}.txt", *(file.format(name, test) for name in names))
        touch(root / videos, *(file.format(name, group) for name in names for group in (train, test)))
    return root


ODD = "#122_(Cleaning)_Up;The&Beach!_np1_fr_med_0"


def hmdb51(root: Path, videos: str = "", lists: str = "testTrainMulti_7030_splits", deeper: bool = False) -> Path:
    """Two classes of one training video, one test video and one that is neither; three folds."""
    for name in ("wave", "brush_hair"):
        files = [f"{ODD}.avi", f"{name}_b.avi", f"{name}_c.avi"]
        for fold in (1, 2, 3):
            tags = "120"[fold - 1 :] + "120"[: fold - 1]
            lines = (f"{file} {tag} " for file, tag in zip(files, tags, strict=True))
            write(root / lists, f"{name}_test_split{fold}.txt", *lines)
        touch(root / videos / name / (name if deeper else ""), *files)
    return root
