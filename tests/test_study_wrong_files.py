"""Wrong files of studies: refused in one line before anything runs, not at the end of all runs."""

import pytest
import yaml

from videogn.errors import UsageError
from videogn.study.file import read_study

CELL = {"norm": "bn", "batch_size": 8}
REPORTED = {"values": CELL, "top1": 75, "source": "a paper"}
RATES = {"values": [0.1, 0.2], "seed": 1}


@pytest.fixture
def write(tmp_path):
    """Writes the file of a study, as text or with changes; returns its path."""

    def written(text=None, **changes):
        recipe = {"optimizer": "sgd", "lr": 0.1, "lr_clips": 8}
        axes = {"norm": {"bn": {}, "gn": {"model.norm": "gn"}}, "batch_size": [8, 2]}
        options = {"model.recipe": recipe, "trainer.max_epochs": 4}
        path = tmp_path / "study.yaml"
        path.write_text(text or yaml.safe_dump({"options": options, "axes": axes, **changes}, sort_keys=False))
        return path

    return written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": 5}, "base: expected names of configuration files, found 5"),
        ({"base": [1]}, "base: expected names of configuration files, found [1]"),
        ({"base": {"a": 1}}, "base: expected names of configuration files, found {'a': 1}"),
        ({"options": {"config": 3}}, "options: expected names of configuration files"),
        ({"options": {"model": {"recipe": 3}}}, "model.recipe: expected options by name, found 3"),
        ({"options": {"trainer": "x"}, "axes": {"norm": ["bn"]}}, "trainer: expected options by name, found 'x'"),
        ({"options": {"trainer.max_epochs": "4"}}, "trainer.max_epochs: expected a whole number, found '4' in bn, 8"),
        ({"options": {"trainer.max_steps": 1.5}}, "trainer.max_steps: expected a whole number, found 1.5"),
        ({"options": {"model.recipe.clips_per_step": "x"}}, "model.recipe.clips_per_step: expected a whole number"),
        ({"axes": {1: {"a": {}}}}, "axes.1: expected a name"),
        ({"axes": {"norm": {"bn": 3}}}, "axes.norm.bn: expected options by name, found 3"),
        ({"axes": {"norm": {True: {}, "True": {}}}}, "axes.norm: expected each name once, found True, True"),
        ({"axes": {"set": {"a/b": {}, "a-b": {}}}}, "axes.set: expected names that differ in letters or digits"),
        ({"axes": {"set": {"BN": {}, "bn": {}}}}, "found 'BN' and 'bn'"),
        ({"axes": {"set": {"/": {}}}}, "axes.set: expected names of letters or digits, one line of at most 60 bytes"),
        ({"axes": {"set": {"a\nb": {}}}}, "of letters or digits, one line"),
        (
            {"axes": {"set": {"é" * 40: {}}}},
            "axes.set: expected names of letters or digits, one line of at most 60 bytes",
        ),
        ({"axes": {"norm": [False]}}, "axes.norm: expected names, found [False]"),
        ({"axes": {"batch_size": ["four"]}}, "axes.batch_size: expected positive whole numbers"),
        ({"axes": {"batch_size": [4, 0]}}, "axes.batch_size: expected positive whole numbers"),
        ({"axes": {"depth": [50.5]}}, "axes.depth: expected positive whole numbers"),
        ({"seeds": [True]}, "seeds: expected different whole numbers such as [0, 1, 2]"),
        ({"seeds": 3}, "seeds: expected different whole numbers such as [0, 1, 2]"),
        ({"learning_rates": {**RATES, "values": [0.1, "1e-2"]}}, "(1e-3 is text to YAML)"),
        ({"learning_rates": {**RATES, "values": [0.1, 0.1]}}, "expected two or more different rates"),
        ({"learning_rates": {**RATES, "values": [0.1, float("inf")]}}, "expected two or more different rates"),
        ({"learning_rates": {**RATES, "seed": -1}}, "learning_rates.seed: expected a whole number, found -1"),
        ({"learning_rates": {**RATES, "at": ["bn"]}}, "learning_rates.at: expected a mapping, found ['bn']"),
        ({"pretraining": {"axis": ["norm"]}}, "pretraining.axis: expected one of norm, batch_size, found ['norm']"),
        ({"pretraining": {"axis": "norm", "uses": ["bn"]}}, "pretraining.uses: expected a mapping"),
        ({"pretraining": {"axis": "norm", "uses": {"bn": "bn"}}}, "pretraining.uses: expected bn, whose weights bn"),
        ({"pretraining": {"axis": "norm", "seed": "x"}}, "pretraining.seed: expected a whole number"),
        ({"claims": [{"text": "?", "of": CELL, "expect": "within", "margin": "5"}]}, "within with a margin in points"),
        ({"claims": [{"text": "?", "of": CELL, "expect": "within", "margin": -1}]}, "within with a margin in points"),
        ({"claims": [{"of": CELL}]}, "claims: expected text"),
        ({"reported": [{**REPORTED, "top1": "75"}]}, "reported: top1: expected a number in %, found '75'"),
        ({"reported": [{**REPORTED, "top5": "x"}]}, "reported: top5: expected a number in %, found 'x'"),
        ({"figure": {"x": ["norm"]}}, "figure.x: expected one of norm, batch_size, found ['norm']"),
        ({"folder": 3}, "folder: expected text, found 3"),
        ({"checkpoints": "no"}, "checkpoints: expected true or false, found 'no'"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(write, changes, message):
    with pytest.raises(UsageError) as caught:
        read_study(write(**changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes:\n  norm:\n    bn: {}\n    bn: {model.norm: gn}\n", "bn stands twice"),
        ("options: &a {model: *a}\naxes: {norm: [gn]}\n", "is not YAML"),
    ],
)
def test_names_that_stand_twice_or_hold_themselves(write, text, message):
    with pytest.raises(UsageError, match=message):
        read_study(write(text))


def test_anchors_and_merging_are_no_names_that_stand_twice(write):
    text = """
axes:
  norm:
    deeper: {options: {model: &b {<<: &a {norm: gn, depth: 50}, depth: 101}}}
    gn: {model: {<<: *b, depth: 26}}
"""
    assert read_study(write(text)).cells[1].config["model"] == {"norm": "gn", "depth": 26}


def test_whole_numbers_are_rates_too(write):
    study = read_study(write(learning_rates={**RATES, "values": [1, 0.1], "at": {"batch_size": 8}}))
    assert study.rates is not None
    assert study.rates.values == (0.1, 1.0)
    assert study.rates.at == {"batch_size": "8"}
