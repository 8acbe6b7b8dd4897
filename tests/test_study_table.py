"""A study's tables: what is in each cell of them, and what is said beneath."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from study_made import REPORTED, batch_study, make_results, make_study, table8_study

from videogn.errors import UsageError
from videogn.report.curves import Curve
from videogn.study.grid import Pretraining, Rates, Reported
from videogn.study.table import markdown, write_tables

SOURCE = "A paper, Table 1"


def errors(values, seed):
    """20 to 24 with bn, 10 to 14 with any other norm."""
    return (20.0 if values["norm"] == "bn" else 10.0) + seed


def rows(text):
    """The cells of a Markdown table, its head first, without the line beneath it."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if not line.startswith("| ---")]


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def with_recipe(study, **recipe):
    cells = tuple(replace(cell, config={"model": {"recipe": recipe}}) for cell in study.cells)
    return replace(study, cells=cells)


def with_clips(results, clips):
    """The results with these numbers of training clips, one for each cell."""
    out = []
    for result, seen in zip(results, clips, strict=True):
        outcomes = [replace(o, training=replace(o.training, clips=seen)) for o in result.outcomes]
        out.append(replace(result, outcomes=tuple(outcomes)))
    return out


# ------------------------------------------------------------------------------------------------------------ layout


def test_table_8_is_laid_out_as_in_the_paper():
    """The paper's has a row for each norm and a column for each clip length and batch size."""
    study = table8_study()
    text = markdown(study, make_results(study, errors))
    table = rows(text)
    assert table[0] == [
        "norm \\ setting",
        *(f"{setting}: {kind}" for setting in ("32x2, 8", "32x2, 4", "64x1, 4") for kind in ("reported", "here")),
    ]
    assert [row[0] for row in table[1:3]] == ["bn", "gn"]
    assert table[1][1::2] == ["73.3 / 90.7", "72.1 / 90.0", "73.3 / 90.8"]
    assert table[2][1::2] == ["73.0 / 90.6", "72.8 / 90.6", "74.5 / 91.7"]
    assert table[1][2] == "78.0 (76.0 to 80.0) / 88.0 (86.0 to 90.0)"  # errors of 20 to 24; top-5 is 10 better
    assert table[2][2] == "88.0 (86.0 to 90.0) / 98.0 (96.0 to 100.0)"
    assert table[3][:2] == ["ln", "–"]
    assert "Reported: Group Normalization, Table 8, Kinetics-400." in text
    assert "[1]" not in text


def test_columns_without_published_results_have_no_place_for_them():
    study = batch_study(reported=(Reported({"norm": "gn", "batch_size": "4"}, 76.0, None, SOURCE),))
    table = rows(markdown(study, make_results(study, errors)))
    assert table[0] == ["norm \\ clips per batch", "8: here", "4: reported", "4: here", "2: here", "1: here"]
    assert [row[2] for row in table[1:]] == ["–", "–", "76.0"]
    plain = batch_study()
    assert rows(markdown(plain, make_results(plain, errors)))[0] == ["norm \\ clips per batch", "8", "4", "2", "1"]


def test_published_results_outside_the_grid_are_shown_without_a_result_here():
    reported = (
        Reported({"norm": "gn", "batch_size": "32"}, 75.9, None, SOURCE),
        Reported({"norm": "frn", "batch_size": "4"}, 77.0, None, "Another"),
    )
    study = batch_study(reported=reported)
    text = markdown(study, make_results(study, errors))
    table = rows(text)
    assert table[0][:4] == ["norm \\ clips per batch", "32: reported", "32: here", "8: here"]
    assert [row[0] for row in table[1:]] == ["bn", "brn", "gn", "frn"]
    assert table[3][1:3] == ["75.9 [1]", "–"]
    assert table[4][table[0].index("4: reported")] == "77.0 [2]"
    assert set(table[4][1:]) == {"77.0 [2]", "–"}
    assert f"Reported: [1] {SOURCE}; [2] Another." in text


