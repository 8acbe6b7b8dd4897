"""The loggers of a run, which go on where a checkpoint was written when the run is resumed in its folder.

``metrics.csv`` and TensorBoard's event files may tell of more steps than the checkpoint that a run goes on from: of
those between the checkpoint and the end of the process. They are done again, so that what was told of them is dropped.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from videogn.data.files import cannot_write, write_atomically
from videogn.errors import UsageError
from videogn.results import csv_line

log = logging.getLogger(__name__)

_STEP = "step"
_EVENTS = "events.out.tfevents.*"


class MetricsTable(CSVLogger):
    """``metrics.csv`` in the folder of a run: a row for each time that something is logged, columns by name.

    Every row is on its way to the disk when ``log_metrics`` returns, and the file is replaced as a whole when a column
    comes in: whenever the process is killed, the table can be read. A table that is already there is gone on with.

    Args:
        save_dir: the runs' folder; the run's own is ``version_N`` in it.
        version: N; by default the next that is free.
    """

    def __init__(self, save_dir: str | Path, version: int | None = None) -> None:
        super().__init__(save_dir, name=None, version=version)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _Table(self.log_dir)
        return self._experiment

    def position(self) -> dict[str, Any]:
        """How far the table is, when all of it is on the disk: ``{"rows": n, "columns": [...]}``."""
        table: _Table = self.experiment
        table.sync()
        return {"rows": table.rows, "columns": list(table.metrics_keys)}

    def rewind(self, position: Mapping[str, Any]) -> None:
        """Drops the rows and columns that came after a position."""
        self.experiment.rewind(int(position["rows"]), list(position["columns"]))


class EventFiles(TensorBoardLogger):
    """TensorBoard's event files in the folder of a run; one more each time that the run is resumed.

    Args:
        save_dir: the runs' folder; the run's own is ``version_N`` in it.
        version: N; by default the next that is free.
    """

    def __init__(self, save_dir: str | Path, version: int | str | None = None) -> None:
        super().__init__(save_dir, name=None, version=version)
        self._last = -1

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        self._last = max(self._last, step or 0)

    def position(self) -> dict[str, Any]:
        """How far they are: ``{"files": {name: bytes}, "step": the last that was logged, -1 before any}``."""
        self.experiment.flush()
        return {"files": {path.name: path.stat().st_size for path in self._files()}, "step": self._last}

    def rewind(self, position: Mapping[str, Any]) -> None:
        """Drops what came after a position: the ends of files, and files that were begun."""
        if self._experiment is not None:
            self._experiment.close()
            self._experiment = None
        sizes, self._last = dict(position["files"]), int(position["step"])
        for path in self._files():
            if path.name not in sizes:
                path.unlink()
            elif path.stat().st_size > sizes[path.name]:
                os.truncate(path, sizes[path.name])
        # A TensorBoard that is open has seen what is dropped, and forgets it when it is told to.
        self._kwargs["purge_step"] = self._last + 1
        self._default_hp_metric = False  # a point at step 0, which is there

    def _files(self) -> list[Path]:
        return sorted(Path(self.log_dir).glob(_EVENTS))


def positions(loggers: Sequence[Logger]) -> list[dict[str, Any] | None]:
    """How far each logger is, in plain values, when what it was told is in its files.

    None for loggers that cannot be rewound, which are all but those of this module, and on all processes but the first.
    """
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    return [x.position() if first and isinstance(x, MetricsTable | EventFiles) else None for x in loggers]


def rewind(loggers: Sequence[Logger], positions: Sequence[Mapping[str, Any] | None]) -> None:
    """Drops what the loggers were told after ``positions``; to be called before they are told anything.

    Nothing is dropped where a position is None or of a logger of another kind, nor in the folder of another run, where
    there is nothing. A checkpoint can name no file here: its names only say which of the logger's own files stay.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return
    for logger, position in zip(loggers, positions, strict=False):
        if position is None:
            continue
        if (isinstance(logger, MetricsTable) and "rows" in position) or (
            isinstance(logger, EventFiles) and "files" in position
        ):
            logger.rewind(position)


class _Table(ExperimentWriter):
    """The file of a :class:`MetricsTable`.

    Attributes:
        rows: how many it has.
        metrics_keys: its columns.
    """

    def _check_log_dir_exists(self) -> None:
        self.rows = 0
        if os.path.exists(self.metrics_file_path):
            _cut_torn_line(self.metrics_file_path)
            self.metrics_keys, rows = _read(self.metrics_file_path)
            self.rows = len(rows)

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics_dict.items()}
        row[_STEP] = self.rows if step is None else step
        if row.keys() <= set(self.metrics_keys):
            with open(self.metrics_file_path, "a", encoding="utf-8", newline="") as file:
                file.write(_line(row, self.metrics_keys))
        else:
            before = _read(self.metrics_file_path)[1] if self.rows else []
            self._replace(sorted({*self.metrics_keys, *row}), [*before, row])
        self.rows += 1

    def save(self) -> None:
        """Every row is written when it comes."""

    def sync(self) -> None:
        if self.rows:
            with open(self.metrics_file_path, "rb") as file:
                os.fsync(file.fileno())

    def rewind(self, rows: int, columns: Sequence[str]) -> None:
        if not os.path.isfile(self.metrics_file_path):
            return  # the folder of another run, which begins here
        columns = [name for name in self.metrics_keys if name in columns]
        _, found = _read(self.metrics_file_path)
        if len(found) < rows:
            log.warning(
                "%s: has %d rows, and had %d when the checkpoint was written; it goes on without those that are lost",
                self.metrics_file_path,
                len(found),
                rows,
            )
        if rows == 0:
            os.unlink(self.metrics_file_path)
            self.metrics_keys = []
        elif len(found) > rows or columns != self.metrics_keys:
            self._replace(columns, found[:rows])
        self.rows = len(found[:rows])

    def _replace(self, columns: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
        write_atomically(self.metrics_file_path, [csv_line(columns), *(_line(row, columns) for row in rows)])
        self.metrics_keys = columns


def _line(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    return csv_line([row.get(name, "") for name in columns])


def _cut_torn_line(path: str) -> None:
    """Cuts off a last line without its end: the process was killed, or the disk full, while it was written.

    Raises:
        UsageError: the file cannot be read and written.
    """
    try:
        with open(path, "rb+") as file:
            text = file.read()
            if not text.endswith(b"\n"):
                file.truncate(text.rfind(b"\n") + 1)
    except (PermissionError, IsADirectoryError) as error:
        raise cannot_write(path, error) from error


def _read(path: str) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a table; an empty file has none.

    Raises:
        UsageError: not a table of this class.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            columns, rows = list(table.fieldnames or ()), list(table)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not a table of comma-separated values ({error}); move it away") from error
    if columns and _STEP not in columns:
        raise UsageError(f"{path}: expected a column named step, found {', '.join(columns):.200}; move it away")
    return columns, rows
