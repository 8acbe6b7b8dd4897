"""The Lightning module and the command line, end to end on a tiny generated data set."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import metrics, run, write_trained_bn

import videogn
from videogn.checkpoint import KEY
from videogn.cli import main
from videogn.data.batches import ClipBatch
from videogn.data.demo import MOTIONS
from videogn.errors import UsageError
from videogn.module import NormName, VideoClassifier
from videogn.spec import ClipSpec

REPOSITORY = Path(__file__).parents[1]
NORM_KWARGS = {"gn": {"num_groups": 4}, "gn_ws": {"num_groups": 4}, "brn": {"warmup_steps": 1, "r_ramp_steps": 2}}


def test_fit_leaves_logs_checkpoints_and_its_configuration(fitted):
    logged = metrics(fitted)
    names = ("loss", "top1", "top5", "clip_top1", "clip_top5", "videos", "videos_failed")
    assert {f"val/{name}" for name in names} | {"train/loss", "train/top1"} <= set(logged)
    assert (float(logged["val/videos"]), float(logged["val/videos_failed"])) == (8, 0)
    files = {path.name.split("-")[0] for path in (fitted / "checkpoints").iterdir()}
    assert files == {"best", "last.ckpt", "last"}  # and last-1.ckpt
    assert any(path.name.startswith("events.out.tfevents") for path in fitted.iterdir())
    assert "norm: gn" in (fitted / "config.yaml").read_text()


def test_checkpoint_says_what_it_is_and_holds_plain_values(checkpoint):
    stored = torch.load(checkpoint, weights_only=True)[KEY]
    assert stored["class_names"] == list(MOTIONS)
    assert (stored["clip"]["frames"], stored["clip"]["train_crop"]) == (4, 32)
    assert stored["architecture"] == {
        "num_classes": 8,
        "depth": 50,
        "variant": "8x8",
        "width": 8,
        "norm": "gn",
        "norm_kwargs": {"num_groups": 4},
    }
    assert set(stored["versions"]) >= {"videogn", "torch", "lightning"}


def test_validate_and_test_repeat_the_scores_of_fit(tiny_config, checkpoint, fitted, tmp_path):
    assert run("validate", tiny_config, tmp_path, "--ckpt_path", str(checkpoint)) == 0
    assert run("test", tiny_config, tmp_path, "--ckpt_path", str(checkpoint)) == 0
    expected = metrics(fitted)
    found = metrics(tmp_path / "version_0") | metrics(tmp_path / "version_1")
    for name in ("loss", "top1", "top5", "clip_top1"):
        assert float(found[f"val/{name}"]) == pytest.approx(float(expected[f"val/{name}"]), rel=1e-5)
        assert float(found[f"test/{name}"]) == pytest.approx(float(expected[f"val/{name}"]), rel=1e-5)


def test_the_network_comes_from_the_checkpoint(tiny_data, tiny_config, checkpoint, fitted, tmp_path):
    """No configuration at all: architecture and clip specification are the checkpoint's."""
    options = ["--data.root", str(tiny_data), "--data.num_workers", "0", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["validate", *options, "--ckpt_path", str(checkpoint)]) == 0
    assert float(metrics(tmp_path / "version_0")["val/loss"]) == pytest.approx(
        float(metrics(fitted)["val/loss"]), rel=1e-5
    )


def test_explicit_options_beat_the_checkpoint(tiny_config, checkpoint, tmp_path, capsys):
    options = ["--ckpt_path", str(checkpoint), "--data.clip.protocol.clips", "3", "--model.dropout", "0.25"]
    assert run("validate", tiny_config, tmp_path, *options) == 0
    written = (tmp_path / "version_0" / "config.yaml").read_text()
    assert "clips: 3" in written
    assert "dropout: 0.25" in written


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.norm", "bn", "--model.norm_kwargs", "null"], ["model.norm", "'gn'", "'bn'"]),
        (["--model.norm_kwargs.num_groups", "2"], ["norm_kwargs", "{'num_groups': 4}", "{'num_groups': 2}"]),
        (["--model.num_classes", "5"], ["num_classes", "8", "5"]),
        (["--model.width", "16"], ["width", "8", "16"]),
    ],
)
def test_a_conflict_with_the_checkpoint_is_refused(tiny_config, checkpoint, tmp_path, capsys, options, words):
    assert run("validate", tiny_config, tmp_path, "--ckpt_path", str(checkpoint), *options) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in [*words, "checkpoint"]), message
    assert "Traceback" not in message


