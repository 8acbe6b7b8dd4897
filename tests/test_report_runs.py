"""Runs of a report: found, read, checked and named; whatever their folders hold, a message and never a traceback."""

import dataclasses
import math
import os

import numpy as np
import pytest
from report_damage import LABELS, NAMES, PATHS, change, message
from report_runs import draw_results, write_run

from videogn.report.curves import read_curves
from videogn.report.naming import distinguished
from videogn.report.runs import read_runs
from videogn.report.statistics import headline
from videogn.results import VideoResult, write_predictions
from videogn.spec import ClipSpec, Protocol


@pytest.fixture
def make(tmp_path):
    def make(name, *, names=NAMES, results=None, **kwargs):
        results = results or draw_results(LABELS, PATHS, len(names), skill=1.0)
        return str(write_run(tmp_path / name, results, names, **kwargs))

    return make


# -- what is read ----------------------------------------------------------------------------------------------------


def test_a_run_of_the_command_line(fitted):
    run, again = (read_runs([str(folder)])[0] for folder in (fitted, fitted.parent))
    assert (run.name, run.norm, run.differences) == ("gn", "gn", {})
    assert run.folder == again.folder == run.trained_in == str(fitted)
    assert (run.given, again.given) == (str(fitted), str(fitted.parent))
    assert len(run.results) == 8
    assert len(run.class_names) == 8
    assert run.clip.protocol.clips == 2
    assert run.training.batch_size == 4
    assert {"train/loss", "val/top1"} <= set(run.curves)
    assert headline(run.results).top1.value == run.evaluation.scores["top1"] == run.curves["val/top1"].values[-1]


def test_results_come_back_as_they_were_written(make):
    results = draw_results(LABELS, PATHS, 8, skill=1.0, failed=[3])
    (run,) = read_runs([make("run", results=results)])
    assert run.class_names == NAMES
    assert [r.id for r in run.results] == list(range(20))
    for found, written in zip(run.results, results, strict=True):
        assert found.probabilities == pytest.approx(written.probabilities, rel=1e-8)
        assert dataclasses.replace(found, probabilities=(), label_probability=None) == dataclasses.replace(
            written, probabilities=(), label_probability=None
        )


def test_the_newest_version_with_an_evaluation_is_taken(make, tmp_path):
    for version in (2, 10, 9):
        make(f"run/version_{version}")
    (tmp_path / "run" / "version_11").mkdir()  # was stopped before its first validation
    (tmp_path / "run" / "version_12x").mkdir()
    (run,) = read_runs([str(tmp_path / "run")])
    assert run.folder == str(tmp_path / "run" / "version_10")


def test_an_evaluation_of_its_own_finds_the_run_that_trained(make, tmp_path):
    trained = make("trained/version_0")
    evaluated = make("evaluated")
    os.unlink(os.path.join(evaluated, "training.json"))
    os.unlink(os.path.join(evaluated, "metrics.csv"))
    change(evaluated, checkpoint=os.path.join(trained, "checkpoints", "last.ckpt"))
    (run,) = read_runs([evaluated])
    assert (run.folder, run.trained_in) == (evaluated, trained)
    assert run.training is not None
    assert "train/loss" in run.curves
    for gone in (str(tmp_path / "gone" / "checkpoints" / "x.ckpt"), "x.ckpt", "\0/checkpoints/x", "", trained):
        change(evaluated, checkpoint=gone)
        (run,) = read_runs([evaluated])
        assert (run.trained_in, run.training, run.curves) == (evaluated, None, {})


def test_classes_without_names_are_their_numbers(make):
    numbers = [str(i) for i in range(8)]
    folder = make("run", names=numbers)
    change(folder, class_names=None)
    assert read_runs([folder])[0].class_names == numbers
    for wrong in (None, True, 0, 10**6, "8", 8.0):
        change(folder, architecture__num_classes=wrong)
        assert "num_classes" in message(folder)


# -- curves ----------------------------------------------------------------------------------------------------------


