"""The page of a report as a file: what is in it, that nothing else is needed, and what a user who errs is told."""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_runs import draw_results, write_run
from video_files import write_video

from videogn.errors import UsageError, VideoError
from videogn.report import charts, markup
from videogn.report.numbers import compute
from videogn.report.order import clustered
from videogn.report.page import render, write_report
from videogn.report.runs import read_runs
from videogn.report.sheets import contact_sheet
from videogn.report.videos import most_confident_mistakes
from videogn.report_cli import add_report_command
from videogn.results import TRAINING_FILE
from videogn.spec import ClipSpec, Protocol

EVIL = "<script>alert('1')</script> & \"$x^2$\""
NAMES = ["left", EVIL, "right", "up"]
VOID = {"meta", "img", "br", "input", "use", "path"}


class Page(HTMLParser):
    """Elements of a page with their attributes and texts; fails where end tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID - {"use", "path"}:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "script":
            self.scripts[self.open[-1][1].get("type")] = data
        else:
            self.texts.append(data)


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
def page(runs, tmp_path_factory) -> str:
    path = write_report(runs, str(tmp_path_factory.mktemp("out") / "page.html"), sheets=5, title=EVIL)
    return Path(path).read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(page):
    parsed = Page(page)
    for tag, attributes in parsed.elements:
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes) or re.match(
            r"#|data:image/jpeg;base64,", attributes.get("src") or attributes.get("href") or ""
        ), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert [a for _, a in parsed.elements if "id" in a]
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in parsed.elements if tag in ("a", "use")} <= set(ids)


def test_the_policy_lets_one_script_run(page):
    parsed = Page(page)
    policy = next(a["content"] for tag, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[None].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert set(parsed.scripts) == {None, "application/json"}


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
    assert "No frames to show: no such file here" in page


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


@pytest.mark.parametrize("crop", ["full", "center", "three"])
def test_a_sheet_shows_what_the_network_sees(video, crop):
    from videogn.inference import read_clips

    clip = ClipSpec(
        frames=8, stride=2, train_short_side=(32, 40), train_crop=32,
        protocol=Protocol(clips=3, crop=crop, short_side=48),
    )  # fmt: skip
    rows = contact_sheet(video, clip)
    views = read_clips(video, clip)  # (K * crops, 3, T, H, W)
    assert len(rows) == 3
    crops, few = (3, [0, 7]) if crop == "three" else (1, [0, 2, 5, 7])
    for i, row in enumerate(rows):
        shown = np.asarray(Image.open(io.BytesIO(row)), float)
        tiles = [view[:, t].permute(1, 2, 0).numpy() for view in views[i * crops : (i + 1) * crops] for t in few]
        width = tiles[0].shape[1]
        assert shown.shape == (48, len(tiles) * (width + 3) - 3, 3)
        for j, tile in enumerate(tiles):
            inner = shown[2:-2, j * (width + 3) + 2 : j * (width + 3) + width - 2]
            assert np.abs(inner - tile[2:-2, 2:-2]).mean() < 12  # JPEG


def test_a_sheet_of_no_video(tmp_path):
    with pytest.raises(VideoError, match="no such file here"):
        contact_sheet(str(tmp_path / "none.mp4"), ClipSpec())
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    with pytest.raises(VideoError):
        contact_sheet(str(tmp_path / "bad.mp4"), ClipSpec())


def test_charts_are_the_same_every_time_and_take_text_as_text():
    curves = [charts.Line(i, range(1, 11), np.linspace(0.1, 0.5 + i, 10).tolist()) for i in range(9)]
    first = charts.lines("a", EVIL, curves, "x $a_1$ <b>", "y")
    assert first == charts.lines("a", EVIL, curves, "x $a_1$ <b>", "y")
    assert "x $a_1$ &lt;b&gt;" in first
    other = charts.lines("b", EVIL, curves, "x", "y")
    assert not set(re.findall(r'id="([^"]+)"', first)) & set(re.findall(r'id="([^"]+)"', other))
    for unwanted in ("<metadata", "<?xml", "<style", "xmlns", "DejaVu", "http"):
        assert unwanted not in first
    assert len({charts.swatch(i) for i in range(49)}) == 49


def test_long_curves_are_means_of_neighbours():
    x, y = charts.shortened(range(4000), range(4000))
    assert len(x) == charts.MOST_POINTS
    assert (x == np.arange(4000).reshape(-1, 10).mean(axis=1)).all()
    assert (x == y).all()


def test_clustered_brings_groups_together():
    rng = np.random.default_rng(3)
    group = rng.permutation(np.repeat(np.arange(12), 4))
    counts = np.diag(rng.integers(20, 40, 48)) + (group[:, None] == group) * rng.integers(1, 5, (48, 48))
    order = clustered(counts)
    assert sorted(order) == list(range(48))
    assert sum(group[a] != group[b] for a, b in itertools.pairwise(order)) == 11


def test_clustered_joins_as_scipy_does():
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    rng = np.random.default_rng(4)
    counts = rng.integers(1, 100, (12, 12))
    share = counts / counts.sum(axis=1, keepdims=True)
    likeness = share + share.T
    tree = hierarchy.linkage((2 - likeness)[np.triu_indices(12, 1)], "average")
    order = clustered(counts)
    leaves = {i: {i} for i in range(12)}
    for i, (a, b, _, _) in enumerate(tree):
        leaves[12 + i] = leaves[a] | leaves[b]
        at = sorted(order.index(leaf) for leaf in leaves[12 + i])
        assert at == list(range(at[0], at[-1] + 1))  # each group of the tree stands together


def test_markup():
    assert markup.plain("a\udce9b\x00\ud800") == "a\\xe9b\\x00\\ud800"
    assert markup.text('<a href="x">\'&') == "&lt;a href=&quot;x&quot;&gt;&#x27;&amp;"
    written = markup.script_json({"</script>": ["<!--", "\u2028\u2029&\udce9", 1.5, [1, 2]]})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"</script>": ["<!--", "\u2028\u2029&\\xe9", 1.5, [1, 2]]}
    assert markup.percent(0.73421) == "73.4"
    assert markup.percent(-0.002, 2, sign=True) == "−0.20"
    assert markup.number(math.nan) == markup.number(None) == "–"
    assert [markup.size(n) for n in (10, 2048, 3 << 20, 20 << 30)] == ["10 B", "2 KiB", "3.0 MiB", "20.0 GiB"]
    assert markup.thinned(range(1000), 5) == [0, 250, 500, 749, 999]


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--sheets", "-1"], "--sheets: expected 0 or more, found -1"),
        (["RUN", "-o", "FOLDER"], "--output: expected a file such as .*report.html, found a folder"),
        (["RUN", "-o", "FOLDER/none/r.html"], "found no folder"),
        (["FOLDER/none"], "none"),
    ],
)
def test_wrong_usage(runs, tmp_path, arguments, message):
    given = [a.replace("RUN", runs[0]).replace("FOLDER", str(tmp_path)) for a in arguments]
    with pytest.raises(UsageError, match=message):
        command(*given)
    assert not os.listdir(tmp_path)


def test_the_page_needs_no_torch():
    code = "import sys, videogn.report.page; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_page_of_one_run_names_what_classes_are_taken_for(runs):
    page = render(compute(read_runs(runs[:1])), sheets=0, title="one")
    assert "most often taken for" in page
    assert "95 % interval (Wilson)" in page
