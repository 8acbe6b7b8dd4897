"""`videogn pretrain`: the 2d network is torchvision's on the same picture files; its checkpoints start 3D networks."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from lightning.pytorch import Trainer
from pictures import write_folders
from runs import metrics
from test_configs import PICTURES
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from videogn.cli import main
from videogn.data.batches import EvalVideo, VideoBatch
from videogn.data.datamodule_images import ImageDataModule
from videogn.inference import load
from videogn.module import VideoClassifier
from videogn.optim import lr_factor, peak_lr
from videogn.pretrain_cli import PretrainCLI
from videogn.spec import ClipSpec, Protocol

CLASSES = ("a", "b", "c")
CLIP = ClipSpec(
    frames=1, stride=1, train_crop=32, protocol=Protocol(clips=1, short_side=36, crop="center", crop_size=32)
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    write_folders(root, CLASSES, per_class=4)
    return root


@pytest.fixture(scope="module")
def config(root, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(
        f"""
model: {{num_classes: 3, width: 8, norm: gn, norm_kwargs: {{num_groups: 4}},
        recipe: {{lr: 0.05, schedule: constant}}}}
data: {{root: {root}, num_workers: 0, batch_size: 4, eval_batch_size: 5,
       clip: {{train_crop: 32, protocol: {{short_side: 36, crop_size: 32}}}}}}
trainer: {{accelerator: cpu, devices: 1, max_epochs: 2, log_every_n_steps: 1, enable_progress_bar: false,
          enable_model_summary: false, num_sanity_val_steps: 0}}
"""
    )
    return path


def pretrain(command, config, folder, *options):
    return main(["pretrain", command, "-c", str(config), "--trainer.default_root_dir", str(folder), *options])


@pytest.fixture(scope="module")
def fitted(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert pretrain("fit", config, folder) == 0
    return folder / "version_0"


@pytest.fixture
def checkpoint(fitted):
    return fitted / "checkpoints" / "last.ckpt"


def torchvision_pixels(root, short_side, side):
    """The validation pictures as torchvision's reference recipe sees them: float (N, 3, side, side)."""
    steps = [v2.PILToTensor(), v2.Resize(short_side, antialias=True), v2.CenterCrop(side)]
    normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), normalise])
    return torch.stack([pixels for pixels, _ in ImageFolder(str(root / "val"), transform)])


@pytest.mark.parametrize("depth", [50, 101])
def test_bn_on_picture_files_is_torchvisions_resnet(depth, tmp_path):
    """torchvision's weights through --model.init_from, its own transforms on the same files: equal logits."""
    write_folders(tmp_path, "ab", per_class=2, splits=("val", "train"), size=(230, 310))
    torch.manual_seed(0)
    peer = getattr(torchvision.models, f"resnet{depth}")(num_classes=7)
    pixels = torchvision_pixels(tmp_path, 256, 224)
    for layer in peer.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.0)
            torch.nn.init.uniform_(layer.bias, -0.2, 0.2)
            layer.momentum = 1.0  # the statistics of the one pass below
    with torch.inference_mode():
        peer.train()(pixels)
        expected = peer.eval()(pixels)
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    module = VideoClassifier(7, depth, "2d", "bn", init_from=str(tmp_path / "peer.pth"), clips_per_forward=3)
    (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
    data = ImageDataModule(str(tmp_path), num_workers=0, class_names=str(tmp_path / "names.txt"))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (batch,) = trainer.predict(module, data)
    logits = torch.cat([module.eval()(video.frames.permute(3, 0, 1, 2)[None]) for video, _ in batch]).detach()
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.stack([p for _, p in batch]), expected.softmax(1), rtol=0, atol=1e-4)


