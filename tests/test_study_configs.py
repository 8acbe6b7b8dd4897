"""Every shipped study is read, its cells are accepted by `videogn fit`, and they are comparable with each other."""

import math
import shlex

import pytest
import yaml
from study_cells import make, parse, parser, study, written
from test_configs import CONFIGS, KINETICS

from videogn.study.claims import Claim
from videogn.study.file import read_study
from videogn.study.grid import clips_per_step
from videogn.study.options import merged, option, read_yaml
from videogn.study.runs import pretraining_runs, rate_runs, result_runs

STUDIES = sorted((CONFIGS / "study").glob("*.yaml"))
SHIPPED = ["table8", "batch_size", "groups", "depth"]
IMAGENET = "section 4.1"
TABLE_8 = "Table 8"


def some_cells(of):
    """Cells in which every value of every axis is, as few as there can be."""
    longest = max(len(values) for values in of.axes.values())
    return [of.select({axis: values[i % len(values)] for axis, values in of.axes.items()})[0] for i in range(longest)]


def test_each_study_has_a_demo_twin():
    names = {path.stem for path in STUDIES}
    assert names >= {*SHIPPED, *(f"demo_{name}" for name in SHIPPED)}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_fit_accepts_the_cells(path, tmp_path):
    """At least one for each value of each axis, and the runs whose weights they start from."""
    read = read_study(path)
    configs = [cell.config for cell in some_cells(read)]
    configs += [run.config for run in _distinct(pretraining_runs(read).values())]
    assert {value for cell in some_cells(read) for value in cell.values.items()} == {
        (axis, value) for axis, values in read.axes.items() for value in values
    }
    for config in configs:
        made = make(parse(written(config, tmp_path)))
        assert made.model.hparams["norm"] == config["model"]["norm"]
        assert made.model.hparams["norm_kwargs"] == config["model"].get("norm_kwargs")
        assert made.data.batch_size == config["data"]["batch_size"]
        assert made.data.clip.frames == config["data"]["clip"]["frames"]
        assert made.trainer.max_epochs == config["trainer"]["max_epochs"]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_all_cells_see_the_same_samples_at_comparable_rates(path):
    """The same epochs over the same videos; SGD, whose rate is for a stated number of clips."""
    read = read_study(path)
    length = ("trainer.max_epochs", "trainer.max_steps", "trainer.limit_train_batches")
    videos = ("data.root", "data.demo", "data.train_list", "data.layout")
    recipe = ("optimizer", "lr", "lr_clips", "momentum", "weight_decay", "norm_weight_decay", "schedule", "milestones")
    for names in (length, videos, [f"model.recipe.{name}" for name in recipe]):
        assert len({repr([option(cell.config, name) for name in names]) for cell in read.cells}) == 1
    config = read.cells[0].config
    assert option(config, "trainer.max_epochs") >= 1
    assert [option(config, name) for name in length[1:]] == [None, None]
    assert option(config, "model.recipe.optimizer") == "sgd"
    assert option(config, "model.recipe.lr_clips") >= 1


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_cells_and_runs_are_told_apart(path):
    read = read_study(path)
    assert len({cell.name for cell in read.cells}) == len(read.cells)
    weights = pretraining_runs(read)
    runs = [*_distinct(weights.values()), *rate_runs(read, weights), *result_runs(read, weights, {})]
    assert len({run.folder.name for run in runs}) == len(runs)
    assert len({run.folder.name.rpartition("-")[2] for run in runs}) == len(runs)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_heads_hold_command_hardware_and_reported_accuracy(path):
    head = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    assert f"videogn study -c configs/study/{path.name}" in head
    assert "Hardware:" in head
    assert "Reported" in head
    read = read_study(path)
    assert read.notes
    assert read.claims
    assert all(isinstance(claim, Claim) for claim in read.claims)
    if path.stem in SHIPPED:
        assert "Never run by this project." in head
        assert f"{len(read.cells)} runs of 104 epochs" in head.replace("\n# ", " ")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_cell_names_the_weights_it_starts_from(name):
    """Those of a network of its depth and its norm, or of bn where the norm means the same by its weights."""
    published = {
        ("bn", 50): "resnet50.pth",
        ("bn", 101): "resnet101.pth",
        ("gn", 50): "R-50-GN.pkl",
        ("gn", 101): "R-101-GN.pkl",
    }
    as_bn = ("bn", "brn", "frozen_bn", "sub_bn")
    for cell in study(name).cells:
        model = cell.config["model"]
        norm, kwargs = model["norm"], model["norm_kwargs"] or {}
        own = {"num_groups": "groups", "channels_per_group": "channels"}
        if name == "groups" and norm == "gn":
            ((key, count),) = kwargs.items()
            expected = f"imagenet_r50_{own[key]}{count}.ckpt"
        elif norm in as_bn or norm == "gn":
            expected = published["bn" if norm in as_bn else norm, model["depth"]]
        else:
            expected = f"imagenet_r{model['depth']}_{norm}.ckpt"
        assert model["init_from"] == f"weights/{expected}"
        assert "convert_norm" not in model


