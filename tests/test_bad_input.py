"""What a user gets wrong: one clear message, the right exit code, no traceback."""

import shutil
import subprocess
import sys

import pytest
import torch
from runs import metrics, run
from video_files import write_audio_only, write_video

from videogn.cli import main


def refused(capsys, code, arguments, *words):
    """Run a command that must fail with this code, naming these words and showing no traceback."""
    try:
        found = main([str(argument) for argument in arguments])
    except SystemExit as exit:  # usage errors of the option parsers
        found = exit.code
    message = capsys.readouterr().err
    assert found == code, message
    assert "Traceback" not in message
    missing = [word for word in words if str(word) not in message]
    assert not missing, f"{missing} not in: {message}"


@pytest.fixture(scope="module")
def bad_videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    whole = write_video(folder / "whole.mp4", 20)
    (folder / "zero.mp4").touch()
    (folder / "text.mp4").write_text("This is no video.\n" * 50)
    (folder / "truncated.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    write_audio_only(folder / "audio.mp4")
    (folder / "folder.mp4").mkdir()
    return folder


@pytest.mark.parametrize("name", ["zero", "text", "truncated", "audio", "folder", "absent"])
def test_classify_names_the_bad_file(name, bad_videos, checkpoint, capsys):
    path = bad_videos / f"{name}.mp4"
    code = 2 if name == "folder" else 1  # folders are looked through, and one without videos is wrong usage
    refused(capsys, code, ["classify", path, "--checkpoint", checkpoint], f"{name}.mp4: ")


def test_classify_goes_on_after_a_bad_file(bad_videos, checkpoint, capsys):
    code = main(
        ["classify", str(bad_videos / "zero.mp4"), str(bad_videos / "whole.mp4"), "--checkpoint", str(checkpoint)]
    )
    captured = capsys.readouterr()
    assert code == 1
    assert "zero.mp4" in captured.err
    assert "whole.mp4" in captured.out


@pytest.mark.parametrize("frames", [1, 5])
def test_videos_shorter_than_a_clip_are_classified(frames, tmp_path, checkpoint, capsys):
    path = write_video(tmp_path / "short.mp4", frames)
    assert main(["classify", str(path), "--checkpoint", str(checkpoint)]) == 0
    assert "%" in capsys.readouterr().out


def test_bad_checkpoints(tmp_path, bad_videos, capsys):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "pickle.ckpt")  # builds objects when unpickled
    for name, words in (
        ("absent", ["no such checkpoint"]),
        ("text", ["not a readable checkpoint"]),
        ("other", ["written by videogn", "state_dict"]),
        ("pickle", ["not a readable checkpoint"]),
    ):
        path = tmp_path / f"{name}.ckpt"
        refused(capsys, 2, ["classify", bad_videos / "whole.mp4", "--checkpoint", path], path, *words)


def test_classify_options(bad_videos, checkpoint, capsys):
    command = ["classify", bad_videos / "whole.mp4", "--checkpoint", checkpoint]
    refused(capsys, 2, [*command, "--topk", 0], "topk", "at least 1", "0")
    refused(capsys, 2, [*command, "--backend", "ffms2"], "ffms2", "pyav")
    refused(capsys, 2, [*command, "--device", "gpu9"], "--device", "gpu9", "cpu")
    refused(capsys, 2, [*command, "--format", "xml"], "xml", "json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none(tiny_config, tmp_path, checkpoint, bad_videos, capsys):
    fit = ["fit", "-c", tiny_config, "--trainer.default_root_dir", tmp_path, "--trainer.accelerator", "gpu"]
    refused(capsys, 2, fit, "--trainer.accelerator", "gpu", "cpu")
    classify = ["classify", bad_videos / "whole.mp4", "--checkpoint", checkpoint, "--device", "cuda"]
    refused(capsys, 2, classify, "--device", "cuda", "cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.nrm", "gn"], ["--model.nrm", "nearest: --model.norm"]),
        (["--data.batch_siz", "2"], ["--data.batch_siz", "nearest: --data.batch_size"]),
        (["--model.norm", "grp"], ["model.norm", "grp", "'gn'"]),
        (["--model.norm_kwargs.groups", "2"], ["groups", "num_groups"]),
        (["--model.norm_kwargs.num_groups", "3"], ["num_groups=3", "1, 2, 4, 8"]),
        (["--data.clip.frames", "0"], ["frames", "at least 1", "0"]),
        (["--data.clip.train_crop", "64"], ["train_short_side", "(32, 32)", "64"]),
        (["--model.recipe.milestones", "[5]"], ["milestones", "5"]),
        (["--model.recipe.clips_per_step", "6"], ["clips_per_step", "multiple", "4", "6"]),
        (["--data.batch_size", "100"], ["batch_size", "8", "100"]),
        (["--data.root", "/nowhere"], ["data.root", "/nowhere"]),
        (["--model.num_classes", "5"], ["num_classes", "8", "5"]),
        (["--data.backend", "ffms2"], ["backend", "ffms2", "pyav"]),
        (["-c", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt"]),
        (["--trainer.max_epochs", "many"], ["max_epochs", "many"]),
    ],
)
def test_wrong_options_of_fit(options, words, tiny_config, tmp_path, capsys):
    arguments = ["fit", "-c", tiny_config, "--trainer.default_root_dir", tmp_path, *options]
    refused(capsys, 2, arguments, *words)


