"""Evaluation on several processes, gloo on a CPU: the scores of one process, to the last digit."""

import json

import pytest
import torch
from commands import command_line
from ddp_runs import groups, run_commands
from runs import metrics, run

from videogn.checkpoint import description, write_weights
from videogn.data import read_frames
from videogn.data.demo import MOTIONS
from videogn.inference import predict_video
from videogn.module import VideoClassifier
from videogn.norms.statistics import batch_norm_layers
from videogn.spec import ClipSpec, Protocol

pytestmark = pytest.mark.slow  # processes that are started once for all tests of this file, in more than ten seconds

CLIP = ClipSpec(frames=4, stride=1, train_short_side=(32, 32), train_crop=32, protocol=Protocol(clips=2, short_side=32))
RANKS_OF_LABELS = (0, 2, 0, 4, 6, 0)  # top-1 right for 3 of 6 videos, top-5 for 5
EXACT = ("seven", "two", "one", "broken", "test")


@pytest.fixture(scope="module")
def weights(tiny_data, tmp_path_factory):
    """A batch norm network whose classes and clips differ clearly; its statistics are those of the training videos."""
    torch.manual_seed(1)
    model = VideoClassifier(8, variant="8x8", width=8, norm="bn", dropout=0.0, zero_init_last_norm=False)
    model.clip = CLIP
    for layer in batch_norm_layers(model):
        layer.momentum = 1.0
    with torch.no_grad():
        clips = torch.stack([read_frames(str(path), range(4)) for path in sorted(tiny_data.glob("train/*/*.mp4"))])
        logits = model(clips.permute(0, 4, 1, 2, 3))
        model.network.blocks[-1].proj.weight.div_(logits.std(dim=0).mean())
    path = tmp_path_factory.mktemp("weights") / "bn.safetensors"
    write_weights(path, model.network.state_dict(), description(model.architecture, MOTIONS, CLIP))
    return path


@pytest.fixture(scope="module")
def lists(tiny_data, weights, tmp_path_factory):
    """Six videos and a broken one, two, one, and broken ones alone; labels by the network's ranking."""
    folder = tmp_path_factory.mktemp("lists")
    for i in range(4):
        (folder / f"broken{i}.mp4").write_bytes(b"no video")
    rows = []
    for video, rank in zip(sorted(tiny_data.glob("val/*/*.mp4")), RANKS_OF_LABELS, strict=False):
        ranking = predict_video(weights, video, num_clips=2, topk=8)
        rows.append(f"{video} {ranking[rank].index}")
    broken = [f"{folder}/broken{i}.mp4 {i}" for i in range(4)]
    videos = {"seven": [*rows[:2], broken[0], *rows[2:]], "two": rows[:2], "one": rows[:1], "broken": broken}
    for name, lines in videos.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def jobs(world, folder, config, weights, lists):
    """Commands by name."""
    common = ["-c", str(config), "--model.norm", "bn", "--model.norm_kwargs", "null"]
    common += ["--trainer.devices", str(world), "--trainer.strategy", "ddp" if world > 1 else "auto"]

    def command(name, what, videos, *options):
        data = [f"--data.{'test' if what == 'test' else 'val'}_list", str(lists / f"{videos}.txt"), *options]
        place = ["--trainer.default_root_dir", str(folder / name), "--ckpt_path", str(weights)]
        return [what, *common, *data, *place]

    found = {videos: command(videos, "validate", videos) for videos in ("seven", "two", "one", "broken")}
    return found | {
        "test": command("test", "test", "seven"),
        "predict": command("predict", "predict", "seven"),
        "batches": command("batches", "validate", "seven", "--data.eval_batch_size", "3"),
    }


@pytest.fixture(scope="module")
def runs(tiny_config, weights, lists, tmp_path_factory):
    """What one, two and three processes find: of every rank, by job; and where they wrote."""
    folder = tmp_path_factory.mktemp("runs")
    found = {1: [run_commands(jobs(1, folder / "1", tiny_config, weights, lists))]}
    of_world = {n: jobs(n, folder / str(n), tiny_config, weights, lists) for n in (2, 3)}
    several = groups(folder, {n: {"run_commands": commands} for n, commands in of_world.items()})
    found |= {n: [rank["run_commands"] for rank in ranks] for n, ranks in several.items()}
    return found, folder