def test_scores_are_those_of_the_pictures_one_by_one(fitted, checkpoint, root, config, tmp_path, capsys):
    model = load(checkpoint)
    pixels = torchvision_pixels(root, 36, 32)
    labels = torch.tensor(ImageFolder(str(root / "val")).targets)
    with torch.inference_mode():
        probabilities = torch.cat([model.network(x[None, :, None]) for x in pixels]).softmax(1)
    logged = metrics(fitted)
    assert float(logged["val/top1"]) == pytest.approx(float((probabilities.argmax(1) == labels).float().mean()))
    loss = -probabilities[torch.arange(len(labels)), labels].log().mean()
    assert float(logged["val/loss"]) == pytest.approx(float(loss), rel=1e-4)
    assert (float(logged["val/videos"]), float(logged["val/videos_failed"])) == (12, 0)
    # Network and clip specification come from the checkpoint.
    options = ["--ckpt_path", str(checkpoint), "--data.root", str(root), "--data.num_workers", "0"]
    options += ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["pretrain", "validate", *options]) == 0
    again = metrics(tmp_path / "version_0")
    assert {name: again[name] for name in ("val/top1", "val/top5")} == {
        name: logged[name] for name in ("val/top1", "val/top5")
    }
    assert float(again["val/loss"]) == pytest.approx(float(logged["val/loss"]), rel=1e-6)


def test_a_run_goes_on_where_it_stopped(fitted, checkpoint, config, tmp_path):
    assert pretrain("fit", config, tmp_path, "--trainer.max_epochs", "1") == 0
    first = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    assert pretrain("fit", config, tmp_path, "--ckpt_path", str(first)) == 0
    resumed = load(tmp_path / "version_1" / "checkpoints" / "last.ckpt").state_dict()
    straight = load(checkpoint).state_dict()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())


def test_bad_pictures_are_counted_in_an_evaluation_and_reported_once(config, tmp_path, caplog):
    write_folders(tmp_path, CLASSES, per_class=4)
    bad = [tmp_path / split / "b" / "2.jpg" for split in ("train", "val")]
    for path in bad:
        path.write_bytes(path.read_bytes()[:500])
    assert pretrain("fit", config, tmp_path, "--data.root", str(tmp_path)) == 0
    logged = metrics(tmp_path / "version_0")
    assert (float(logged["val/videos"]), float(logged["val/videos_failed"])) == (12, 1)
    assert float(logged["val/top1"]) * 11 == pytest.approx(round(float(logged["val/top1"]) * 11))
    for path in bad:
        assert sum(str(path) in record.message for record in caplog.records) == 1


@pytest.mark.slow
def test_two_processes_score_every_picture_once(fitted, checkpoint, root, config, tmp_path):
    """11 pictures on 2 ranks, one more than half of them on the first: the scores of one process, to the digit."""
    write_folders(tmp_path, CLASSES, per_class=4)
    (tmp_path / "val" / "c" / "3.jpg").unlink()
    found = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        options = ["--ckpt_path", str(checkpoint), "--data.root", str(tmp_path), "--trainer.devices", str(devices)]
        options += ["--trainer.strategy", "ddp"] if devices == 2 else []
        options += ["--trainer.default_root_dir", str(folder)]
        arguments = ["pretrain", "validate", "-c", str(config), *options]
        if devices == 1:
            assert main(arguments) == 0
        else:
            subprocess.run([sys.executable, "-m", "videogn", *arguments], check=True, capture_output=True, timeout=300)
        found.append(metrics(folder / "version_0"))
    assert float(found[0]["val/videos"]) == 11
    for name in ("val/top1", "val/top5", "val/videos", "val/videos_failed"):
        assert found[0][name] == found[1][name]
    assert float(found[0]["val/loss"]) == pytest.approx(float(found[1]["val/loss"]), rel=1e-6)


def test_inflated_by_init_from_a_still_video_gives_the_pictures_logits(checkpoint, root):
    """`center`: the planes beside the middle one are zero, so every frame is a picture, at every T."""
    flat = load(checkpoint)
    data = ImageDataModule(str(root), CLIP, num_workers=0)
    data.setup("validate")
    (batch,) = data.val_dataloader()
    still = [
        EvalVideo(v.frames, torch.zeros((1, 8), dtype=torch.int64), v.crops, v.label, v.video, v.path)
        for v in batch.videos
    ]
    module = VideoClassifier(
        3, 50, "8x8", "gn", {"num_groups": 4}, width=8, init_from=str(checkpoint), inflate="center"
    )
    module.clip, module.class_names = CLIP, CLASSES
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (predictions,) = trainer.predict(module, DataLoader([VideoBatch(still)], batch_size=None))
    with torch.inference_mode():
        for video, probabilities in predictions:
            clip = video.frames.permute(3, 0, 1, 2)[None]
            expected = flat(clip)
            torch.testing.assert_close(module.eval()(clip.expand(-1, -1, 8, -1, -1)), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(probabilities[None], expected.softmax(1), rtol=0, atol=1e-6)


def test_a_checkpoint_of_pictures_starts_a_fit_on_videos(checkpoint, tiny_config, tmp_path, capsys):
    """Through the command line, for another number of classes."""
    options = ["--model.init_from", str(checkpoint), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "-c", str(tiny_config), *options]) == 0
    assert float(metrics(tmp_path / "version_0")["val/videos"]) == 8


