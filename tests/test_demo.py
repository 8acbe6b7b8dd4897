"""The demo videos: what they are, that they are made once, and that one frame does not give the class away."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from videogn.cli import main
from videogn.data.decode import VideoReader
from videogn.data.demo import MARKER, DemoSpec, generate_demo
from videogn.data.motions import MOTIONS, render_motion
from videogn.errors import UsageError

TINY = DemoSpec(train_per_class=2, val_per_class=1, size=32, frames=6)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_files(tmp_path):
    calls = []
    root = Path(generate_demo(tmp_path / "new" / "demo", TINY, progress=lambda *n: calls.append(n)))
    assert calls == [(i, 24) for i in range(1, 25)]
    assert sorted(path.name for path in (root / "train").iterdir()) == sorted(MOTIONS)
    assert len(list(root.glob("train/*/*.mp4"))) == 16
    assert len(list(root.glob("val/*/*.mp4"))) == 8
    with av.open(str(root / "val/grow/0000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (32, 32, TINY.fps)
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    drawn = render_motion("grow", TINY, np.random.default_rng((TINY.seed, 1, list(MOTIONS).index("grow"), 0)))
    assert decoded.shape == drawn.shape == (6, 32, 32, 3)
    assert np.abs(decoded.astype(float) - drawn).mean() < 8
    assert [path.name for path in root.parent.iterdir()] == ["demo"]


def test_same_seed_same_bytes(tmp_path):
    first, again = (contents(Path(generate_demo(tmp_path / name, TINY))) for name in "ab")
    assert first == again
    other = contents(Path(generate_demo(tmp_path / "c", DemoSpec(2, 1, 32, 6, seed=1))))
    assert first.keys() == other.keys()
    assert not [name for name in first if name.endswith(".mp4") and first[name] == other[name]]
    assert len(set(first.values())) == len(first)


def test_pictures_of_the_default_size_have_the_same_bytes_too(tmp_path):
    """What x264 decides by neighbouring memory differs after a few videos of this size."""
    spec = DemoSpec(train_per_class=4, val_per_class=1, classes=("clockwise", "left"))
    runs = [contents(Path(generate_demo(tmp_path / str(i), spec))) for i in range(8)]
    assert all(run == runs[0] for run in runs)


def test_classes(tmp_path):
    """Some of the classes, in whatever order; their videos are those of the full set."""
    spec = DemoSpec(2, 1, 32, 6, classes=("up", "grow"))
    assert spec == DemoSpec(2, 1, 32, 6, classes=("grow", "up"))
    some = contents(Path(generate_demo(tmp_path / "some", spec)))
    every = contents(Path(generate_demo(tmp_path / "all", TINY)))
    assert sorted({name.split("/")[1] for name in some if name.endswith(".mp4")}) == ["grow", "up"]
    assert {name: data for name, data in every.items() if "/up/" in name or "/grow/" in name} == {
        name: data for name, data in some.items() if name != MARKER
    }
    assert DemoSpec(**json.loads(some[MARKER])["spec"]) == spec
    assert generate_demo(tmp_path / "some", DemoSpec(2, 1, 32, 6, classes=("grow", "up"))) == str(tmp_path / "some")
    with pytest.raises(
        UsageError, match=r"expected the demo data of .*'classes': \['up'\].*found that of .*'grow', 'up'"
    ):
        generate_demo(tmp_path / "some", DemoSpec(2, 1, 32, 6, classes=("up",)))
    with pytest.raises(ValueError, match=r"demo\.classes: expected some of clockwise, .*, up, found sideways"):
        DemoSpec(classes=("up", "sideways"))
    with pytest.raises(ValueError, match=r"demo\.classes: .*found none"):
        DemoSpec(classes=())


def test_made_once(tmp_path):
    root = Path(generate_demo(tmp_path, TINY))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert generate_demo(tmp_path, TINY, progress=lambda *n: pytest.fail("generated again")) == str(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_foreign_data_stays(tmp_path):
    root = tmp_path / "demo"
    root.mkdir()
    (root / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"expected an empty or new folder.*Nothing was written"):
        generate_demo(root, TINY)
    assert contents(root) == {"thesis.txt": b"mine"}
    (root / MARKER).write_text("[1, 2]")
    with pytest.raises(UsageError, match="found files of another kind"):
        generate_demo(root, TINY)


def test_another_specification_and_an_incomplete_set(tmp_path):
    root = Path(generate_demo(tmp_path / "demo", TINY))
    with pytest.raises(UsageError, match=r"expected the demo data of .*'seed': 3.*found that of .*'seed': 0"):
        generate_demo(root, DemoSpec(2, 1, 32, 6, seed=3))
    marker = (root / MARKER).read_text()
    (root / MARKER).write_text(marker.replace('"format": 3', '"format": 2'))
    with pytest.raises(UsageError, match=r"format 3, found that of .*, format 2\. Delete the folder"):
        generate_demo(root, TINY)
    (root / MARKER).write_text(marker)
    (root / "val/up/0000.mp4").unlink()
    with pytest.raises(UsageError, match=r"val/up: expected 1 videos, found 0"):
        generate_demo(root, TINY)


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_demo(tmp_path / "demo", TINY, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_marker_holds_the_specification(tmp_path):
    marker = json.loads((Path(generate_demo(tmp_path / "demo", TINY)) / MARKER).read_text())
    assert DemoSpec(**marker["spec"]) == TINY


@pytest.mark.parametrize(("field", "value"), [("size", 33), ("size", 2), ("frames", 1), ("val_per_class", 0)])
def test_values_out_of_range(field, value):
    with pytest.raises(ValueError, match=rf"demo\.{field}: expected .*found {value}"):
        DemoSpec(**{field: value})


def features(frames: np.ndarray) -> np.ndarray:
    """(N, D) of uint8 frames (N, H, W, 3): what a glance at a frame gives, a coarse picture, contrast, extent."""
    gray = frames.astype(np.float64).mean(axis=3)
    n, side, _ = gray.shape
    coarse = gray.reshape(n, 4, side // 4, 4, side // 4).mean(axis=(2, 4)).reshape(n, 16)
    median = np.median(gray, axis=(1, 2), keepdims=True)
    shape = np.abs(gray - median) > 40
    rows, columns = np.abs(np.diff(gray, axis=1)).mean((1, 2)), np.abs(np.diff(gray, axis=2)).mean((1, 2))
    one = [
        gray.mean((1, 2)),
        gray.std((1, 2)),
        shape.mean((1, 2)),
        rows,
        columns,
        shape[:, 0].mean(1),
        shape[:, :, 0].mean(1),
    ]
    both = np.concatenate([coarse, np.stack(one, axis=1)], axis=1)
    both = (both - both.mean(0)) / both.std(0)
    return np.concatenate([both, both**2], axis=1)


def test_one_frame_of_an_unknown_moment_does_not_tell_the_class():
    spec, frame_numbers = DemoSpec(size=32, frames=24), np.random.default_rng(3)
    labels = np.arange(1200) % 8
    frames = np.stack(
        [
            render_motion(list(MOTIONS)[label], spec, np.random.default_rng((7, i)))[frame_numbers.integers(24)]
            for i, label in enumerate(labels)
        ]
    )
    x = features(frames)
    half = len(x) // 2
    # A ridge classifier fitted on one half of the videos, scored on the other half.
    targets = np.eye(8)[labels[:half]] - 1 / 8
    weights = np.linalg.solve(x[:half].T @ x[:half] + 10 * np.eye(x.shape[1]), x[:half].T @ targets)
    top1 = ((x[half:] @ weights).argmax(1) == labels[half:]).mean()
    chance, deviation = 1 / 8, (1 / 8 * 7 / 8 / half) ** 0.5
    assert top1 < chance + 4 * deviation


def orientation(mask: np.ndarray) -> float:
    """Angle in radians of the long axis of a mask, from the x axis, clockwise because rows grow downwards."""
    y, x = np.nonzero(mask)
    (xx, xy), (_, yy) = np.cov(x, y)
    return float(np.arctan2(2 * xy, xx - yy) / 2)


def test_the_motion_is_what_the_name_says(monkeypatch):
    monkeypatch.setattr("videogn.data.motions._SHAPES", 1)
    spec = DemoSpec(size=64, frames=3)
    mass = {}
    for motion in MOTIONS:
        changes = []
        for seed in range(300):
            video = render_motion(motion, spec, np.random.default_rng(seed)).mean(axis=3)
            weight = np.abs(video - np.median(video, axis=(1, 2), keepdims=True)) > 40
            inside = not (weight[:, [0, -1]].any() or weight[:, :, [0, -1]].any())
            if inside and weight.any(axis=(1, 2)).all():
                y, x = (np.array([axis[w].mean() for w in weight]) for axis in np.mgrid[:64, :64])
                turn = orientation(weight[-1]) - orientation(weight[0])
                turn = (turn + np.pi / 2) % np.pi - np.pi / 2  # the axis has no head
                changes.append((x[-1] - x[0], y[-1] - y[0], weight[-1].sum() - weight[0].sum(), turn))
        mass[motion] = np.median(changes, axis=0)
    assert mass["left"][0] < -1 < 1 < mass["right"][0]
    assert mass["up"][1] < -1 < 1 < mass["down"][1]
    assert mass["shrink"][2] < 0 < mass["grow"][2]
    assert mass["counter-clockwise"][3] < -0.1 < 0.1 < mass["clockwise"][3]
    assert max(abs(mass[m][1]) for m in ("left", "right")) < 0.5 > max(abs(mass[m][0]) for m in ("up", "down"))


def test_demo_shows_progress(tmp_path, capsys):
    options = ["--train-per-class", "1", "--val-per-class", "1"]
    assert main(["data", "demo", str(tmp_path / "demo"), *options]) == 0
    assert "writing demo videos: 16 of 16" in capsys.readouterr().err
    with VideoReader(tmp_path / "demo/train/grow/0000.mp4") as reader:
        assert np.isclose(reader.info.fps, 12)


def test_demo_command_writes_some_classes(tmp_path, capsys):
    options = ["--train-per-class", "1", "--val-per-class", "1", "--classes", "left", "right"]
    assert main(["data", "demo", str(tmp_path / "demo"), *options]) == 0
    assert sorted(path.name for path in (tmp_path / "demo/val").iterdir()) == ["left", "right"]
    capsys.readouterr()
    for wrong, found in ((["--classes", "lft"], "found lft"), (["--train-per-class", "0"], "found 0")):
        assert main(["data", "demo", str(tmp_path / "other"), *wrong]) == 2
        assert found in capsys.readouterr().err