@pytest.mark.parametrize("axes", [{"norm": ["bn", "gn"]}, {"norm": ["bn", "gn"], "depth": ["50"], "clip": ["8x2"]}])
def test_other_numbers_of_axes_have_a_row_for_each_cell(axes):
    values = {axis: given[0] for axis, given in axes.items()}
    reported = (
        Reported(values, 76.0, 90.0, SOURCE),
        Reported(values, 76.5, None, SOURCE),
        Reported({**values, "norm": "ln"}, 71.0, None, SOURCE),
    )
    study = make_study(axes, reported=reported)
    table = rows(markdown(study, make_results(study, errors)))
    rest = [given[0] for given in list(axes.values())[1:]]
    assert table == [
        ["norm", *(["depth", "clip (frames x stride)"] if rest else []), "reported", "here"],
        ["bn", *rest, "76.0 / 90.0; 76.5", "78.0 (76.0 to 80.0) / 88.0 (86.0 to 90.0)"],
        ["gn", *rest, "–", "88.0 (86.0 to 90.0) / 98.0 (96.0 to 100.0)"],
        ["ln", *rest, "71.0", "–"],
    ]


def test_missing_runs_are_said():
    study = make_study({"norm": ["bn", "gn", "ln"]})
    done = {"bn": 3, "gn": 1, "ln": 0}
    results = make_results(study, lambda values, seed: errors(values, seed) if seed < done[values["norm"]] else None)
    assert [row[-1] for row in rows(markdown(study, results))[1:]] == [
        "79.0 (78.0 to 80.0) / 89.0 (88.0 to 90.0); 3 of 5 seeds",
        "90.0 / 100.0; 1 of 5 seeds",
        "–",
    ]


def test_names_do_not_break_the_table():
    study = make_study({"norm": ["a|b\nc"]}, seeds=(0,))
    text = markdown(study, make_results(study, errors))
    assert "| a\\|b c | 90.0 / 100.0 |" in text


# ---------------------------------------------------------------------------------------------------------- captions


def test_captions_state_seeds_and_notes():
    study = batch_study(notes=("Generated videos.",))
    text = markdown(study, make_results(study, errors))
    assert "the median over 5 seeds (0, 1, 2, 3, 4)" in text
    assert "the lowest and the highest" in text
    assert text.endswith("\n\nGenerated videos.")
    assert "Reported" not in text
    one = batch_study(seeds=(7,))
    assert "one run of each cell (seed 7)" in markdown(one, make_results(one, errors))


def test_captions_state_how_the_rate_was_set():
    plain = with_recipe(batch_study(), lr=0.003, optimizer="adamw")
    assert "Learning rate: 0.003 with AdamW in every cell." in markdown(plain, make_results(plain, errors))
    linear = with_recipe(batch_study(), lr=0.003, optimizer="sgd", lr_clips=64)
    words = "Learning rate: 0.003 × clips per step / 64 (linear rule) with SGD in every cell."
    assert words in markdown(linear, make_results(linear, errors))


def test_captions_state_the_rates_that_were_chosen():
    study = make_study({"norm": ["bn", "gn", "ln"]}, rates=Rates((0.001, 0.003, 0.01), 100))
    study = with_recipe(study, optimizer="adamw")
    bn, gn, ln = make_results(study, lambda values, seed: None if values["norm"] == "ln" else 10.0)
    results = [bn, replace(gn, lr=0.01), replace(ln, lr=None)]
    assert (
        "Learning rate: for each cell the best of 3 (0.001, 0.003, 0.01) by top-1 on seed 100, which is not among "
        "those of the table; the same effort for every cell. Chosen: 0.003 with AdamW (bn); 0.01 with AdamW (gn); "
        "not yet (ln)."
    ) in markdown(study, results)
    same = replace(batch_study(), rates=Rates((0.003, 0.01), 0, {"batch_size": "8"}))
    text = markdown(same, make_results(same, errors))
    assert "for each cell with clips per batch 8, whose rates the other cells share, the best of 2" in text
    assert "on seed 0, which is among those of the table" in text


