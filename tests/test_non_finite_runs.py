"""Runs of the command line with steps that are not finite."""

import csv
from pathlib import Path

import pytest
import torch
from commands import command_line
from runs import metrics, run
from test_non_finite import Fault

from videogn.callbacks.non_finite_record import FILE


class Fault1(Fault):
    def __init__(self):
        super().__init__(1)


class FaultOfEach(Fault):
    """Batch 1 has an infinite loss in process 1, batch 2 an infinite gradient in process 0."""

    def __init__(self):
        super().__init__(1, process=1)
        self.other = Fault(2, what="gradient", process=0)

    def on_train_batch_start(self, *arguments):
        super().on_train_batch_start(*arguments)
        self.other.on_train_batch_start(*arguments)

    def on_train_batch_end(self, *arguments):
        super().on_train_batch_end(*arguments)
        self.other.on_train_batch_end(*arguments)


def test_command_line(tiny_config, tmp_path, capsys):
    """A run that stops says why; one that leaves the step out says so in its files."""
    options = ["--trainer.callbacks", '[{"class_path": "test_non_finite_runs.Fault1"}]']
    assert run("fit", tiny_config, tmp_path, *options, "--non_finite.policy", "stop") == 1
    message = capsys.readouterr().err
    assert "step 1 (epoch 0): not finite: loss nan" in message
    assert "Traceback" not in message
    assert run("fit", tiny_config, tmp_path, *options) == 0
    logged = metrics(tmp_path / "version_1")
    assert float(logged["train/steps_skipped"]) == 1
    rows = list(csv.DictReader((tmp_path / "version_1" / FILE).read_text().splitlines()))
    assert {row["step"] for row in rows} == {"1"}
    assert len({row["path"] for row in rows}) == 4
    assert all(Path(row["path"]).is_file() for row in rows)
    capsys.readouterr()
    assert run("fit", tiny_config, tmp_path, "--non_finite.limit", "100") == 2
    assert "non_finite.limit: expected 0 to 99" in capsys.readouterr().err


def test_a_run_that_stopped_goes_on_as_if_it_had_left_the_step_out(tiny_config, tmp_path):
    fault = ["--trainer.callbacks", '[{"class_path": "test_non_finite_runs.Fault1"}]', "--trainer.max_epochs", "2"]
    fault += ["--model.norm", "bn", "--model.norm_kwargs", "null", "--resume.every_n_steps", "1"]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    assert run("fit", tiny_config, stopped, *fault, "--non_finite.policy", "stop") == 1
    assert run("fit", tiny_config, stopped, *fault, "--ckpt_path", "last") == 0
    assert run("fit", tiny_config, whole, *fault) == 0
    one, other = (
        torch.load(folder / "version_0" / "checkpoints" / "last.ckpt", weights_only=True) for folder in (stopped, whole)
    )
    assert all(torch.equal(one["state_dict"][name], tensor) for name, tensor in other["state_dict"].items())
    assert one["callbacks"]["NonFinite"] == other["callbacks"]["NonFinite"]
    assert (stopped / "version_0" / FILE).read_text() == (whole / "version_0" / FILE).read_text()


@pytest.mark.slow
def test_processes_leave_the_step_out_together(tiny_config, tmp_path):
    options = ["--trainer.callbacks", '[{"class_path": "test_non_finite_runs.FaultOfEach"}]', "--trainer.devices", "2"]
    options += ["--trainer.strategy", "ddp", "--data.batch_size", "2", "--trainer.max_epochs", "3"]
    options += ["--model.norm", "bn", "--model.norm_kwargs", "null", "--trainer.default_root_dir", tmp_path]
    code, output = command_line("fit", "-c", tiny_config, *options, PYTHONPATH=Path(__file__).parent, timeout=240)
    assert code == 0, output
    rows = list(csv.DictReader((tmp_path / "version_0" / FILE).read_text().splitlines()))
    assert [(row["step"], row["process"], row["what"].split()[0]) for row in rows] == [
        ("1", "1", "loss"),
        ("1", "1", "loss"),
        ("2", "0", "gradient"),
        ("2", "0", "gradient"),
    ]
    saved = torch.load(tmp_path / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())
