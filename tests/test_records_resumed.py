"""What a run that was interrupted and went on says of itself: what one without interruption says."""

import csv
import json
import random

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from runs import run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from videogn.callbacks import PreciseBN
from videogn.data.datamodule import KineticsDataModule
from videogn.data.demo import DemoSpec, generate_demo
from videogn.module import VideoClassifier
from videogn.report.curves import read_curves
from videogn.report.runs import read_runs
from videogn.spec import ClipSpec, Protocol

# 16 videos: 4 steps of an epoch, with a validation in its middle and one at its end.
STEPS = 12
OPTIONS = ["--trainer.max_epochs", "3", "--trainer.val_check_interval", "2", "--resume.every_n_steps", "1"]
TIMES = ("train/data_wait",)
TRAINING = "training_step"
KILLED = [(1, TRAINING), (4, "validation_step"), (4, "on_validation_end"), (8, "on_train_epoch_end"), (8, TRAINING)]


class Killed(BaseException):
    """Nobody handles it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "demo"
    generate_demo(root, DemoSpec(train_per_class=2, val_per_class=1, size=32, frames=12))
    return root


HOOKS = ("training_step", "validation_step", "on_validation_end", "on_train_epoch_end")


@pytest.fixture
def fit(tiny_config, data, monkeypatch):
    """Runs ``videogn fit``; with ``killed``, the optimiser steps that are done and the module's hook where it ends."""
    at = [None]

    def killing(name):
        hook = getattr(VideoClassifier, name)

        def wrapper(self, *arguments):
            here = name != "validation_step" or arguments[1] == 5  # in the middle of it
            if here and at[0] == (self.trainer.global_step, name):
                raise Killed
            return hook(self, *arguments)

        monkeypatch.setattr(VideoClassifier, name, wrapper)

    for name in HOOKS:
        killing(name)

    def start(folder, killed=None, *options):
        at[0] = killed
        command = ("fit", tiny_config, folder, "--data.root", str(data), *OPTIONS, "--ckpt_path", "last", *options)
        if killed is None:
            assert run(*command) == 0
        else:
            with pytest.raises(Killed):
                run(*command)

    return start


def rows(folder):
    """Of metrics.csv as text, without the columns of times."""
    found = list(csv.reader((folder / "metrics.csv").open(newline="")))
    keep = [i for i, name in enumerate(found[0]) if name not in TIMES]
    return [[row[i] for i in keep] for row in found]


def events(folder):
    """Of TensorBoard's files: step and value by name, without the times."""
    found = EventAccumulator(str(folder))
    found.Reload()
    names = set(found.Tags()["scalars"]) - set(TIMES)
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in names}


@pytest.mark.slow
def test_the_files_are_those_of_a_run_without_interruption(fit, tmp_path, caplog):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(whole)
    for killed in KILLED:
        fit(parts, killed)
    fit(parts)
    assert [path.name for path in parts.glob("version_*")] == ["version_0"]
    one, many = whole / "version_0", parts / "version_0"
    assert rows(many) == rows(one)
    assert sum(bool(row[rows(one)[0].index("train/loss")]) for row in rows(one)[1:]) == STEPS
    assert events(many) == events(one)
    assert (many / "predictions.csv").read_bytes() == (one / "predictions.csv").read_bytes()

    evaluations = [json.loads((folder / "evaluation.json").read_text()) for folder in (one, many)]
    for evaluation in evaluations:
        for name in ("seconds", "peak_memory_bytes", "date"):
            del evaluation[name]
    assert evaluations[0] == evaluations[1]
    records = [json.loads((folder / "training.json").read_text()) for folder in (one, many)]
    assert [record["clips"] for record in records] == [STEPS * 4] * 2
    for record in records:
        assert 0 < record["train_seconds"] < record["seconds"]
        assert record["clips_per_step"] == record["batch_size"] == 4

    last = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (one, many)]
    scores = [checkpoint["callbacks"]["Scores"] for checkpoint in last]
    assert scores[0] == scores[1]
    assert scores[0]["global_step"] == STEPS

    (read,) = read_runs([str(parts)])
    expected = read_curves(str(one))
    assert set(read.curves) | set(TIMES) == set(expected) | set(TIMES)
    for name in set(expected) - set(TIMES):
        np.testing.assert_array_equal(read.curves[name].steps, expected[name].steps)
        np.testing.assert_array_equal(read.curves[name].values, expected[name].values)
        np.testing.assert_array_equal(read.curves[name].epochs, expected[name].epochs)
    assert read.training.clips == STEPS * 4


