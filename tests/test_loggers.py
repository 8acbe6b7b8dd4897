"""Loggers that go on: after any interruption, what a run that was never interrupted leaves."""

import csv
import logging
import os

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from videogn.errors import UsageError
from videogn.loggers import EventFiles, MetricsTable, positions, rewind

# What a run logs: learning rates, steps, the end of an epoch, a validation with columns of its own.
LOGGED = [
    ({"lr-AdamW": 0.1}, 0),
    ({"train/loss": torch.tensor(2.3), "epoch": 0}, 0),
    ({"train/loss": 1 / 3, "train/data_wait": 0.25, "epoch": 0}, 1),
    ({"val/top1": float("nan"), "val/loss": 2.5, "epoch": 0}, 1),
    ({"train/top1": 0.5, "epoch": 0}, 1),
    ({"lr-AdamW": 0.05}, 2),
    ({"train/loss": 1e-30, "train/data_wait": 0.0, "epoch": 1}, 2),
    ({'a column, with "quotes"': 1, "epoch": 1}, 3),
]


def log(loggers, entries):
    for metrics, step in entries:
        for logger in loggers:
            logger.log_metrics(metrics, step)


def both(folder):
    return [EventFiles(folder, 0), MetricsTable(folder, 0)]


def table(folder):
    return folder / "version_0" / "metrics.csv"


def scalars(folder):
    """By name: (step, value) by steps, as TensorBoard draws them. Files of one process and second have no order: their
    names end in a count without leading zeros."""
    events = EventAccumulator(str(folder / "version_0"), size_guidance={"scalars": 0})
    events.Reload()
    return {name: sorted((e.step, e.value) for e in events.Scalars(name)) for name in sorted(events.Tags()["scalars"])}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    loggers = both(folder)
    log(loggers, LOGGED)
    for logger in loggers:
        logger.finalize("success")
    return folder


def test_the_table_is_that_of_lightning(whole, tmp_path):
    """Rows and columns; the ends of lines differ."""
    theirs = CSVLogger(tmp_path, name=None)
    log([theirs], LOGGED)
    theirs.save()
    expected = table(tmp_path).read_text().splitlines()
    assert table(whole).read_text().splitlines() == expected
    assert len(expected) == 1 + len(LOGGED)


@pytest.mark.parametrize("kept", range(len(LOGGED) + 1))
def test_after_any_interruption_the_files_are_those_of_a_run_without(whole, tmp_path, kept):
    """A checkpoint after ``kept`` entries, a kill some entries later, and another one after going on."""
    for killed in {kept, min(kept + 1, len(LOGGED)), len(LOGGED)}:
        folder = tmp_path / str(killed)
        first = both(folder)
        log(first, LOGGED[:kept])
        found = torch.tensor(0), positions(first)
        torch.save(found, tmp_path / "state")
        _, stored = torch.load(tmp_path / "state", weights_only=True)
        log(first, LOGGED[kept:killed])
        first[0].experiment.flush()
        for _ in range(2):
            again = both(folder)
            rewind(again, stored)
            log(again, LOGGED[kept:])
            again[0].save()
            assert table(folder).exists() == bool(LOGGED[kept:] or kept)
            assert table(folder).read_bytes() == table(whole).read_bytes()
            assert str(scalars(folder)) == str(scalars(whole))


def test_every_row_is_in_the_file_at_once(tmp_path):
    logger = MetricsTable(tmp_path)
    for count, entry in enumerate(LOGGED, start=1):
        log([logger], [entry])
        rows = list(csv.DictReader(table(tmp_path).open(newline="")))
        assert len(rows) == count
        assert rows[-1]["step"] == str(entry[1])


def test_a_kill_while_columns_are_added_leaves_the_table_before(tmp_path, monkeypatch):
    logger = MetricsTable(tmp_path, 0)
    log([logger], LOGGED[:2])
    before = table(tmp_path).read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            log([logger], LOGGED[2:3])
    assert table(tmp_path).read_bytes() == before


def test_a_line_that_was_torn_is_cut_off(tmp_path):
    log([MetricsTable(tmp_path, 0)], LOGGED[1:3])
    text = table(tmp_path).read_bytes()
    lines = text.splitlines(keepends=True)
    for size in range(len(text) - len(lines[-1]), len(text)):
        table(tmp_path).write_bytes(text[:size])
        logger = MetricsTable(tmp_path, 0)
        assert logger.position()["rows"] == len(lines) - 2
        log([logger], LOGGED[2:3])
        assert table(tmp_path).read_bytes() == text


