"""Runs that start from a file of weights: what is taken, what stays as it is, and what is refused."""

import json
import logging

import pytest
import torch
from lightning.pytorch import Trainer
from peer_layouts import pytorchvideo, random_weights
from peer_layouts import torchvision as as_torchvision
from runs import metrics, run

import videogn
from videogn.checkpoint import description, write_weights
from videogn.cli import main
from videogn.data.datamodule import KineticsDataModule
from videogn.data.demo import MOTIONS
from videogn.errors import UsageError
from videogn.module import VideoClassifier
from videogn.optim import Recipe
from videogn.spec import ClipSpec

NORM = {"gn": ["--model.norm_kwargs", '{"num_groups": 4}']}
NO_STEP = ["--model.recipe.lr", "0.0", "--model.recipe.weight_decay", "0.0"]  # weights end as they begin


def options(norm="gn", *more):
    return ["--model.norm", norm, *NORM.get(norm, ["--model.norm_kwargs", "null"]), *more]


def last(folder, version=0):
    return folder / f"version_{version}" / "checkpoints" / "last.ckpt"


def weights_of(path):
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("network."): tensor for name, tensor in state.items() if name.startswith("network.")}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Norm -> a file of this project with random weights of the tests' network, for the demo's classes."""
    folder = tmp_path_factory.mktemp("weights")
    written = {}
    for norm in ("gn", "bn"):
        tensors = random_weights(norm=norm, width=8, classes=8)
        for tensor in tensors.values():
            if tensor.dim() == 5:
                tensor.mul_((2 / tensor[0].numel()) ** 0.5)
        kwargs = {"num_groups": 4} if norm == "gn" else None
        arch = {"num_classes": 8, "depth": 50, "variant": "8x8", "width": 8, "norm": norm, "norm_kwargs": kwargs}
        written[norm] = folder / f"{norm}.safetensors", tensors
        write_weights(written[norm][0], tensors, description(arch, tuple(MOTIONS), ClipSpec(frames=4, stride=1)))
    return written


def test_a_fit_starts_from_the_file_and_its_checkpoint_stands_alone(files, tiny_config, tmp_path, caplog):
    path, tensors = files["gn"]
    copy = tmp_path / "start.safetensors"
    copy.write_bytes(path.read_bytes())
    with caplog.at_level(logging.INFO):
        assert run("fit", tiny_config, tmp_path, *NO_STEP, "--model.init_from", str(copy)) == 0
    assert f"weights: {copy} (videogn)" in caplog.text
    found = weights_of(last(tmp_path))
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())  # the same classes: head included
    copy.unlink()
    assert "init_from" not in videogn.load(last(tmp_path)).hparams
    # Resumed with the same configuration, whose file is not there any more.
    with caplog.at_level(logging.INFO):
        resume = ["--ckpt_path", str(last(tmp_path)), "--trainer.max_epochs", "2"]
        assert run("fit", tmp_path / "version_0" / "config.yaml", tmp_path, *resume) == 0
    assert f"model.init_from {copy} is not read" in caplog.text
    assert torch.load(last(tmp_path, 1), weights_only=True)["global_step"] == 4


def test_other_classes_get_a_new_classifier(files, tiny_config, tiny_data, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(reversed(MOTIONS)))
    path, tensors = files["gn"]
    extra = ["--data.class_names", str(names), "--model.init_from", str(path)]
    assert run("fit", tiny_config, tmp_path, *NO_STEP, *extra) == 0
    found = weights_of(last(tmp_path))
    heads = [name for name in tensors if not torch.equal(found[name], tensors[name])]
    assert heads == ["blocks.6.proj.weight", "blocks.6.proj.bias"]
    assert found["blocks.6.proj.bias"].abs().max() == 0


def test_a_pictures_file_of_another_program_is_inflated(tiny_config, tmp_path, caplog):
    """A thousand classes of pictures, other mean and std: torchvision's ImageNet statistics become the clip's."""
    weights = random_weights(variant="2d", width=8, classes=1000)
    path = tmp_path / "resnet50.pth"
    torch.save(as_torchvision(weights), path)
    with caplog.at_level(logging.INFO):
        more = ["--model.init_from", str(path), "--model.inflate", "center"]
        assert run("fit", tiny_config, tmp_path, *options("bn"), *NO_STEP, *more) == 0
    assert "1000 classes in the file, 8 in the network" in caplog.text
    stem = weights_of(last(tmp_path))["blocks.0.conv.weight"]
    assert torch.equal(stem[:, :, 2], weights["blocks.0.conv.weight"])
    assert stem[:, :, [0, 1, 3, 4]].abs().max() == 0


def test_mean_and_std_are_the_files(tiny_config, tiny_data, tmp_path, capsys):
    """pytorchvideo's 0.45 and 0.225 where nothing else is said; another explicit value is refused with both."""
    path = tmp_path / "i3d.pyth"
    torch.save({"model_state": pytorchvideo(random_weights(width=8, classes=8))}, path)
    start = [*options("bn"), *NO_STEP, "--model.init_from", str(path)]
    assert run("fit", tiny_config, tmp_path, *start) == 0
    clip = videogn.load(last(tmp_path)).clip
    assert (clip.mean, clip.std) == ((0.45,) * 3, (0.225,) * 3)
    assert run("fit", tiny_config, tmp_path, *start, "--data.clip.std", "[0.229, 0.224, 0.225]") == 2
    error = capsys.readouterr().err
    assert "data.clip.std" in error
    assert "(0.225, 0.225, 0.225), found (0.229, 0.224, 0.225)" in error
    assert "--data.clip.std [0.225, 0.225, 0.225]" in error
    assert run("fit", tiny_config, tmp_path / "more", *start, "--ckpt_path", "last") == 0  # none yet: a first start
    assert videogn.load(last(tmp_path / "more")).clip.mean == (0.45,) * 3


