"""Loaders for pre-training on pictures in class folders, each a clip of one frame."""

from __future__ import annotations

import os

from videogn.data.classes import ClassList, read_class_names
from videogn.data.datamodule import KineticsDataModule
from videogn.data.images import PICTURE_SUFFIXES, EvalPictures, TrainPictures
from videogn.data.index import VideoIndex
from videogn.data.layouts import Split, files_below, split_folder, subfolders
from videogn.errors import UsageError
from videogn.spec import ClipSpec, Protocol

PICTURE = ClipSpec(frames=1, stride=1, protocol=Protocol("1clip", crop="center", crop_size=224))
"""A picture as a clip: in evaluation its central 224 x 224 of a short side of 256, in training see
:func:`videogn.data.images.random_resized_crop`."""

_SHOWN = 5
_SORT = (
    'tail -n +2 LOC_val_solution.csv | while IFS=", " read -r id wnid rest; '
    'do mkdir -p "{val}/$wnid" && mv "{val}/$id.JPEG" "{val}/$wnid/"; done'
)


class ImageDataModule(KineticsDataModule):
    """ImageNet, or any pictures in class folders: ``root/train/<class>/*.jpg`` and ``root/val/<class>/*.jpg``.

    Batches, samplers, seeds and what becomes of bad files are those of videos; where attributes, logs and messages
    count videos, they count pictures. Test and prediction read the validation split.

    Args:
        root: folder that holds train/ and val/ with one folder per class.
        clip: how pictures are cut. Training takes random parts of 8% to 100% of the area and scales them to
            clip.train_crop; train_short_side is not used.
        batch_size: training pictures per process and forward pass: what a batch norm sees.
        eval_batch_size: pictures per process that evaluation loads at a time.
        class_names: text file with one class name, which is a folder's, per line, in the order of the labels; by
            default the folders of train/, sorted, and val/ must have the same.
        num_workers: decoding processes per training process; by default the cores that this process may use, shared by
            the processes of this machine, less one for the training itself, between 1 and 16.
        decode_timeout: seconds after which a file is given up, and its decoder ended: hangs and crashes cost one
            picture. null reads in the workers themselves, which is faster; with num_workers 0 and on Windows nothing
            else is possible.
        seed: of the order of pictures and the augmentation; by default that of seed_everything.
        pin_memory: page-locked memory for batches; by default where a CUDA device is.
    """

    def __init__(
        self,
        root: str,
        clip: ClipSpec = PICTURE,
        batch_size: int = 32,
        eval_batch_size: int = 32,
        class_names: str | None = None,
        num_workers: int | None = None,
        decode_timeout: float | None = None,
        seed: int | None = None,
        pin_memory: bool | None = None,
    ) -> None:
        for name, value in (
            ("frames", clip.frames),
            ("protocol.frames", clip.eval_frames),
            ("protocol.clips", clip.protocol.clips),
        ):
            if value != 1:
                raise UsageError(f"data.clip.{name}: expected 1, because a picture is one frame, found {value}")
        super().__init__(
            root,
            clip,
            batch_size,
            eval_batch_size,
            class_names=class_names,
            num_workers=num_workers,
            decode_timeout=decode_timeout,
            seed=seed,
            pin_memory=pin_memory,
        )

    def _train_data(self, index: VideoIndex) -> TrainPictures:
        return TrainPictures(index, self.clip, self.seed)

    def _eval_data(self, index: VideoIndex) -> EvalPictures:
        return EvalPictures(index, self.clip)

    def _read(self, split: str) -> VideoIndex:
        if self._classes is None:
            option = self._class_names_option
            names = read_class_names(option) if option else tuple(_classes_of(self.root, "train"))
            self._classes = ClassList(names)
        name: Split = "train" if split == "train" else "val"
        return read_pictures(self.root, name, self._classes.names, all_classes=not self._class_names_option)


class PictureIndex(VideoIndex):
    """The pictures of one split."""

    def summary(self) -> str:
        """How many pictures and classes there are."""
        lines = [f"{len(self):,} pictures of {len(self.class_names):,} classes ({self.source})"]
        if empty := self.empty_classes:
            lines.append(f"classes without a picture: {len(empty):,}: {_some(empty)}")
        return "\n  ".join(lines)


def read_pictures(root: str, split: Split, class_names: tuple[str, ...], all_classes: bool = True) -> VideoIndex:
    """The pictures of a split in class folders, in sorted order; files anywhere below a class folder belong to it.

    Args:
        root: folder that holds the split's.
        split: ``"train"`` or ``"val"``.
        class_names: folder i of these has label i.
        all_classes: whether the split must have a folder for each of them.

    Raises:
        UsageError: no such split, folders that are not the classes, no picture.
    """
    found = _classes_of(root, split)
    folder = _folder_of(root, split)
    unknown, missing = sorted(set(found) - set(class_names)), sorted(set(class_names) - set(found))
    if unknown or (missing and all_classes):
        what = [f"{len(unknown)} others ({_some(unknown)})"] if unknown else []
        what += [f"{len(missing)} missing ({_some(missing)})"] if missing else []
        raise UsageError(
            f"{folder}: expected one folder for each of the {len(class_names)} classes, found {' and '.join(what)}. "
            "Labels are the folders of train/ in sorted order, unless data.class_names names a file with one folder's "
            "name per line; then a split may lack some of them."
        )
    root = os.path.abspath(os.path.expanduser(root))
    paths: list[str] = []
    labels: list[int] = []
    numbers = {name: i for i, name in enumerate(class_names)}
    for name in found:
        relative = os.path.join(os.path.relpath(folder, root), name)
        paths.extend(files_below(os.path.join(folder, name), relative, _is_picture))
        labels.extend([numbers[name]] * (len(paths) - len(labels)))
    if not paths:
        raise UsageError(
            f"{folder}: expected pictures ({', '.join(PICTURE_SUFFIXES)}) in one folder per class, found {len(found)} "
            "folders without one. Check data.root, and that the archives were unpacked."
        )
    return PictureIndex.build(root, paths, labels, class_names, source=f"class folders {folder}")


def _classes_of(root: str, split: Split) -> list[str]:
    """Names of the class folders of a split, sorted."""
    folder = _folder_of(root, split)
    found = subfolders(folder)
    if found:
        return found
    files = [name for name in os.listdir(folder) if _is_picture(name)]
    if split == "val" and files:
        raise UsageError(
            f"{folder}: expected one folder per class, found {len(files):,} pictures without folders, as the ILSVRC "
            f"archive has them. In the folder of LOC_val_solution.csv this command sorts them:\n"
            f"  {_SORT.format(val=folder)}"
        )
    raise UsageError(f"{folder}: expected one folder per class, found {len(files):,} pictures and no folder")


def _folder_of(root: str, split: Split) -> str:
    root = os.path.abspath(os.path.expanduser(root))
    if not os.path.isdir(root):
        raise UsageError(f"data.root: expected a folder, found nothing at {root}. Give the one with train/ and val/.")
    folder = split_folder(root, split)
    if folder is None:
        entries = sorted(entry for entry in os.listdir(root) if not entry.startswith("."))
        raise UsageError(
            f"data.root {root}: expected a folder {split}/ with one folder per class, "
            f"found {_some(entries) or 'an empty folder'}"
        )
    return folder


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
