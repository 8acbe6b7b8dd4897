"""Percentiles of a layer's output while a network is trained: what they are of, and what they leave as it is."""

import csv
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer, seed_everything
from runs import run
from torch import nn

from videogn.callbacks import FeaturePercentiles
from videogn.callbacks.features import find_layer
from videogn.data.datamodule import KineticsDataModule
from videogn.data.transforms import to_float
from videogn.loggers import MetricsTable
from videogn.module import VideoClassifier
from videogn.spec import ClipSpec, Protocol

CLIP = ClipSpec(4, 1, (32, 32), 32, 0.0, protocol=Protocol(clips=1, short_side=32))
PERCENTILES = (1, 20, 80, 99)
STEM = FeaturePercentiles("blocks.0.conv")


class StemInput(Callback):
    """Keeps what the first convolution is about to see, and its weights: batches and kernels, one per batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        kernel = pl_module.network.blocks[0].conv.weight.detach().clone()
        self.seen.append((to_float(batch.clips, CLIP), kernel))

    def percentiles(self, i):
        clips, kernel = self.seen[i]
        out = F.conv3d(clips, kernel, stride=(1, 2, 2), padding=(2, 3, 3))
        return np.percentile(out.numpy(), PERCENTILES)


def train(data, folder, *callbacks, memory="keep", batch_size=2, **options):
    """A run over the eight videos of ``data``, 8 // batch_size batches; its last weights and metrics.csv."""
    seed_everything(0, verbose=False)
    model = VideoClassifier(8, variant="8x8", width=8, norm_kwargs={"num_groups": 4}, dropout=0.0, memory=memory)
    for name, parameter in model.named_parameters():
        if "norm_c.weight" in name:
            parameter.data.fill_(0.5)  # the zeros that training starts from would hide the residual branches
    datamodule = KineticsDataModule(str(data), CLIP, batch_size, num_workers=0, seed=0)
    options = {"max_epochs": 1, "log_every_n_steps": 1, "precision": "32-true", "limit_val_batches": 0, **options}
    trainer = Trainer(
        accelerator="cpu",
        logger=MetricsTable(folder),
        callbacks=list(callbacks),
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, datamodule)
    path = folder / "version_0" / "metrics.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    return model.network, [row for row in rows if row.get("features/p01")]


class Killed(BaseException):
    """The process ends here."""


def values(row):
    return [float(row[f"features/p{p:02d}"]) for p in PERCENTILES]


def test_percentiles_are_numpys_of_the_layers_output(tiny_data, tmp_path):
    watch = StemInput()
    _, rows = train(tiny_data, tmp_path, watch, STEM)
    assert [(int(row["step"]), int(row["epoch"])) for row in rows] == [(i, 0) for i in range(4)]
    for i, row in enumerate(rows):
        assert values(row) == pytest.approx(watch.percentiles(i), rel=1e-4, abs=1e-5)
    assert values(rows[0]) != pytest.approx(values(rows[3]), rel=1e-2)


@pytest.mark.parametrize("memory", ["recompute", "low", "lowest"])
def test_every_memory_shows_the_layers_own_output(memory, tiny_data, tmp_path):
    """The last ReLU of res2 is in one unit with the pool behind it, and norm_a is run again in the backward pass."""
    for layer in ("blocks.1.res_blocks.2.activation", "blocks.5.res_blocks.2.branch2.norm_a"):
        found = []
        for each in ("keep", memory):
            _, rows = train(tiny_data, tmp_path / layer / each, FeaturePercentiles(layer), memory=each, max_steps=2)
            found.append([values(row) for row in rows])
        np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", ["keep", "lowest"])
def test_training_is_the_same_to_the_bit(memory, tiny_data, tmp_path):
    without, _ = train(tiny_data, tmp_path / "without", memory=memory)
    with_it, rows = train(tiny_data, tmp_path / "with", FeaturePercentiles(), memory=memory)
    assert len(rows) == 4
    state = without.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in with_it.state_dict().items())
    assert not any(layer._forward_hooks for layer in with_it.modules())


def test_accumulated_gradients_have_the_last_batch_of_each_step(tiny_data, tmp_path):
    watch = StemInput()
    _, rows = train(tiny_data, tmp_path, watch, STEM, batch_size=1, accumulate_grad_batches=3)
    assert [int(row["step"]) for row in rows] == [0, 1]
    for row, batch in zip(rows, (2, 5), strict=True):
        assert values(row) == pytest.approx(watch.percentiles(batch), rel=1e-4, abs=1e-5)


def test_bfloat16(tiny_data, tmp_path):
    watch = StemInput()
    _, rows = train(tiny_data, tmp_path, watch, STEM, precision="bf16-mixed", max_steps=1)
    assert values(rows[0]) == pytest.approx(watch.percentiles(0), rel=2e-2, abs=2e-2)