def test_the_known_scores_come_out_on_one_process(runs):
    found, folder = runs
    (scores,) = found[1][0]["seven"]["scores"]
    assert scores["top1"] == "0.5"
    assert scores["top5"] == repr(5 / 6)
    assert (scores["videos"], scores["failed"], scores["expected"]) == ("7", "1", "7")
    (broken,) = found[1][0]["broken"]["scores"]
    assert (broken["top1"], broken["loss"], broken["videos"], broken["failed"]) == ("nan", "nan", "4", "4")
    assert metrics(folder / "1" / "seven" / "version_0")["val/top1"] == "0.5"


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("world", [2, 3])
def test_every_rank_has_the_scores_of_one_process_to_the_last_digit(runs, world, name):
    found, folder = runs
    assert len(found[world]) == world
    for rank in found[world]:
        assert rank[name]["scores"] == found[1][0][name]["scores"]
    one, several = (folder / n / name / "version_0" for n in ("1", str(world)))
    assert metrics(several) == metrics(one)
    assert (several / "predictions.csv").read_bytes() == (one / "predictions.csv").read_bytes()
    records = [json.loads((run / "evaluation.json").read_text()) for run in (one, several)]
    assert [record["processes"] for record in records] == [1, world]
    assert str(records[1]["scores"]) == str(records[0]["scores"])  # as text, because nan is not equal to itself


@pytest.mark.parametrize("world", [2, 3])
def test_predict_writes_every_video_once(runs, world):
    one, several = (runs[1] / str(n) / "predict" / "version_0" / "predictions.csv" for n in (1, world))
    assert several.read_bytes() == one.read_bytes()
    assert len(one.read_text().splitlines()) == 8


@pytest.mark.parametrize("world", [2, 3])
def test_videos_that_share_forward_passes_with_others_score_the_same(runs, world):
    """What shares a pass depends on the number of processes, and with it the last digits of the probabilities."""
    (one,) = runs[0][1][0]["batches"]["scores"]
    (several,) = runs[0][world][0]["batches"]["scores"]
    for name in ("top1", "top5", "clip_top1", "clip_top5", "videos", "failed"):
        assert several[name] == one[name]
    assert float(several["loss"]) == pytest.approx(float(one["loss"]), rel=1e-6)


def test_the_validation_of_fit_on_two_processes_is_that_of_one_on_its_checkpoint(tiny_config, weights, lists, tmp_path):
    """As a user starts it: batch norm, shares of 4 and 3 videos, a broken one among them, a sanity check before."""
    options = ["--model.norm", "bn", "--model.norm_kwargs", "null", "--data.val_list", lists / "seven.txt"]
    several = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.default_root_dir", tmp_path]
    training = ["--model.init_from", weights, "--data.batch_size", "2", "--trainer.num_sanity_val_steps", "2"]
    training += ["--trainer.max_epochs", "2", "--model.recipe.lr", "0.001", "--trainer.val_check_interval", "1"]
    code, output = command_line("fit", "-c", tiny_config, *options, *training, *several)
    assert code == 0, output
    assert output.count("broken0.mp4") == 1  # told once, by the process that has it
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    options = [str(option) for option in options]
    assert run("validate", tiny_config, tmp_path, *options, "--ckpt_path", str(last)) == 0
    two, one = metrics(tmp_path / "version_0"), metrics(tmp_path / "version_1")
    scores = {name: value for name, value in one.items() if name.startswith("val/")}
    assert scores["val/videos"] == "7.0"
    assert 0 < float(scores["val/top1"]) < 1
    assert {name: two[name] for name in scores} == scores


FAILING = """
import os, sys, time
from videogn.cli import main
from videogn.module import VideoClassifier

forward, videos = VideoClassifier.forward, 0

def fail(self, clips):
    global videos
    videos += 1
    if videos == 2 and self.trainer.global_rank != int(os.environ["FAILS"]):
        time.sleep(3600)
    return forward(self, clips) * (1 if videos == 1 else float("nan"))

VideoClassifier.forward = fail
sys.exit(main())
"""


@pytest.mark.parametrize(("world", "rank"), [(3, 1)])
def test_when_one_process_fails_all_end_at_once_with_its_message(
    tiny_config, weights, lists, tmp_path, runs, world, rank, caplog
):
    """In its second video; others are in the middle of one that takes an hour, or wait for the end. The same
    command on one process goes on from there."""
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    options = ["--model.norm", "bn", "--model.norm_kwargs", "null", "--data.val_list", lists / "seven.txt"]
    several = ["--trainer.devices", world, "--trainer.strategy", "ddp", "--trainer.default_root_dir", tmp_path]
    options += ["--ckpt_path", weights]
    code, output = command_line("validate", "-c", tiny_config, *options, *several, script=[script], FAILS=rank)
    assert code == 1, output
    video = (lists / "seven.txt").read_text().splitlines()[4].split()[0]  # of 0, 2, 4, 6 and of 1, 4
    assert output.count(video) == 1, output
    assert "not finite" in output
    assert "Traceback" not in output
    assert "c10d" not in output
    assert run("validate", tiny_config, tmp_path, *map(str, options)) == 0
    assert "of 7 videos are done" in caplog.text
    assert metrics(tmp_path / "version_1") == metrics(runs[1] / "1" / "seven" / "version_0")