def test_views_of_one_size_share_forward_passes(checkpoint):
    model = load(checkpoint)
    model.clips_per_forward = 4
    rng = torch.Generator().manual_seed(0)

    def video(i, side, clips=1):
        frames = torch.randint(0, 256, (clips, side, side, 3), dtype=torch.uint8, generator=rng)
        return EvalVideo(frames, torch.arange(clips)[:, None], [(0, 0, side, side)], 0, i, f"{i}.jpg")

    videos = [video(0, 32), video(1, 40), video(2, 32, clips=3), video(3, 32), video(4, 40)]
    with torch.inference_mode():
        alone = [model.view_probabilities(v.frames, v.index, v.crops) for v in videos]
        batches = []
        model.network.register_forward_pre_hook(lambda _, inputs: batches.append(tuple(inputs[0].shape)))
        together = model.probabilities(videos)
    assert batches == [(4, 3, 1, 32, 32), (1, 3, 1, 32, 32), (2, 3, 1, 40, 40)]
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.variant", "8x8"], ["--model.variant", "expected 2d", "'8x8'", "--model.init_from"]),
        (["--data.clip.frames", "8"], ["data.clip.frames", "expected 1"]),
        (["--data.root", "/nowhere"], ["data.root", "/nowhere", "train/ and val/"]),
        (["--model.num_classes", "5"], ["model.num_classes", "3 classes", "--model.num_classes 3"]),
        (["--data.backend", "pyav"], ["--data.backend"]),
    ],
)
def test_wrong_usage_is_said_without_a_traceback(config, tmp_path, capsys, options, words):
    try:
        code = pretrain("fit", config, tmp_path, *options)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert "Traceback" not in error


def test_help_names_the_command(capsys):
    for arguments, words in (
        (["--help"], ["videogn pretrain", "train/ and val/", "init_from", "fit", "validate"]),
        (["fit", "--help"], ["videogn pretrain fit", "--data.eval_batch_size", "class folders"]),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["pretrain", *arguments])
        assert caught.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert all(word in text for word in words), text


class ParseOnly(PretrainCLI):
    """The command line up to the point where the run would start."""

    def _run_subcommand(self, subcommand):
        pass


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_the_recipe_is_the_papers(path, norm):
    """Section 4.1: lr 0.1 N / 32 for N pictures on each of 8 GPUs, / 10 at 30, 60 and 90 of 100 epochs; decay 1e-4 with
    gamma and beta; the last gamma of a block starts at 0."""
    overlay = Path(path.parent) / "norm" / f"{norm}.yaml"
    machine = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.logger", "false"]
    with torch.device("meta"):
        cli = ParseOnly(["fit", "-c", str(path), "-c", str(overlay), "--data.root", "/pictures", *machine])
    network, recipe, data = cli.model.network, cli.model.recipe, cli.datamodule
    depth = int(path.stem.removeprefix("imagenet_r"))
    with torch.device("meta"):
        peer = getattr(torchvision.models, f"resnet{depth}")()
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in peer.parameters())
    assert (data.batch_size, recipe.clips_per_step, cli.trainer.max_epochs) == (32, 256, 100)
    assert [peak_lr(recipe, 8 * n) for n in (32, 2)] == pytest.approx([0.1, 0.1 * 2 / 32])
    factors = [lr_factor(recipe, epoch, 100) for epoch in (0, 29, 30, 60, 90, 99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.01, 0.001, 0.001])
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay, recipe.norm_weight_decay) == (
        "sgd",
        0.9,
        1e-4,
        1e-4,
    )
    assert (cli.model.hparams["norm"], cli.model.hparams["variant"]) == (norm, "2d")
    clip = data.clip
    own = clip.protocol
    assert (clip.train_crop, own.short_side, own.crop, own.crop_size) == (224, 256, "center", 224)
    head = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    for word in (f"videogn pretrain fit -c configs/{path.name}", "Hardware:", "Reported", "Never run here"):
        assert word in head