def test_data_without_videos_or_with_wrong_labels(tiny_config, tiny_data, tmp_path, capsys):
    fit = ["fit", "-c", tiny_config, "--trainer.default_root_dir", tmp_path / "runs"]
    (tmp_path / "empty").mkdir()
    refused(capsys, 2, [*fit, "--data.root", tmp_path / "empty"], tmp_path / "empty")
    video = next((tiny_data / "val" / "left").iterdir())
    good, wrong, absent = (tmp_path / f"{name}.txt" for name in ("good", "wrong", "absent"))
    good.write_text(f"{video} 0\n")
    wrong.write_text(f"{video} sideways\n")
    absent.write_text(f"{tmp_path / 'gone.mp4'} 0\n")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(sorted(path.name for path in (tiny_data / "val").iterdir())))
    lists = [*fit, "--data.class_names", names, "--data.val_list", good, "--data.train_list"]
    refused(capsys, 2, [*lists, wrong], "wrong.txt", "sideways")
    refused(capsys, 2, [*lists, absent], "absent.txt", "gone.mp4")
    good.write_text(f"{video} 99\n")
    refused(capsys, 2, [*lists, good], "good.txt", "0..7", "99")


def test_damaged_videos_in_a_run_are_counted_and_named(tiny_config, tiny_data, bad_videos, tmp_path, caplog):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    shutil.copy(bad_videos / "text.mp4", root / "train" / "left" / "damaged_train.mp4")
    shutil.copy(bad_videos / "zero.mp4", root / "val" / "left" / "damaged_val.mp4")
    options = ["--data.root", str(root), "--trainer.max_epochs", "3"]
    assert run("fit", tiny_config, tmp_path, *options) == 0
    logged = metrics(tmp_path / "version_0")
    assert (float(logged["val/videos"]), float(logged["val/videos_failed"])) == (9, 1)
    assert "train/videos_replaced" in logged
    assert "damaged_val.mp4" in caplog.text


def test_scripts_and_module_exit_codes(bad_videos):
    done = subprocess.run([sys.executable, "-m", "videogn", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "fit" in done.stderr


def test_too_many_bad_videos_end_training(tiny_config, tiny_data, bad_videos, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    for video in (root / "train").rglob("*.mp4"):
        shutil.copy(bad_videos / "zero.mp4", video)
    fit = ["fit", "-c", tiny_config, "--trainer.default_root_dir", tmp_path, "--data.root", root]
    for workers in (0, 1):
        refused(capsys, 1, [*fit, "--data.num_workers", workers], "could not be read", "0000.mp4", "empty")


def test_norms_that_do_not_fit_the_run(tiny_config, tmp_path, capsys):
    fit = ["fit", "-c", tiny_config, "--trainer.default_root_dir", tmp_path, "--model.norm_kwargs", "null"]
    splits = ["--model.norm", "sub_bn", "--model.norm_kwargs.num_splits", 3]
    refused(capsys, 2, [*fit, *splits], "data.batch_size", "num_splits=3")
    ddp = ["--trainer.strategy", "ddp", "--trainer.sync_batchnorm", "true"]
    refused(capsys, 2, [*fit, "--model.norm", "ln", *ddp], "sync_batchnorm", "ln")
    refused(capsys, 2, [*fit, "--model.norm", "bn", *ddp], "sync_batchnorm", "CUDA")
    torch.distributed.destroy_process_group()