@pytest.mark.parametrize("name", ["table8", "depth"])
def test_heads_say_how_to_get_the_weights(name):
    text = (CONFIGS / "study" / f"{name}.yaml").read_text()
    head = text[: text.index("\ntitle:")].replace("\\\n#", "").replace("#", " ")
    published = {cell.config["model"]["init_from"] for cell in study(name).cells}
    for path in (path for path in published if not path.endswith(".ckpt")):
        assert path in head
    for line in (line.strip() for line in head.splitlines() if line.strip().startswith("curl")):
        words = shlex.split(line)
        assert words[words.index("-o") + 1] in published
        assert words[-1].startswith("https://")


def test_table_8_is_the_papers():
    """Table 8's six results, and each norm of this project in every column."""
    read = study("table8")
    assert (read.x, read.lines) == ("setting", "norm")
    reported = {tuple(row.values.values()): (row.top1, row.top5) for row in read.reported}
    columns = read.axes["setting"]
    assert [reported[column, "bn"] for column in columns] == [(73.3, 90.7), (72.1, 90.0), (73.3, 90.8)]
    assert [reported[column, "gn"] for column in columns] == [(73.0, 90.6), (72.8, 90.6), (74.5, 91.7)]
    assert len(reported) == 6
    assert all(TABLE_8 in row.source and "Kinetics-400" in row.source for row in read.reported)
    assert set(read.axes["norm"]) == {"bn", "bn, precise", "gn", "gn_ws", "ln", "in", "brn", "frozen_bn", "sub_bn"}
    for column, frames, stride, batch in zip(columns, (32, 32, 64), (2, 2, 1), (8, 4, 4), strict=True):
        for cell in read.select({"setting": column}):
            data = cell.config["data"]
            assert (data["clip"]["frames"], data["clip"]["stride"], data["batch_size"]) == (frames, stride, batch)
            assert clips_per_step(cell.config) == 8 * batch
    (precise,) = read.select({"setting": columns[0], "norm": "bn, precise"})
    assert precise.config["trainer"]["callbacks+"] == [
        {"class_path": "videogn.callbacks.PreciseBN", "init_args": {"num_batches": 200}}
    ]


def test_published_errors_of_imagenet():
    """As 100 - error; batch sizes of bn, gn and brn, groups and channels per group, and ResNet-101."""
    found = {
        name: {tuple(row.values.values()): row.top1 for row in study(name).reported if IMAGENET in row.source}
        for name in ("batch_size", "groups", "depth")
    }

    def errors(name, *keys):
        return [round(100 - found[name][key], 1) for key in keys]

    sizes = ("32", "16", "8", "4", "2")
    assert errors("batch_size", *(("bn", size) for size in sizes)) == [23.6, 23.7, 24.8, 27.3, 34.7]
    assert errors("batch_size", *(("gn", size) for size in sizes)) == [24.1, 24.2, 24.0, 24.2, 24.1]
    assert errors("batch_size", ("brn", "4")) == [26.3]
    groups = [24.6, 24.1, 24.6, 24.4, 24.6, 24.7, 25.3, 24.4, 24.5, 24.2, 24.3, 24.8, 25.6, 28.4]
    assert errors("groups", *((value,) for value in study("groups").axes["groups"])) == groups
    deep = [(f"{norm}, 101 layers", size) for norm in ("bn", "gn") for size in ("32", "2")]
    assert errors("depth", *deep) == [22.0, 31.9, 22.4, 23.0]
    assert sum(map(len, found.values())) == 11 + 14 + 10


