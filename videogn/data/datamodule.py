"""Loaders for training and evaluation, from a folder of videos and a clip specification."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import DataLoader

from videogn.data.batches import ClipBatch, VideoBatch
from videogn.data.classes import ClassList, read_class_names
from videogn.data.cores import available_cores
from videogn.data.dataset import EvalVideos, TrainClips
from videogn.data.decode import DEFAULT_LIMITS, Backend, Limits, check_backend
from videogn.data.demo import DemoSpec, generate_demo
from videogn.data.index import VideoIndex, listed_class_names, read_index
from videogn.data.layouts import Layout, Source, Split, find_source, no_source
from videogn.data.loader import TimedLoader, guarded, start_worker
from videogn.data.manifest import Manifest, manifest_path, read_manifest
from videogn.data.samplers import EvalSampler, TrainSampler
from videogn.errors import UsageError
from videogn.spec import ClipSpec

_CLIP = ClipSpec()
_MAX_WORKERS = 16
_STAGES: dict[str, tuple[str, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class KineticsDataModule(LightningDataModule):
    """Kinetics, UCF101, HMDB51, or any data set in class folders, list files or the CVDF layout of Kinetics.

    Works with a trainer and without one: ``data.prepare_data(); data.setup(); next(iter(data.train_dataloader()))``.

    Args:
        root: folder of the data set; holds train/ and val/ with one folder per class, or the csv files and archives'
            contents of Kinetics, or the files that the lists name, or the videos and split files of UCF101 or HMDB51.
        clip: how clips are cut: frames, stride, sizes, mean and std, views in evaluation.
        batch_size: training clips per process and forward pass: what a batch norm sees.
        eval_batch_size: videos per process that evaluation loads at a time; each comes with all its views. With 1,
            results are the same to the last digit for any number of processes and interruptions; with more, views of
            equal size share forward passes, whose number of clips can change the last digits.
        layout: folders, list, cvdf, ucf101 or hmdb51; auto finds out.
        fold: which of the three published splits of UCF101 or HMDB51.
        train_list: list of the training split, one "path label" per line with a space, a tab or a comma between; or its
            csv in the format of Kinetics. Relative to the working folder, or else to root.
        val_list: the same for the validation split.
        test_list: the same for the test split; without labels it serves prediction.
        path_prefix: folder that the paths in the lists start from, relative to root; root itself by default, and the
            archives' own folders for UCF101 and HMDB51.
        class_names: kinetics400, or a text file with one class name per line, in the order of the labels. By default
            the names of the training split: UCF101's and Kinetics-400's official order (the latter if at least half of
            its names and no others are there), sorted otherwise.
        num_workers: decoding processes per training process; by default the cores that this process may use, shared by
            the processes of this machine, less one for the training itself, between 1 and 16.
        backend: decoder of the video files.
        decode_timeout: seconds without progress after which a file is given up, and its decoder ended: hangs and
            crashes cost one video. A packet that is decoded is progress; on Linux so is every read that the disk
            answers, for up to ten times as long, so that a slow disk is no hang; raise it where single reads can take
            a minute. null switches that off, as do num_workers 0 and Windows; workers then read the files themselves
            instead of in child processes.
        limits: what a video may at most be.
        manifest: csv file that `videogn data check` wrote; by default videogn_manifest.csv in root, if it is there.
            Files that it calls bad are left out of training and fail in evaluation without being opened.
        seed: of the order of videos, the clips and the augmentation; by default that of seed_everything.
        pin_memory: page-locked memory for batches; by default where a CUDA device is.
        demo: generates the demo videos in root first, once, if given.

    Attributes:
        done: numbers of videos that evaluation leaves out, because an interrupted one has judged them; or a function
            that gives them, asked when the loader is made: the network has its weights then.
    """

    def __init__(
        self,
        root: str,
        clip: ClipSpec = _CLIP,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        layout: Layout = "auto",
        fold: int = 1,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        path_prefix: str | None = None,
        class_names: str | None = None,
        num_workers: int | None = None,
        backend: Backend = "pyav",
        decode_timeout: float | None = 60.0,
        limits: Limits = DEFAULT_LIMITS,
        manifest: str | None = None,
        seed: int | None = None,
        pin_memory: bool | None = None,
        demo: DemoSpec | None = None,
    ) -> None:
        super().__init__()
        for name, value, low in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("fold", fold, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value is not None and value < low:
                raise UsageError(f"data.{name}: expected at least {low}, found {value}")
        if decode_timeout is not None and not decode_timeout > 0:
            raise UsageError(f"data.decode_timeout: expected more than 0 seconds, or null, found {decode_timeout:g}")
        self.root = root
        self.clip = clip
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.layout: Layout = layout
        self.fold = fold
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self.path_prefix = path_prefix
        self.num_workers = num_workers
        self.backend: Backend = backend
        self.decode_timeout = decode_timeout
        self.limits = limits
        self.manifest = manifest
        # Where seed_everything of Lightning leaves it; 0 where nobody called it.
        self.seed = seed if seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self.pin_memory = pin_memory
        self.demo = demo
        self.done: frozenset[int] | Callable[[], frozenset[int]] = frozenset()
        self._class_names_option = class_names
        self._classes: ClassList | None = None
        self._manifest: Manifest | None = None
        self._indices: dict[str, VideoIndex] = {}

    # -- set-up ----------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Generates the demo videos if they are asked for; Lightning calls this in one process per machine."""
        if self.demo is not None:
            rank_zero_info(f"demo videos: {os.path.abspath(self.root)}")
            with Progress(console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task("writing demo videos", total=None)
                generate_demo(self.root, self.demo, lambda done, total: bar.update(task, completed=done, total=total))

    def setup(self, stage: str | None = None) -> None:
        """Reads the annotations of the splits that a stage needs and checks them; splits already read are kept.

        Args:
            stage: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``; None is training and validation.

        Raises:
            UsageError: no such folder or split, no videos, labels outside the classes, a decoder not installed.
        """
        check_backend(self.backend)
        for split in _STAGES.get(stage or "fit", ("predict",)):
            if split not in self._indices:
                self._indices[split] = self._read(split)
                rank_zero_info(f"{split}: {self._indices[split].summary()}")

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Name of every label; None before :meth:`setup`, and for prediction on videos without labels."""
        return self._classes.names if self._classes is not None else None

    def index(self, split: str) -> VideoIndex:
        """The videos of ``"train"``, ``"val"``, ``"test"`` or ``"predict"``; reads them if no stage has."""
        if split not in self._indices:
            self._indices[split] = self._read(split)
        return self._indices[split]

    def _read(self, split: str) -> VideoIndex:
        source = self._source(split)
        labelled = split != "predict"
        if self._classes is None:
            self._classes, note = self._find_classes(required=labelled)
            if note:
                rank_zero_info(f"classes: {note}")
        index = read_index(source, self._classes, self.path_prefix, require_labels=labelled)
        manifest = self._known()
        if manifest is not None:
            index = index.with_manifest(manifest)
        return index.without_bad() if split == "train" else index

    def _known(self) -> Manifest | None:
        if self._manifest is None:
            path = manifest_path(self.root, self.manifest)
            self._manifest = read_manifest(path)
            if self._manifest is None and self.manifest is not None:
                raise UsageError(
                    f"data.manifest: expected a manifest that `videogn data check` wrote, found nothing at {path}"
                )
        return self._manifest

    def _source(self, split: str) -> Source:
        """Where a split is written down. Data sets that publish no test split are tested on the validation split."""
        tried: tuple[Split, ...] = {"train": ("train",), "val": ("val",)}.get(split, ("test", "val"))  # type: ignore[assignment]
        for name in tried:
            source = find_source(self.root, name, self.layout, self.lists[name], self.fold)
            if source is not None:
                return source
        raise no_source(os.path.abspath(os.path.expanduser(self.root)), tried[0], self.layout)

    def _find_classes(self, required: bool) -> tuple[ClassList | None, str | None]:
        if self._class_names_option is not None:
            return ClassList(read_class_names(self._class_names_option)), None
        source = find_source(self.root, "train", self.layout, self.lists["train"], self.fold)
        if source is None:
            if not required:
                return None, None
            raise UsageError(
                f"data.root {os.path.abspath(os.path.expanduser(self.root))}: expected a training split, which says "
                "what the classes are and in which order, found none. Set data.class_names to kinetics400, or to a "
                "text file with one class name per line."
            )
        names, note = listed_class_names(source)
        return ClassList(names), note

    # -- loaders ---------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of type :class:`~videogn.data.batches.ClipBatch`.

        Raises:
            UsageError: fewer videos than one optimiser step needs.
        """
        index = self.index("train")
        world, rank = self._processes()
        accumulate = int(getattr(self.trainer, "accumulate_grad_batches", 1) or 1)
        sampler = TrainSampler(len(index), self.batch_size, self.seed, world, rank, accumulate)
        if len(sampler) == 0:
            raise UsageError(
                f"data.batch_size: expected at most {len(index)} clips per step, the number of training videos, found "
                f"{self.batch_size * world * accumulate} ({self.batch_size} per forward pass, {world} processes, "
                f"{accumulate} passes per step)"
            )
        return self._loader(self._train_data(index), sampler, self.batch_size, ClipBatch.collate)

    def _train_data(self, index: VideoIndex) -> TrainClips:
        return TrainClips(index, self.clip, self.seed, self.backend, self.limits)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of type :class:`~videogn.data.batches.VideoBatch`."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of type :class:`~videogn.data.batches.VideoBatch`: the test split, or else the validation split."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """As :meth:`test_dataloader`; the videos need no labels."""
        return self._eval_loader("predict")

    def _eval_loader(self, split: str) -> DataLoader[Any]:
        index = self.index(split)
        done = self.done() if callable(self.done) else self.done
        sampler = EvalSampler(len(index), *self._processes(), done)
        return self._loader(self._eval_data(index), sampler, self.eval_batch_size, VideoBatch.collate)

    def _eval_data(self, index: VideoIndex) -> EvalVideos:
        return EvalVideos(index, self.clip, self.backend, self.limits)

    def _loader(self, data: TrainClips | EvalVideos, sampler: Any, batch_size: int, collate: Any) -> DataLoader[Any]:
        workers = self.num_workers if self.num_workers is not None else self._default_workers()
        return TimedLoader(
            guarded(data, self.decode_timeout, workers),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available() if self.pin_memory is None else self.pin_memory,
            worker_init_fn=start_worker,
            persistent_workers=workers > 0,
        )

    def _processes(self) -> tuple[int, int]:
        """Number of processes and rank of this one."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)

    def _default_workers(self) -> int:
        processes = self.trainer.num_devices if self.trainer is not None else 1
        return max(1, min(_MAX_WORKERS, available_cores() // max(1, processes) - 1))