def curves_of(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    return read_curves(str(tmp_path))


def test_columns_that_are_filled_in_different_rows(tmp_path):
    found = curves_of(
        tmp_path, "epoch,step,train/loss,val/top1\n0,0,2.5,\n,1,2.25,\n0,1,,0.5\n1,2,nan,\n1,3,inf,0.75\n"
    )
    loss, top1 = found["train/loss"], found["val/top1"]
    assert loss.steps.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(loss.values, [2.5, 2.25, math.nan, math.nan])
    np.testing.assert_array_equal(loss.epochs, [0, math.nan, 1, 1])
    assert (top1.steps.tolist(), top1.values.tolist(), top1.epochs.tolist()) == ([1, 3], [0.5, 0.75], [0, 1])
    assert set(found) == {"train/loss", "val/top1"}


def test_of_a_run_that_went_back_what_came_last_counts(tmp_path):
    found = curves_of(tmp_path, "step,a\n0,1\n1,2\n2,3\n1,20\n2,30\n3,40\n")
    assert (found["a"].steps.tolist(), found["a"].values.tolist()) == ([0, 1, 2, 3], [1, 20, 30, 40])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step,a\n",
        "step,a\n,1\nx,1\nnan,1\ninf,1\n-1,1\n1e300,1\n",
        "step,a\n1,\n2,x\n3\n",
        "step,a\n5,1,2,3\n",
        "a,step,a\n1,2,3\n",
        "step,a\n1,\x00\n",
        'step,a\n1,"2',
    ],
)
def test_cells_without_numbers_are_left_out(tmp_path, text):
    for curve in curves_of(tmp_path, text).values():
        assert len(curve.steps) == len(curve.values) == len(curve.epochs) == 1
        assert curve.values[0] in (1, 2, 3)


def test_metrics_that_are_no_metrics(tmp_path, make):
    folder = make("run")
    for content in (b"loss,top1\n1,2\n", b"\xff\xfe\n", b"a,step\n" + b"x" * 200_000 + b",1\n"):
        with open(os.path.join(folder, "metrics.csv"), "wb") as file:
            file.write(content)
        assert "metrics.csv" in message(folder)
    os.unlink(os.path.join(folder, "metrics.csv"))
    assert read_runs([folder])[0].curves == {}
    os.mkdir(os.path.join(folder, "metrics.csv"))
    assert "expected a file of the run, found a folder" in message(folder)


# -- what is refused -------------------------------------------------------------------------------------------------


def test_folders_that_are_no_runs(make, tmp_path):
    run = make("runs/gn/version_0")
    assert "expected the folder of a run" in message(tmp_path / "gone")
    assert "found a file" in message(os.path.join(run, "evaluation.json"))
    (tmp_path / "empty").mkdir()
    assert "no evaluation.json and no predictions.csv" in message(tmp_path / "empty")
    assert "videogn validate" in message(tmp_path / "empty")
    assert f"name those to report: {tmp_path / 'runs' / 'gn'}" in message(tmp_path / "runs")
    os.unlink(os.path.join(run, "predictions.csv"))
    assert "no predictions.csv in it" in message(run)
    assert "in none of its versions" in message(tmp_path / "runs" / "gn")
    assert "\0" in message(f"{run}\0")


def test_a_run_is_named_once(make, tmp_path):
    run = make("run/version_0")
    (tmp_path / "link").symlink_to(run)
    for same in (run, tmp_path / "run", tmp_path / "link", f"{run}/../version_0/"):
        assert "same run" in message(run, same)


def test_runs_of_other_classes_are_not_compared(make):
    a = make("a", names=list("abcdefgh"))
    assert "9 classes, but 8" in message(a, make("b", names=list("abcdefghi")))
    assert "class 7 is 'x', but 'h'" in message(a, make("c", names=list("abcdefgx")))
    assert "another order" in message(a, make("d", names=list("abcdefhg")))


