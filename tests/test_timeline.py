"""Scores over time: each window is what predict_video says of its frames, and a video is decoded once."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from video_files import write_video

import videogn
from videogn import ClipSpec, Protocol, VideoClassifier, predict_video
from videogn import timeline as timeline_module
from videogn.cli import main
from videogn.data.decode import VideoReader
from videogn.data.decode.pyav import PyAVDecoder
from videogn.data.decode.stream import read_in_pieces
from videogn.data.transforms import eval_view
from videogn.errors import UsageError, VideoError
from videogn.timeline import timeline, windows_of
from videogn.timeline_files import _text, best_classes, clock, csv_lines, write_timelines


class Brightness(nn.Module):
    """Logits (b, -b), b being the clip's mean brightness around grey: what is in a video is what comes out."""

    def forward(self, x):
        b = 4 * x.mean(dim=(1, 2, 3, 4))
        return torch.stack([b, -b], dim=1)


@pytest.fixture(scope="module")
def bright():
    model = VideoClassifier(num_classes=2, width=8, variant="8x8", norm="ln").eval()
    model.network = Brightness()
    model.clip = ClipSpec(frames=5, stride=2, mean=(0.5,) * 3, std=(0.5,) * 3, protocol=Protocol(short_side=32))
    model.class_names = ("$bright$", "dark_one, or black")
    return model


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = VideoClassifier(num_classes=6, width=8, variant="8x8", norm="gn", norm_kwargs={"num_groups": 4}).eval()
    for parameter in model.network.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    model.clip = ClipSpec(frames=4, stride=3, protocol=Protocol(short_side=32, crop="three", crop_size=32))
    model.class_names = tuple("abcdef")
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def half_and_half(tmp_path_factory):
    """Black for two seconds, white for two."""
    frames = [np.full((64, 64, 3), 255 * (i >= 50), np.uint8) for i in range(100)]
    return str(write_video(tmp_path_factory.mktemp("halves") / "halves.mp4", frames=frames))


def slowly(times, duration, span, every):
    """First frames of the windows, from the definition."""
    last = max(len(times) - span, 0)
    found, i = set(), 0
    while i * every <= times[last] + 1e-6:
        found.add(max(n for n in range(len(times)) if times[n] <= i * every + 1e-6))
        i += 1
    return sorted(found | {last})


@pytest.mark.parametrize("seed", range(20))
def test_windows_against_their_definition(seed):
    rng = np.random.default_rng(seed)
    number, frames, stride = rng.integers(1, 80), rng.integers(1, 9), rng.integers(1, 5)
    steps = np.full(number, 0.04) if seed % 2 else rng.uniform(0.01, 0.2, number)
    edges = np.append(0.0, np.cumsum(steps))
    times, duration = edges[:-1], edges[-1]
    clip = ClipSpec(frames=int(frames), stride=int(stride))
    span = (frames - 1) * stride + 1
    for every in (0.001, 0.04, 0.3, 1e9, None):
        found = windows_of(times, duration, clip, every)
        assert found.first.tolist() == slowly(times, duration, span, every or span * duration / number / 2)
        for first, end, start, stop, shown in zip(
            found.first, found.end, found.starts, found.ends, found.frames, strict=True
        ):
            assert end == min(first + span, number)
            assert (start, stop) == (edges[first], edges[end])
            assert shown.tolist() == [first + (i * stride) % (end - first) for i in range(frames)]
    assert found.end[-1] == number


FILES = {
    "b-frames.mp4": {"gop": 12, "bframes": 2},
    "counted.avi": {"codec": "mpeg4", "bframes": 2},
    "variable.mkv": {"milliseconds": [40 * i + 7 * (i % 5) for i in range(50)]},
    "turned.mov": {"rotation": 90},
    "short.mp4": {"num_frames": 4},
}