def test_predict_writes_one_row_per_video(tiny_config, checkpoint, tmp_path):
    assert run("predict", tiny_config, tmp_path, "--ckpt_path", str(checkpoint)) == 0
    rows = list(csv.DictReader((tmp_path / "version_0" / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert {row["label"] for row in rows} == set(MOTIONS)
    for row in rows:
        assert row["status"] == "ok"
        probabilities = [float(row[f"probability_{i}"]) for i in range(1, 6)]
        assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize("norm", videogn.NORMS)
def test_every_norm_goes_through_the_command_line(norm, tiny_config, tmp_path):
    """fit, resume, validate, load: the weights that come back are those that were saved."""
    kwargs = json.dumps(NORM_KWARGS.get(norm))
    options = ["--model.norm", norm, "--model.norm_kwargs", kwargs]
    start = []
    if norm == "frozen_bn":  # starts from a trained network alone
        start = ["--model.init_from", str(tmp_path / "bn.safetensors")]
        write_trained_bn(start[1])
    assert run("fit", tiny_config, tmp_path, *options, *start) == 0
    saved = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    model = videogn.load(saved)
    assert model.hparams["norm"] == norm
    for name, tensor in torch.load(saved, weights_only=True)["state_dict"].items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)
    assert run("fit", tiny_config, tmp_path, *options, "--ckpt_path", str(saved), "--trainer.max_epochs", "2") == 0
    resumed = torch.load(tmp_path / "version_1" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (resumed["epoch"], resumed["global_step"]) == (2, 4)


@pytest.mark.parametrize("word", ["last", "best"])
def test_an_evaluation_needs_a_file_of_weights(word, tiny_config, tmp_path, capsys):
    """Lightning's words for a run's own checkpoints mean nothing here, and random weights would be evaluated."""
    assert run("validate", tiny_config, tmp_path, "--ckpt_path", word) == 2
    assert f"--ckpt_path {word}: expected a file or folder of weights" in capsys.readouterr().err


def test_an_evaluation_of_random_weights_says_so(tiny_config, checkpoint, tmp_path, caplog):
    assert run("validate", tiny_config, tmp_path) == 0
    assert "random weights" in caplog.text
    caplog.clear()
    assert run("validate", tiny_config, tmp_path, "--ckpt_path", str(checkpoint)) == 0
    assert "random weights" not in caplog.text
    assert " x 2 views, " in caplog.text


def test_norm_names_of_the_option_are_those_of_the_package():
    assert NormName.__args__ == videogn.NORMS


def test_classify_and_predict_video_agree(checkpoint, tiny_data, capsys):
    video = str(next((tiny_data / "val" / "left").iterdir()))
    options = ["--checkpoint", str(checkpoint), "--num-clips", "10", "--topk", "3", "--format", "json"]
    assert main(["classify", video, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["video"] == video
    expected = videogn.predict_video(checkpoint, video, num_clips=10, topk=3)
    assert [p["label"] for p in found["predictions"]] == [p.label for p in expected]
    assert [p["probability"] for p in found["predictions"]] == pytest.approx([p.probability for p in expected])
    everything = videogn.predict_video(checkpoint, video, topk=100)
    assert sum(p.probability for p in everything) == pytest.approx(1.0, abs=1e-5)
    assert {p.label for p in everything} == set(MOTIONS)
    assert main(["classify", video, "--checkpoint", str(checkpoint)]) == 0
    assert "%" in capsys.readouterr().out


def test_predictions_are_the_mean_of_the_clips_softmax(checkpoint, tiny_data):
    """Against the definition, from frames to probabilities."""
    from videogn.data import read_frames
    from videogn.data.sampling import eval_indices

    model, video = videogn.load(checkpoint), str(next((tiny_data / "val" / "up").iterdir()))
    clips = [read_frames(video, index) for index in eval_indices(12, model.clip)]
    x = torch.stack(clips).permute(0, 4, 1, 2, 3).double() / 255  # 32 pixels are the evaluated size: nothing is resized
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1, 1) for v in (model.clip.mean, model.clip.std))
    with torch.no_grad():
        expected = model.network(((x - mean) / std).float()).softmax(1).mean(0)
    found = {p.index: p.probability for p in videogn.predict_video(model, video, num_clips=2, topk=8)}
    torch.testing.assert_close(torch.tensor([found[i] for i in range(8)]), expected, rtol=1e-4, atol=1e-5)


def test_predict_clip_script(checkpoint, tiny_data):
    video = str(next((tiny_data / "val" / "left").iterdir()))
    script = [sys.executable, str(REPOSITORY / "scripts" / "predict_clip.py"), video, "--checkpoint", str(checkpoint)]
    options = ["--start", "0.25", "--end", "0.75", "--format", "json"]  # frames 3 to 9 at 12 frames per second
    done = subprocess.run([*script, *options], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["predictions"]
    expected = videogn.predict_video(checkpoint, video, num_clips=1, start_frame=3, end_frame=9)
    assert [p["label"] for p in found] == [p.label for p in expected]
    assert [p["probability"] for p in found] == pytest.approx([p.probability for p in expected], rel=1e-5)
    wrong = subprocess.run([*script, "--start", "5", "--end", "2"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "12 frames" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_checkpoint_loads_from_python(checkpoint):
    model = VideoClassifier.load_from_checkpoint(checkpoint)
    assert model.class_names == tuple(MOTIONS)
    with pytest.raises(UsageError, match="norm"):
        VideoClassifier.load_from_checkpoint(checkpoint, norm="bn", norm_kwargs=None)


def test_clips_per_step_accumulates(tiny_config, tmp_path):
    assert run("fit", tiny_config, tmp_path, "--model.recipe.clips_per_step", "8") == 0
    state = torch.load(tmp_path / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 1


def test_learning_rate_scales_with_clips_per_step(tiny_config, tmp_path):
    options = ["--model.recipe.lr", "0.64", "--model.recipe.lr_clips", "64", "--model.recipe.schedule", "constant"]
    assert run("fit", tiny_config, tmp_path, *options) == 0
    assert float(metrics(tmp_path / "version_0")["lr-SGD/pg1"]) == pytest.approx(0.04)


def test_last_checkpoint_is_the_last_epoch_and_not_the_best(tiny_config, tmp_path):
    # With a learning rate of 0 every epoch scores the same, so only the first one is a new best.
    options = ["--model.recipe.lr", "0", "--trainer.max_epochs", "3"]
    assert run("fit", tiny_config, tmp_path, *options) == 0
    folder = tmp_path / "version_0" / "checkpoints"
    assert sorted(path.name.split("-")[0] for path in folder.iterdir()) == ["best", "last", "last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 3  # the next, were there one
    assert torch.load(next(folder.glob("best*")), weights_only=True)["epoch"] == 0


def test_training_loss_is_the_smoothed_cross_entropy_of_the_normalised_clips(monkeypatch):
    """0.8 + 0.2 / 4 on the label and 0.2 / 4 on each other class (Szegedy et al. 2016, section 7)."""
    torch.manual_seed(0)
    model = VideoClassifier(num_classes=4, width=8, norm="ln", dropout=0.0, variant="8x8", label_smoothing=0.2)
    model.clip = ClipSpec(frames=4)
    monkeypatch.setattr(model, "log", lambda *args, **kwargs: None)
    clips = torch.randint(0, 256, (3, 3, 4, 32, 32), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 3])
    loss = model.training_step(ClipBatch(clips, labels, labels, []), 0)
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (model.clip.mean, model.clip.std))
    logits = model.network((clips / 255 - mean) / std)
    target = torch.full((3, 4), 0.05)
    target[range(3), labels] += 0.8
    torch.testing.assert_close(loss, -(target * logits.log_softmax(1)).sum(1).mean())


def test_precise_bn_and_ema_overlays_run(tiny_config, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        """
model: {norm: bn, norm_kwargs: null}
trainer:
  callbacks+:
    - {class_path: videogn.callbacks.PreciseBN, init_args: {num_batches: 2}}
    - {class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.9}}
"""
    )
    assert run("fit", tiny_config, tmp_path, "-c", str(overlay)) == 0
