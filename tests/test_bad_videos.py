"""Videos that training replaces: rows, resume, the limit, and what the command says."""

import csv
import shutil
from types import SimpleNamespace

import pytest
import torch
from runs import metrics, run

from videogn.callbacks import BadVideos
from videogn.callbacks.bad_videos import FILE, add_rows, forget_rows, grouped
from videogn.cli import main
from videogn.data.batches import ClipBatch
from videogn.errors import VideoError


def batch(size: int, bad: list[str]) -> ClipBatch:
    empty = torch.empty(size)
    return ClipBatch(empty, empty, empty, [(path, "empty file (0 bytes)") for path in bad])


def trainer(folder, step=0, rank=0, world=2):
    return SimpleNamespace(
        log_dir=str(folder),
        default_root_dir=str(folder),
        fast_dev_run=False,
        barebones=False,
        global_rank=rank,
        is_global_zero=rank == 0,
        world_size=world,
        global_step=step,
        current_epoch=step // 10,
        datamodule=SimpleNamespace(root="/data"),
    )


def steps(callback, folder, numbers, bad, rank=0):
    """Some steps of a run; ``bad``: step -> paths."""
    callback.on_train_start(trainer(folder, numbers[0], rank), None)
    for step in numbers:
        callback.on_train_batch_start(trainer(folder, step, rank), None, batch(8, bad.get(step, [])), step)


def rows(path):
    return list(csv.DictReader(path.open(newline="")))


def test_rows_and_their_second_coming(tmp_path):
    """Steps 4 to 7 are run again after a kill; process 1 has a file of its own."""
    bad = {2: ["a.mp4"], 5: ["b, 1.mp4", "c.mp4"], 12: ["a.mp4"]}
    first = BadVideos()
    steps(first, tmp_path, range(8), bad)
    steps(BadVideos(), tmp_path, range(8), {6: ["other.mp4"]}, rank=1)
    with (tmp_path / FILE).open("a") as file:
        file.write('0,7,"half a r')  # killed while it wrote
    again = BadVideos()
    again.load_state_dict({"drawn": 33.0, "bad": 1.0})  # of step 4
    steps(again, tmp_path, range(4, 14), bad)
    found = rows(tmp_path / FILE)
    assert [(row["epoch"], row["step"], row["path"]) for row in found] == [
        ("0", "2", "a.mp4"),
        ("0", "5", "b, 1.mp4"),
        ("0", "5", "c.mp4"),
        ("1", "12", "a.mp4"),
    ]
    assert {row["reason"] for row in found} == {"empty file (0 bytes)"}
    whole = BadVideos()
    steps(whole, tmp_path / "whole", range(14), bad)
    assert again.state_dict() == whole.state_dict() == {"drawn": 14 * 8 + 4, "bad": 4}
    assert (tmp_path / "whole" / FILE).read_bytes() == (tmp_path / FILE).read_bytes()
    assert [row["path"] for row in rows(tmp_path / "videos_replaced-1.csv")] == ["other.mp4"]
    # Process 1 is gone in the next part of the run; its later rows go with those of process 0.
    BadVideos().on_train_start(trainer(tmp_path, 3, 0, world=1), None)
    assert rows(tmp_path / "videos_replaced-1.csv") == []
    assert [row["step"] for row in rows(tmp_path / FILE)] == ["2"]


def test_names_that_are_hard_to_write(tmp_path):
    names = ["with\nline.mp4", 'quoted ",".mp4', "vertical\x0btab.mp4", "latin\udce9.mp4"]
    path = str(tmp_path / FILE)
    add_rows(path, 0, 1, [(name, "cut off") for name in names])
    forget_rows(path, 2)
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["path"] for row in csv.DictReader(file)] == names


def test_the_limit(tmp_path):
    few = {step: [f"{step}.mp4"] for step in range(10)}  # 10 of 90: tolerated
    steps(BadVideos(), tmp_path / "few", range(10), few)
    steps(BadVideos(0.2), tmp_path / "rare", range(200), {step: [f"{step}.mp4"] for step in range(200)})  # 1 of 9
    many = {step: [f"v{step:02d}.mp4", "same.mp4"] for step in range(10)}
    with pytest.raises(VideoError) as caught:
        steps(BadVideos(), tmp_path / "many", range(10), many)
    text = str(caught.value)
    assert text.startswith("/data: 20.0% of the videos that training has drawn could not be read (12 of 60), more than")
    assert "empty file (0 bytes) (7 files):\n    same.mp4\n    v00.mp4\n" in text
    assert len(rows(tmp_path / "many" / FILE)) == 12
    steps(BadVideos(1.0), tmp_path / "all", range(20), {step: ["x.mp4"] * 80 for step in range(20)})


def test_a_disk_that_fails_late_is_noticed(tmp_path):
    callback = BadVideos()
    callback.on_train_start(trainer(tmp_path), None)
    for step in range(20_000):
        callback.on_train_batch_start(trainer(tmp_path, step), None, batch(8, []), step)
    callback._path = None
    half = [batch(8, [str(4 * step + i) for i in range(4)]) for step in range(500)]
    with pytest.raises(VideoError, match=r"10\.0%"):
        [callback.on_train_batch_start(trainer(tmp_path), None, each, 0) for each in half]


def test_a_list_of_many():
    found = {f"{i:02d}.mp4": "cut off" for i in range(30)} | {"x.mp4": "empty file (0 bytes)"}
    lines = grouped(found, "videos_replaced.csv").splitlines()
    assert lines[0] == "  cut off (30 files):"
    assert lines[1:21] == [f"    {i:02d}.mp4" for i in range(20)]
    assert lines[21:] == ["  and 11 more: see videos_replaced.csv"]


def test_the_command_stops_with_the_list(tiny_config, tiny_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    videos = sorted(data.glob("train/*/*.mp4"))
    for path in videos[:5]:
        path.write_bytes(path.read_bytes()[:300])
    options = ["--data.root", str(data), "--data.num_workers", "1", "--trainer.max_epochs", "4"]
    capsys.readouterr()
    code = run("fit", tiny_config, tmp_path, *options, "--bad_videos.tolerated", "5", "--bad_videos.max_share", "0.3")
    error = capsys.readouterr().err
    assert code == 1, error
    assert f"{data}: " in error
    assert "more than the 30.0% of bad_videos.max_share" in error
    assert str(videos[0]) in error
    assert "Traceback" not in error
    found = rows(tmp_path / "version_0" / FILE)
    assert {row["path"] for row in found} <= {str(path) for path in videos[:5]}
    # The same run with a higher limit.
    assert run("fit", tiny_config, tmp_path / "b", *options, "--bad_videos.max_share", "0.9") == 0
    logged = metrics(tmp_path / "b" / "version_0")
    last = [row for row in rows(tmp_path / "b" / "version_0" / FILE) if row["epoch"] == "3"]
    assert float(logged["train/videos_replaced"]) == len(last) > 0


def test_wrong_options(tiny_config, capsys):
    for option, value, words in (("max_share", "1.5", "from 0 to 1"), ("tolerated", "-1", "at least 0")):
        assert main(["fit", "-c", str(tiny_config), f"--bad_videos.{option}", value]) == 2
        assert f"bad_videos.{option}: expected" in (error := capsys.readouterr().err)
        assert words in error
