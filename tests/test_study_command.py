"""`videogn study` as a command: real runs, killed and gone on with, and what it leaves."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from study_made import make_outcome

from videogn.cli import main
from videogn.study.environment import command_line, environment
from videogn.study.grid import Cell

ROOT = Path(__file__).parents[1]
TINY = {
    "model.width": 8,
    "model.norm_kwargs.num_groups": 4,
    "data.root": "videos",
    "data.demo": {"train_per_class": 4, "val_per_class": 1, "classes": ["left", "right"]},
    "model.num_classes": 2,
    "data.clip.frames": 4,
    "data.clip.train_crop": 32,
    "data.clip.train_short_side": [32, 32],
    "data.clip.protocol": {"clips": 1, "crop": "center", "crop_size": 32, "short_side": 32},
    "trainer.max_epochs": 2,
    "trainer.log_every_n_steps": 1,
}
STUDY = {
    "title": "Tiny",
    "base": [str(ROOT / "configs" / "demo_study.yaml")],
    "options": {**TINY, "model.norm": "gn"},
    "axes": {
        "norm": {"gn": {}, "bn": {"config": str(ROOT / "configs" / "norm" / "bn.yaml")}},
        "batch_size": [4, 2],
    },
    "seeds": [0],
    "checkpoints": False,
}
COMMAND = [sys.executable, "-m", "videogn", "study", "-c", "tiny.yaml", "--jobs", "2"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return tmp_path


@pytest.mark.slow
def test_a_study_that_is_killed_leaves_no_process_and_goes_on(place):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(COMMAND, cwd=place, env=environment, stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    first = killed.stdout.readline()  # one run is done
    assert first.startswith("[1/4] gn"), first
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    deadline = time.monotonic() + 60
    while working(place) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not working(place)

    done = subprocess.run(COMMAND, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("[2/4]")
    output = place / "runs" / "study" / "tiny"
    with open(output / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["norm"], row["batch_size"], row["clips"]) for row in rows] == [
        ("gn", "4", "16"),
        ("gn", "2", "16"),
        ("bn", "4", "16"),
        ("bn", "2", "16"),
    ]
    made = {path.name for path in output.iterdir()}
    assert {"curves.csv", "table.csv", "table.md", "study.json", "study.html", "error.svg", "error.png"} <= made
    assert json.loads((output / "study.json").read_text())["devices"] == ["cpu"]
    assert not list(place.glob("runs/study/cells/*/version_*/checkpoints"))
    shown = ["report", str(place / "runs/study/cells" / rows[0]["folder"]), "--study", str(output), "-o"]
    assert main([*shown, str(place / "page.html")]) == 0
    assert (place / "page.html").read_text().count("data:image/svg+xml") == len(list(output.glob("*.svg"))) >= 2
    assert (place / "runs" / "study" / "cells" / rows[0]["folder"] / "config.yaml").exists()


def working(place):
    """The runs of the study that are at work, by what the system tells of all processes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"fit" in words and (folder / "cwd").resolve() == place.resolve():
                found.append(folder.name)
        except OSError:
            continue
    return found


def test_a_command_is_told_without_places_of_this_machine():
    told = command_line(["-c", "/a/b/grid.yaml", "--data.root=/data/k400", "--folder", "runs/x", "--jobs=2"])
    assert told == "videogn study -c grid.yaml --data.root=k400 --folder runs/x --jobs=2"


@pytest.mark.parametrize(
    ("days", "told"), [((), ""), ((21,), "2026-11-21"), ((22, 20, 21), "2026-11-20 to 2026-11-22")]
)
def test_the_date_is_that_of_the_runs(days, told):
    """Not of the last call, which may have had nothing to run."""
    made = make_outcome(Cell({"norm": "bn"}, {}), 0, 20.0)
    ends = [replace(made, training=replace(made.training, date=f"2026-11-{day}T23:59:01+00:00")) for day in days]
    assert environment("videogn study", [*ends, made])["date"] == told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "none.yaml"], "none.yaml: cannot be read"),
        (["-c", "tiny.yaml", "--jobs", "0"], "--jobs: expected at least 1"),
        (["-c", "tiny.yaml", "--job", "2"], "--job: expected an option of `videogn study --help`"),
        (["-c", "tiny.yaml", "--data.root"], "--data.root: expected an option"),
        (["-c", "tiny.yaml", "-c", "other.yaml"], "-c: expected one study, found tiny.yaml and other.yaml"),
        (["-c", "tiny.yaml", "--data.root={"], "--data.root: expected a value as in YAML, found '{'"),
        (["-c", "tiny.yaml", "--output", "tiny.yaml"], "tiny.yaml: expected a folder that can be made or written"),
        (["-c", "tiny.yaml", "--output", "tiny.yaml/in"], "tiny.yaml/in: expected a folder"),
        (["-c", "tiny.yaml", "--folder", "tiny.yaml"], "tiny.yaml: expected a folder that can be made or written"),
        (["-c", "tiny.yaml", "--seed_everything", "3"], "a study has its seeds in its file"),
    ],
)
def test_wrong_use_is_told_in_one_line(place, capsys, arguments, message):
    assert main(["study", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (place / "runs").exists()
