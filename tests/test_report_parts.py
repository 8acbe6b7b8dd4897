"""Pieces of a report's page: contact sheets, plots, the order of classes, markup."""

from __future__ import annotations

import io
import itertools
import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from video_files import write_video

from videogn.errors import VideoError
from videogn.report import charts, markup
from videogn.report.order import clustered
from videogn.report.sheets import contact_sheet
from videogn.spec import ClipSpec, Protocol

LABEL = "<script>alert('1')</script> & \"$x^2$\""


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    return str(write_video(tmp_path_factory.mktemp("videos") / "a.mp4"))


@pytest.mark.parametrize("crop", ["full", "center", "three"])
def test_a_sheet_shows_what_the_network_sees(video, crop):
    from videogn.inference import read_clips

    clip = ClipSpec(
        frames=8, stride=2, train_short_side=(32, 40), train_crop=32,
        protocol=Protocol(clips=3, crop=crop, short_side=48),
    )  # fmt: skip
    rows = contact_sheet(video, clip)
    views = read_clips(video, clip)  # (K * crops, 3, T, H, W)
    assert list(rows) == [0, 1, 2]
    crops, few = (3, [0, 7]) if crop == "three" else (1, [0, 2, 5, 7])
    for i, row in rows.items():
        shown = np.asarray(Image.open(io.BytesIO(row)), float)
        tiles = [view[:, t].permute(1, 2, 0).numpy() for view in views[i * crops : (i + 1) * crops] for t in few]
        width = tiles[0].shape[1]
        assert shown.shape == (48, len(tiles) * (width + 3) - 3, 3)
        for j, tile in enumerate(tiles):
            inner = shown[2:-2, j * (width + 3) + 2 : j * (width + 3) + width - 2]
            assert np.abs(inner - tile[2:-2, 2:-2]).mean() < 12  # JPEG


def test_a_sheet_shows_some_of_many_clips(video):
    clip = ClipSpec(frames=2, stride=1, train_short_side=(32, 40), train_crop=32)
    rows, every = (contact_sheet(video, clip.with_protocol(clips=k, short_side=32)) for k in (34, 12))
    assert list(rows) == list(range(0, 34, 3))
    assert list(every) == list(range(12))


def test_a_sheet_of_a_picture(tmp_path):
    """Of pre-training: one clip of one frame."""
    pixels = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[:, None], 60, axis=1)
    Image.fromarray(np.stack([pixels] * 3, axis=2)).save(tmp_path / "a.JPEG", quality=95)
    clip = ClipSpec(frames=1, stride=1, protocol=Protocol("1clip", crop="center", crop_size=40, short_side=60))
    (row,) = contact_sheet(str(tmp_path / "a.JPEG"), clip).values()
    shown = np.asarray(Image.open(io.BytesIO(row)), float)
    assert shown.shape == (40, 40, 3)
    assert np.abs(shown[..., 0] - pixels[10:50, 10:50]).max() < 6


def test_a_sheet_of_no_video(tmp_path):
    with pytest.raises(VideoError, match="no such file here"):
        contact_sheet(str(tmp_path / "none.mp4"), ClipSpec())
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    with pytest.raises(VideoError):
        contact_sheet(str(tmp_path / "bad.mp4"), ClipSpec())


def test_charts_are_the_same_every_time_and_take_text_as_text():
    curves = [charts.Line(i, range(1, 11), np.linspace(0.1, 0.5 + i, 10).tolist()) for i in range(9)]
    first = charts.lines("a", LABEL, curves, "x $a_1$ <b>", "y")
    assert first == charts.lines("a", LABEL, curves, "x $a_1$ <b>", "y")
    assert "x $a_1$ &lt;b&gt;" in first
    other = charts.lines("b", LABEL, curves, "x", "y")
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
    n = 30
    counts = np.random.default_rng(4).integers(1, 100, (n, n))
    share = counts / counts.sum(axis=1, keepdims=True)
    likeness = share + share.T
    tree = hierarchy.linkage((2 - likeness)[np.triu_indices(n, 1)], "average")
    order = clustered(counts)
    leaves = {i: {i} for i in range(n)}
    for i, (a, b, _, _) in enumerate(tree):
        leaves[n + i] = leaves[a] | leaves[b]
        at = sorted(order.index(leaf) for leaf in leaves[n + i])
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
