"""The folder of a run from someone else has a report open, call and run nothing but what the command line names.

Watched from outside, as in test_untrusted.py; each bait is real where the restrictions are taken away.
"""

import json
import sys

import pytest
import torch
from report_runs import draw_results, write_run
from traps import Payload, set_trap

from videogn.cli import main
from videogn.spec import ClipSpec, Protocol

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture
def trap(tmp_path):
    (tmp_path / "trap").mkdir()
    with set_trap(tmp_path / "trap") as trap:
        yield trap


def evil_run(folder, trap, sentinel):
    """The folder of a run in which every file names the trap."""
    names = [f"class {i}" for i in range(10)]
    paths = [str(trap.other) if i % 2 else trap.address for i in range(20)]
    clip = ClipSpec(
        frames=4, stride=1, train_short_side=(32, 32), train_crop=32, protocol=Protocol(clips=1, short_side=32)
    )
    results = draw_results([i % 10 for i in range(20)], paths, 10, skill=-3.0, clips=1)
    write_run(folder, results, names, clips=1, clip=clip)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["checkpoint"] = str(trap.folder / "checkpoints" / "last.ckpt")
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "training.json").unlink()
    (folder / "config.yaml").write_text(f"!!python/object/apply:os.mkdir ['{sentinel}']")
    (folder / "hparams.yaml").write_text(f"!!python/object/apply:os.mkdir ['{sentinel}']")
    (folder / "checkpoints").mkdir(exist_ok=True)
    torch.save(Payload(sentinel), folder / "checkpoints" / "last.ckpt")
    return folder


def test_a_report_opens_nothing_that_a_run_names(trap, tmp_path, capsys):
    sentinel = tmp_path / "sentinel"
    (trap.folder / "training.json").hardlink_to(trap.other)  # opened, the watch would tell
    (trap.folder / "metrics.csv").hardlink_to(trap.other)
    folder = evil_run(tmp_path / "evil" / "gn", trap, sentinel)
    elsewhere = str(tmp_path / "evil")
    trap.touched()
    for options in ([], ["--videos", elsewhere]):
        assert main(["report", str(folder), "-o", str(tmp_path / "r.html"), *options]) == 0
        assert trap.touched() == set(), options
    assert "in no folder that --videos names" in (tmp_path / "r.html").read_text()
    assert "--videos" in capsys.readouterr().out
    assert main(["report", str(folder), "-o", str(tmp_path / "r.html"), "--videos", str(trap.folder)]) == 0
    assert trap.touched() == {"file"}, "no bait"
    assert not sentinel.exists()


def test_a_report_follows_no_links_and_no_way_up(trap, tmp_path, capsys):
    folder = evil_run(tmp_path / "evil" / "gn", trap, tmp_path / "sentinel")
    table = (folder / "predictions.csv").read_text()
    (folder / "predictions.csv").write_text(table.replace(str(trap.folder), f"{tmp_path}/evil/../trap"))
    trap.touched()
    assert main(["report", str(folder), "--videos", str(tmp_path / "evil")]) == 0
    assert trap.touched() == set()
    (folder / "metrics.csv").unlink()
    (folder / "metrics.csv").symlink_to(trap.other)
    assert main(["report", str(folder)]) == 2
    assert "expected a file of the run, found a link" in capsys.readouterr().err
    assert trap.touched() == set()
    assert main(["report", str(folder), "--videos", str(tmp_path / "absent")]) == 2
    assert "--videos: expected the folder" in capsys.readouterr().err