def test_from_python_the_clip_must_say_what_the_weights_expect(files, tiny_data, tmp_path):
    path, tensors = files["gn"]
    clip = {"frames": 4, "stride": 1, "train_short_side": (32, 32), "train_crop": 32, "protocol": {"short_side": 32}}
    build = {"num_classes": 8, "variant": "8x8", "width": 8, "norm_kwargs": {"num_groups": 4}, "init_from": str(path)}
    trainer = {"max_steps": 1, "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    trainer |= {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    grey = KineticsDataModule(str(tiny_data), ClipSpec(**clip, mean=(0.5, 0.5, 0.5)), num_workers=0)
    with pytest.raises(UsageError, match=r"data.clip.mean.*expect \(0.485, 0.456, 0.406\), found \(0.5, 0.5, 0.5\)"):
        Trainer(**trainer, use_distributed_sampler=False).fit(VideoClassifier(**build), grey)
    model = VideoClassifier(**build, recipe=Recipe(lr=1e-3))
    data = KineticsDataModule(str(tiny_data), ClipSpec(**clip), num_workers=0, batch_size=4)
    Trainer(**trainer, use_distributed_sampler=False).fit(model, data)
    name = "blocks.6.proj.weight"  # of normal random numbers in the file, of 0.01 times such at the start
    assert 0 < (model.network.state_dict()[name] - tensors[name]).abs().max() < 0.5
    # The same module once more: it goes on from where it is.
    trained = model.network.blocks[6].proj.weight.clone()
    model.recipe = Recipe(lr=0.0, weight_decay=0.0)
    Trainer(**trainer, use_distributed_sampler=False).fit(model, data)
    assert torch.equal(model.network.blocks[6].proj.weight, trained)


def test_validation_judges_the_file(files, tiny_config, tmp_path, capsys):
    path, _ = files["gn"]
    assert run("fit", tiny_config, tmp_path, *NO_STEP, "--model.init_from", str(path)) == 0
    assert run("validate", tiny_config, tmp_path, "--model.init_from", str(path)) == 0
    assert metrics(tmp_path / "version_1")["val/loss"] == metrics(tmp_path / "version_0")["val/loss"]


@pytest.mark.parametrize("stages", [2, 5])
def test_frozen_stages_keep_weights_and_statistics(files, tiny_config, tmp_path, stages, recwarn):
    """Precise BN, which recomputes statistics, leaves theirs alone too."""
    path, tensors = files["bn"]
    config = tmp_path / "precise.yaml"
    config.write_text("trainer: {callbacks: [{class_path: videogn.callbacks.PreciseBN, init_args: {num_batches: 1}}]}")
    more = ["--model.init_from", str(path), "--model.freeze_stages", str(stages), "-c", str(config)]
    assert run("fit", tiny_config, tmp_path, *options("bn"), "--model.recipe.lr", "0.1", *more) == 0
    found = weights_of(last(tmp_path))
    frozen = {"blocks.0.", "blocks.1."} if stages == 2 else {f"blocks.{i}." for i in range(6)}
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) == any(name.startswith(block) for block in frozen), name
    assert not [w for w in recwarn if "eval mode" in str(w.message)]
    assert videogn.load(last(tmp_path)).freeze_stages == 0


