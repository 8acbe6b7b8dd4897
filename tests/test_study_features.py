"""The figure of feature percentiles: whose they are, on which scale, how many."""

from dataclasses import replace

import pytest
from study_made import batch_error, batch_study, make_results, make_study

from videogn.report.drawing import settings
from videogn.study import drawings
from videogn.study.figures import write_figures
from videogn.study.outcomes import CellResult
from videogn.study.series import feature_panels


@pytest.fixture
def drawing():
    with settings(for_files=True):
        yield


def test_features_are_of_the_first_seed(drawing):
    study = batch_study()
    results = make_results(study, batch_error, features=(1, 20, 80, 99))
    panels = feature_panels(study, [CellResult(r.cell, r.lr, r.outcomes[::-1], 0) for r in results])
    plots = drawings.features(panels[:3]).axes
    assert [plot.get_title() for plot in plots] == ["bn, 8", "bn, 4", "bn, 2"]
    curves = results[0].outcomes[0].curves
    for line, p in zip(plots[0].get_lines(), (99, 80, 20, 1), strict=True):
        assert line.get_xdata().tolist() == curves[f"features/p{p:02d}"].steps.tolist()
        assert line.get_ydata().tolist() == curves[f"features/p{p:02d}"].values.tolist()
    assert len({plot.get_ylim() for plot in plots}) == 1


@pytest.mark.parametrize(("times", "same"), [(5.0, True), (6.0, False)])
def test_features_of_other_sizes_have_scales_of_their_own(times, same, drawing):
    """Where one cell's are so large that the others' would be flat lines."""
    study = batch_study()
    first = feature_panels(study, make_results(study, lambda values, seed: 20.0, features=(1, 99)))[0]
    larger = [replace(one, values=tuple(tuple(times * v for v in runs) for runs in one.values)) for one in first.series]
    plots = drawings.features([first, replace(first, title="a long title " * 9, series=tuple(larger))]).axes
    assert (plots[0].get_ylim() == plots[1].get_ylim()) == same
    assert plots[1].get_title().count("\n") == 1
    assert plots[1].get_title().endswith("…")


def test_panels_of_features_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("videogn.study.figures.MOST_PANELS", 2)
    study = make_study({"norm": ["bn", "gn", "ln"]}, seeds=[0])
    shown = write_figures(study, make_results(study, lambda values, seed: 20.0, features=(50,)), tmp_path)[-1]
    assert "The first 2 of 3 cells" in shown.caption
    assert list(dict.fromkeys(row[0] for row in shown.rows)) == ["bn", "gn"]