def test_only_cells_that_choose_a_rate_are_listed_with_it():
    study = replace(batch_study(), rates=Rates((0.003, 0.01), 9, {"batch_size": "8"}))
    bn, *others = (replace(result, lr=0.01) for result in make_results(study, errors))
    others = [replace(result, lr=0.003 if result.cell.values["norm"] == "gn" else 0.01) for result in others]
    assert bn.cell.text() == "bn, 8"
    assert "Chosen: 0.01 with SGD (bn, 8; brn, 8); 0.003 with SGD (gn, 8)." in markdown(study, [bn, *others])
    cells = (*study.cells[:-1], replace(study.cells[-1], config={"model": {"recipe": {"optimizer": "adamw"}}}))
    text = markdown(replace(study, cells=cells), [bn, *others])
    assert f"; 0.003 with AdamW ({cells[-1].text()})." in text  # another optimiser is told, whoever chose the rate


def test_shares_of_whole_videos_are_rounded_as_such():
    """102 of 160 videos are 63.75 %; 100 * 0.6375 is a little less."""
    study = make_study({"norm": ["bn"]}, seeds=[0])
    results = make_results(study, lambda values, seed: 36.25)
    outcome = replace(results[0].outcomes[0], scores={**results[0].outcomes[0].scores, "top1": 102 / 160})
    result = replace(results[0], outcomes=(outcome,))
    assert (result.scores("top1"), outcome.error) == ([63.75], 36.25)
    assert rows(markdown(study, [result]))[1][1].startswith("63.8 / ")


def test_top_5_of_five_classes_is_left_out():
    study = make_study({"norm": ["bn", "gn"]})

    def of_classes(*counts):
        cells = zip(study.cells, counts, strict=True)
        return replace(study, cells=tuple(replace(cell, config={"model": {"num_classes": n}}) for cell, n in cells))

    five, six = of_classes(5, 5), of_classes(5, 6)
    text = markdown(five, make_results(five, errors))
    assert text.startswith("**Made-up results.** Top-1 accuracy per video in %.")
    assert rows(text)[1] == ["bn", "78.0 (76.0 to 80.0)"]
    assert "Here: the table has no top-5, which is 100 % with five classes or fewer." in text
    text = markdown(six, make_results(six, errors))
    assert "Top-1 / top-5" in text
    assert "bn: the table has no top-5" in text
    assert rows(text)[1:] == [["bn", "78.0 (76.0 to 80.0)"], ["gn", "88.0 (86.0 to 90.0) / 98.0 (96.0 to 100.0)"]]


def test_captions_state_that_pre_training_is_no_part_of_the_spread():
    own = Pretraining("norm", {}, {"brn": "bn", "frozen_bn": "bn"}, 3)
    study = make_study({"norm": ["bn", "gn", "brn", "frozen_bn"]}, pretraining=own)
    assert (
        "Weights: one pre-training (seed 3) for each norm but brn, frozen_bn, which take those of bn; all their runs "
        "start from there. Spread and tests are over what comes after it: another pre-training may shift results. Its "
        "clips are not among those seen."
    ) in markdown(study, make_results(study, errors))
    alone = replace(study, pretraining=replace(own, uses={}))
    assert "(seed 3) for each norm; all its runs start" in markdown(alone, make_results(alone, errors))
    assert "Weights:" not in markdown(batch_study(), make_results(batch_study(), errors))


def test_captions_state_the_clips_seen():
    study = make_study({"norm": ["bn", "gn"]})
    results = make_results(study, errors)
    assert "Training clips seen: 2,400 in every run." in markdown(study, results)
    assert "Training clips seen differ by 0.67 %: from 2,384 (gn) to 2,400 (bn) in a run." in markdown(
        study, with_clips(results, [2400, 2384])
    )
    assert "2,400 in every run. 5 of 10 runs have not recorded it." in markdown(
        study, with_clips(results, [None, 2400])
    )
    assert "Training clips seen: not recorded." in markdown(study, with_clips(results, [None, None]))