def test_the_moving_average_starts_from_the_file(files, tiny_config, tmp_path):
    """Lightning copies the network for it before the file is read."""
    path, tensors = files["gn"]
    config = tmp_path / "ema.yaml"
    config.write_text("trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.EMAWeightAveraging}]}")
    assert run("fit", tiny_config, tmp_path, *NO_STEP, "--model.init_from", str(path), "-c", str(config)) == 0
    found = weights_of(last(tmp_path))
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, msg=name)


def test_frozen_bn_needs_statistics(files, tiny_config, tmp_path, capsys):
    assert run("fit", tiny_config, tmp_path, *options("frozen_bn")) == 2
    error = capsys.readouterr().err
    assert "--model.init_from" in error
    assert "frozen_bn" in error
    untrained = tmp_path / "untrained.pth"
    fresh = videogn.i3d_resnet(8, norm="bn", width=8, variant="2d").state_dict()
    torch.save(as_torchvision({n: t.squeeze(2) if t.dim() == 5 else t for n, t in fresh.items()}), untrained)
    assert run("fit", tiny_config, tmp_path / "more", *options("frozen_bn"), "--model.init_from", str(untrained)) == 2
    assert "was trained" in capsys.readouterr().err
    path, tensors = files["bn"]
    start = ["--model.init_from", str(path), "--model.recipe.lr", "1e-6"]
    assert run("fit", tiny_config, tmp_path, *options("frozen_bn"), *start) == 0
    found = weights_of(last(tmp_path, 1))
    assert all(torch.equal(found[name], tensors[name]) for name in tensors if "norm" in name)
    assert not torch.equal(found["blocks.0.conv.weight"], tensors["blocks.0.conv.weight"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model.init_from", "nowhere.pth"], ["nowhere.pth"]),
        (["--model.init_from", "{gn}", *options("bn")], ["norm gn", "has bn", "convert_norm"]),
        (["--model.init_from", "{gn}", "--model.width", "16"], ["width", "8 in the file, 16", "--model.width 8"]),
        (["--model.init_from", "{gn}", "--model.init_ignore", "[momentum*]"], ["'momentum*'"]),
        (["--model.freeze_stages", "1"], ["freeze_stages", "--model.init_from"]),
        (["--model.init_from", ""], ["path of a file of weights", "''"]),
        (["--model.convert_norm", "true"], ["--model.convert_norm", "--model.init_from"]),
        (["--model.init_ignore", "['*']"], ["--model.init_ignore", "--model.init_from"]),
        (
            ["--model.init_from", "{gn}", "--model.freeze_stages", "1", "--model.init_ignore", "['*blocks.0.conv*']"],
            ["freeze_stages 1", "blocks.0.conv.weight", "init_ignore"],
        ),
        (["--model.init_from", "{gn}", "--model.freeze_stages", "6"], ["freeze_stages", "0 to 5", "6"]),
        (["--model.init_from", "{gn}", "--model.freeze_stages", "1", "--model.convert_norm", "true"], ["new norms"]),
    ],
)
def test_what_does_not_fit_is_explained(files, tiny_config, tmp_path, capsys, more, words):
    more = [option.format(gn=files["gn"][0]) if "gn}" in option else option for option in more]
    assert run("fit", tiny_config, tmp_path, *more) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert "Traceback" not in error


def test_plan_counts_frozen_stages_without_the_file(capsys):
    command = ["plan", "--model.width", "8", "--model.norm", "bn", "--model.variant", "8x8", "--format", "json"]
    command += ["--data.clip.frames", "4", "--data.clip.train_crop", "64"]

    def count(*more):
        assert main([*command, *more]) == 0
        return json.loads(capsys.readouterr().out)

    everything = count("--model.init_from", "elsewhere.pth")
    frozen = count("--model.init_from", "elsewhere.pth", "--model.freeze_stages", "3")
    assert everything["saved_per_clip"] > 1.5 * frozen["saved_per_clip"]
    assert everything["gradient_bytes"] > frozen["gradient_bytes"]
    assert everything["parameters"] == frozen["parameters"]
