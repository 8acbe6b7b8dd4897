"""What an evaluation leaves, and how it goes on when it was interrupted."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from videogn.callbacks.exchange import of_all
from videogn.callbacks.fingerprint import what_decides
from videogn.callbacks.journal import Journal, journal_folder, other_journals
from videogn.callbacks.records import circumstances, leaves_files, peak_resident, run_folder
from videogn.data.files import cannot_write
from videogn.errors import UsageError
from videogn.results import (
    EVALUATION_FILE,
    PREDICTIONS_FILE,
    Evaluation,
    VideoResult,
    write_predictions,
    write_record,
)

log = logging.getLogger(__name__)

_SPLITS = {"validate": "val", "test": "test", "predict": "predict"}


class PredictionsWriter(Callback):
    """Write ``predictions.csv`` and ``evaluation.json`` into the run's folder whenever an evaluation ends.

    While ``validate``, ``test`` or ``predict`` run, the results of finished videos are also kept in a journal in
    ``default_root_dir/unfinished``. If such an evaluation is interrupted, the same command goes on where it stopped, on
    any number of processes, and gives the same result; videos that could not be decoded are tried again. Evaluations
    of a part of the data (``limit_val_batches`` ...), and validations during training, have no journal.
    """

    def __init__(self) -> None:
        self._results: dict[int, VideoResult] = {}
        self._journal: Journal | None = None
        self._evaluated = 0  # by this process, without what comes from a journal
        self._start = 0.0
        self._initial: str | None = None  # the file of weights that the evaluation starts from
        self._step: int | None = None
        self._epoch: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        module: Any = pl_module
        self._initial = module.initial.path if module.initial is not None else None
        self._step = self._epoch = None
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(datamodule, "done"):
            return
        datamodule.done = frozenset()
        limits = {
            "validate": trainer.limit_val_batches,
            "test": trainer.limit_test_batches,
            "predict": trainer.limit_predict_batches,
        }
        limit = limits.get(stage)
        if isinstance(limit, float) and limit == 1.0 and leaves_files(trainer):  # an integer is a number of batches
            # Asked for when the loader is made. Here the weights are not there yet, which are part of what decides.
            datamodule.done = partial(self._continue, trainer, pl_module, _SPLITS[stage])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._step, self._epoch = checkpoint.get("global_step"), checkpoint.get("epoch")
        scores = checkpoint["callbacks"].get("Scores") if isinstance(checkpoint.get("callbacks"), dict) else None
        # At the end of an epoch the checkpoint is in the next one; fit has judged these weights in theirs.
        if isinstance(scores, dict) and scores.get("global_step") == self._step:
            self._epoch = scores.get("epoch")

    def _continue(self, trainer: Trainer, module: LightningModule, split: str) -> frozenset[int]:
        """Opens the journal; the videos that are in it, on any machine. All processes come here together."""
        about: dict[str, Any] = {}
        folder = Path()
        if trainer.is_global_zero:
            about = what_decides(trainer, module, split)
            folder = journal_folder(trainer.default_root_dir, about)
        folder = trainer.strategy.broadcast(folder)
        journal = Journal(folder, trainer.global_rank)
        problem = journal.lock(about) if trainer.is_global_zero else None
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            if trainer.is_global_zero:
                log.warning("%s: this evaluation keeps no journal, and begins anew if it is interrupted", problem)
            return frozenset()
        self._journal = journal
        done = frozenset().union(*of_all(frozenset(journal.results)))
        if done:
            total = len(trainer.datamodule.index(split))  # type: ignore[attr-defined]
            rank_zero_info(
                f"going on with an evaluation that was interrupted: {len(done):,} of {total:,} videos are done; to "
                f"start anew, delete {folder}"
            )
        if trainer.is_global_zero and (others := other_journals(folder, about)):
            rank_zero_info(others)
        return done

    # -- while it runs -----------------------------------------------------------------------------------------------

    def _begin(self, trainer: Trainer) -> None:
        self._results = dict(self._journal.results) if self._journal is not None else {}
        self._evaluated = 0
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
        self._start = time.perf_counter()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)
        # The file holds them; in memory they would come with all frames of all videos.
        trainer.predict_loop.return_predictions = False

    def _keep(self, pl_module: LightningModule) -> None:
        results: list[VideoResult] = pl_module.results  # type: ignore[assignment]
        for result in results:
            self._results[result.id] = result
            self._evaluated += 1
            if self._journal is not None and result.error is None:  # a disk that failed may answer next time
                self._journal.append(result)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._keep(pl_module)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._keep(pl_module)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._keep(pl_module)

    def _score_journal(self, pl_module: LightningModule) -> None:
        module: Any = pl_module
        for result in self._journal.results.values() if self._journal is not None else ():
            module.scores.update(result)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._score_journal(pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._score_journal(pl_module)

    # -- when it ends ------------------------------------------------------------------------------------------------

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._finish(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, "test")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, "predict")

    def _finish(self, trainer: Trainer, module: Any, split: str) -> None:
        seconds = time.perf_counter() - self._start
        parts = of_all((self._results, self._evaluated))
        results = {video: result for part, _ in parts for video, result in part.items()}
        evaluated = sum(count for _, count in parts)
        self._results = {}
        folder = run_folder(trainer)
        if not leaves_files(trainer):
            return
        problem = None
        if trainer.is_global_zero:
            problem = self._write(trainer, module, split, folder, results, seconds, evaluated)
        problem = trainer.strategy.broadcast(problem)
        fitting = trainer.state.fn == "fit"
        if problem is not None and not fitting:
            raise UsageError(problem)
        if problem is not None and trainer.is_global_zero:
            log.warning(problem)
        if not fitting:
            rank_zero_info(f"{len(results):,} videos: {Path(folder, PREDICTIONS_FILE)} and {EVALUATION_FILE} beside it")
        if self._journal is not None:
            self._journal.remove()
            self._journal = None

    def _write(
        self,
        trainer: Trainer,
        module: Any,
        split: str,
        folder: str,
        results: dict[int, VideoResult],
        seconds: float,
        evaluated: int,
    ) -> str | None:
        """Writes both files; what went wrong if it did."""
        fitting = trainer.state.fn == "fit"
        device = trainer.strategy.root_device
        cuda = device.type == "cuda"
        names = module.class_names
        given = trainer.ckpt_path or self._initial
        record = Evaluation(
            split=split,
            scores={} if split == "predict" else {n: float(v) for n, v in module.last_scores._asdict().items()},
            clip=module.clip.to_dict(),
            architecture=module.architecture,
            class_names=list(names) if names is not None else None,
            global_step=trainer.global_step if fitting else self._step,
            epoch=trainer.current_epoch if fitting else self._epoch,
            checkpoint=None if fitting or given is None else str(given),
            seconds=seconds,
            seconds_videos=evaluated,
            peak_memory_bytes=torch.cuda.max_memory_allocated(device) if cuda else peak_resident(),
            **circumstances(trainer),
        )
        shown = names or [str(i) for i in range(record.architecture["num_classes"])]
        path = Path(folder, PREDICTIONS_FILE)
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_predictions(str(path), (results[video] for video in sorted(results)), shown)
            path = Path(folder, EVALUATION_FILE)
            write_record(str(path), record)
        except OSError as error:
            return str(cannot_write(str(path), error))
        return None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._journal is not None and (self._journal.results or self._journal.written):
            rank_zero_info(
                f"{len(self._journal.results) + self._journal.written:,} videos are done"
                f"{' by process 0' if trainer.world_size > 1 else ''} and kept in {self._journal.folder}: the same "
                "command goes on from there"
            )
        self._close(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close(trainer)

    def _close(self, trainer: Trainer) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(datamodule, "done"):
            datamodule.done = frozenset()