# ------------------------------------------------------------------------------------------------------------- files


def test_files_hold_each_run_and_each_cell(tmp_path):
    study = batch_study()
    late = {"norm": "gn", "batch_size": "1"}
    results = make_results(study, lambda values, seed: None if values == late and seed else errors(values, seed))
    write_tables(study, results, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["curves.csv", "runs.csv", "table.csv", "table.md"]
    assert (folder / "table.md").read_text() == markdown(study, results) + "\n"
    runs = read(folder / "runs.csv")
    assert len(runs) == 12 * 5 - 4
    assert runs[1] == {
        "norm": "bn", "batch_size": "8", "seed": "1", "lr": "0.003", "clips": "2400", "top1": "79", "top5": "89",
        "clip_top1": "77", "clip_top5": "99", "loss": "0.9", "seconds": "101.0", "folder": "bn_8_seed1-1a2b3c4d",
    }  # fmt: skip
    cells = read(folder / "table.csv")
    assert len(cells) == 12
    assert cells[0] == {
        "norm": "bn", "batch_size": "8", "seeds": "5", "missing": "0", "lr": "0.003", "clips": "2400",
        "top1_median": "78", "top1_lowest": "76", "top1_highest": "80",
        "top5_median": "88", "top5_lowest": "86", "top5_highest": "90",
        "clip_top1_median": "76", "clip_top1_lowest": "74", "clip_top1_highest": "78",
    }  # fmt: skip
    assert (cells[-1]["seeds"], cells[-1]["missing"], cells[-1]["top1_lowest"]) == ("1", "4", "90")


def test_curves_are_tidy_and_the_loss_is_a_mean_of_its_epoch(tmp_path):
    study = make_study({"norm": ["gn"]}, seeds=(3,))
    [result] = make_results(study, errors, epochs=2, features=(50,))
    [outcome] = result.outcomes
    loss = Curve(np.array([9, 19, 29]), np.array([0.0, 0.0, 1.0]), np.array([2.0, 1.0, 0.25]))
    curves = {**outcome.curves, "train/loss": loss, "lr": loss}
    write_tables(study, [replace(result, outcomes=(replace(outcome, curves=curves),))], tmp_path)
    found = read(tmp_path / "curves.csv")
    assert {row["name"] for row in found} == {"train/top1", "val/clip_top1", "features/p50", "train/loss"}
    assert [list(row.values()) for row in found if row["name"] == "train/loss"] == [
        ["gn", "3", "train/loss", "0", "19", "1.5"],
        ["gn", "3", "train/loss", "1", "29", "0.25"],
    ]
    top1 = [row for row in found if row["name"] == "train/top1"]
    assert [(row["epoch"], row["step"]) for row in top1] == [("0", "39"), ("1", "79")]
    assert [float(row["value"]) for row in top1] == pytest.approx(outcome.curves["train/top1"].values, rel=1e-8)
    features = outcome.curves["features/p50"]
    assert len([row for row in found if row["name"] == "features/p50"]) == len(features.steps)


def test_a_study_without_a_result_has_tables_too(tmp_path):
    study = table8_study(reported=tuple(REPORTED))
    write_tables(study, make_results(study, lambda values, seed: None), tmp_path)
    assert read(tmp_path / "runs.csv") == read(tmp_path / "curves.csv") == []
    assert read(tmp_path / "table.csv")[0]["missing"] == "5"
    assert all(set(row[2::2]) == {"–"} for row in rows((tmp_path / "table.md").read_text())[1:])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    study = make_study({"norm": ["gn"]})
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file.*cannot be written"):
        write_tables(study, make_results(study, errors), tmp_path / "file")
