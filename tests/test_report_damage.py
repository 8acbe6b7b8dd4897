"""Whatever the files of a run hold, a report says what is wrong with them."""

import math
import os
import random
import shutil

import pytest
from report_damage import LABELS, NAMES, PATHS, change, edit, message
from report_runs import draw_results, write_run

from videogn.errors import UsageError
from videogn.report.runs import read_runs
from videogn.report.statistics import headline
from videogn.results import read_predictions
from videogn.spec import ClipSpec


@pytest.fixture
def folder(tmp_path):
    return str(write_run(tmp_path / "run", draw_results(LABELS, PATHS, 8, skill=1.0), NAMES))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("format", 2),
        ("split", 3),
        ("scores", []),
        ("scores", {"top1": "high"}),
        ("scores", {"top1": math.inf}),
        ("scores", {"top1": 10**400}),
        ("scores", {}),
        ("clip", 7),
        ("clip", {"frames": "x"}),
        ("clip", {"frames": 2.5}),
        ("clip", {"frames": 10**9}),
        ("clip", {"mean": 3}),
        ("clip", {"mean": ["a", "b", "c"]}),
        ("clip", {"std": [1, 1, "c"]}),
        ("clip", {"unknown": 3}),
        ("clip", {"protocol": {"clips": 0}}),
        ("clip", {"protocol": {"clips": 10**9}}),
        ("clip", {"protocol": {"crop": []}}),
        ("clip", {"protocol": {"preset": {}}}),
        ("clip", {"protocol": []}),
        ("clip", {"protocol": [1]}),
        ("clip", {"protocol": {"frames": 10**30}}),
        ("architecture", None),
        ("architecture", {"num_classes": 9}),
        ("class_names", "abc"),
        ("class_names", ["a", 3]),
        ("class_names", []),
        ("class_names", ["a", "a"]),
        ("class_names", ["a", ""]),
        ("class_names", list("abcdefgh")),
        ("seconds", math.nan),
        ("seconds", -1),
        ("seconds", "long"),
        ("seconds_videos", 1.5),
        ("peak_memory_bytes", 10**400),
        ("processes", None),
        ("processes", True),
        ("versions", {"torch": 2}),
        ("date", None),
    ],
    ids=lambda value: f"{value!s:.30}",
)
def test_damaged_evaluation(folder, entry, value):
    change(folder, **{entry: value})
    # An empty protocol is the default one.
    if (entry, value) == ("clip", {"protocol": []}):
        assert read_runs([folder])[0].clip == ClipSpec()
    else:
        assert folder in message(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"format": 1' + b"0" * 5000 + b"}"])
@pytest.mark.parametrize("file", ["evaluation.json", "training.json", "predictions.csv"])
def test_files_that_hold_something_else(folder, file, content):
    with open(os.path.join(folder, file), "wb") as stream:
        stream.write(content)
    assert file in message(folder)


@pytest.mark.parametrize("entry", [{"batch_size": "x"}, {"seconds": math.inf}, {"clips": -5}, {"device": 3}])
def test_damaged_training(folder, entry):
    change(folder, "training.json", **entry)
    assert "training.json" in message(folder)


@pytest.mark.parametrize(
    "cells",
    [
        {"id": "1"},
        {"id": "x"},
        {"id": "9" * 5000},
        {"label": "no such class"},
        {"class_1": "no such class"},
        {"class_1": ""},
        {"class_2": "", "class_3": "", "class_4": "", "class_5": ""},
        {"class_1": "b", "class_2": "b"},
        {"probability_1": "nan"},
        {"probability_1": "inf"},
        {"probability_1": "1.5"},
        {"probability_5": "-0.5"},
        {"probability_5": "0.99"},
        {"probability_1": "high"},
        {"label_rank": "8"},
        {"label_rank": "-1"},
        {"label_rank": ""},
        {"label_rank": "7"},
        {"label_probability": "nan"},
        {"label_probability": "2"},
        {"label_probability": ""},
        {"label": ""},
        {"view_top1": "1 2 8"},
        {"view_top1": "1 x"},
        {"view_top1": ""},
        {"view_label_ranks": "0"},
        {"view_label_ranks": "0 0 -1"},
        {"subset_top1": "99"},
    ],
    ids=lambda cells: f"{cells!s:.40}",
)
def test_impossible_rows(folder, cells):
    edit(folder, 0, **cells)
    assert "predictions.csv" in message(folder)


def test_bytes_at_random_give_a_message_or_a_run(tmp_path):
    results = draw_results(LABELS, PATHS, 8, skill=1.0)
    good = str(write_run(tmp_path / "good", results, [str(i) for i in range(8)]))
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        folder = str(tmp_path / "fuzz")
        shutil.copytree(good, folder)
        file = os.path.join(folder, rng.choice(["evaluation.json", "training.json", "predictions.csv", "metrics.csv"]))
        with open(file, "rb") as stream:
            data = bytearray(stream.read())
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(data))
            if rng.random() < 0.3:
                del data[place : place + rng.randint(1, 200)]
            else:
                data[place] = rng.choice(b'\0\xff\n,"-9eN[{}]: ')
        with open(file, "wb") as stream:
            stream.write(data)
        try:
            (run,) = read_runs([folder])
            headline(run.results, resamples=10)
        except UsageError:
            refused += 1
        shutil.rmtree(folder)
    assert 50 < refused < 300


def test_predictions_of_another_class_list(folder):
    with pytest.raises(UsageError, match=r"predictions\.csv: row 2"):
        read_predictions(os.path.join(folder, "predictions.csv"), ["x", "y"])
