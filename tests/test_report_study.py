"""What a report shows of a study's folder, and of the features that runs logged."""

import base64
import csv
import json
import os

import pytest
from html_pages import Page, assert_one_script_runs, assert_self_contained
from report_runs import draw_results, write_run

from videogn.cli import main
from videogn.errors import UsageError
from videogn.report.curves import percentiles, read_curves
from videogn.report.page import write_report
from videogn.report.studies import read_figures

EVIL = "<script>alert('1')</script>"
SVG = f'<svg xmlns="http://www.w3.org/2000/svg">{EVIL}</svg>'
NAMES = ["left", "right"]


def make_run(folder):
    paths = [f"{i}.mp4" for i in range(10)]
    results = draw_results([i % 2 for i in range(10)], paths, len(NAMES), skill=1.0)
    return write_run(folder / "version_0", results, NAMES)


def write_study(folder, **changes):
    figures = [{"name": name, "title": f"{name} {EVIL}", "caption": "Median of runs."} for name in ("curves", "error")]
    about = {"title": f"A study {EVIL}", "command": "videogn study -c x.yaml", "date": "2026-11-21", "figures": figures}
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps({**about, **changes}))
    for name in ("curves", "error"):
        (folder / f"{name}.svg").write_text(SVG)
    return folder


def log_features(run, of):
    """Columns for these percentiles: the percentile itself, and one more with each step."""
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for step in (0, 10, 20):
        rows.append({"step": step, "epoch": 0} | {f"features/p{p:02d}": p + step / 10 for p in of})
    head = [*rows[0], *(f"features/p{p:02d}" for p in of)]
    with open(run / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, head, restval="")
        writer.writeheader()
        writer.writerows(rows)


def test_figures_of_a_study_are_pictures_in_the_page(tmp_path, capsys):
    """Shown as pictures, in which browsers run no script."""
    run, study = make_run(tmp_path / "gn"), write_study(tmp_path / "study")
    assert main(["report", str(run), "--study", str(study), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert_self_contained(page)
    assert_one_script_runs(page)
    parsed = Page(page)
    pictures = [a["src"].partition(",")[2] for tag, a in parsed.elements if tag == "img"]
    assert [base64.b64decode(picture).decode() for picture in pictures] == [SVG, SVG]
    assert {f"A study {EVIL}.", f"curves {EVIL}"} <= set(parsed.texts)
    assert " videogn study -c x.yaml; 2026-11-21." in parsed.texts
    assert 'id="study"' not in (tmp_path / write_report([str(run)])).read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"figures": None}, "expected the list `figures`"),
        ({"figures": ["error"]}, "expected the list `figures`"),
        ({"figures": [{"name": "../secret", "title": "a", "caption": "b"}]}, "expected the list `figures`"),
        ({"figures": [{"name": "/secret", "title": "a", "caption": "b"}]}, "expected the list `figures`"),
        ({"figures": [{"name": "gone", "title": "a", "caption": "b"}]}, "gone.svg: cannot be read"),
        (
            {"figures": [{"name": "linked", "title": "a", "caption": "b"}]},
            "linked.svg: expected a file of the study, found",
        ),
        (
            {"figures": [{"name": "pipe", "title": "a", "caption": "b"}]},
            "pipe.svg: expected a file .* found a folder, pipe",
        ),
        ({"figures": [{"name": "large", "title": "a", "caption": "b"}]}, "large.svg: expected at most 32 MiB"),
        ({"figures": [{"name": "error", "title": "a", "caption": "b"}] * 2}, "each of another name"),
        ({"figures": [{"name": "\ud800", "title": "a", "caption": "b"}]}, r"\\ud800.svg: cannot be read"),
        ({"figures": [{"name": "a\0b", "title": "a", "caption": "b"}]}, r"\\x00b.svg: cannot be read"),
    ],
)
def test_folders_that_are_refused(tmp_path, changes, message):
    (tmp_path / "secret.svg").write_text("secret")
    study = write_study(tmp_path / "study", **changes)
    (study / "linked.svg").symlink_to(tmp_path / "secret.svg")
    os.mkfifo(study / "pipe.svg")
    with open(study / "large.svg", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match=message):
        read_figures(str(study))


def test_what_is_no_study_and_what_is_no_run(tmp_path, capsys):
    run, study = make_run(tmp_path / "gn"), write_study(tmp_path / "study")
    assert main(["report", str(run), "--study", str(run)]) == 2
    assert "--study: expected a folder with study.json, found none in" in capsys.readouterr().err
    for text in ("{", "[" * 200_000):
        (study / "study.json").write_text(text)
        assert main(["report", str(run), "--study", str(study)]) == 2
        assert "study.json: cannot be read" in capsys.readouterr().err
    assert main(["report", str(study)]) == 2
    assert "the folder of a study, whose page is study.html" in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_a_pipe_in_the_place_of_curves_does_not_hang(tmp_path):
    run = make_run(tmp_path / "gn")
    os.unlink(run / "metrics.csv")
    os.mkfifo(run / "metrics.csv")
    with pytest.raises(UsageError, match=r"metrics.csv: expected a file of the run, found a folder, pipe or device"):
        write_report([str(run)])


def test_features_that_runs_logged(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("bn", "gn", "ln")]
    log_features(runs[0], (1, 50, 100))
    log_features(runs[1], (50,))
    found = percentiles(read_curves(str(runs[0])))
    assert list(found) == [100, 50, 1]
    assert found[50].steps.tolist() == [0, 10, 20]
    assert found[50].values.tolist() == [50.0, 51.0, 52.0]
    page = (tmp_path / write_report(list(map(str, runs)), str(tmp_path / "page.html"))).read_text()
    assert_self_contained(page)
    section = page.partition('<section id="features">')[2].partition("</section>")[0]
    texts = Page(section).texts
    assert {"percentile 100", "percentile 50", "percentile 1", "102.000", "51.000"} <= set(texts)
    assert section.count("<figure") == 2
    assert "Not logged by" in section
    assert 'id="features"' not in (tmp_path / write_report([str(runs[2])])).read_text()
