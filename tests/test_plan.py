"""`videogn plan`, and the memory that `videogn fit` prints: no data, no GPU, the same numbers as the counter's."""

import json
import logging
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from runs import run

from videogn.callbacks import RunSummary
from videogn.cli import main
from videogn.cost import count_cost
from videogn.i3d import i3d_resnet
from videogn.memory import count_evaluation, count_training
from videogn.optim import Recipe, make_optimizer

MODEL = "{num_classes: 8, variant: 8x8, width: 8, norm: bn, dropout: 0.0}"
CLIP = "{frames: 4, stride: 1, train_short_side: [64, 64], train_crop: 64}"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(
        f"model: {MODEL}\ndata: {{root: /nowhere, batch_size: 4, clip: {CLIP}}}\ntrainer: {{precision: bf16-mixed}}\n"
    )
    return str(path)


def test_json_holds_what_the_counter_counts(config, capsys):
    assert main(["plan", "-c", config, "--memory", "1GB", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    net = i3d_resnet(8, variant="8x8", width=8, norm="bn", dropout=0.0)
    cost = count_cost(net, 4, 64)
    training = count_training(net, 4, 64, optimizer=partial(make_optimizer, recipe=Recipe(), lr=0.1))
    assert (plan["parameters"], plan["multiply_adds"]) == (cost.parameters, cost.multiply_adds)
    assert (plan["saved_per_clip"], plan["saved_fixed"]) == (training.saved.per_clip, training.saved.fixed)
    assert plan["optimizer_bytes"] == training.optimizer == 4 * cost.parameters
    assert plan["peak"] == training.peak(4)
    assert plan["memory"] == 2**30
    assert plan["eval_peak"] == count_evaluation(net, 4, 4, 256, 341, dtype=torch.bfloat16)
    assert plan["largest_batch"] == training.largest_batch(2**30)
    assert plan["longest_clip"] % 8 == 0
    assert (plan["device"], plan["precision"]) == ("cuda", "bf16-mixed")


def test_table_on_the_cpu_without_data(capsys):
    options = ["--model.width", "8", "--model.norm", "bn", "--model.variant", "8x8", "--data.clip.frames", "4"]
    assert main(["plan", *options, "--trainer.accelerator", "cpu", "--data.clip.train_crop", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("I3D ResNet-50 8x8, norm bn: ")
    assert lines[1].startswith("memory standard: saved activations (32-true on cpu): ")
    assert lines[2].startswith("states: parameters ")
    assert lines[3].startswith("a training step with 8 clips holds ")
    assert lines[4].startswith("an evaluation, 4 of a video's 10 views of 4x256x341 at once, holds ")
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--memory", "lots"], ["--memory", "24GB", "'lots'"]),
        (["--trainer.precision", "64-true"], ["--trainer.precision", "bf16-mixed", "64-true"]),
        (["--data.clip.frames", "1"], ["2 frames"]),
    ],
)
def test_wrong_options_are_explained(config, capsys, options, words):
    assert main(["plan", "-c", config, *options]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert "Traceback" not in error


def test_misspelled_option_names_the_nearest(config, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["plan", "-c", config, "--model.wdth", "8"])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert "nearest: --model.width" in error
    assert "usage: videogn plan" in error


def test_fit_prints_the_memory_first(tiny_config, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert run("fit", tiny_config, tmp_path, "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0") == 0
    assert "saved activations (32-true on cpu): " in caplog.text
    assert "per clip + " in caplog.text
    assert "not counted (" not in caplog.text


def test_a_network_that_cannot_be_counted_trains_all_the_same():
    class Reads(torch.nn.Module):
        def forward(self, x):
            return x * x.sum().item()

    module = SimpleNamespace(network=Reads(), clip=SimpleNamespace(frames=2, train_crop=8), recipe=Recipe())
    line = RunSummary()._memory_lines(trainer("cpu"), module, 2)
    assert line.startswith("memory: not counted (")
    assert "\n" not in line


def trainer(device):
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(strategy=strategy, precision="32-true", accumulate_grad_batches=1, is_global_zero=True)


def test_counted_peak_is_compared_with_the_measured_one_on_cuda(monkeypatch, caplog):
    peaks = iter([3 * 2**29, 2**31, 2**30])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: next(peaks))
    net = i3d_resnet(8, variant="8x8", width=8, norm="bn")
    module = SimpleNamespace(network=net, clip=SimpleNamespace(frames=4, train_crop=64), recipe=Recipe())
    summary = RunSummary()
    line = summary._memory_lines(trainer("cuda"), module, 4)
    assert "saved activations (32-true on cuda): " in line
    assert "a training step with 4 clips holds " in line
    summary.counted.peak_bytes = 2**31 // 4 * 5
    for index in range(3):
        summary.on_train_batch_start(trainer("cuda"), module, None, index)
        summary.on_train_batch_end(trainer("cuda"), module, None, None, index)
    with caplog.at_level(logging.INFO):
        summary.on_fit_end(trainer("cuda"), module)
    assert "counted 2.50 GiB, measured 2.00 GiB" in caplog.text
    assert "ratio 0.800" in caplog.text
