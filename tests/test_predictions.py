"""What every run leaves: predictions.csv, evaluation.json and training.json, against the definition and the log."""

import errno
import json
import math
import os
import shutil
import time

import pytest
import torch
from lightning.pytorch import Trainer
from runs import metrics, run

import videogn
from videogn.callbacks import predictions, records
from videogn.cost import count_cost
from videogn.data.datamodule import KineticsDataModule
from videogn.data.demo import MOTIONS
from videogn.evaluation import VideoAccuracy
from videogn.evaluation_module import VideoEvaluation
from videogn.results import (
    EVALUATION_FILE,
    PREDICTIONS_FILE,
    TRAINING_FILE,
    Evaluation,
    Training,
    read_predictions,
    read_record,
)

NAMES = tuple(MOTIONS)
FILES = (PREDICTIONS_FILE, EVALUATION_FILE, TRAINING_FILE)
LOGGED = {
    "top1": "top1",
    "top5": "top5",
    "clip_top1": "clip_top1",
    "clip_top5": "clip_top5",
    "loss": "loss",
    "videos": "videos",
    "failed": "videos_failed",
}


def read(folder):
    return read_predictions(folder / PREDICTIONS_FILE, NAMES), read_record(folder / EVALUATION_FILE, Evaluation)


@pytest.fixture(scope="module")
def root(tiny_data, tmp_path_factory):
    """The tiny data set with one video that is damaged and one whose name needs quotes."""
    root = tmp_path_factory.mktemp("data") / "demo"
    shutil.copytree(tiny_data, root)
    (root / "val" / "left" / "0000.mp4").write_bytes(b"not a video")
    (root / "val" / "up" / "0000.mp4").rename(root / "val" / "up" / 'a, "b".mp4')
    return root


def test_validation_during_training_is_on_record(fitted):
    results, record = read(fitted)
    logged = metrics(fitted)
    assert [result.id for result in results] == list(range(8))
    assert record.scores == {**{name: float(logged[f"val/{log}"]) for name, log in LOGGED.items()}, "expected": 8}
    again = VideoAccuracy(expected=8)
    for result in results:
        again.update(result)
    for name, value in again.compute()._asdict().items():
        assert record.scores[name] == pytest.approx(value, rel=1e-7), "the file's probabilities have nine digits"
    assert (record.split, record.global_step, record.epoch, record.checkpoint) == ("val", 2, 0, None)
    assert (record.device, record.precision, record.processes) == ("cpu", "32-true", 1)
    assert record.class_names == list(NAMES)
    assert record.clip["protocol"]["clips"] == 2
    assert record.seconds_videos == 8
    assert 0 < record.seconds < 60
    assert set(record.versions) == {"videogn", "torch", "lightning", "av"}
    assert 50e6 < record.peak_memory_bytes < 50e9


def test_predictions_are_those_of_the_definition(fitted, checkpoint, tiny_data):
    """From frames to ranks: 32 pixels are the evaluated size, nothing is resized."""
    from videogn.data import read_frames
    from videogn.data.sampling import eval_indices

    model = videogn.load(checkpoint)
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (model.clip.mean, model.clip.std))
    for result in read(fitted)[0][::3]:
        assert result.path.startswith(str(tiny_data / "val" / NAMES[result.label]))
        clips = torch.stack([read_frames(result.path, index) for index in eval_indices(12, model.clip)])
        with torch.no_grad():
            p = model.network((clips.permute(0, 4, 1, 2, 3) / 255 - mean) / std).softmax(1).double()
        top = p.mean(0).sort(descending=True)
        assert result.classes == tuple(top.indices[:5].tolist())
        assert result.probabilities == pytest.approx(top.values[:5].tolist(), rel=1e-4)
        assert result.label_rank == top.indices.tolist().index(result.label)
        assert result.label_probability == pytest.approx(float(p.mean(0)[result.label]), rel=1e-4)
        assert result.view_top1 == tuple(p.argmax(1).tolist())
        assert result.subset_top1 == (int(p[0].argmax()), result.classes[0])


