"""Figures of a study: what is drawn is what the runs left; the files; names that are hostile; what is missing."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.colors
import numpy as np
import pytest
from PIL import Image
from study_made import (
    REPORTED,
    batch_error,
    batch_study,
    make_outcome,
    make_results,
    make_study,
    table8_error,
    table8_study,
)

from videogn.errors import UsageError
from videogn.report.drawing import as_files, colour, settings
from videogn.study import drawings
from videogn.study.figures import write_figures
from videogn.study.grid import Reported
from videogn.study.outcomes import CellResult
from videogn.study.series import curve_panels, error_series, ordered, pairs
from videogn.study.table import markdown

EVIL = "<script>alert('1')</script> & \"$x^2$\" \x00 \\frac"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def drawing():
    with settings(for_files=True):
        yield


@pytest.fixture(scope="module")
def study():
    return batch_study()


@pytest.fixture(scope="module")
def results(study):
    return make_results(study, batch_error, features=(1, 20, 80, 99))


@pytest.fixture(scope="module")
def figures(study, results, tmp_path_factory):
    return write_figures(study, results, tmp_path_factory.mktemp("figures") / "new")


def outcomes(results, **values):
    return next(result for result in results if result.cell.values == values).outcomes


def rgb(line) -> str:
    return matplotlib.colors.to_hex(line.get_color())


def test_curves_are_medians_in_bands_from_lowest_to_highest(study, results, drawing):
    plots = drawings.curves(curve_panels(study, results)).axes
    assert [plot.get_title() for plot in plots] == [f"clips per batch: {size}" for size in (8, 4, 2, 1)]
    for plot, size in zip(plots, ("8", "4", "2", "1"), strict=True):
        lines, bands = iter(plot.get_lines()), iter(plot.collections)
        for number, norm in enumerate(("bn", "brn", "gn")):
            for name, dashed in (("train/top1", True), ("val/clip_top1", False)):
                runs = [o.curves[name].values for o in outcomes(results, norm=norm, batch_size=size)]
                errors = 100 * (1 - np.array(runs))
                line = next(lines)
                assert line.get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
                np.testing.assert_allclose(line.get_ydata(), np.median(errors, axis=0), rtol=1e-12)
                assert line.is_dashed() == dashed
                assert rgb(line) == colour(number).lower()
                corners = next(bands).get_paths()[0].vertices[:, 1]
                np.testing.assert_allclose([corners.min(), corners.max()], [errors.min(), errors.max()], rtol=1e-12)
    assert len({plot.get_ylim() for plot in plots}) == 1


def test_errors_are_medians_bars_and_dots(study, results, drawing):
    plot = drawings.errors(error_series(study, results), ordered(study, "batch_size"), "clips").axes[0]
    assert [tick.get_text() for tick in plot.get_xticklabels()] == ["8", "4", "2", "1"]
    for number, (norm, container) in enumerate(zip(("bn", "brn", "gn"), plot.containers, strict=True)):
        points, _, (bars,) = container.lines
        dots = plot.collections  # of each line: its bars, then the dots of each category
        mine = [
            d
            for d in dots
            if hasattr(d, "get_sizes") and matplotlib.colors.to_hex(d.get_facecolor()[0][:3]) == rgb(points)
        ]
        for i, size in enumerate(("8", "4", "2", "1")):
            errors = [o.error for o in outcomes(results, norm=norm, batch_size=size)]
            x, y = points.get_xdata()[i], points.get_ydata()[i]
            assert y == pytest.approx(statistics.median(errors))
            assert abs(x - i) < 0.45
            np.testing.assert_allclose(bars.get_segments()[i], [[x, min(errors)], [x, max(errors)]])
            assert sorted(mine[i].get_offsets()[:, 1]) == pytest.approx(sorted(errors))
        assert rgb(points) == colour(number).lower()
    shown = [container.lines[0].get_xdata()[0] for container in plot.containers]
    assert len(set(shown)) == 3  # beside each other


def test_numbers_fall_and_names_stay_in_order():
    study = make_study({"norm": ["gn", "bn"], "batch_size": ["1", "16", "4"]})
    assert ordered(study, "batch_size") == ["16", "4", "1"]
    assert ordered(study, "norm") == ["gn", "bn"]


def test_a_published_result_without_runs_is_left_out(tmp_path):
    study = make_study({"norm": ["bn", "gn"], "setting": ["32x2, 8"]}, seeds=[0], reported=REPORTED[:3])
    results = make_results(study, lambda values, seed: 25.0 if values["norm"] == "gn" else None)
    reported = write_figures(study, results, tmp_path)[-1]
    assert reported.rows == (("gn, 32x2, 8", "73.0", "75.0", "1"),)
    assert "2 of 3 published results have no run here" in reported.caption
    assert "Table 8" in reported.caption


def test_reported_stands_beside_here(drawing):
    study = table8_study()
    results = make_results(study, table8_error)
    plot = drawings.reported_and_here(pairs(study, results)).axes[0]
    reported, here = plot.get_lines()[0], plot.containers[0].lines[0]
    assert reported.get_xdata().tolist() == [73.3, 73.0, 72.1, 72.8, 73.3, 74.5]
    medians = [
        statistics.median(r.scores("top1")) for row in study.reported for r in results if r.cell.values == row.values
    ]
    assert here.get_xdata().tolist() == pytest.approx(medians)
    assert plot.get_yticklabels()[0].get_text() == "bn, 32x2, 8"


def test_two_sources_are_told_apart(tmp_path):
    other = Reported({"norm": "gn"}, 75.9, None, "ImageNet, section 4.1")
    rows = (Reported({"norm": "gn"}, 73.0, 90.6, "Kinetics-400, Table 8"), other)
    study = make_study({"norm": ["gn"]}, seeds=[0], reported=rows)
    figure = write_figures(study, make_results(study, lambda values, seed: 25.0), tmp_path)[-1]
    assert "Published: [1] Kinetics-400, Table 8; [2] ImageNet, section 4.1." in figure.caption
    assert "One run of each cell." in figure.caption
    for legend in ("reported [1]", "reported [2]", "here"):
        assert f">{legend}<" in figure.svg


def test_sources_have_the_numbers_of_the_table(tmp_path):
    texts = ("of what was not run", "Kinetics-400, Table 8", "ImageNet, section 4.1")
    rows = tuple(Reported({"norm": "ln" if i == 0 else "gn"}, 70.0 + i, None, text) for i, text in enumerate(texts))
    study = make_study({"norm": ["gn"]}, seeds=[0], reported=rows)
    results = make_results(study, lambda values, seed: 25.0)
    figure = write_figures(study, results, tmp_path)[-1]
    for said in ("[2] Kinetics-400, Table 8", "[3] ImageNet, section 4.1"):
        assert said in figure.caption
        assert said in markdown(study, results)
    assert ">reported [3]<" in figure.svg


def test_files(figures):
    assert [figure.name for figure in figures] == ["curves", "error", "features"]
    for figure in figures:
        svg = Path(f"{figure.path}.svg").read_text()
        root = ElementTree.fromstring(svg)
        texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
        assert {"curves": "clips per batch: 4", "error": "clips per batch", "features": "brn, 2"}[figure.name] in texts
        assert "<dc:date" not in svg
        assert len(svg) < 150_000
        picture = Image.open(f"{figure.path}.png").convert("RGB")
        assert picture.width == 1400
        assert picture.getpixel((0, 0)) == (255, 255, 255)
        assert {"role": "img"}.items() <= ElementTree.fromstring(figure.svg).attrib.items()
        assert "var(--run-1" in figure.svg


def test_the_same_bytes_every_time(tmp_path):
    study = make_study({"norm": ["bn", "gn"], "batch_size": ["8", "2"]}, seeds=[0, 1])
    results = make_results(study, lambda values, seed: 20.0 + seed)
    first, again = (write_figures(study, some, tmp_path / n) for n, some in (("a", results), ("b", results[::-1])))
    assert [figure.name for figure in again] == ["curves", "error"]
    for figure, other in zip(first, again, strict=True):
        for ending in (".svg", ".png"):
            assert Path(f"{figure.path}{ending}").read_bytes() == Path(f"{other.path}{ending}").read_bytes()
        assert figure.svg == other.svg


def test_the_table_has_the_numbers(figures, results):
    errors = sorted(o.error for o in outcomes(results, norm="gn", batch_size="2"))
    error = figures[1]
    assert error.head == ("clips per batch", "bn", "brn", "gn")
    assert error.rows[2] == ("2", *error.rows[2][1:3], f"{errors[2]:.1f} ({errors[0]:.1f} to {errors[4]:.1f})")
    assert figures[0].head[:3] == ("clips per batch", "epochs", "bn, validation")
    assert len(figures[0].rows) == 24


def test_what_is_missing_is_said(study, tmp_path):
    def error(values, seed):
        if values["norm"] == "brn" or (values["norm"] == "gn" and seed > 2):
            return None
        return batch_error(values, seed)

    curves, errors = write_figures(study, make_results(study, error), tmp_path)
    assert "No curve of: brn, 8; brn, 4; brn, 2; brn, 1. Not all runs of: gn, 8 (3 of 5 runs); " in curves.caption
    assert "No finished run of: brn, 8; " in errors.caption
    assert errors.head == ("clips per batch", "bn", "gn")


def test_nothing_to_draw_is_no_figure(study, tmp_path):
    assert write_figures(study, make_results(study, lambda values, seed: None), tmp_path) == []
    assert write_figures(study, [], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_runs_without_curves_have_errors_alone(tmp_path):
    study = make_study({"norm": ["bn", "gn"]}, seeds=[0])
    results = []
    for cell, error in zip(study.cells, (12.0, 10.0), strict=True):
        outcome = make_outcome(cell, 0, error)
        outcome.curves.clear()
        results.append(CellResult(cell, None, (outcome,), 0))
    (figure,) = write_figures(study, results, tmp_path)
    assert figure.head == ("norm", "error / %")
    assert figure.rows == (("bn", "12.0"), ("gn", "10.0"))


def test_one_axis_is_one_panel(tmp_path, drawing):
    study = make_study({"num_groups": ["1", "16", "4"]})
    results = make_results(study, lambda values, seed: 10.0 + seed + 8 / int(values["num_groups"]))
    (panel,) = curve_panels(study, results)
    assert panel.title == ""
    assert [series.label for series in panel.series] == ["1", "1", "16", "16", "4", "4"]
    plot = drawings.errors(error_series(study, results), ordered(study, "num_groups"), "groups").axes[0]
    joined = plot.get_lines()[-1]
    assert list(joined.get_xdata()) == [0, 1, 2]
    assert joined.get_ydata() == pytest.approx([12.5, 14.0, 20.0])


def test_further_axes_have_figures_of_their_own(tmp_path):
    study = make_study({"norm": ["bn", "gn"], "depth": ["50", "101"], "batch_size": ["8", "2"]}, seeds=[0])
    results = make_results(study, lambda values, seed: float(values["depth"]) / 10 + 2)
    found = write_figures(study, results, tmp_path)
    assert [figure.name for figure in found] == ["curves_50", "error_50", "curves_101", "error_101"]
    assert found[3].title == "Error against clips per batch (depth: 101)"
    assert found[3].rows == (("8", "12.1", "12.1"), ("2", "12.1", "12.1"))


def test_hostile_names_are_text(tmp_path):
    study = make_study({EVIL: [EVIL, "../../up", "x" * 300], "a\nb": ["1\n2", "é" * 40]}, seeds=[0], title=EVIL)
    for figure in write_figures(study, make_results(study, lambda values, seed: 20.0), tmp_path):
        texts = "".join(ElementTree.parse(f"{figure.path}.svg").getroot().itertext())
        assert "<script>alert('1')</script" in texts
        assert "<script" not in figure.svg
        ElementTree.fromstring(figure.svg)
    assert {path.parent for path in tmp_path.rglob("*")} == {tmp_path}


def test_dollars_are_no_formulas(drawing):
    study = make_study({"norm": ["$x^2$", "$\\frac$"]}, seeds=[0])
    series = error_series(study, make_results(study, lambda values, seed: 20.0))
    assert b">$\\frac$<" in as_files(drawings.errors(series, study.axes["norm"], "$x$"))["svg"]


def test_a_folder_that_cannot_be_written(study, results, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"):
        write_figures(study, results, tmp_path / "file")


def test_figures_need_no_torch():
    code = "import sys, videogn.study.figures, videogn.study.page; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