@pytest.mark.parametrize("name", FILES)
def test_every_window_is_what_predict_video_says(network, tmp_path, name, monkeypatch):
    monkeypatch.setattr(timeline_module, "_AT_ONCE", 7)
    path = str(write_video(tmp_path / name, **{"num_frames": 50, "width": 96, "height": 64, **FILES[name]}))
    found = timeline(network, path, every=0.3)
    with VideoReader(path) as reader:
        edges = np.append(reader.times(), reader.info.duration)
    windows = found.windows
    assert len(windows.first) == (1 if name == "short.mp4" else len(set(windows.first)))
    assert len(windows.first) > 4 or name == "short.mp4"
    for i, (first, end) in enumerate(zip(windows.first.tolist(), windows.end.tolist(), strict=True)):
        assert (windows.starts[i], windows.ends[i]) == (edges[first], edges[end])
        expected = {
            p.index: p.probability for p in predict_video(network, path, 1, 6, start_frame=first, end_frame=end)
        }
        assert found.probabilities[i].tolist() == pytest.approx([expected[n] for n in range(6)], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["b-frames.mp4", "counted.avi", "turned.mov"])
def test_pieces_are_the_frames_and_are_decoded_once(tmp_path, name):
    path = write_video(tmp_path / name, **{"num_frames": 60, **FILES[name]})
    clip = ClipSpec(protocol=Protocol(short_side=32))
    numbers = np.array([0, 1, 2, 9, 10, 30, 31, 32, 33, 50, 55])
    with VideoReader(path) as reader:
        expected = reader.read(numbers, lambda height, width: eval_view(height, width, clip))
    for at_once in (1, 4, 11, 100):
        steps = []
        decoder = PyAVDecoder(path, progress=lambda steps=steps: steps.append(1))
        assert len(decoder.index) == 60
        opened = len(steps)
        pieces = list(read_in_pieces(decoder, numbers, lambda height, width: eval_view(height, width, clip), at_once))
        decoder.close()
        assert max(len(frames) for _, frames in pieces) <= at_once
        assert np.concatenate([found for found, _ in pieces]).tolist() == numbers.tolist()
        assert torch.equal(torch.cat([frames for _, frames in pieces]), expected)
        assert len(steps) - opened <= 62  # a packet each, however many pieces


def test_a_change_is_seen_where_it_is(bright, half_and_half):
    """Windows of 9 frames at 25 frames per second: the share of white frames among the five that are seen."""
    found = timeline(bright, half_and_half, every=0.2)
    windows = found.windows
    assert windows.starts[:3].tolist() == pytest.approx([0.0, 0.2, 0.4])
    assert windows.ends[-1] == pytest.approx(4.0)
    white = (windows.first[:, None] + np.arange(0, 10, 2) >= 50).mean(axis=1)
    expected = 1 / (1 + np.exp(-8 * (2 * white - 1)))
    np.testing.assert_allclose(found.probabilities[:, 0], expected, atol=2e-2)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)
    assert [time for time, _ in found.pictures] == sorted(time for time, _ in found.pictures)
    assert all((picture.mean() > 128) == (time >= 2.0) for time, picture in found.pictures)


def test_what_stands_in_memory_does_not_grow_with_the_video(bright, tmp_path, monkeypatch):
    monkeypatch.setattr(timeline_module, "_AT_ONCE", 8)
    most = []
    for number in (60, 600):
        path = str(write_video(tmp_path / f"{number}.mp4", frames=[np.zeros((32, 32, 3), np.uint8)] * number))
        held = []
        take = timeline_module._Slide.take_frames

        def count(slide, *piece, take=take, held=held):
            take(slide, *piece)
            held.append(len(slide.held))

        with monkeypatch.context() as patch:
            patch.setattr(timeline_module._Slide, "take_frames", count)
            timeline(bright, path)
        most.append(max(held))
    assert max(most) <= 8 + 9  # a piece, and what the next window still needs