def test_rows_that_are_lost_are_told(tmp_path, caplog):
    logger = MetricsTable(tmp_path, 0)
    log([logger], LOGGED[1:])
    position = logger.position()
    lines = table(tmp_path).read_text().splitlines(keepends=True)
    table(tmp_path).write_text("".join(lines[:3]))
    with caplog.at_level(logging.WARNING):
        rewind([logger := MetricsTable(tmp_path, 0)], [position])
    assert "has 2 rows, and had 7" in caplog.text
    log([logger], [({"epoch": 9}, 9)])
    assert len(table(tmp_path).read_text().splitlines()) == 4


def test_a_run_that_goes_on_in_another_folder_begins_there(tmp_path, caplog):
    first = both(tmp_path / "first")
    log(first, LOGGED)
    second = both(tmp_path / "second")
    with caplog.at_level(logging.WARNING):
        rewind(second, positions(first))
    assert caplog.text == ""
    log(second, LOGGED[:2])
    assert len(table(tmp_path / "second").read_text().splitlines()) == 3
    assert scalars(tmp_path / "second")["lr-AdamW"] == [(0, pytest.approx(0.1))]


def test_a_fresh_run_has_the_next_version(tmp_path):
    for version in range(3):
        logger = MetricsTable(tmp_path)
        assert logger.version == version
        log([logger, EventFiles(tmp_path, logger.version)], LOGGED[:1])
        assert len(table(tmp_path).read_text().splitlines()) == 2


def test_a_tensorboard_that_is_open_forgets_what_is_done_again(tmp_path):
    logger = EventFiles(tmp_path, 0)
    logger.log_hyperparams({"norm": "gn"})
    log([logger], [({"loss": float(step)}, step) for step in range(5)])
    position = logger.position()
    log([logger], [({"loss": float(step)}, step) for step in range(5, 10)])
    logger.save()
    events = EventAccumulator(str(tmp_path / "version_0"))
    events.Reload()
    assert len(events.Scalars("loss")) == 10
    again = EventFiles(tmp_path, 0)
    rewind([again], [position])
    again.log_hyperparams({"norm": "gn"})
    log([again], [({"loss": float(step)}, step) for step in range(5, 12)])
    again.save()
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(12))
    assert [(s, v) for s, v in scalars(tmp_path)["loss"]] == [(step, float(step)) for step in range(12)]
    assert scalars(tmp_path)["hp_metric"] == [(0, -1.0)]


def test_other_loggers_and_other_processes_are_left_alone(tmp_path, monkeypatch):
    others = [CSVLogger(tmp_path, name=None, version=7), TensorBoardLogger(tmp_path, name=None, version=7)]
    own = both(tmp_path)
    log([*others, *own], LOGGED)
    assert positions(others) == [None, None]
    found = positions([*others, *own])
    for x in others:
        x.save()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    rewind(others, found[2:])  # the loggers of the command are others than those of the checkpoint
    rewind(own, [None, None])
    rewind(own, found[:2:-1])
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert positions(own) == [None, None]
    rewind(own, [{"files": {}, "step": -1}, {"rows": 0, "columns": []}])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_checkpoint_names_no_other_files(tmp_path):
    (tmp_path / "version_0").mkdir()
    precious = [tmp_path / "precious", tmp_path / "version_0" / "config.yaml"]
    for path in precious:
        path.write_text("x" * 100)
    own = both(tmp_path)
    log(own, LOGGED)
    names = ["../precious", str(precious[0]), "config.yaml"]
    rewind(own, [{"files": dict.fromkeys(names, 1), "step": 3}, {"rows": 1, "columns": ["../precious", "step"]}])
    assert [path.read_text() for path in precious] == ["x" * 100] * 2
    assert table(tmp_path).read_text() == "step\n0\n"


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "\udcff\n"])
def test_a_file_that_is_no_table_is_refused(tmp_path, text):
    table(tmp_path).parent.mkdir()
    table(tmp_path).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UsageError, match=r"metrics\.csv: .*move it away"):
        MetricsTable(tmp_path, 0).log_metrics({"a": 1}, 0)


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    table(tmp_path).mkdir(parents=True)
    with pytest.raises(UsageError, match=r"metrics\.csv: cannot be written"):
        MetricsTable(tmp_path, 0).log_metrics({"a": 1}, 0)