@pytest.mark.parametrize(
    ("own", "trainers", "steps"), [(None, 2, [1, 3]), (3, 2, [2]), (None, 50, []), (None, 0, []), (2, 0, [1, 3])]
)
def test_other_steps_are_not_looked_at(own, trainers, steps, tiny_data, tmp_path, monkeypatch):
    looked = []
    percentile = np.percentile
    monkeypatch.setattr(np, "percentile", lambda *a, **k: looked.append(1) or percentile(*a, **k))
    callback = FeaturePercentiles("blocks.0.conv", every_n_steps=own)
    _, rows = train(tiny_data, tmp_path, callback, log_every_n_steps=trainers)
    assert [int(row["step"]) for row in rows] == steps
    assert len(looked) == len(steps)


def test_names_of_layers():
    network = VideoClassifier(8, width=8, norm="bn").network
    for name in ("blocks.0.conv", "network.blocks.0.conv", "model.network.blocks.0.conv"):
        assert find_layer(network, name) is network.blocks[0].conv
    assert find_layer(nn.Sequential(nn.Linear(2, 2)), "0").in_features == 2
    for norm in ("bn", "brn", "frozen_bn", "sub_bn", "gn_ws", "ln", "in"):
        kwargs = {"num_groups": 4} if norm == "gn_ws" else None
        network = VideoClassifier(8, width=8, norm=norm, norm_kwargs=kwargs).network
        assert find_layer(network, "blocks.0.norm") is network.blocks[0].norm


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("blocks.0.conf", r"found 'blocks\.0\.conf'; nearest: blocks\.0\.conv, "),
        ("blocks.5.res_blocks.2", r"which holds 9 of them; nearest: blocks\.5\.res_blocks\.2\.\w+, "),
        ("", r"found ''; nearest: "),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest(layer, message, tiny_config, tmp_path, capsys):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "trainer: {callbacks+: [{class_path: videogn.callbacks.FeaturePercentiles, "
        f"init_args: {{layer: '{layer}'}}}}]}}"
    )
    assert run("fit", tiny_config, tmp_path, "-c", str(overlay)) == 2
    told = capsys.readouterr().err
    assert re.search(rf"FeaturePercentiles\.layer: expected a layer .* {message}", told)
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"percentiles": ()}, r"percentiles: expected some of 0 to 100, found \[\]"),
        ({"percentiles": (101,)}, r"percentiles: expected some of 0 to 100, found \[101\]"),
        ({"every_n_steps": 0}, "every_n_steps: expected at least 1, found 0"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeaturePercentiles(**arguments)


def test_compiled_networks_are_refused(tiny_config, tmp_path, capsys):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("trainer: {callbacks+: [{class_path: videogn.callbacks.FeaturePercentiles}]}")
    assert run("fit", tiny_config, tmp_path, "-c", str(overlay), "--model.compile", "true") == 2
    assert "FeaturePercentiles: a network that is compiled runs no single layers" in capsys.readouterr().err


def test_processes_but_the_first_look_at_nothing():
    network = nn.Sequential(nn.Conv3d(3, 4, 1))
    callback = FeaturePercentiles("0", every_n_steps=1)
    loop = SimpleNamespace(_should_accumulate=lambda: False)
    for rank, hooks in ((1, 0), (0, 1)):
        trainer = SimpleNamespace(global_step=0, is_global_zero=rank == 0, loggers=[object()], fit_loop=loop)
        callback.setup(trainer, network, "fit")
        callback.on_train_batch_start(trainer, network, None, 0)
        assert len(network[0]._forward_hooks) == hooks
    callback.on_exception(trainer, network, KeyboardInterrupt())
    assert not network[0]._forward_hooks


def test_a_run_that_goes_on_logs_what_it_would_have_logged(tiny_config, tmp_path, monkeypatch):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "trainer: {max_epochs: 2, limit_val_batches: 1, callbacks+: "
        "[{class_path: videogn.callbacks.FeaturePercentiles, init_args: {layer: blocks.0.conv}}]}"
    )
    options = ["-c", str(overlay), "--resume.every_n_steps", "1"]
    assert run("fit", tiny_config, tmp_path / "whole", *options) == 0
    step = VideoClassifier.training_step

    def stop(self, batch, batch_idx):
        if self.trainer.global_step == 3:
            raise Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as context:
        context.setattr(VideoClassifier, "training_step", stop)
        with pytest.raises(Killed):
            run("fit", tiny_config, tmp_path / "cut", *options)
    assert run("fit", tiny_config, tmp_path / "cut", *options, "--ckpt_path", "last") == 0
    tables = [
        [
            (row["step"], *values(row))
            for row in csv.DictReader((tmp_path / name / "version_0/metrics.csv").open())
            if row["features/p01"]
        ]
        for name in ("whole", "cut")
    ]
    assert [row[0] for row in tables[0]] == ["0", "1", "2", "3"]
    assert tables[0] == tables[1]
