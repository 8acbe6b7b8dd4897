"""Every shipped YAML is parsed by the command line and its model built; the recipes are those of the protocol."""

from pathlib import Path

import pytest
import torch
import yaml

from videogn import NORMS, Protocol
from videogn.optim import lr_factor
from videogn.training_cli import VideoCLI

CONFIGS = Path(__file__).parents[1] / "configs"
BASES = [*sorted(CONFIGS.glob("*_i3d_*.yaml")), *sorted(CONFIGS.glob("*demo*.yaml"))]
NORM_OVERLAYS = sorted((CONFIGS / "norm").glob("*.yaml"))
PICTURES = sorted(CONFIGS.glob("imagenet_*.yaml"))  # tests/test_pretrain.py has these
PROTOCOLS = sorted((CONFIGS / "protocol").glob("*.yaml"))
OTHER_OVERLAYS = sorted(set(CONFIGS.glob("*.yaml")) - set(BASES) - set(PICTURES))
KINETICS = CONFIGS / "kinetics400_i3d_r50_32x2.yaml"


class ParseOnly(VideoCLI):
    """The command line up to the point where the run would start."""

    def _run_subcommand(self, subcommand):
        pass


def build(*configs, options=()):
    """The parsed command; on the CPU and on the meta device, so that a full-size network costs nothing."""
    arguments = [argument for config in configs for argument in ("-c", str(config))]
    machine = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.logger", "false"]
    with torch.device("meta"):
        return ParseOnly(["fit", *arguments, "--data.root", "/videos", *machine, *options])


@pytest.mark.parametrize("config", BASES, ids=lambda path: path.stem)
def test_base_configurations_build(config):
    cli = build(config)
    assert sum(p.numel() for p in cli.model.parameters()) > 1e6
    assert cli.datamodule.clip.frames == yaml.safe_load(config.read_text())["data"]["clip"]["frames"]


@pytest.mark.parametrize("config", NORM_OVERLAYS, ids=lambda path: path.stem)
def test_norm_overlays_replace_norm_and_arguments(config):
    written = yaml.safe_load(config.read_text())["model"]
    # The demo sets groups for its own norm, which must not survive the overlay; 32 groups do not fit its 16 channels.
    base = KINETICS if written["norm"] in ("gn", "gn_ws") else CONFIGS / "demo.yaml"
    cli = build(base, config, options=["--trainer.sync_batchnorm", "false"])
    assert cli.model.hparams["norm"] == written["norm"]
    assert cli.model.hparams["norm_kwargs"] == written["norm_kwargs"]


@pytest.mark.parametrize("config", OTHER_OVERLAYS, ids=lambda path: path.stem)
def test_other_overlays_add_their_callback(config):
    cli = build(KINETICS, CONFIGS / "norm" / "bn.yaml", config)
    added = yaml.safe_load(config.read_text())["trainer"]["callbacks+"][0]["class_path"].split(".")[-1]
    assert added in [type(callback).__name__ for callback in cli.trainer.callbacks]


@pytest.mark.parametrize("config", PROTOCOLS, ids=lambda path: path.stem)
def test_protocol_overlays_replace_all_of_the_protocol(config):
    """The demo sets clips, crops and sizes of its own, which must not survive."""
    assert build(CONFIGS / "demo.yaml", config).datamodule.clip.protocol == Protocol(config.stem)
    assert f"videogn validate -c configs/kinetics400_i3d_r50_32x2.yaml -c configs/protocol/{config.name}" in " ".join(
        config.read_text().split()
    )


def test_every_norm_has_its_overlay():
    assert {path.stem for path in NORM_OVERLAYS} == {*NORMS, "sync_bn"}


@pytest.mark.parametrize("config", [*BASES, *NORM_OVERLAYS, *OTHER_OVERLAYS], ids=lambda path: path.stem)
def test_heads_hold_command_hardware_and_reported_accuracy(config):
    head = "".join(line for line in config.read_text().splitlines(True) if line.startswith("#"))
    assert f"videogn fit -c configs/{config.name if config in BASES else 'kinetics400'}" in head
    assert config.name in head
    assert "Hardware:" in head
    assert "Reported" in head


@pytest.mark.parametrize(
    ("name", "frames", "stride", "batch", "clips_per_step"),
    [("32x2", 32, 2, 8, 64), ("32x2_batch4", 32, 2, 4, 32), ("64x1_batch4", 64, 1, 4, 32)],
)
def test_table_8_rows(name, frames, stride, batch, clips_per_step):
    """Clip, clips per GPU, lr 0.01 x clips / 64, decay 1e-4 and 0 on norms, steps at 150k and 300k of 400k."""
    cli = build(CONFIGS / f"kinetics400_i3d_r50_{name}.yaml")
    clip, recipe = cli.datamodule.clip, cli.model.recipe
    own = clip.protocol
    assert (clip.frames, clip.stride, cli.datamodule.batch_size) == (frames, stride, batch)
    assert (clip.train_short_side, clip.train_crop, clip.flip) == ((256, 320), 224, 0.5)
    assert (own.short_side, own.crop, own.clips, own.positions) == (256, "full", 10, "ends")
    assert (recipe.optimizer, recipe.momentum, recipe.nesterov) == ("sgd", 0.9, True)
    assert (recipe.lr, recipe.lr_clips, recipe.clips_per_step) == (0.01, 64, clips_per_step)
    assert (recipe.weight_decay, recipe.norm_weight_decay) == (1e-4, 0.0)
    factors = [lr_factor(recipe, step, 400_000) for step in (149_999, 150_000, 300_000)]
    assert factors == pytest.approx([1.0, 0.1, 0.01])
    assert cli.model.hparams["variant"] == "32x2"
    assert cli.model.network.blocks[-1].dropout.p == 0.5


@pytest.mark.parametrize(("name", "classes"), [("ucf101", 101), ("hmdb51", 51)])
def test_fine_tuning_recipes(name, classes):
    """Split 1, all classes, and no weight decay on gamma and beta, as the paper fine-tunes GN."""
    for overlay in ("gn", "frozen_bn"):
        cli = build(CONFIGS / f"{name}_i3d_r50.yaml", CONFIGS / "norm" / f"{overlay}.yaml")
        assert (cli.datamodule.layout, cli.datamodule.fold) == (name, 1)
        assert cli.model.hparams["num_classes"] == classes
        assert (cli.model.hparams["norm"], cli.model.recipe.norm_weight_decay) == (overlay, 0.0)
