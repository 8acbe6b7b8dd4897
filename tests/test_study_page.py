"""The page of a study: what is in it, that nothing else is needed, hostile names, what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from html_pages import Page, assert_one_script_runs, assert_self_contained
from report_runs import draw_results, write_run
from study_made import REPORTED, batch_error, batch_study, make_results, make_study

from videogn.errors import UsageError
from videogn.report.page import write_report
from videogn.report.runs import read_runs
from videogn.study.claims import Claim, test_claims
from videogn.study.figures import write_figures
from videogn.study.page import render, write_page

EVIL = "<script>alert('1')</script> & \"$x^2$\" \udce9"
SHOWN = EVIL.replace("\udce9", "\\xe9")
MADE_WITH = {
    "command": "videogn study -c configs/study/made.yaml --jobs 2",
    "date": "2026-11-21",
    "cores": 2,
    "versions": ["videogn 0.1.0", "torch 2.15.0"],
}


@pytest.fixture(scope="module")
def made():
    claims = (
        Claim("BN's error rises", ({"norm": "bn", "batch_size": "2"},), ({"norm": "bn", "batch_size": "8"},), "above"),
        Claim("BRN has runs", ({"norm": "brn", "batch_size": "1"},), ({"norm": "bn", "batch_size": "1"},), "below"),
    )
    study = batch_study(claims=claims, notes=("On generated videos: `model.width` 16 & more.",), title="BN, BRN, GN")
    results = make_results(
        study,
        lambda values, seed: None if tuple(values.values()) == ("brn", "1") and seed > 2 else batch_error(values, seed),
    )
    return study, results, test_claims(claims, results)


@pytest.fixture(scope="module")
def page(made, tmp_path_factory) -> str:
    study, results, claims = made
    folder = tmp_path_factory.mktemp("study")
    path = write_page(study, results, claims, write_figures(study, results, folder), folder, MADE_WITH)
    assert path == folder / "study.html"
    return path.read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(page):
    assert_self_contained(page)
    assert_one_script_runs(page)
    assert all(a["href"].startswith("#") for tag, a in Page(page).elements if tag == "a")


def test_its_sections(page):
    parsed = Page(page)
    assert [a["id"] for tag, a in parsed.elements if tag == "section"] == [
        "study",
        "figures",
        "table",
        "claims",
        "runs",
    ]
    for expected in (
        "BN, BRN, GN",
        "videogn study -c configs/study/made.yaml --jobs 2",
        "videogn 0.1.0, torch 2.15.0",
        "Training clips seen: 2,400 in every run.",
        "model.width",
        "BN's error rises",
        "supported",
        "not tested: 2 of 5 seeds are missing in brn, 1",
        "Runs that are not finished: brn, 1 (2).",
    ):
        assert expected in parsed.texts, expected
    assert "12 cells, 58 of 60 runs finished" in page
    labels = [a.get("aria-label", "") for tag, a in parsed.elements if tag == "svg"]
    assert [label.partition(". ")[0] for label in labels] == ["Error against epochs", "Error against clips per batch"]


def test_every_run_has_a_row_that_can_be_sorted(page, made):
    _, results, _ = made
    runs = page[page.index('id="all-runs"') :]
    outcome = results[0].outcomes[1]
    assert runs.count("<tr>") == 59
    assert f'<td class="n" data-v="{outcome.scores["top1"]:.9g}">{100 * outcome.scores["top1"]:.1f}</td>' in runs
    assert 'class="sortable"' in page
    assert outcome.run.folder.name in Page(page).texts


def test_reported_stands_beside_here(tmp_path):
    study = make_study({"norm": ["bn", "gn"], "setting": ["32x2, 8"]}, seeds=[0], reported=REPORTED)
    results = make_results(study, lambda values, seed: 25.0)
    page = render(study, results, [], write_figures(study, results, tmp_path), {})
    texts = Page(page).texts
    assert "32x2, 8: reported" in texts
    assert "73.3 / 90.7" in texts
    assert "Top-1 as reported and here" in texts
    assert "The study's file names no claims." in texts


def test_hostile_names_are_text(tmp_path):
    study = make_study({EVIL: [EVIL, "gn"], "x": [EVIL, "2"]}, seeds=[0], title=EVIL, notes=(EVIL, f"`{EVIL}`"))
    results = make_results(study, lambda values, seed: 20.0)
    claims = test_claims([Claim(EVIL, (study.cells[0].values,))], results)
    figures = write_figures(study, results, tmp_path)
    path = write_page(study, results, claims, figures, tmp_path, {EVIL: EVIL, "command": EVIL})
    page = path.read_text(encoding="utf-8")
    parsed = Page(page)
    assert page.count("<script") == 1
    assert_self_contained(page)
    assert parsed.texts.count(SHOWN) >= 8


def test_a_study_without_a_finished_run():
    study = batch_study(seeds=(0, 1))
    page = render(study, make_results(study, lambda values, seed: None), [], [], {})
    texts = Page(page).texts
    assert "No run has left anything to draw." in texts
    assert (
        "Runs that are not finished: bn, 8 (2); bn, 4 (2); bn, 2 (2); bn, 1 (2); brn, 8 (2); brn, 4 (2); and 6 more."
        in texts
    )


def test_a_page_that_cannot_be_written(made, tmp_path):
    study, results, claims = made
    with pytest.raises(UsageError, match=r"study\.html"):
        write_page(study, results, claims, [], tmp_path / "none", MADE_WITH)


def test_a_report_of_runs_of_a_study_names_them(tmp_path):
    folders = []
    for name in ("gn_4_seed0-1a2b3c4d", "gn_4_seed1-9f8e7d6c", "bn_4_seed0-5a5a5a5a"):
        folder = tmp_path / "runs/study/cells" / name
        found = draw_results([0, 1, 2, 3] * 3, [f"{i}.mp4" for i in range(12)], 4, skill=1.0, seed=len(folders))
        write_run(folder / "version_0", found, list("abcd"), norm=name[:2])
        for file in ("config.yaml", "output.log", "run.json"):
            Path(folder / file).write_text("{}")
        folders.append(str(folder))
    assert [run.name for run in read_runs(folders)] == ["gn_4_seed0-1a2b3c4d", "gn_4_seed1-9f8e7d6c", "bn"]
    page = Path(write_report(folders, str(tmp_path / "report.html"), sheets=0)).read_text(encoding="utf-8")
    assert "gn_4_seed1-9f8e7d6c" in Page(page).texts


def test_few_classes_have_no_top_5():
    study = make_study({"norm": ["bn", "gn"]})
    heads = ["top-5 / %", "clip top-5 / %"]
    for classes, shown in ((6, heads), (5, [])):
        cells = tuple(replace(cell, config={"model": {"num_classes": classes}}) for cell in study.cells)
        few = replace(study, cells=cells)
        parsed = Page(render(few, make_results(few, lambda values, seed: 20.0), [], [], MADE_WITH))
        assert [text for text in parsed.texts if text in heads] == shown
        assert "clip top-1 / %" in parsed.texts
