"""One folder for each run, and one run at a time for each folder; how a run ends that is interrupted by hand."""

import os
import signal

import pytest
from runs import run

from videogn.callbacks import make_new_folder, run_folder
from videogn.loggers import EventFiles, MetricsTable
from videogn.module import VideoClassifier

fcntl = pytest.importorskip("fcntl")
SHORT = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "0"]


def test_runs_that_start_at_the_same_moment_have_folders_of_their_own(tmp_path):
    pairs = [(EventFiles(tmp_path, table.version), table) for table in (MetricsTable(tmp_path), MetricsTable(tmp_path))]
    assert [table.version for _, table in pairs] == [0, 0]
    for pair in pairs:
        make_new_folder(pair)
    assert [[logger.version for logger in pair] for pair in pairs] == [[0, 0], [1, 1]]
    assert [logger.log_dir for logger in pairs[1]] == [str(tmp_path / "version_1")] * 2
    assert sorted(os.listdir(tmp_path)) == ["version_0", "version_1"]


def test_a_run_that_is_still_at_work_is_not_gone_on_with(tiny_config, tmp_path, capsys, monkeypatch):
    assert run("fit", tiny_config, tmp_path, *SHORT) == 0
    before = (tmp_path / "version_0" / "checkpoints" / "last.ckpt").read_bytes()
    monkeypatch.setattr(run_folder, "_LOCK_SECONDS", 0.2)
    longer = [*SHORT, "--trainer.max_epochs", "2", "--ckpt_path", "last"]
    other = os.open(tmp_path / "version_0", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        assert run("fit", tiny_config, tmp_path, *longer) == 2
        assert "version_0: expected to write here alone, found another run at it" in capsys.readouterr().err
        assert (tmp_path / "version_0" / "checkpoints" / "last.ckpt").read_bytes() == before
    finally:
        os.close(other)
    assert run("fit", tiny_config, tmp_path, *longer) == 0


def test_ctrl_c_in_training_has_the_code_of_an_interruption(tiny_config, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(VideoClassifier, "training_step", interrupted)
    try:
        assert run("fit", tiny_config, tmp_path, *SHORT) == 130
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
    assert "videogn: interrupted" in capsys.readouterr().err
