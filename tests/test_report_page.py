"""The page of a report as a file: what is in it, that nothing else is needed, and what a user who errs is told."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from html_pages import Page, assert_one_script_runs, assert_self_contained
from report_runs import draw_results, write_run
from video_files import write_video

from videogn.cli import main
from videogn.errors import UsageError
from videogn.report.numbers import compute
from videogn.report.page import render, write_report
from videogn.report.runs import read_runs
from videogn.report.videos import most_confident_mistakes
from videogn.report_cli import add_report_command
from videogn.results import TRAINING_FILE
from videogn.spec import ClipSpec, Protocol

EVIL = "<script>alert('1')</script> & \"$x^2$\""
NAMES = ["left", EVIL, "right", "up"]


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("videos") / "a.mp4"
    write_video(path)
    return str(path)


def results(paths, seed=1, **options):
    return draw_results([i % len(NAMES) for i in range(len(paths))], paths, len(NAMES), skill=1.0, seed=seed, **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, video) -> list[str]:
    root = tmp_path_factory.mktemp("runs")
    paths = [video if i % 3 == 0 else f"/no/{EVIL}/{i}\udce9.mp4" for i in range(40)]
    clip = ClipSpec(
        frames=4, stride=2, train_short_side=(32, 40), train_crop=32, protocol=Protocol(clips=3, short_side=48)
    )
    for seed, norm in enumerate(("bn", "gn", "ln")):
        write_run(root / norm / "version_0", results(paths, seed, failed=(1, 2)), NAMES, norm=norm, clip=clip)
    return [str(root / norm) for norm in ("bn", "gn", "ln")]


@pytest.fixture(scope="module")
def page(runs, video, tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("out") / "page.html")
    path = write_report(runs, out, sheets=5, title=EVIL, videos_in=[os.path.dirname(video)])
    return Path(path).read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(page):
    assert_self_contained(page)


def test_the_policy_lets_one_script_run(page):
    assert_one_script_runs(page)
    assert set(Page(page).scripts) == {None, "application/json"}


def test_names_are_text_everywhere(page):
    parsed = Page(page)
    assert page.count("<script") == 2
    assert parsed.texts.count(EVIL) >= 4  # title, heading, class table, pairs
    assert f"/no/{EVIL}/1\\xe9.mp4" in parsed.texts
    assert json.loads(parsed.scripts["application/json"])["names"] == NAMES


def test_the_matrix_holds_the_counts(page, runs):
    data = json.loads(Page(page).scripts["application/json"])
    for shown, run in zip(data["runs"], read_runs(runs), strict=True):
        counts = np.zeros((len(NAMES), len(NAMES)), int)
        for result in run.results:
            if result.error is None:
                counts[result.label, result.classes[0]] += 1
        found = np.zeros_like(counts)
        for label, taken, count in np.reshape(shown["cells"], (-1, 3)):
            found[label, taken] = count
        assert (found == counts).all()
    assert sorted(data["clustered"]) == list(range(len(NAMES)))


def test_contact_sheets_are_limited_and_say_why_there_is_none(page):
    assert page.count("<figure><figcaption>true class") == 5
    assert page.count("data:image/jpeg") % 3 == 0  # three clips a video
    assert page.count("data:image/jpeg") > 0
    assert "No frames to show: the video is in no folder that --videos names." in page


def test_without_training_or_frames_the_page_says_so(tmp_path):
    folder = write_run(tmp_path / "gn", results([f"{i}.mp4" for i in range(20)], clips=1), NAMES, clips=1)
    os.unlink(folder / TRAINING_FILE)
    os.unlink(folder / "metrics.csv")
    path = write_report([str(folder)], sheets=0)
    assert path == str(folder / "report.html")
    text = Path(path).read_text()
    for sentence in (
        "No metrics.csv was found",
        "no training.json was found",
        "One clip per video was evaluated",
        "One run alone",
        "Not asked for (--sheets 0)",
        "none of 20 videos failed",
    ):
        assert sentence in text
    assert not [name for name in os.listdir(folder) if name.endswith(".partial")]


def test_all_videos_failed(tmp_path):
    paths = [f"{i}.mp4" for i in range(6)]
    folders = [write_run(tmp_path / name, results(paths, failed=range(6)), NAMES, norm=name) for name in ("bn", "gn")]
    Page(Path(write_report([str(f) for f in folders], str(tmp_path / "o.html"))).read_text())


def test_each_mistake_is_shown_once_and_the_worst_first(runs):
    numbers = compute(read_runs(runs))
    chosen = most_confident_mistakes(numbers, 100)
    paths = [(of[0][0], numbers.runs[of[0][0]].results[of[0][1]].id) for of in chosen]
    assert len({video for _, video in paths}) == len(paths)
    wrong = [{r.id for r in run.results if r.error is None and r.classes[0] != r.label} for run in numbers.runs]
    assert {video for _, video in paths} == set.union(*wrong)
    first = [r for r in numbers.runs[0].results if r.id in wrong[0]]
    assert paths[0] == (0, max(first, key=lambda r: r.probabilities[0]).id)
    assert [run for run, _ in paths[:3]] == [0, 1, 2]


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_report_command(parser.add_subparsers(required=True))
    options = parser.parse_args(["report", *arguments])
    return options.run(options)


def test_the_command_prints_path_and_scores(runs, tmp_path, capsys):
    out = tmp_path / "r.html"
    assert command(*runs, "-o", str(out), "--sheets", "0", "--title", "Three norms") == 0
    printed = capsys.readouterr().out
    assert str(out) in printed
    for name in ("bn", "gn", "ln"):
        assert re.search(rf"^{name} .* 40 +2$", printed, re.MULTILINE)
    assert "bn minus gn" in printed
    assert "<h1>Three norms</h1>" in out.read_text()


def test_a_terminal_without_a_character_gets_its_number(tmp_path, monkeypatch):
    """Not an error after minutes of work; names that are not UTF-8 come out as they are where UTF-8 is."""
    names = ["a", "b", "c", "d"]
    paths = [f"{i}.mp4" for i in range(4)]
    folders = [str(write_run(tmp_path / name, results(paths), names)) for name in ("caf\udce9", "gn é")]
    for encoding, expected in (("ascii", rb"gn \xe9 "), ("utf-8", "gn é ".encode())):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
        assert main(["report", *folders, "--sheets", "0"]) == 0
        sys.stdout.flush()
        assert expected in written.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--sheets", "-1"], "--sheets: expected 0 or more, found -1"),
        (["RUN", "-o", "FOLDER"], "--output: expected a file such as .*report.html, found a folder"),
        (["RUN", "-o", "FOLDER/none/r.html"], "found no folder"),
        (["RUN", "-o", "FOLDER/predictions.csv"], "--output: expected a name that ends in .html"),
        (["FOLDER/none"], "none"),
    ],
)
def test_wrong_usage(runs, tmp_path, arguments, message):
    given = [a.replace("RUN", runs[0]).replace("FOLDER", str(tmp_path)) for a in arguments]
    with pytest.raises(UsageError, match=message):
        command(*given)
    assert not os.listdir(tmp_path)


def test_which_version_of_a_folder_was_taken_is_said(runs, tmp_path, capsys):
    for version in ("version_0", "version_3"):
        shutil.copytree(os.path.join(runs[0], "version_0"), tmp_path / "k" / version)
    assert command(str(tmp_path / "k"), "-o", str(tmp_path / "r.html"), "--sheets", "0") == 0
    assert f"{tmp_path / 'k'}: version_3 is its newest" in capsys.readouterr().out
    assert command(str(tmp_path / "k" / "version_0"), "-o", str(tmp_path / "r.html"), "--sheets", "0") == 0
    assert "newest" not in capsys.readouterr().out


@pytest.mark.parametrize("given", [[], ["-o", "OUT/page.html"]])
def test_a_read_only_place_is_refused_at_the_start(runs, tmp_path, monkeypatch, given):
    monkeypatch.setattr("videogn.report.page.os.access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    monkeypatch.setattr("videogn.report.page.compute", lambda runs: pytest.fail("minutes of work"))
    with pytest.raises(UsageError, match=r"expected a folder that can be written.*--output"):
        command(runs[0], *(a.replace("OUT", str(tmp_path)) for a in given))


def test_the_page_needs_no_torch():
    code = "import sys, videogn.report.page; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_page_of_one_run_names_what_classes_are_taken_for(runs):
    page = render(compute(read_runs(runs[:1])), sheets=0, title="one")
    assert "most often taken for" in page
    assert "95 % interval (Wilson)" in page