def test_videos_without_labels_are_nothing_to_compare_with(make):
    unknown = [
        dataclasses.replace(r, label=-1, label_rank=None, label_probability=None, view_label_ranks=())
        for r in draw_results(LABELS, PATHS, 8, skill=1.0)
    ]
    folder = make("run")
    write_predictions(os.path.join(folder, "predictions.csv"), unknown, NAMES)
    change(folder, scores={}, split="predict")
    assert "videos without labels" in message(folder)
    change(folder, split="val")
    assert "videos without labels" in message(folder)
    write_predictions(os.path.join(folder, "predictions.csv"), [], NAMES)
    assert "lists no video" in message(folder)
    labelled = make("labelled")
    change(labelled, scores={}, split="predict")
    assert "is of `videogn predict`" in message(labelled)


def test_files_of_different_evaluations(make):
    folder = make("run")
    other = draw_results(LABELS, PATHS, 8, skill=3.0, seed=5)
    write_predictions(os.path.join(folder, "predictions.csv"), other, NAMES)
    assert "not of one evaluation: top1" in message(folder)
    write_predictions(os.path.join(folder, "predictions.csv"), other[:7], NAMES)
    assert "not of one evaluation: videos is 20 in the first and 7 in the second" in message(folder)


def test_all_videos_failed(make):
    bad = [VideoResult(i, p, 0, "no frames") for i, p in enumerate(PATHS)]
    folder = make("run")
    write_predictions(os.path.join(folder, "predictions.csv"), bad, NAMES)
    change(folder, scores={"top1": math.nan, "videos": 20, "failed": 20})
    (run,) = read_runs([folder])
    assert headline(run.results).failed == 20


# -- names -----------------------------------------------------------------------------------------------------------


def names(runs):
    return [run.name for run in runs]


def test_runs_are_named_by_norm_and_by_what_is_different(make):
    gn, bn, ln = (make(f"{norm}/version_0", norm=norm) for norm in ("gn", "bn", "ln"))
    assert names(read_runs([gn, bn, ln])) == ["gn", "bn", "ln"]
    assert names(read_runs([bn])) == ["bn"]
    small = make("small/version_0", norm="bn")
    change(small, "training.json", batch_size=2)
    runs = read_runs([gn, bn, small])
    assert names(runs) == ["gn, batch 4", "bn, batch 4", "bn, batch 2"]
    assert [run.differences["batch"] for run in runs] == ["4", "4", "2"]
    assert set(runs[0].differences) == {"norm", "norm arguments", "batch"}
    groups = make("groups/version_0")
    change(groups, architecture__norm_kwargs={"num_groups": 16})
    assert names(read_runs([gn, groups])) == ["gn, num_groups=32", "gn, num_groups=16"]
    long = make("long/version_0", clip=ClipSpec(frames=64, stride=1, protocol=Protocol(preset="30view", clips=3)))
    assert names(read_runs([gn, long])) == ["gn, 8x2, full crops", "gn, 64x1, three crops"]


def test_runs_without_differences_are_named_by_their_folders(make):
    a, b, c = make("one/version_0"), make("two/version_0"), make("two/version_1")
    assert names(read_runs([a, b])) == ["gn, one", "gn, two"]
    assert names(read_runs([b, c])) == ["gn, version_0", "gn, version_1"]
    assert names(read_runs([a, b, c])) == ["gn, one/version_0", "gn, two/version_0", "gn, two/version_1"]
    d = make("gn_long/version_0")
    assert names(read_runs([a, d])) == ["gn, one", "gn_long"]


def test_names_are_short_on_one_line_and_unique_whatever_the_files_say(make):
    folders = [make(f"run{i}") for i in range(3)]
    for i, folder in enumerate(folders):
        change(folder, architecture__norm=f"<b>\n{'x' * 500}", architecture__depth={"a": [i] * 300})
        change(folder, "training.json", batch_size=None)
    found = names(read_runs(folders))
    assert len(set(found)) == 3
    assert all(len(name) < 80 and "\n" not in name for name in found)
    change(folders[0], architecture__norm=None, architecture__norm_kwargs=[3])
    assert read_runs(folders[:1])[0].norm == "?"
    change(folders[0], clip={})
    assert read_runs(folders)[0].clip is None


def test_no_runs_have_no_names():
    assert distinguished([], []) == read_runs([]) == []
