"""The file of a study: what its cells and runs are, and what is refused."""

from pathlib import Path

import pytest
import yaml

from videogn.errors import UsageError
from videogn.study.file import read_study
from videogn.study.options import digest, merged, nested, option
from videogn.study.runs import pretraining_runs, rate_runs, result_runs

BASE = {
    "model": {"norm": "bn", "recipe": {"optimizer": "sgd", "lr": 0.01, "lr_clips": 8}},
    "data": {"batch_size": 8},
    "trainer": {"max_epochs": 4},
}
GRID = {
    "base": ["base.yaml"],
    "axes": {"norm": {"bn": {}, "gn": {"config": "gn.yaml"}}, "batch_size": [8, 2]},
    "seeds": [0, 1],
}


@pytest.fixture
def write(tmp_path):
    """Writes a study of :data:`GRID` with changes, beside its base; returns its path."""
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "gn.yaml").write_text("model: {norm: gn, norm_kwargs: {num_groups: 8}}\n")

    def written(name="grid.yaml", **changes):
        path = tmp_path / name
        path.write_text(yaml.safe_dump({**GRID, "folder": str(tmp_path / "runs"), **changes}, sort_keys=False))
        return path

    return written


def test_merging_is_that_of_several_configuration_files():
    first = {"a": {"b": 1, "c": [1]}, "calls+": [1], "kwargs": {"g": 2}}
    assert merged(first, {"a": {"c": [2]}}) == {"a": {"b": 1, "c": [2]}, "calls+": [1], "kwargs": {"g": 2}}
    assert merged(first, {"calls+": [2]})["calls+"] == [1, 2]
    assert merged(first, {"kwargs": None})["kwargs"] is None
    assert merged({"kwargs": None}, {"kwargs": {"r": 1}})["kwargs"] == {"r": 1}
    assert first == {"a": {"b": 1, "c": [1]}, "calls+": [1], "kwargs": {"g": 2}}


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ({"calls+": [1]}, {"calls": [2]}, {"calls": [2]}),
        ({"calls+": [1]}, {"calls": None}, {"calls": None}),
        ({"calls+": [1]}, {"calls+": None}, {"calls": None}),
        ({"calls": [1]}, {"calls+": [2]}, {"calls": [1, 2]}),
        ({"calls": None}, {"calls+": [2]}, {"calls": [2]}),
        ({"calls+": [1]}, {"calls+": {"class_path": "A"}}, {"calls+": [1, {"class_path": "A"}]}),
    ],
)
def test_lists_that_are_added_to_and_replaced(first, second, together):
    assert merged({"trainer": first}, {"trainer": second}) == {"trainer": together}


def test_options_of_a_class_go_with_it():
    first = {"logger": {"class_path": "A", "init_args": {"every": 3}}}
    assert merged(first, {"logger": {"init_args": {"name": "x"}}})["logger"] == {
        "class_path": "A",
        "init_args": {"every": 3, "name": "x"},
    }
    other = {"logger": {"class_path": "B", "init_args": {"name": "x"}}}
    assert merged(first, other) == other


def test_dotted_names():
    assert nested({"a.b.c": 1, "a.d": {"e.f": 2}}) == {"a": {"b": {"c": 1}, "d": {"e": {"f": 2}}}}
    assert option({"a": {"b": None}}, "a.b", 3) is None
    assert option({"a": {"b": None}}, "a.b.c", 3) == 3


