"""Runs that are interrupted and go on are, to the bit, the runs that were not."""

import csv
import itertools
import shutil

import numpy as np
import pytest
import torch
from runs import run

from videogn.callbacks import CheckpointFiles, ResumePoints, resume
from videogn.errors import UsageError
from videogn.module import VideoClassifier

OPTIONS = [
    "--data.batch_size",
    "2",
    "--trainer.max_epochs",
    "2",
    "--model.dropout",
    "0.5",
    "--resume.every_n_steps",
    "1",
]
BRN = ["--model.norm", "brn", "--model.norm_kwargs", "null", "--model.recipe.optimizer", "adamw"]
SHORT = ["--trainer.limit_val_batches", "4"]
BN = ["--model.norm", "bn", "--model.norm_kwargs", "null"]
EMA = "{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.9}}"
PRECISE = "{class_path: videogn.callbacks.PreciseBN, init_args: {num_batches: 2}}"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def kill(monkeypatch):
    """Ends the next run before training step n, in the validation of epoch n, or at the end of epoch n."""

    def at(where, number):
        name = {"step": "training_step", "validation": "validation_step", "end": "on_train_epoch_end"}[where]
        original = getattr(VideoClassifier, name)

        def hook(self, *arguments):
            reached = self.trainer.global_step if where == "step" else self.trainer.current_epoch
            in_the_middle = where != "validation" or arguments[1] == 3
            if reached == number and in_the_middle and not self.trainer.sanity_checking:
                monkeypatch.setattr(VideoClassifier, name, original)
                raise Killed
            return original(self, *arguments)

        monkeypatch.setattr(VideoClassifier, name, hook)

    return at


def table(folder):
    """metrics.csv without what is a measured time."""
    with open(folder / "metrics.csv", newline="") as file:
        return [
            {name: value for name, value in row.items() if name != "train/data_wait"} for row in csv.DictReader(file)
        ]


def state(folder):
    """All that the last checkpoint holds, but paths, and what belongs to the files of the loggers."""
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["videogn_resume"].pop("loggers")
    callbacks = checkpoint["callbacks"]
    best = next(value for name, value in callbacks.items() if name.startswith("ModelCheckpoint"))
    callbacks["best"] = best["best_model_score"]
    callbacks.pop("TrainingRecord", None)  # seconds
    return {**checkpoint, "callbacks": {k: v for k, v in callbacks.items() if not k.startswith("ModelCheckpoint")}}