def test_what_training_took(fitted, checkpoint):
    record = read_record(fitted / TRAINING_FILE, Training)
    model = videogn.load(checkpoint)
    cost = count_cost(model.network, 4, 32)
    assert (record.parameters, record.multiply_adds) == (cost.parameters, cost.multiply_adds)
    assert (record.clips, record.batch_size, record.clips_per_step) == (8, 4, 4)
    assert 0 < record.train_seconds < record.seconds < 60
    assert record.counted_bytes_per_clip > 0
    assert record.counted_peak_bytes is None
    assert record.peak_memory_bytes > 50e6


def test_time_of_validation_is_not_time_of_training(tiny_config, tmp_path, monkeypatch):
    """Two epochs with a validation after each of their two batches."""
    judge = VideoEvaluation._judge

    def slow(self, batch):
        time.sleep(0.03)
        return judge(self, batch)

    monkeypatch.setattr(VideoEvaluation, "_judge", slow)
    written = []
    write = records.write_record
    monkeypatch.setattr(records, "write_record", lambda path, record: (written.append(record), write(path, record)))
    options = ["--trainer.val_check_interval", "1", "--trainer.max_epochs", "2"]
    assert run("fit", tiny_config, tmp_path, *options) == 0
    assert [record.clips for record in written] == [4, 8, 12, 16, 16], "at each validation, and in the end"
    assert written[-1].seconds > written[-1].train_seconds + 4 * 8 * 0.03


def test_an_evaluation_of_a_checkpoint(root, tiny_config, checkpoint, tmp_path):
    options = ["--data.root", str(root), "--ckpt_path", str(checkpoint)]
    for command in ("validate", "predict"):
        assert run(command, tiny_config, tmp_path / command, *options) == 0
    validated, record = read(tmp_path / "validate" / "version_0")
    predicted, of_prediction = read(tmp_path / "predict" / "version_0")
    assert predicted == validated
    assert [result.error is None for result in validated] == [NAMES[result.label] != "left" for result in validated]
    assert "not a video" in validated[NAMES.index("left")].error
    assert validated[-1].path.endswith('a, "b".mp4')
    assert (record.scores["videos"], record.scores["failed"], record.scores["expected"]) == (8, 1, 8)
    assert (record.split, of_prediction.split, of_prediction.scores) == ("val", "predict", {})
    assert (record.checkpoint, record.global_step, record.epoch) == (str(checkpoint), 2, 0)
    assert not (tmp_path / "validate" / "version_0" / TRAINING_FILE).exists()


def test_weights_of_init_from_are_named(tiny_config, checkpoint, tmp_path):
    assert run("validate", tiny_config, tmp_path, "--model.init_from", str(checkpoint)) == 0
    _, record = read(tmp_path / "version_0")
    assert (record.checkpoint, record.global_step) == (str(checkpoint), None)


def test_several_videos_at_a_time_differ_in_rounding_alone(tiny_config, checkpoint, fitted, tmp_path):
    options = ["--ckpt_path", str(checkpoint), "--data.eval_batch_size", "3"]
    assert run("validate", tiny_config, tmp_path, *options) == 0
    for found, alone in zip(read(tmp_path / "version_0")[0], read(fitted)[0], strict=True):
        assert found.probabilities == pytest.approx(alone.probabilities, rel=1e-5)


def test_a_part_of_the_videos_is_called_a_part(tiny_config, checkpoint, tmp_path, caplog):
    options = ["--ckpt_path", str(checkpoint), "--trainer.limit_val_batches", "3"]
    assert run("validate", tiny_config, tmp_path, *options) == 0
    results, record = read(tmp_path / "version_0")
    assert len(results) == record.scores["videos"] == 3
    assert record.scores["expected"] == 8
    assert "only 3 of 8 videos" in caplog.text


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_trials_leave_nothing(command, tiny_config, checkpoint, tmp_path):
    start = ["--ckpt_path", str(checkpoint)] if command == "validate" else []
    assert run(command, tiny_config, tmp_path / "fast", *start, "--trainer.fast_dev_run", "1") == 0
    assert not [path for path in tmp_path.rglob("*") if path.name in FILES]


