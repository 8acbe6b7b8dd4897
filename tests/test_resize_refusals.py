"""`videogn data resize` where it writes nothing: what is asked for is wrong, or the target belongs to others."""

import json
from pathlib import Path

import pytest
from test_resize import SMALL, contents, files
from video_files import write_video

from videogn.cli import main
from videogn.data.resize import resize_data
from videogn.errors import UsageError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root/train/a").mkdir(parents=True)
    write_video(tmp_path / "root/train/a/1.mp4", 8)
    return tmp_path / "root"


def test_two_videos_of_one_name(root, tmp_path):
    (root / "train/a/1.avi").write_bytes((root / "train/a/1.mp4").read_bytes())
    with pytest.raises(UsageError, match=r"found train/a/1\.avi and train/a/1\.mp4, which would both become"):
        resize_data(str(root), str(tmp_path / "target"), SMALL)
    assert not (tmp_path / "target").exists()


def test_targets_that_must_not_be_written_to(root, tmp_path, capsys):
    (tmp_path / "link").symlink_to(root)
    for target in (root, root / "small", tmp_path, tmp_path / "link", tmp_path / "link/x"):
        with pytest.raises(UsageError, match="TARGET: expected a folder outside of ROOT"):
            resize_data(str(root), str(target), SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.mp4").write_text("mine")
    for target in ("mine", "mine/thesis.mp4"):
        with pytest.raises(UsageError, match=r"TARGET: expected a new or empty folder.*Nothing was written"):
            resize_data(str(root), str(tmp_path / target), SMALL)
    assert files(tmp_path / "mine") == ["thesis.mp4"]

    target = tmp_path / "target"
    resize_data(str(root), str(target), SMALL, workers=1)
    settings = json.loads((target / "videogn_resize.json").read_text())
    assert {name: settings[name] for name in ("short_side", "crf", "gop")} == {"short_side": 48, "crf": 20, "gop": 32}
    before = contents(target)
    assert main(["data", "resize", str(root), str(target), "--short-side", "64"]) == 2
    assert "'short_side': 48" in capsys.readouterr().err
    assert contents(target) == before


def test_wrong_usage(root, tmp_path, capsys):
    target = str(tmp_path / "target")
    for arguments, message in (
        ([str(tmp_path / "nowhere"), target], "ROOT: expected the folder of a data set"),
        ([str(root), target, "--short-side", "255"], "--short-side: expected an even number"),
        ([str(root), target, "--crf", "60"], "--crf: expected 0 to 51"),
        ([str(root), target, "--workers", "0"], "--workers: expected at least 1"),
        ([str(root), "/proc/nowhere"], "/proc/nowhere: cannot be written"),
    ):
        assert main(["data", "resize", *arguments]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    assert main(["data", "resize", str(tmp_path / "nothing"), target]) == 2
    assert "expected videos (.mp4" in capsys.readouterr().err
    assert not Path(target).exists()
