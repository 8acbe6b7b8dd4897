"""`videogn study --dry-run`: what the plan counts and what a run sees, times by hand-made outcomes, and no run."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from runs import run

from videogn import plan
from videogn.cli import main
from videogn.errors import UsageError
from videogn.memory import Setting, format_bytes
from videogn.results import Training
from videogn.study import costs, dry_run, step_time
from videogn.study.costs import RunCost, count_costs
from videogn.study.estimates import estimate, find_lines, hours_together, seconds_per_work
from videogn.study.file import read_study
from videogn.study.grid import Cell
from videogn.study.outcomes import Outcome
from videogn.study.runs import Run, result_runs

SUB_BN = {"a": {"model.norm": "sub_bn", "model.norm_kwargs": None, "data.batch_size": 3}}
COUNTED = {}
NORMS = {"bn": {"model.norm": "bn", "model.norm_kwargs": None}, "gn": {"model.norm_kwargs.num_groups": 4}}


@pytest.fixture(autouse=True)
def counts(monkeypatch):
    """The networks that a test counts, each really counted once for all tests: it takes half a second."""
    asked = []

    def count(cli):
        asked.append(costs._network_key(cli))
        if asked[-1] not in COUNTED:
            COUNTED[asked[-1]] = plan.count(cli)
        return COUNTED[asked[-1]]

    monkeypatch.setattr(costs, "count", count)
    return asked


@pytest.fixture
def make_study(tiny_config, tmp_path):
    """A study on top of a run of two steps: options in, the study and its runs out."""

    def make(axes=None, **options):
        path = tmp_path / "tiny.yaml"
        axes = axes or {"norm": NORMS, "batch_size": [4, 2]}
        options = {"model.recipe.lr_clips": 8, **options}
        found = {"base": [str(tiny_config)], "options": options, "axes": axes, "seeds": [0, 1]}
        path.write_text(yaml.safe_dump(found, sort_keys=False))
        study = read_study(path, folder=tmp_path / "runs")
        return study, result_runs(study, {}, {})

    return make


def row(text, name):
    """The cells of a line of the table."""
    line = next(line for line in text.splitlines() if line.startswith(name + "  "))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def cost(**fields):
    given = {
        "network": "one", "parameters": 10, "multiply_adds": 1000, "step_bytes": 100, "eval_bytes": 50,
        "setting": Setting("cpu", "32-true"), "device": "cpu", "batch": 4, "processes": 1, "epochs": 3, "clips": 30,
        "why": "", "cli": None,
    }  # fmt: skip
    return RunCost(**{**given, **fields})


def outcome(cell, seed, status="done", seconds=0.0, clips=None):
    run = Run(Cell({"norm": cell}, {}), "result", seed, 0.1, {}, Path(f"{cell}_{seed}"))
    return Outcome(run, status, {}, {}, Training(clips=clips) if clips else None, seconds)


def lines_of(*outcomes):
    return find_lines([outcome.run for outcome in outcomes], outcomes)


# -- what is counted ---------------------------------------------------------------------------------------------------


def test_memory_and_cost_are_those_of_plan(make_study, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study, runs = make_study()
    text = dry_run.dry_run(study, runs, [], 1)
    cell = study.cells[1]
    config = tmp_path / "cell.yaml"
    config.write_text(yaml.safe_dump(cell.config))
    capsys.readouterr()
    assert main(["plan", "-c", str(config), "--format", "json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    found = count_costs({"bn, 2": cell.config}, 1)["bn, 2"]
    assert (found.parameters, found.multiply_adds) == (planned["parameters"], planned["multiply_adds"])
    assert (found.step_bytes, found.eval_bytes) == (planned["peak"], planned["eval_peak"])
    shown = row(text, "bn, 2")
    assert shown[1:6] == ["0", "0", "0", "2", "8"]
    assert shown[8:10] == [format_bytes(planned["peak"]), format_bytes(planned["eval_peak"])]
    assert shown[10].endswith(" s, a step")
    assert "8 runs of 4 cells: 0 done, 0 interrupted, 0 failed, 8 missing" in text
    assert "computing alone, without decoding and validation; with 1 CPU thread" in " ".join(text.split())
    assert "to do: 8 runs, about " in text


def test_cells_with_the_same_network_are_counted_once(make_study, counts):
    study, _ = make_study()
    counted = count_costs({cell.text(): cell.config for cell in study.cells}, 1)
    assert len(counts) == len(set(counts)) == 2
    assert counted["bn, 4"].step_bytes > counted["bn, 2"].step_bytes


def test_clips_are_those_that_a_run_sees(make_study, tiny_config, fitted, tmp_path):
    options = {"data.batch_size": 3, "trainer.max_epochs": 2, "model.recipe.clips_per_step": 6}
    study, _ = make_study({"norm": NORMS}, **options)
    found = count_costs({"gn": study.cells[1].config, "tiny": yaml.safe_load(tiny_config.read_text())}, 1)
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert run("fit", tiny_config, tmp_path / "fit", *words, "--trainer.limit_val_batches", "0") == 0
    trained = json.loads((tmp_path / "fit" / "version_0" / "training.json").read_text())
    assert found["gn"].clips == trained["clips"] == 12  # 6 of the 8 videos in each epoch
    assert found["tiny"].clips == json.loads((fitted / "training.json").read_text())["clips"] == 8


@pytest.mark.parametrize(
    ("trainer", "videos", "clips"),
    [
        ({"max_epochs": 3}, 50, 3 * 48),
        ({"max_epochs": 3, "limit_train_batches": 5}, 50, 3 * 20),
        ({"max_epochs": 3, "limit_train_batches": 0.5}, 50, 3 * 24),
        ({"max_epochs": 3, "max_steps": 7}, 50, 7 * 8),
        ({"max_steps": 7}, 50, 7 * 8),
        ({"max_steps": 7}, None, 7 * 8),
        ({"max_epochs": 3, "max_steps": 7}, None, None),
        ({}, 50, 1000 * 48),
        ({"max_epochs": -1}, 50, None),
    ],
)
def test_clips_of_epochs_steps_and_limits(trainer, videos, clips):
    """4 clips per batch and 2 batches per step."""
    options = {"max_epochs": None, "max_steps": -1, "limit_train_batches": None, **trainer}
    assert costs._clips_seen(SimpleNamespace(**options), videos, 4, 1, 2) == clips


def test_demo_videos_are_not_generated_and_nothing_is_written_or_trained(make_study, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", lambda *args, **kwargs: pytest.fail("a run was started"))
    demo = {"train_per_class": 5, "val_per_class": 1}
    options = {"data.demo": demo, "data.root": str(tmp_path / "demo"), "data.batch_size": 3}
    study, runs = make_study({"norm": NORMS}, **options)
    before = sorted(tmp_path.rglob("*"))
    text = dry_run.dry_run(study, runs, [], 1)
    assert row(text, "gn")[5] == "39"  # of 5 videos in each of 8 classes, in batches of 3
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("root", "why"), [(None, "data.root is not set"), ("/no/where", "found nothing at /no/where")])
def test_without_data_time_is_per_clips(make_study, root, why):
    study, runs = make_study({"norm": NORMS}, **{"data.root": root or "."})
    if root is None:
        for one in runs:
            one.config["data"].pop("root", None)  # the runs of a cell share it
    text = dry_run.dry_run(study, runs, [], 1)
    assert row(text, "gn")[5] == "1 epoch"
    assert row(text, "gn")[10].endswith(" per 1,000 clips, a step")
    assert why in " ".join(text.split())
    assert "to do: 4 runs; their time is unknown" in text


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ({"a": {"model.norm_kwargs.num_groups": 3}}, ["cell a:", "num_groups=3", "allowed"]),
        ({"a": {"model.wdth": 3}}, ["cell a:", "model.wdth"]),
        ({"a": {"trainer.precision": "many"}}, ["cell a:", "trainer.precision", "many"]),
        (SUB_BN, ["cell a: data.batch_size", "3"]),
        ({"a": {"model.recipe.clips_per_step": 6}}, ["cell a: model.recipe.clips_per_step", "found 6"]),
        ({"a": {"data.batch_size": 9}}, ["cell a: data.batch_size", "at most 8 clips", "found 9"]),
        ({"a": {"data.clip.frames": 1}}, ["cell a:", "2 frames"]),
    ],
)
def test_wrong_options_name_the_cell(make_study, capsys, axis, words):
    study, runs = make_study({"what": {**axis, "b": {}}})
    with pytest.raises(UsageError) as error:
        dry_run.dry_run(study, runs, [], 1)
    assert all(word in str(error.value) for word in words), error.value
    assert "usage" not in capsys.readouterr().err


# -- time --------------------------------------------------------------------------------------------------------------


def test_time_of_finished_runs_is_scaled_by_multiply_adds_and_clips():
    first, other, last = lines_of(
        outcome("bn", 0, seconds=50.0, clips=20),
        outcome("bn", 1, seconds=70.0),
        outcome("bn", 2, "interrupted", seconds=1000.0),
        outcome("gn", 0, seconds=200.0, clips=50),
        outcome("ln", 0, "missing"),
    )
    found = {"bn": cost(), "gn": cost(multiply_adds=2000), "ln": cost(multiply_adds=3000, clips=80)}
    # (50 + 70 + 200) s over 20 x 1000, 30 x 1000 (as planned) and 50 x 2000 multiply-adds
    pace = seconds_per_work([first, other, last], found)
    assert pace == pytest.approx(320 / 150_000)
    assert estimate(first, found["bn"], pace, None).text() == "60 s, its runs"
    assert estimate(last, found["ln"], pace, (9.0, 4)).seconds == pytest.approx(320 / 150_000 * 3000 * 80)
    assert estimate(last, found["ln"], pace, (9.0, 4)).source == "other runs"
    unknown = estimate(last, cost(multiply_adds=3000, clips=None), pace, None)
    assert (unknown.seconds, unknown.whole) == (pytest.approx(320 / 150_000 * 3000 * 1000), False)


def test_time_of_steps_where_no_run_is_finished():
    (line,) = lines_of(outcome("bn", 0, "failed"))
    assert seconds_per_work([line], {"bn": cost()}) is None
    assert estimate(line, cost(), None, (0.5, 4)).text() == "15 s, a step"
    assert estimate(line, cost(processes=2), None, (0.5, 1)).text() == "7.5 s, a step of 1 clip"
    assert estimate(line, cost(), None, None).text() == "unknown"


def test_hours_with_several_at_a_time():
    runs = [("rate", 3600.0), ("rate", 3600.0), ("rate", 3600.0), ("result", 7200.0), ("pretraining", 1800.0)]
    assert hours_together(runs, 1) == pytest.approx(3 + 2 + 0.5)
    assert hours_together(runs, 2) == pytest.approx(2 + 2 + 0.5)
    assert hours_together(runs, 3) == pytest.approx(1 + 2 + 0.5)
    assert hours_together([("result", hours * 3600.0) for hours in (3, 1, 1, 2)], 2) == pytest.approx(4)


def test_only_runs_that_are_not_done_count(make_study):
    study, runs = make_study({"norm": NORMS})
    states = ["done", "interrupted", "failed", "done"]  # of bn 0, gn 0, bn 1, gn 1
    outcomes = [Outcome(run, s, {}, {}, None, 360.0 if s == "done" else 5.0) for run, s in zip(runs, states)]  # noqa: B905
    text = dry_run.dry_run(study, runs, outcomes, 2)
    assert row(text, "bn")[1:5] == ["1", "0", "1", "0"]
    assert row(text, "gn")[1:5] == ["1", "1", "0", "0"]
    assert row(text, "bn")[10] == "6 min, its runs"
    assert "to do: 2 runs, about 6 min with 2 at a time (12 min one after another)" in text
    assert "counted whole" in " ".join(text.split())
    outcomes = [Outcome(run, "done", {}, {}, None, 360.0) for run in runs]
    assert "to do: nothing" in dry_run.dry_run(study, runs, outcomes, 2)


def test_steps_too_large_are_timed_with_one_clip_or_not_at_all(make_study, monkeypatch):
    study, _ = make_study({"norm": {"gn": NORMS["gn"]}})
    (found,) = count_costs({"gn": study.cells[0].config}, 1).values()
    seconds, clips = step_time.time_clips([found], 1, None)[found]
    assert clips == 4
    assert 0 < seconds < 60
    one_clip = 3.0 * found.multiply_adds
    monkeypatch.setitem(step_time.MOST_WORK, "cpu", one_clip)
    assert step_time.time_clips([found], 1, None)[found][1] == 1
    assert step_time.time_clips([found], 1, found.step_bytes) == {}
    monkeypatch.setitem(step_time.MOST_WORK, "cpu", one_clip - 1)
    assert step_time.time_clips([found], 1, None) == {}
    monkeypatch.setitem(step_time.MOST_WORK, "cpu", 2e11)
    monkeypatch.setattr(step_time, "MOST_SECONDS", 0.0)
    assert step_time.time_clips([found], 1, None) == {}


def test_a_step_has_the_threads_of_a_run(monkeypatch):
    monkeypatch.setattr(step_time, "available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [step_time.run_threads(jobs) for jobs in (1, 3, 16)] == [8, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert step_time.run_threads(3) == 5


# -- memory together ---------------------------------------------------------------------------------------------------


def test_memory_of_several_runs_against_the_machine():
    of = [cost(step_bytes=mib * 2**20) for mib in (10, 30, 20)]
    (line,) = dry_run._memory(of, 2, 100 * 2**20, 250 * 2**20)
    assert line.startswith("memory, 2 at a time: 250.0 MiB of this machine's 250.0 MiB: ")
    lines = dry_run._memory(of, 3, 100 * 2**20, 250 * 2**20)
    assert lines[0].startswith("memory, 3 at a time: 360.0 MiB")
    assert lines[1].startswith("warning: that does not fit")
    assert dry_run._memory([], 2, 0, None) == []


@pytest.mark.parametrize(
    ("gpus", "jobs", "words"),
    [
        (0, 4, ["with one run at a time: 30.0 MiB, and there is none here"]),
        (2, 2, ["with one run at a time: 30.0 MiB of 40.0 MiB"]),
        (2, 3, ["with 2 runs at a time: 50.0 MiB of 40.0 MiB", "warning: that does not fit"]),
    ],
)
def test_memory_of_gpus(monkeypatch, gpus, jobs, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(total_memory=40 * 2**20))
    of = [cost(step_bytes=mib * 2**20, setting=Setting("cuda", "bf16-mixed")) for mib in (10, 30, 20)]
    lines = dry_run._memory(of, jobs, 2**30, 2**30)
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines, strict=True))