def test_equal_configurations_have_equal_digests():
    assert digest({"a": 1, "b": {"c": 2}}) == digest({"b": {"c": 2}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_cells_are_the_product_of_the_axes(write):
    study = read_study(write())
    assert [cell.values for cell in study.cells] == [
        {"norm": "bn", "batch_size": "8"},
        {"norm": "bn", "batch_size": "2"},
        {"norm": "gn", "batch_size": "8"},
        {"norm": "gn", "batch_size": "2"},
    ]
    assert study.cells[3].config == {
        "model": {"norm": "gn", "norm_kwargs": {"num_groups": 8}, "recipe": BASE["model"]["recipe"]},
        "data": {"batch_size": 2},
        "trainer": {"max_epochs": 4},
    }
    assert (study.x, study.lines, study.cells[3].name) == ("batch_size", "norm", "gn_2")


@pytest.mark.parametrize("norm", [["gn"], {"gn": {"config": "gn.yaml"}}])
def test_a_norm_leaves_the_groups_of_another_axis(write, norm):
    groups = {"num_groups": [8, 4]}
    for axes in ({"norm": norm, **groups}, {**groups, "norm": norm}):
        study = read_study(write(axes=axes))
        assert [option(cell.config, "model.norm_kwargs.num_groups") for cell in study.cells] == [8, 4]


def test_further_options_are_on_top_of_all(write):
    study = read_study(write(options={"data.root": "a"}), {"data.root": "/mine", "trainer.max_epochs": 1})
    assert {option(cell.config, "data.root") for cell in study.cells} == {"/mine"}
    assert {option(cell.config, "trainer.max_epochs") for cell in study.cells} == {1}
    with pytest.raises(UsageError, match=r"--data.batch_size: expected options that no axis of .* sets"):
        read_study(write(), {"data.batch_size": 1})


def test_runs_are_seed_by_seed_each_in_a_folder_of_its_own(write):
    study = read_study(write())
    runs = result_runs(study, {}, {})
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4
    assert [run.config["seed_everything"] for run in runs] == [0] * 4 + [1] * 4
    assert len({run.folder for run in runs}) == 8
    assert runs[3].folder.name == f"gn_2_seed0-{digest(runs[3].config)}"
    assert {run.lr for run in runs} == {0.01}


def test_another_study_finds_the_same_runs_under_their_names(write):
    first = result_runs(read_study(write()), {}, {})
    first[0].folder.mkdir(parents=True)  # bn, 8, seed 0
    other = write("other.yaml", axes={"batch_size": [8], "norm": {"baseline": {"data.batch_size": 8}}}, seeds=[0])
    assert [run.folder for run in result_runs(read_study(other), {}, {})] == [first[0].folder]


def test_cells_that_are_the_same_are_run_once(write):
    runs = result_runs(read_study(write(axes={"norm": {"a": {}, "b": {}, "c": {"model.norm": "ln"}}})), {}, {})
    assert [run.cell.name for run in runs[:3]] == ["a", "b", "c"]
    assert runs[0].folder == runs[1].folder != runs[2].folder


def test_rates_are_chosen_where_the_study_says(write):
    rates = {"values": [0.1, 0.01], "seed": 9, "at": {"batch_size": 8}, "options": {"data.root": "others"}}
    study = read_study(write(learning_rates=rates))
    runs = rate_runs(study, {})
    assert [(run.cell.name, run.lr, run.seed) for run in runs] == [
        ("bn_8", 0.01, 9),
        ("bn_8", 0.1, 9),
        ("gn_8", 0.01, 9),
        ("gn_8", 0.1, 9),
    ]
    assert {option(run.config, "data.root") for run in runs} == {"others"}
    results = result_runs(study, {}, {"bn_8": 0.1})
    assert [(run.cell.name, run.lr) for run in results[:4]] == [
        ("bn_8", 0.1),
        ("bn_2", 0.1),
        ("gn_8", None),  # not chosen yet
        ("gn_2", None),
    ]
    assert option(results[1].config, "model.recipe.lr") == 0.1
    assert option(results[0].config, "data.root") is None


def test_every_cell_chooses_its_rate_by_default(write):
    study = read_study(write(learning_rates={"values": [0.1, 0.01, 0.001], "seed": 9}))
    assert len(rate_runs(study, {})) == 12


def test_cells_start_from_the_weights_of_their_value(write):
    axes = {"norm": {"bn": {}, "frozen_bn": {"model.norm": "frozen_bn"}}, "batch_size": [8, 2]}
    pretraining = {"axis": "norm", "uses": {"frozen_bn": "bn"}, "options": {"data.root": "first"}, "seed": 5}
    study = read_study(write(axes=axes, pretraining=pretraining))
    weights = pretraining_runs(study)
    assert weights["frozen_bn"] is weights["bn"]
    assert (weights["bn"].seed, option(weights["bn"].config, "data.root")) == (5, "first")
    assert option(weights["bn"].config, "model.init_from") is None
    starts = {option(run.config, "model.init_from") for run in result_runs(study, weights, {})}
    assert starts == {str(weights["bn"].folder / "version_0" / "checkpoints" / "last.ckpt")}


def test_a_folder_of_studies_can_be_moved(write, tmp_path):
    """Weights of a pre-training are told apart by what made them, not by where they lie."""
    given = {"axis": "norm", "options": {"data.root": "first"}}
    path = write(pretraining=given)

    def names(path, folder):
        study = read_study(path, {}, str(folder))
        weights = pretraining_runs(study)
        runs = [*weights.values(), *result_runs(study, weights, {})]
        return [run.folder.name for run in runs]

    here = names(path, "runs")
    assert names(path, tmp_path / "elsewhere") == here
    (tmp_path / "shared/cells" / f"another-name-{here[0].rpartition('-')[2]}").mkdir(parents=True)
    assert names(path, tmp_path / "shared")[1:] == here[1:]
    others = names(write(pretraining={**given, "seed": 7}), "runs")
    assert not set(others) & set(here)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": {}}, "axis: expected one of title, base"),
        ({"axes": {}}, "axes: expected at least one axis"),
        ({"axes": {"norm": []}}, "axes.norm: expected a list of values"),
        ({"axes": {"colour": ["red"]}}, "axes.colour: expected a mapping of names to options"),
        ({"axes": {"clip": ["32"]}}, "frames x stride such as 32x2"),
        ({"axes": {"batch_size": [8, 8]}}, "expected each value once"),
        ({"seeds": [0, 0]}, "seeds: expected different whole numbers"),
        ({"seeds": "all"}, "seeds: expected different whole numbers"),
        ({"base": ["none.yaml"]}, "none.yaml: cannot be read"),
        ({"learning_rates": {"values": [0.1]}}, "learning_rates.values: expected two or more"),
        ({"learning_rates": {"values": [0.1, 0.2], "seed": 1, "at": {"norm": "ln"}}}, "learning_rates.at"),
        ({"learning_rates": {"values": [0.1, 0.2]}}, "learning_rates.seed"),
        ({"pretraining": {"axis": "depth"}}, "pretraining.axis: expected one of norm, batch_size"),
        ({"pretraining": {"axis": "norm", "uses": {"ln": "bn"}}}, "pretraining.uses"),
        ({"claims": [{"text": "?", "of": {"norm": "bn"}}]}, "expected a value of each axis"),
        ({"claims": [{"text": "?", "of": [], "expect": "above"}]}, "expected a cell"),
        ({"claims": [{"text": "?", "of": [{}], "expect": "within"}]}, "within with a margin"),
        ({"reported": [{"values": {"norm": "bn"}, "top1": 1}]}, "reported: expected values of each axis"),
        ({"figure": {"x": "depth"}}, "figure.x: expected one of norm, batch_size"),
        ({"options": {"trainer.check_val_every_n_epoch": 3}}, "expected a divisor of trainer.max_epochs, 4"),
        ({"options": {"trainer.max_steps": 100}}, "trainer.max_steps: the runs have [2, 8] clips per step"),
        ({"options": {"trainer.limit_train_batches": 9}}, "trainer.limit_train_batches: the runs have [2, 8] clips"),
        ({"options": {"model.recipe.lr_clips": None}}, "model.recipe.lr_clips: expected the clips per step"),
    ],
)
def test_what_a_study_cannot_mean_is_refused_in_one_line(write, changes, message):
    with pytest.raises(UsageError) as caught:
        read_study(write(**changes))
    assert message in str(caught.value)


def test_a_file_that_is_no_study(tmp_path):
    for content, message in (("- a\n", "expected a mapping"), ("a: [\n", "is not YAML")):
        path = Path(tmp_path / "study.yaml")
        path.write_text(content)
        with pytest.raises(UsageError, match=message):
            read_study(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_study(tmp_path / "none.yaml")