def test_batch_sizes_keep_eight_gpus_and_the_linear_rule():
    for name, sizes in (("batch_size", (8, 4, 2, 1)), ("depth", (8, 2))):
        read = study(name)
        for size in sizes:
            for cell in read.select({"batch_size": str(size)}):
                assert cell.config["data"]["batch_size"] == size
                assert clips_per_step(cell.config) == 8 * size
                assert (cell.config["model"]["recipe"]["lr"], cell.config["model"]["recipe"]["lr_clips"]) == (0.01, 64)


def test_groups_divide_the_stem_from_all_of_its_channels_to_one():
    expected = [{"num_groups": n} for n in (64, 32, 16, 8, 4, 2)] + [None]
    expected += [{"channels_per_group": n} for n in (64, 32, 16, 8, 4, 2)] + [None]
    cells = study("groups").cells
    assert [cell.config["model"]["norm_kwargs"] for cell in cells] == expected
    assert [cell.config["model"]["norm"] for cell in cells].count("gn") == 12
    assert {math.gcd(64, n) for each in expected if each for n in each.values()} == {64, 32, 16, 8, 4, 2}


def test_studies_share_the_runs_that_are_the_same():
    def runs(name):
        return {run.folder.name.rpartition("-")[2] for run in result_runs(study(name), {}, {})}

    assert len(runs("table8") & runs("batch_size")) == 6  # bn, brn and gn at 8 and 4 clips
    assert len(runs("depth") & runs("batch_size")) == 4  # bn and gn at 8 and 2 clips


@pytest.mark.parametrize(
    "names",
    [
        ["kinetics400_i3d_r50_32x2", "kinetics400_i3d_r50_64x1_batch4", "norm/bn", "precise_bn"],
        ["kinetics400_i3d_r50_32x2", "norm/brn", "precise_bn", "ema", "feature_percentiles"],
        ["demo", "norm/ln", "protocol/30view"],
        ["demo", "norm/brn", "norm/bn"],
    ],
    ids=lambda names: names[-1],
)
def test_merged_files_are_what_the_command_line_makes_of_them(names, tmp_path):
    """Mappings merge, nulls remove them, and lists of callbacks are joined."""
    paths = [CONFIGS / f"{name}.yaml" for name in names]
    together = {}
    for path in paths:
        together = merged(together, read_yaml(path))
    own, theirs = parse(written(together, tmp_path)), parse(*paths)
    assert _without_files(own) == _without_files(theirs)
    callbacks = [each for path in paths for each in option(read_yaml(path), "trainer.callbacks+", [])]
    assert len(own.fit.trainer.callbacks or []) == len(callbacks)


def test_a_cell_is_what_its_files_make_on_the_command_line(tmp_path):
    (cell,) = study("table8").select({"setting": "64x1 frames, 4 clips", "norm": "bn, precise"})
    overlays = ["kinetics400_i3d_r50_64x1_batch4", "norm/bn", "precise_bn"]
    own = parse(written(cell.config, tmp_path))
    weights = ("--model.init_from", "weights/resnet50.pth", "--data.root", "/videos")
    theirs = parse(KINETICS, *(CONFIGS / f"{name}.yaml" for name in overlays), options=weights)
    assert _without_files(own) == _without_files(theirs)


def _without_files(options):
    config = yaml.safe_load(parser().dump(options))["fit"]
    return {name: value for name, value in config.items() if name != "config"}


def _distinct(runs):
    return list({run.folder: run for run in runs}.values())