def test_seconds_add_up(fit, tmp_path, monkeypatch):
    """By a clock in which a training step takes a second, and nothing else any time. The highest memory stays."""
    now = [0.0]
    step = VideoClassifier.training_step

    def slow(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        now[0] += 1
        return loss

    monkeypatch.setattr(VideoClassifier, "training_step", slow)
    monkeypatch.setattr("videogn.callbacks.records.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("videogn.callbacks.records.peak_resident", lambda: peak)
    few = ["--resume.every_n_steps", "3", "--trainer.limit_val_batches", "0"]
    for killed, peak in (((5, TRAINING), 5 << 30), ((10, TRAINING), 7 << 30), (None, 6 << 30)):  # noqa: B007
        fit(tmp_path, killed, *few)
        now[0] += 1000
    record = json.loads((tmp_path / "version_0" / "training.json").read_text())
    assert (record["seconds"], record["train_seconds"], record["clips"]) == (STEPS, STEPS, 4 * STEPS)
    assert record["peak_memory_bytes"] == 7 << 30
    assert now[0] == STEPS + 2 + 1 + 3000  # steps 3, 4 and 9 were done twice


def test_scores_of_the_last_validation_are_in_every_later_checkpoint(fit, tmp_path):
    """Also when the run is interrupted before the next validation."""
    fit(tmp_path, (3, TRAINING))
    path = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    before = torch.load(path, weights_only=True)
    fit(tmp_path, (3, TRAINING), "--resume.every_n_steps", "7")
    fit(tmp_path, (4, TRAINING), "--trainer.limit_val_batches", "0")
    after = torch.load(path, weights_only=True)
    assert before["global_step"] < after["global_step"] == 4
    assert before["callbacks"]["Scores"]["global_step"] == 2
    assert after["callbacks"]["Scores"] == before["callbacks"]["Scores"]


def test_loggers_of_the_user_are_left_alone(fit, tmp_path):
    """They log what is done since, where they like."""
    logger = ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.name", ""]
    logger += ["--trainer.logger.save_dir", str(tmp_path), "--trainer.max_epochs", "1"]
    fit(tmp_path, (3, TRAINING), *logger)
    before = (tmp_path / "version_0" / "metrics.csv").read_bytes()
    fit(tmp_path, None, *logger)
    assert (tmp_path / "version_0" / "metrics.csv").read_bytes() == before
    assert list(read_curves(str(tmp_path / "version_1"))["train/loss"].steps) == [3]


def generators():
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_precise_bn_is_a_function_of_seed_and_epoch_alone(data, tmp_path, workers):
    """It takes the same clips whenever it is asked, and no random number that training would get."""
    clip = ClipSpec(
        frames=4, stride=1, train_short_side=(32, 40), train_crop=32, protocol=Protocol(clips=1, short_side=32)
    )
    found = {}
    for epoch, draws in ((0, 0), (1, 0), (1, 5), (0, 3)):
        module = VideoClassifier(8, variant="8x8", width=8, norm="bn", dropout=0.5)
        with torch.no_grad():
            for i, parameter in enumerate(module.parameters()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape) / (1 + i % 3))
        datamodule = KineticsDataModule(str(data), clip, batch_size=4, num_workers=workers, seed=3)
        datamodule.setup("fit")
        trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, max_epochs=3)
        trainer.datamodule = datamodule
        trainer.state.fn = "fit"
        trainer.strategy.connect(module)
        module.clip = clip
        trainer.fit_loop.epoch_progress.current.completed = epoch
        torch.rand(draws)
        before = generators()
        PreciseBN(num_batches=2).on_validation_start(trainer, module)
        assert generators() == before
        buffers = [buffer.tolist() for name, buffer in module.named_buffers() if "running" in name]
        assert found.setdefault(epoch, buffers) == buffers
    assert found[0] != found[1]
