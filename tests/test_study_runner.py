"""Starting, stopping and resuming the runs of a study, with a stand-in for `videogn fit` that takes no time."""

import csv
import json
import os
import shutil
import time

import pytest
import yaml

from videogn.cli import main
from videogn.data.files import lock_folder
from videogn.study.file import read_study
from videogn.study.outcomes import cell_results, read_outcome, read_record
from videogn.study.rates import choose_rates
from videogn.study.runner import _environments, run_all
from videogn.study.runs import pretraining_runs, rate_runs, result_runs

FIT = """
import os, signal, sys, time
from pathlib import Path
import yaml

config = yaml.safe_load(Path(sys.argv[sys.argv.index("-c") + 1]).read_text())
assert sys.argv[1] == "fit" and sys.argv[-2:] == ["--ckpt_path", "last"], sys.argv
folder, fake = Path(config["trainer"]["default_root_dir"]), config["fake"]
checkpoints = folder / "version_0" / "checkpoints"
checkpoints.mkdir(parents=True, exist_ok=True)
again = (checkpoints / "last.ckpt").exists()
(checkpoints / "last.ckpt").touch()
if fake.get("fails") or config["model"]["recipe"]["lr"] > fake.get("fails_above", 1):
    sys.exit("videogn: error: no such option")
if fake.get("killed"):
    (checkpoints / "last.ckpt").unlink(), checkpoints.rmdir(), checkpoints.parent.rmdir()
    os.kill(os.getpid(), signal.SIGKILL)
if fake.get("meet"):  # ends when as many runs are at work at the same time
    place = Path(fake["meet"])
    (place / folder.name).touch()
    deadline = time.monotonic() + 60
    while len(list(place.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(list(place.iterdir())) >= 2
if fake.get("waits") and not again:
    if fake["waits"] != "early":  # before it listens
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    (folder / "waiting").touch()
    time.sleep(60)
top1 = fake.get("top1", 0.5) - abs(config["model"]["recipe"]["lr"] - 0.01)
(folder / "version_0" / "metrics.csv").write_text(
    f"epoch,step,val/top1,val/top5,val/clip_top1,val/clip_top5,val/loss\\n0,9,0.1,1,0.1,1,3\\n1,19,{top1},1,0.4,0.9,2\\n"
)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Makes a study of two norms and two seeds, whose runs are the stand-in's."""
    package = tmp_path / "path" / "videogn"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FIT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.chdir(tmp_path)  # python -m looks for its module there first

    def made(bn=None, gn=None, **changes):
        path = tmp_path / "grid.yaml"
        axes = {"norm": {"bn": {"fake": bn or {}}, "gn": {"fake": gn or {"top1": 0.75}}}}
        options = {"model.recipe.lr": 0.01}
        grid = {"options": options, "axes": axes, "seeds": [0, 1], "folder": str(tmp_path / "runs"), **changes}
        path.write_text(yaml.safe_dump(grid))
        return read_study(path)

    return made


def runs_of(study):
    return result_runs(study, {}, {})


def test_all_runs_are_run_once_and_their_last_scores_are_read(study):
    one, said = study(), []
    outcomes = run_all(runs_of(one), 2, True, said.append)
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    assert [outcome.scores["top1"] for outcome in outcomes] == [0.5, 0.75, 0.5, 0.75]
    assert len(said) == 4
    assert all("top-1" in line for line in said)
    results = cell_results(one, outcomes)
    assert [(r.cell.name, r.errors, r.missing) for r in results] == [
        ("bn", {0: 50.0, 1: 50.0}, 0),
        ("gn", {0: 25.0, 1: 25.0}, 0),
    ]
    said.clear()
    again = run_all(runs_of(one), 2, True, said.append)
    assert said == []
    assert [outcome.scores for outcome in again] == [outcome.scores for outcome in outcomes]
    assert {read_record(run.folder)["starts"] for run in runs_of(one)} == {1}