def differences(a, b, path=""):
    """Where two trees of values are not the same to the bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        return [x for key in {**a, **b} for x in differences(a.get(key), b.get(key), f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [x for i, pair in enumerate(zip(a, b, strict=True)) for x in differences(*pair, f"{path}/{i}")]
    return [] if a == b else [f"{path}: {a!r:.60} and {b!r:.60}"]


@pytest.mark.parametrize(
    ("options", "callbacks", "kills"),
    [
        (BRN, [], [("step", 2), ("step", 4), ("validation", 1)]),
        (BN, [PRECISE, EMA], [("validation", 0), ("step", 5)]),
        (
            [*BRN, "--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "4"],
            [],
            [("step", 1), ("validation", 1)],
        ),
        ([*BRN, *SHORT, "--trainer.val_check_interval", "0.5"], [], [("validation", 0), ("end", 0)]),
        (
            [*BRN, *SHORT, "--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval", "3"],
            [],
            [("step", 1), ("validation", 1)],
        ),
    ],
    ids=[
        "brn",
        "precise bn and ema",
        "accumulation and max_steps",
        "two validations an epoch",
        "validation within a step",
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits(options, callbacks, kills, tiny_config, tmp_path, kill):
    """Weights, optimiser, schedule, buffers, generators, counters and every logged value; other workers each time."""
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"trainer: {{callbacks: [{', '.join(callbacks)}]}}")
    options = ["-c", str(overlay), *OPTIONS, *options]
    assert run("fit", tiny_config, tmp_path / "whole", *options) == 0
    workers = itertools.cycle(["1", "0"])
    for where in kills:
        kill(*where)
        with pytest.raises(Killed):
            run("fit", tiny_config, tmp_path / "killed", *options, "--ckpt_path", "last", "--data.num_workers", "0")
    resumed = [*options, "--ckpt_path", "last", "--data.num_workers", next(workers)]
    assert run("fit", tiny_config, tmp_path / "killed", *resumed) == 0
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["version_0"]
    whole, killed = tmp_path / "whole" / "version_0", tmp_path / "killed" / "version_0"
    assert table(killed) == table(whole)
    assert differences(state(whole), state(killed)) == []
    names = {path.name for path in (whole / "checkpoints").iterdir()}
    assert {path.name for path in (killed / "checkpoints").iterdir()} == names


def test_a_finished_run_has_nothing_to_do_and_can_be_made_longer(tiny_config, tmp_path, capsys):
    """With a constant rate, a run of one epoch that is made longer is the run of two."""
    constant = [*OPTIONS, "--model.recipe.schedule", "constant"]
    assert run("fit", tiny_config, tmp_path / "long", *constant) == 0
    folder = tmp_path / "short"
    assert run("fit", tiny_config, folder, *constant, "--trainer.max_epochs", "1") == 0
    before = state(folder / "version_0")
    assert run("fit", tiny_config, folder, *constant, "--trainer.max_epochs", "1", "--ckpt_path", "last") == 0
    assert differences(before, state(folder / "version_0")) == []
    assert run("fit", tiny_config, folder, *constant, "--ckpt_path", "last") == 0
    long, made_long = tmp_path / "long" / "version_0", folder / "version_0"
    assert table(made_long) == table(long)
    assert differences(state(long), state(made_long)) == []


@pytest.mark.parametrize(("epoch", "options"), [(0, []), (1, ["--trainer.max_steps", "8"])])
def test_a_validation_that_was_interrupted_may_be_left_out(epoch, options, tiny_config, tmp_path, kill):
    """The batches and steps are those of the run all the same, and its epochs end."""
    kill("validation", epoch)
    with pytest.raises(Killed):
        run("fit", tiny_config, tmp_path, *OPTIONS, *options)
    options = [*OPTIONS, *options, "--trainer.limit_val_batches", "0", "--ckpt_path", "last"]
    assert run("fit", tiny_config, tmp_path, *options) == 0
    assert state(tmp_path / "version_0")["global_step"] == 8
    rows = table(tmp_path / "version_0")
    assert [row["step"] for row in rows if row["train/loss"]] == [str(step) for step in range(8)]
    assert [row["step"] for row in rows if row["train/top1"]] == ["3", "7"]


def test_a_run_from_the_best_checkpoint_is_in_a_folder_of_its_own(tiny_config, tmp_path):
    """The epochs after it are those of the run that wrote it."""
    assert run("fit", tiny_config, tmp_path, *OPTIONS) == 0
    options = [*OPTIONS, "--trainer.max_epochs", "3", "--model.recipe.schedule", "constant"]
    assert run("fit", tiny_config, tmp_path, *options) == 0
    (best,) = (tmp_path / "version_1" / "checkpoints").glob("best-*")
    epochs = torch.load(best, weights_only=True)["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]
    assert run("fit", tiny_config, tmp_path, *options, "--ckpt_path", str(best)) == 0
    rows = [row for row in table(tmp_path / "version_1") if int(row["step"]) >= 4 * epochs]
    assert [list(filter(None, row.values())) for row in table(tmp_path / "version_2")] == [
        list(filter(None, row.values())) for row in rows
    ]


# --- what is refused


def half(tiny_config, folder, kill, *options):
    kill("step", 2)
    with pytest.raises(Killed):
        run("fit", tiny_config, folder, *OPTIONS, *options)


@pytest.fixture(scope="module")
def stopped(tiny_config, tmp_path_factory):
    """The folder of a run that ended in the middle of its first epoch."""
    with pytest.MonkeyPatch.context() as patches:

        def step(self, *arguments, _step=VideoClassifier.training_step):
            if self.trainer.global_step == 2:
                raise Killed
            return _step(self, *arguments)

        patches.setattr(VideoClassifier, "training_step", step)
        with pytest.raises(Killed):
            run("fit", tiny_config, folder := tmp_path_factory.mktemp("stopped"), *OPTIONS)
    return folder / "version_0"


def test_another_batch_in_the_middle_of_an_epoch(stopped, tiny_config, tmp_path, capsys):
    shutil.copytree(stopped, tmp_path / "version_0")
    assert run("fit", tiny_config, tmp_path, *OPTIONS, "--data.batch_size", "4", "--ckpt_path", "last") == 2
    error = capsys.readouterr().err
    assert "data.batch_size x processes: expected 2" in error
    assert "found 4" in error


def test_other_videos_in_the_middle_of_an_epoch(stopped, tiny_config, tiny_data, tmp_path, capsys):
    """As many as before, one with another name; the same names in another place are the same videos."""
    shutil.copytree(stopped, tmp_path / "version_0")
    elsewhere = shutil.copytree(tiny_data, tmp_path / "elsewhere")
    first, *_ = sorted(elsewhere.glob("train/*/*.mp4"))
    options = ("--data.root", str(elsewhere), "--ckpt_path", "last")
    renamed = first.rename(first.with_name("other.mp4"))
    assert run("fit", tiny_config, tmp_path, *OPTIONS, *options) == 2
    assert "data.root: names and labels of these videos (hash): expected" in capsys.readouterr().err
    renamed.rename(first)
    assert run("fit", tiny_config, tmp_path, *OPTIONS, *options) == 0


def test_processes_that_found_different_checkpoints(stopped, tiny_config, tmp_path, monkeypatch, capsys):
    """As on machines without a common disk: those without one would start anew, and wait for the others for ever."""
    shutil.copytree(stopped, tmp_path / "version_0")
    monkeypatch.setattr(resume, "of_all", lambda value: [value, None])
    assert run("fit", tiny_config, tmp_path, *OPTIONS, "--ckpt_path", "last") == 2
    assert "expected the same checkpoint in all processes, found one after 2, none steps" in capsys.readouterr().err


def test_averaged_weights_without_their_callback(tiny_config, tmp_path, kill, capsys):
    overlay = tmp_path / "ema.yaml"
    overlay.write_text(f"trainer: {{callbacks: [{EMA}]}}")
    half(tiny_config, tmp_path / "runs", kill, "-c", str(overlay))
    assert run("fit", tiny_config, tmp_path / "runs", *OPTIONS, "--ckpt_path", "last") == 2
    assert "averages its weights" in capsys.readouterr().err


NUMPY = ["MT19937", torch.zeros(624, dtype=torch.int64), 10**6, 0, 0.0]


@pytest.mark.parametrize(
    "entries",
    [
        {"batches": None},
        {"order": [1]},
        {"metrics": {"train/top1": {"tp": torch.ones(3)}}},
        {"generators": {"numpy": NUMPY}},
        {"loggers": [{"files": 3}, {"rows": "x"}]},
    ],
    ids=lambda entries: next(iter(entries)),
)
def test_entries_that_make_no_sense(entries, stopped, tiny_config, tmp_path, capsys):
    """They are an error of the file, in words."""
    path = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    shutil.copytree(stopped, tmp_path / "version_0")
    whole = torch.load(path, weights_only=True)
    if "numpy" in entries.get("generators", ()):
        entries = {"generators": [whole["videogn_resume"]["generators"][0] | entries["generators"]]}
    torch.save(whole | {"videogn_resume": whole["videogn_resume"] | entries}, path)
    assert run("fit", tiny_config, tmp_path, *OPTIONS, "--ckpt_path", "last") == 2
    assert "last.ckpt: videogn_resume: expected entries as this program writes them" in capsys.readouterr().err


def test_a_state_that_could_not_be_read_again_is_not_written(tmp_path):
    """A run learns with its first checkpoint that none of them could be gone on from."""
    path = tmp_path / "last.ckpt"
    state = {"weights": {"a": torch.ones(3)}, "best": (1, 0.5, None, "x", b"x", {1})}
    CheckpointFiles().save_checkpoint({"callbacks": {"Mine": state}, "epoch": 1}, path)
    before = path.read_bytes()
    for value, found in ((np.float64(0.5), "numpy"), (lambda: 0, "Can't")):
        with pytest.raises(UsageError, match=rf"last\.ckpt: is not written.*: callbacks\.Mine: .*found {found}"):
            CheckpointFiles().save_checkpoint({"callbacks": {"Mine": {"best": [value]}}, "epoch": 1}, path)
    assert path.read_bytes() == before


def test_words_that_are_no_checkpoint(tiny_config, tmp_path, capsys):
    assert run("fit", tiny_config, tmp_path, "--ckpt_path", "best") == 2
    assert "expected last, or the checkpoint of a run" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("every_n_steps", 0), ("every_n_minutes", 0.0), ("keep", 0)])
def test_wrong_intervals(option, value):
    with pytest.raises(ValueError, match=rf"resume\.{option}: expected .*, found 0"):
        ResumePoints(**{option: value})