def test_a_run_for_its_speed_leaves_nothing(tiny_data, checkpoint, tmp_path):
    model = videogn.load(checkpoint)
    data = KineticsDataModule(str(tiny_data), model.clip, num_workers=0)
    callbacks = [predictions.PredictionsWriter()]
    Trainer(accelerator="cpu", barebones=True, default_root_dir=tmp_path, callbacks=callbacks).validate(model, data)
    assert model.last_scores.videos == 8
    assert not list(tmp_path.iterdir())


def test_without_a_logger_the_files_are_in_the_root(tiny_config, tmp_path):
    assert run("fit", tiny_config, tmp_path, "--trainer.logger", "false") == 0
    assert all((tmp_path / name).is_file() for name in FILES)


def test_no_root_is_the_current_folder(tiny_config, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--ckpt_path", str(checkpoint), "--trainer.logger", "false"]
    assert run("validate", tiny_config, "null", *options) == 0
    assert {PREDICTIONS_FILE, EVALUATION_FILE} <= set(os.listdir(tmp_path))


def test_the_sanity_check_leaves_nothing(tiny_config, tmp_path):
    options = ["--trainer.num_sanity_val_steps", "2", "--trainer.limit_val_batches", "2"]
    with pytest.MonkeyPatch.context() as patch:
        written = []
        patch.setattr(predictions, "write_predictions", lambda *arguments: written.append(arguments))
        assert run("fit", tiny_config, tmp_path, *options) == 0
    assert len(written) == 1


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_full_disk_hides_no_scores(command, tiny_config, checkpoint, tmp_path, monkeypatch, capsys, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predictions, "write_predictions", full)
    monkeypatch.setattr(records, "write_record", full)
    start = ["--ckpt_path", str(checkpoint)] if command == "validate" else []
    code = run(command, tiny_config, tmp_path, *start)
    error = capsys.readouterr().err
    assert "val/top1 0." in caplog.text
    assert "Traceback" not in error + caplog.text
    if command == "validate":
        assert code == 2
        assert "predictions.csv: cannot be written (No space left on device)" in error
        assert "run the same command again" in error
    else:
        assert code == 0, "training goes on"
        assert caplog.text.count("cannot be written (No space left on device)") == 3


def test_a_file_is_no_place_for_runs(tiny_config, checkpoint, capsys):
    assert run("validate", tiny_config, checkpoint, "--ckpt_path", str(checkpoint)) == 2
    assert f"default_root_dir: expected a folder that can be written, found {checkpoint}" in capsys.readouterr().err


def test_a_read_only_place_is_refused_at_the_start(tiny_config, checkpoint, tmp_path, monkeypatch, capsys):
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path) and allowed(path, mode))
    assert run("validate", tiny_config, tmp_path / "a" / "b", "--ckpt_path", str(checkpoint)) == 2
    error = capsys.readouterr().err
    assert "trainer.default_root_dir: expected a folder that can be written" in error
    assert str(tmp_path) in error


@pytest.mark.parametrize(
    ("command", "bad"),
    [
        ("validate", math.nan),
        ("validate", -math.inf),  # of which softmax alone would make a 0
        ("test", math.nan),
        ("predict", math.nan),
    ],
)
def test_output_that_is_not_finite_ends_the_run(command, bad, tiny_config, checkpoint, tmp_path, capsys, tiny_data):
    broken = torch.load(checkpoint, weights_only=True)
    broken["state_dict"]["network.blocks.6.proj.bias"][2] = bad
    torch.save(broken, tmp_path / "bad.ckpt")
    options = ["--ckpt_path", str(tmp_path / "bad.ckpt")]
    assert run(command, tiny_config, tmp_path, *options) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error" in line)
    first = next((tiny_data / "val" / NAMES[0]).iterdir())
    assert str(first) in line
    assert "not finite" in line
    assert "2 of 2 views" in line


def test_files_are_json_and_csv_that_others_read(fitted):
    import csv

    json.loads((fitted / EVALUATION_FILE).read_text())
    with open(fitted / PREDICTIONS_FILE, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(NAMES)
    assert all(float(row["probability_1"]) >= float(row["probability_5"]) for row in rows)
