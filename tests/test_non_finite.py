"""Steps that are not finite are as if they had not been, and are told of."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.plugins import MixedPrecision

from videogn.callbacks import NonFinite
from videogn.callbacks.non_finite_record import FILE, Suspect, add_rows, forget_rows
from videogn.data.batches import ClipBatch
from videogn.module import VideoClassifier
from videogn.optim import Recipe
from videogn.spec import ClipSpec

CONSTANT = Recipe(lr=0.05, schedule="constant")
BATCHES = 5


class Fault(Callback):
    """Makes infinite what a layer in the middle gives to the norm behind it, or the gradient that it gets from there.

    Args:
        when: batches of the run, counted from 0.
        what: ``"loss"`` or ``"gradient"``.
        process: whose.
    """

    def __init__(self, *when, what="loss", process=0):
        self.when, self.what, self.process = when, what, process

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.hook = None
        if trainer.fit_loop.total_batch_idx in self.when and trainer.global_rank == self.process:
            self.hook = _layer(pl_module).register_forward_hook(self.fault)

    def fault(self, layer, inputs, output):
        if self.what == "loss":
            return output * torch.inf
        output.register_hook(lambda gradient: gradient * torch.inf)

    def on_train_batch_end(self, trainer, pl_module, *_):
        if self.hook is not None:
            self.hook.remove()


def _layer(module):
    convolutions = [layer for layer in module.network.modules() if isinstance(layer, torch.nn.Conv3d)]
    return convolutions[len(convolutions) // 2]


def batches(count=BATCHES):
    generator = torch.Generator().manual_seed(1)
    clips = torch.randint(0, 256, (count, 2, 3, 2, 32, 32), dtype=torch.uint8, generator=generator)
    return [
        ClipBatch(clips[i], torch.tensor([i % 4, 3]), torch.tensor([2 * i, 2 * i + 1]), []) for i in range(len(clips))
    ]


def train(data, *callbacks, norm="bn", recipe=CONSTANT, watch=None, weights=None, **options):
    """Trains on batches in their order; the trainer."""
    torch.manual_seed(0)
    groups = {"num_groups": 4} if norm == "gn" else None
    module = VideoClassifier(4, variant="8x8", norm=norm, norm_kwargs=groups, dropout=0.0, width=8, recipe=recipe)
    module.clip = ClipSpec(frames=2)
    if weights is not None:
        weights(module.network)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[*callbacks, watch or NonFinite()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    try:
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    except FloatingPointError as error:
        trainer.error = str(error)
    return trainer


def everything(trainer):
    """Weights, running statistics, and what the optimiser keeps."""
    optimizer = trainer.optimizers[0].state_dict()["state"]
    kept = {f"{i}.{k}": v for i, state in optimizer.items() for k, v in state.items() if torch.is_tensor(v)}
    return trainer.lightning_module.network.state_dict() | kept


def assert_same(one, other):
    found, expected = everything(one), everything(other)
    assert found.keys() == expected.keys()
    different = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    assert not different
    assert all(tensor.isfinite().all() for tensor in found.values())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "brn"},
        {"norm": "gn"},
        {"recipe": Recipe("adamw", 0.001, weight_decay=0.1, schedule="constant")},
        {"gradient_clip_val": 0.1},
        {"precision": "64-true"},
        {"precision": "bf16-mixed", "gradient_clip_val": 0.1},
        {"precision": "bf16-true"},
    ],
    ids=["brn", "gn", "adamw", "clipped", "float64", "bf16 clipped", "bf16-true"],
)
def test_a_skipped_step_is_as_if_its_batch_had_not_been(options):
    data = batches()
    without = train([*data[:2], *data[3:]], **options)
    for what in ("loss", "gradient"):
        skipped = train(data, Fault(2, what=what), **options)
        assert_same(skipped, without)
        assert skipped.callback_metrics["train/steps_skipped"] == 1
        assert skipped.global_step == skipped.lr_scheduler_configs[0].scheduler.last_epoch == BATCHES


def test_of_accumulated_gradients_the_whole_step_is_left_out(caplog):
    """Of the batches 2 and 3, which make a step, the second is named."""
    data = batches(6)
    for what in ("loss", "gradient"):
        caplog.clear()
        skipped = train(data, Fault(3, what=what), accumulate_grad_batches=2)
        assert_same(skipped, train([*data[:2], *data[4:]], accumulate_grad_batches=2))
        assert "batch 3: video 6, video 7" in caplog.text
        assert "video 5" not in caplog.text


def test_figures_of_the_epoch_are_those_of_the_other_batches():
    data = batches()
    data[2].replaced.append(("bad.mp4", "empty"))
    skipped, without = train(data, Fault(2)), train([*data[:2], *data[3:]])
    assert skipped.callback_metrics["train/top1"] == without.callback_metrics["train/top1"]
    assert skipped.callback_metrics["train/videos_replaced"] == 1


def test_averaged_weights_leave_the_step_out():
    data, averages = batches(), []
    for fault, used in ((Fault(2), data), (Fault(), [*data[:2], *data[3:]])):
        average = EMAWeightAveraging(decay=0.5)
        train(used, average, fault)
        averages.append(average._average_model.module.network.state_dict())
    assert all(torch.equal(averages[0][name], tensor) for name, tensor in averages[1].items())


def test_the_schedule_goes_on():
    """Rates are those of the position in the run, as they would be without the fault."""
    recipe = Recipe(lr=0.05, schedule="cosine")
    rates = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    train(batches(), Fault(2), Rates(), recipe=recipe)
    train(batches(), Rates(), recipe=recipe)
    assert rates[:BATCHES] == rates[BATCHES:]


def test_stop_ends_at_the_first_step_and_leaves_the_network_as_it_was(folder):
    data = batches()
    stopped = train(data, Fault(2, what="gradient"), watch=NonFinite("stop"))
    for words in ("step 2 (epoch 0)", "gradient", "video 4, video 5", "non_finite.policy", "model.recipe.lr"):
        assert words in stopped.error
    first = train(data[:2])
    assert_same(stopped, first)


def test_the_limit_counts_steps_in_a_window_and_goes_on_when_resumed():
    ended = train(batches(), Fault(0, 2, 4), watch=NonFinite(limit=2))
    assert "3 of the last 100 steps" in ended.error
    assert "one after another" not in ended.error
    assert "one after another" in train(batches(), Fault(1, 2), watch=NonFinite(limit=1)).error
    watch = NonFinite(limit=2)
    watch.load_state_dict({"skipped": [-30, -20], "epoch": 0, "in_epoch": 2})
    assert "3 of the last 100 steps" in train(batches(), Fault(1), watch=watch).error
    watch.load_state_dict({"skipped": [-120, -20], "epoch": 0, "in_epoch": 2})
    finished = train(batches(), Fault(1), watch=watch)
    assert finished.callback_metrics["train/steps_skipped"] == 3
    assert watch.state_dict() == {"skipped": [-20, 1], "epoch": 0, "in_epoch": 3}


def test_weights_that_are_broken_are_not_blamed_on_videos():
    def break_weights(network):
        network.blocks[0].conv.weight.data[0] = torch.nan

    ended = train(batches(), weights=break_weights)
    assert "network.blocks.0.conv.weight" in ended.error
    assert "not the cause" in ended.error
    assert "video 0" not in ended.error

    def break_statistics(network):
        next(b for name, b in network.named_buffers() if name.endswith("running_mean")).fill_(torch.nan)

    ended = train(batches(), norm="brn", weights=break_statistics)
    assert "running_mean" in ended.error


@pytest.mark.parametrize("clip", [None, 1e9])  # with clipping, gradients are unscaled before the optimiser sees them
def test_fp16_lowers_its_scale_and_that_is_no_fault(clip, caplog):
    """A scale of 2 ** 60 overflows until it is low enough; then a batch that is infinite itself is a fault."""

    def fit(scale, *callbacks, count=BATCHES):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        return train(
            batches(count), *callbacks, plugins=plugin, gradient_clip_val=clip, watch=NonFinite(limit=0)
        ), scaler

    trainer, scaler = fit(2.0**40)
    assert not hasattr(trainer, "error")
    assert scaler.get_scale() < 2.0**40
    assert trainer.callback_metrics["train/steps_skipped"] == 0
    assert "not finite" not in caplog.text
    trainer, _ = fit(1024.0, Fault(1))
    assert "step 1 (epoch 0): not finite: loss" in trainer.error
    trainer, scaler = fit(4.0, Fault(0, 1, 2, 3, what="gradient"))
    assert "step 2 (epoch 0): not finite: gradient" in trainer.error  # at 4 and at 2 it might have been the scale


@pytest.mark.parametrize("clip", [None, 1e9])
def test_fp16_leaves_a_step_out_as_well(clip):
    def fit(data, *callbacks):
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0))
        return train(data, *callbacks, plugins=plugin, gradient_clip_val=clip)

    data = batches()
    without = fit([*data[:2], *data[3:]])
    for what in ("loss", "gradient"):
        assert_same(fit(data, Fault(2, what=what)), without)


def test_rows_of_steps_that_are_taken_again_are_dropped(tmp_path):
    path = str(tmp_path / "run" / FILE)
    for step in (3, 7):
        add_rows(path, step, 0, [Suspect(1, step, "loss nan", ['a, "b".mp4', "c.mp4"])])
    forget_rows(path, 7)
    rows = list(csv.DictReader(Path(path).read_text().splitlines()))
    assert [(row["step"], row["process"], row["path"]) for row in rows] == [
        ("3", "1", 'a, "b".mp4'),
        ("3", "1", "c.mp4"),
    ]
    forget_rows(str(tmp_path / "nothing"), 3)