def test_csv_and_picture(bright, half_and_half, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    assert write_timelines(bright, bright.clip, [half_and_half], str(folder), 0.2, 5, 60.0) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["halves.timeline.csv", "halves.timeline.png"]
    rows = list(csv.DictReader((folder / "halves.timeline.csv").read_text().splitlines()))
    expected = timeline(bright, half_and_half, every=0.2)
    assert list(rows[0]) == ["start_seconds", "end_seconds", *bright.class_names]
    assert [float(row["start_seconds"]) for row in rows] == pytest.approx(expected.windows.starts.tolist())
    assert [float(row["end_seconds"]) for row in rows] == pytest.approx(expected.windows.ends.tolist())
    for column, name in enumerate(bright.class_names):
        found = [float(row[name]) for row in rows]
        assert found == pytest.approx(expected.probabilities[:, column].tolist(), abs=1e-7)
    picture = np.asarray(Image.open(folder / "halves.timeline.png").convert("RGB"))
    assert picture.shape[1] > 1000
    colours = {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours
    out, err = capsys.readouterr()
    assert out.splitlines() == [half_and_half, *(f"  {folder}/halves.timeline.{end}" for end in ("csv", "png"))]
    assert "of halves.mp4" in err


def test_the_command(checkpoint, half_and_half, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = str(tmp_path / "missing.mp4")
    options = ["--timeline", "--checkpoint", str(checkpoint), "--every", "1"]
    assert main(["classify", missing, half_and_half, *options]) == 1
    err = capsys.readouterr().err
    assert f"videogn: error: {missing}" in err
    assert "Traceback" not in err
    assert (tmp_path / "halves.timeline.png").stat().st_size > 1000
    rows = list(csv.reader((tmp_path / "halves.timeline.csv").open()))
    assert rows[0][2:] == list(videogn.load(checkpoint).class_names)
    assert [row[0] for row in rows[1:]] == ["0.000000", "1.000000", "2.000000", "3.000000", "3.840000"]
    twin = tmp_path / "twin" / "halves.mkv"
    assert main(["classify", half_and_half, str(twin), *options]) == 2
    assert "halves.timeline.csv" in capsys.readouterr().err
    assert main(["classify", half_and_half, "--output", half_and_half, *options]) == 2
    assert half_and_half in capsys.readouterr().err


def test_failures(bright, half_and_half, tmp_path):
    broken = tmp_path / "broken.mp4"
    data = Path(half_and_half).read_bytes()
    broken.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        timeline(bright, str(broken))
    with pytest.raises(UsageError, match="every"):
        timeline(bright, half_and_half, every=-1.0)


def test_an_output_that_is_not_finite_names_file_and_time(bright, half_and_half, monkeypatch):
    monkeypatch.setattr(bright.network, "forward", lambda x: torch.full((len(x), 2), float("-inf")))
    with pytest.raises(FloatingPointError, match=r"halves\.mp4, 0\.000 to 0\.360 s"):
        timeline(bright, half_and_half)


def test_classes_of_the_picture():
    probabilities = np.array([[0.5, 0.2, 0.3, 0], [0.4, 0.2, 0.3, 0.1], [0.1, 0.2, 0.3, 0.4]])
    assert best_classes(probabilities, 3) == [0, 3, 2]
    assert best_classes(probabilities, 9) == [0, 3, 2, 1]


def test_far_too_many_windows_are_refused(bright):
    with pytest.raises(UsageError, match=r"--every: expected at least 0.0036 seconds for this video, found 1e-06"):
        windows_of(np.arange(0, 3600, 0.04), 3600.0, bright.clip, 1e-6)


def test_names_in_a_picture_are_short_and_on_one_line():
    assert _text("two\nlines") == "two lines"
    assert _text("a" * 200) == "a" * 39 + "…"
    assert _text("caf\udce9") == "caf?"


def test_clock():
    assert [clock(s) for s in (0, 5, 59.96, 60.5, 4503)] == ["0:00", "0:05", "1:00", "1:00.5", "75:03"]


def test_csv_of_names_with_commas(bright, half_and_half):
    header = next(iter(csv_lines(timeline(bright, half_and_half), bright.class_names)))
    assert header == 'start_seconds,end_seconds,$bright$,"dark_one, or black"\n'
