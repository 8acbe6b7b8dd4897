"""Options of Lightning's trainer that decide where a run's files are, or that a run cannot follow."""

import csv

import pytest
from runs import run

from videogn.errors import UsageError
from videogn.run_options import folder_of_runs

CSV, TENSORBOARD = "lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.loggers.TensorBoardLogger"
WANDB = "lightning.pytorch.loggers.WandbLogger"


def logger(path, **options):
    return {"class_path": path, "init_args": options}


@pytest.mark.parametrize(
    ("loggers", "folder"),
    [
        (None, "runs"),
        (True, "runs"),
        (False, "runs"),
        ([], "runs"),
        (logger(CSV, save_dir="mine", name="lightning_logs", version=None), "mine/lightning_logs"),
        (logger(CSV, save_dir="mine", name="", version=3), "mine/version_3"),
        ([logger(TENSORBOARD, save_dir="mine", name="x", version="y"), logger(CSV, save_dir="other")], "mine/x/y"),
        (logger(WANDB, save_dir="mine", name="x", version="y"), "mine"),
    ],
)
def test_last_is_looked_for_where_the_first_logger_makes_its_folders(loggers, folder):
    assert folder_of_runs({"default_root_dir": "runs", "logger": loggers}).rstrip("/") == folder


@pytest.mark.parametrize("options", [{"name": "x"}, {"save_dir": "mine", "sub_dir": "x"}])
def test_a_logger_that_hides_its_folder(options):
    """A run that started anew at each restart would never end."""
    with pytest.raises(UsageError, match=r"--ckpt_path last: .* trainer\.logger WandbLogger"):
        folder_of_runs({"default_root_dir": "runs", "logger": logger(WANDB, **options)})


def test_a_run_with_a_logger_of_the_users_goes_on(tiny_config, tmp_path):
    overlay = tmp_path / "logger.yaml"
    overlay.write_text(f"trainer: {{logger: {{class_path: {CSV}, init_args: {{save_dir: {tmp_path / 'mine'}}}}}}}")
    options = ["-c", str(overlay), "--trainer.limit_val_batches", "0", "--ckpt_path", "last"]
    for epochs in "1", "2":
        assert run("fit", tiny_config, tmp_path / "runs", *options, "--trainer.max_epochs", epochs) == 0
    versions = [tmp_path / "mine" / "lightning_logs" / f"version_{number}" for number in (0, 1)]
    assert all((version / "checkpoints" / "last.ckpt").is_file() for version in versions)
    tables = [csv.DictReader((version / "metrics.csv").read_text().splitlines()) for version in versions]
    assert [{int(row["step"]) for row in table} for table in tables] == [{0, 1}, {2, 3}]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--trainer.enable_checkpointing", "false"], {"last-1.ckpt", "last.ckpt"}),
        (["--trainer.barebones", "true", "--trainer.log_every_n_steps", "null"], set()),
    ],
)
def test_runs_that_keep_no_best_weights(options, kept, tiny_config, tmp_path):
    options = [*options, "--trainer.enable_progress_bar", "null", "--trainer.enable_model_summary", "null"]
    assert run("fit", tiny_config, tmp_path, *options, "--trainer.num_sanity_val_steps", "null") == 0
    assert {path.name for path in tmp_path.rglob("*.ckpt")} == kept


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--trainer.overfit_batches", "2"], "short epochs use --trainer.limit_train_batches 2"),
        (["--trainer.barebones", "true"], "barebones"),
    ],
)
def test_options_that_a_run_cannot_follow(option, words, tiny_config, tmp_path, capsys):
    assert run("fit", tiny_config, tmp_path, *option) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_run_that_has_done_more_epochs_than_it_is_asked_for(tiny_config, tmp_path, capsys):
    options = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "0"]
    assert run("fit", tiny_config, tmp_path, *options, "--trainer.max_epochs", "2") == 0
    assert run("fit", tiny_config, tmp_path, *options, "--ckpt_path", "last") == 2
    assert "current_epoch=2" in capsys.readouterr().err


def test_a_second_writer_of_the_last_checkpoint_is_refused(tiny_config, tmp_path, capsys):
    assert run("fit", tiny_config, tmp_path, "--checkpoint.save_last", "true") == 2
    assert "--checkpoint.save_last: last.ckpt is written at every validation anyway" in capsys.readouterr().err


def test_averages_that_no_checkpoint_holds_are_told(tiny_config, tmp_path):
    averaging = "{class_path: StochasticWeightAveraging, init_args: {swa_lrs: 0.01}}"
    with pytest.warns(UserWarning, match="stores no averages in checkpoints"):
        assert run("fit", tiny_config, tmp_path, "--trainer.callbacks", f"[{averaging}]") == 0