def test_several_are_at_work_at_once(study, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    one = study(bn={"meet": str(place)}, gn={"meet": str(place), "top1": 0.6}, seeds=[0])
    assert [outcome.status for outcome in run_all(runs_of(one), 2, True, print)] == ["done"] * 2


def test_one_that_fails_is_told_and_the_others_go_on(study):
    one, said = study(bn={"fails": True}), []
    outcomes = run_all(runs_of(one), 1, True, said.append)
    assert [outcome.status for outcome in outcomes] == ["failed", "done", "failed", "done"]
    assert "bn, seed 0: failed: no such option" in said[0]
    assert [r.missing for r in cell_results(one, outcomes)] == [2, 0]
    run_all(runs_of(one), 1, True, said.append)
    assert {read_record(run.folder)["starts"] for run in runs_of(one)} == {1, 2}


@pytest.mark.parametrize(("waits", "code"), [(True, 143), ("early", -15)])
def test_what_is_at_work_saves_when_the_study_is_stopped_and_goes_on_later(study, waits, code):
    one = study(bn={"waits": waits}, seeds=[0])
    bn, gn = runs_of(one)

    def stop(text):
        for _ in range(600):
            if (bn.folder / "waiting").exists():
                raise KeyboardInterrupt
            time.sleep(0.1)

    with pytest.raises(KeyboardInterrupt):
        run_all([bn, gn], 2, True, stop)
    assert read_record(bn.folder)["exit_code"] == code
    assert [read_record(run.folder)["status"] for run in (bn, gn)] == ["interrupted", "done"]
    assert [outcome.status for outcome in run_all([bn, gn], 2, True, print)] == ["done", "done"]
    assert read_record(bn.folder)["starts"] == 2


def test_what_another_study_is_at_is_left_to_it(study):
    one, said = study(seeds=[0]), []
    bn, _ = runs_of(one)
    bn.folder.mkdir(parents=True)
    descriptor = lock_folder(str(bn.folder))
    try:
        outcomes = run_all(runs_of(one), 2, True, said.append)
    finally:
        os.close(descriptor)
    assert [outcome.status for outcome in outcomes] == ["missing", "done"]
    assert "left to another `videogn study`" in said[0]


def test_what_another_study_has_done_since_is_not_run_again(study):
    one, said = study(seeds=[0]), []
    bn, gn = runs_of(one)

    def meanwhile(text):
        said.append(text)
        run_all([gn], 1, False, print)

    assert [outcome.status for outcome in run_all([bn, gn], 1, False, meanwhile)] == ["done"] * 2
    assert read_record(gn.folder)["starts"] == 1
    assert said[1:] == ["gn, seed 0: done by another `videogn study`"]


def test_a_start_that_ended_before_its_first_checkpoint_is_not_in_the_way(study):
    one = study(seeds=[0])
    bn, _ = runs_of(one)
    (bn.folder / "version_0" / "checkpoints").mkdir(parents=True)
    (bn.folder / "version_0" / "metrics.csv").write_text("old")
    assert [outcome.status for outcome in run_all(runs_of(one), 1, True, print)] == ["done"] * 2
    assert bn.weights.exists()


@pytest.mark.parametrize("keep", [True, False])
def test_checkpoints_of_finished_runs_are_kept_if_they_are_wanted(study, keep):
    for run in runs_of(one := study(seeds=[0])):
        run_all(runs_of(one), 1, keep, print)
        assert (run.folder / "version_0" / "checkpoints").exists() == keep
        assert (run.folder / "version_0" / "metrics.csv").exists()


def test_the_best_rate_of_each_cell_is_chosen(study):
    one = study(learning_rates={"values": [0.001, 0.02, 0.5], "seed": 7})
    outcomes = run_all(rate_runs(one, {}), 2, True, print)
    assert choose_rates(outcomes) == {"bn": 0.001, "gn": 0.001}  # the nearest to 0.01, where the stand-in is best
    assert [run.lr for run in result_runs(one, {}, choose_rates(outcomes))] == [0.001] * 4


def test_a_rate_with_which_runs_fail_is_not_chosen(study):
    one = study(bn={"fails": True}, learning_rates={"values": [0.001, 0.02], "seed": 7})
    assert choose_rates(run_all(rate_runs(one, {}), 2, True, print)) == {"gn": 0.001}


def test_no_rate_is_chosen_before_all_have_been_tried(study):
    one = study(learning_rates={"values": [0.001, 0.02], "seed": 7})
    runs = rate_runs(one, {})
    assert choose_rates([*run_all(runs[:1], 1, True, print), read_outcome(runs[1])]) == {}


def test_runs_at_a_rate_that_was_not_chosen_do_not_count(study):
    one = study(learning_rates={"values": [0.001, 0.01], "seed": 7})  # the configuration's is among them
    run_all(result_runs(one, {}, {"bn": 0.01, "gn": 0.01}), 2, True, print)
    found = cell_results(one, [read_outcome(run) for run in result_runs(one, {}, {"gn": 0.01})])
    assert [(result.cell.name, result.lr, result.missing) for result in found] == [("bn", None, 2), ("gn", 0.01, 0)]


def test_a_run_that_others_need_holds_up_those_alone(study, tmp_path, capsys):
    study(
        bn={"fails": True},
        pretraining={"axis": "norm", "options": {"data.root": "others"}},
        learning_rates={"values": [0.001, 0.02], "seed": 7},
    )
    output = tmp_path / "tables"
    assert main(["study", "-c", str(tmp_path / "grid.yaml"), "-o", str(output)]) == 1
    told = capsys.readouterr()
    assert "gn: learning rate 0.001" in told.out
    assert "videogn: 5 of 10 runs are not done" in told.err  # bn's pre-training, both its rates, both its seeds
    with open(output / "runs.csv", newline="") as file:
        assert [(row["norm"], row["seed"]) for row in csv.DictReader(file)] == [("gn", "0"), ("gn", "1")]


def test_a_rate_that_failed_is_not_tried_again_when_another_is_chosen(study, tmp_path, capsys):
    """The stand-in fails with the rate that is too high; the study is complete all the same."""
    study(bn={"fails_above": 0.1}, learning_rates={"values": [0.001, 0.5], "seed": 7})
    command = ["study", "-c", str(tmp_path / "grid.yaml")]
    assert main(command) == 0
    assert ": failed: " in capsys.readouterr().out
    assert main(command) == 0
    assert ": failed: " not in capsys.readouterr().out


def test_a_pretraining_whose_weights_are_gone_is_run_again(study):
    runs = list(pretraining_runs(study(pretraining={"axis": "norm", "options": {"data.root": "others"}})).values())
    run_all(runs, 1, False, print)
    shutil.rmtree(runs[0].folder / "version_0" / "checkpoints")
    run_all(runs, 1, False, print)
    assert [run.weights.exists() for run in runs] == [True, True]
    assert [read_record(run.folder)["starts"] for run in runs] == [2, 1]


def test_gpus_and_cores_are_shared_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setattr("videogn.study.runner.available_cores", lambda: 8)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in _environments(2)] == ["4,5", "6,7"]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in _environments(6)] == ["4", "5", "6", "7", "4", "5"]
    assert {e["OMP_NUM_THREADS"] for e in _environments(2)} == {"4"}
    assert [e["CUDA_VISIBLE_DEVICES"] for e in _environments(1)] == ["4,5,6,7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert {e["CUDA_VISIBLE_DEVICES"] for e in _environments(2)} == {""}


def test_a_damaged_record_is_named(study):
    one = study(seeds=[0])
    folder = runs_of(one)[0].folder
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "done"})[:-3])
    with pytest.raises(ValueError, match=r"run\.json: cannot be read"):
        run_all(runs_of(one), 1, True, print)


def test_a_run_that_the_system_kills_is_told_as_such(study):
    bn = runs_of(study(bn={"killed": True}))[0]
    said = []
    run_all([bn], 1, True, said.append)
    assert said[0].startswith("[1/1] bn, seed 0: killed, as for lack of memory (signal 9): it said nothing")
    assert read_record(bn.folder)["status"] == "interrupted"
