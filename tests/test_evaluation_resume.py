"""An evaluation that was interrupted goes on where it stopped, and gives the same result."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import command_line
from runs import run

from videogn.callbacks.journal import other_journals
from videogn.data.dataset import EvalVideos
from videogn.errors import VideoError
from videogn.results import EVALUATION_FILE, PREDICTIONS_FILE, Evaluation, read_record

SCRIPT = Path(__file__).parent / "interrupted.py"


@pytest.fixture
def decoded(monkeypatch):
    """Numbers of the videos that evaluations in this process decode; ``error(video)`` may raise before."""
    numbers = []
    read = EvalVideos.read

    def logged(self, video, *more):
        decoded.error(video)
        numbers.append(video)
        return read(self, video, *more)

    def decoded():
        found = numbers[:]
        numbers.clear()
        return found

    decoded.error = lambda video: None
    monkeypatch.setattr(EvalVideos, "read", logged)
    return decoded


@pytest.fixture(scope="module")
def whole(tiny_config, fitted, tmp_path_factory):
    """Folder of an evaluation that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    options = ["--ckpt_path", str(fitted / "checkpoints" / "last.ckpt")]
    assert run("validate", tiny_config, folder, *options) == 0
    assert not (folder / "unfinished").exists()
    return folder / "version_0"


def crash(at):
    def error(video):
        if video == at:
            raise RuntimeError("crash")

    return error


def crashed(decoded, config, folder, *options, command="validate", at=5):
    """An evaluation that ends with an error before video ``at``."""
    decoded.error = crash(at)
    with pytest.raises(RuntimeError, match="crash"):
        run(command, config, folder, *options)
    decoded.error = lambda video: None
    return decoded()


def last_run(folder):
    return max(folder.glob("version_*"), key=lambda path: int(path.name.split("_")[1]))


def assert_same(folder, whole):
    for name in (PREDICTIONS_FILE, "metrics.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert (
        read_record(folder / EVALUATION_FILE, Evaluation).scores
        == read_record(whole / EVALUATION_FILE, Evaluation).scores
    )


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_after_a_signal_the_same_command_goes_on(kill, tiny_config, checkpoint, whole, decoded, tmp_path, caplog):
    """A real process, killed while it decodes video 5; its last line is torn besides."""
    command = [sys.executable, SCRIPT, "validate", "-c", tiny_config, "--trainer.default_root_dir", tmp_path]
    environment = os.environ | {"DECODED": str(tmp_path / "decoded"), "STOP_AT": "5"}
    process = subprocess.Popen(
        [*map(str, command), "--ckpt_path", str(checkpoint)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 300
        while "5\n" not in (tmp_path / "decoded").read_text() if (tmp_path / "decoded").exists() else True:
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(kill)
        output, _ = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if kill == signal.SIGINT:
        assert "5 videos are done" in output
        assert "the same command goes on" in output
        assert "Traceback" not in output
    (journal,) = (tmp_path / "unfinished").glob("*/rank-0.jsonl")
    assert len(journal.read_text().splitlines()) == 5
    with journal.open("a") as file:
        file.write(journal.read_text().splitlines()[0].replace('"id": 0', '"id": 6')[:100])
    caplog.clear()
    assert run("validate", tiny_config, tmp_path, "--ckpt_path", str(checkpoint)) == 0
    told = caplog.text
    assert "5 of 8 videos are done" in told
    assert str(journal.parent) in told
    assert decoded() == [5, 6, 7]
    assert_same(last_run(tmp_path), whole)
    record = read_record(last_run(tmp_path) / EVALUATION_FILE, Evaluation)
    assert record.seconds_videos == 3
    assert not (tmp_path / "unfinished").exists()


@pytest.mark.parametrize("command", ["test", "predict"])
def test_tests_and_predictions_go_on_too(command, tiny_config, checkpoint, decoded, tmp_path):
    options = ["--ckpt_path", str(checkpoint)]
    assert run(command, tiny_config, tmp_path / "whole", *options) == 0
    assert decoded() == list(range(8))
    assert crashed(decoded, tiny_config, tmp_path, *options, command=command) == [0, 1, 2, 3, 4]
    assert run(command, tiny_config, tmp_path, *options) == 0
    assert decoded() == [5, 6, 7]
    found, expected = (folder / PREDICTIONS_FILE for folder in (last_run(tmp_path), tmp_path / "whole" / "version_0"))
    assert found.read_bytes() == expected.read_bytes()


def test_an_evaluation_that_was_terminated_is_no_success(tiny_config, checkpoint, decoded, tmp_path):
    """SIGTERM, as batch systems and ``timeout`` send it: what comes next must not take the run for complete."""
    # In this thread: a signal to the process may be taken by another one, which wakes when all videos are done.
    decoded.error = lambda video: signal.raise_signal(signal.SIGTERM) if video == 5 else None
    with pytest.raises(SystemExit) as ended:
        run("validate", tiny_config, tmp_path, "--ckpt_path", str(checkpoint))
    assert ended.value.code == 143
    assert decoded() == [0, 1, 2, 3, 4, 5]
    assert not list(tmp_path.glob("version_*/predictions.csv"))


def test_interrupted_when_all_videos_were_done(tiny_config, checkpoint, whole, decoded, tmp_path, monkeypatch):
    """The process that goes on has no video of its own."""
    from videogn.callbacks import predictions

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(predictions, "write_predictions", full)
        assert run("validate", tiny_config, tmp_path, "--ckpt_path", str(checkpoint)) == 2
    assert decoded() == list(range(8))
    assert run("validate", tiny_config, tmp_path, "--ckpt_path", str(checkpoint)) == 0
    assert decoded() == []
    assert_same(last_run(tmp_path), whole)


def test_another_evaluation_takes_nothing_over_and_says_so(tiny_config, checkpoint, decoded, tmp_path, caplog):
    crashed(decoded, tiny_config, tmp_path, "--ckpt_path", str(checkpoint))
    other = torch.load(checkpoint, weights_only=True)
    name, tensor = next(iter(other["state_dict"].items()))
    other["state_dict"][name] = tensor + 1e-6
    torch.save(other, tmp_path / "other.ckpt")
    for options, different in (
        (["--ckpt_path", str(tmp_path / "other.ckpt")], "weights"),
        (["--ckpt_path", str(checkpoint), "--data.clip.protocol.clips", "3"], "clip"),
        (["--ckpt_path", str(checkpoint), "--trainer.precision", "bf16-mixed"], "precision"),
    ):
        caplog.clear()
        assert run("validate", tiny_config, tmp_path, *options) == 0
        assert decoded() == list(range(8))
        told = caplog.text
        assert "1 other unfinished evaluation" in told
        assert f"({different})" in told
    assert len(list((tmp_path / "unfinished").iterdir())) == 1, "theirs are removed, the first one is kept"


def test_what_decides_nothing_may_change(tiny_config, checkpoint, decoded, tmp_path):
    crashed(decoded, tiny_config, tmp_path, "--ckpt_path", str(checkpoint))
    moved = shutil.copy(checkpoint, tmp_path / "moved.ckpt")
    assert run("validate", tiny_config, tmp_path, "--ckpt_path", str(moved), "--data.decode_timeout", "30") == 0
    assert decoded() == [5, 6, 7]


def test_videos_that_failed_are_tried_again(tiny_config, checkpoint, whole, decoded, tmp_path):
    """A disk that did not answer must not be in the result for ever."""

    def error(video):
        if video == 2:
            raise VideoError("2.mp4", "cannot be read (Input/output error)")
        crash(5)(video)

    decoded.error = error
    with pytest.raises(RuntimeError, match="crash"):
        run("validate", tiny_config, tmp_path, "--ckpt_path", str(checkpoint))
    decoded.error = lambda video: None
    assert decoded() == [0, 1, 3, 4]
    assert run("validate", tiny_config, tmp_path, "--ckpt_path", str(checkpoint)) == 0
    assert decoded() == [2, 5, 6, 7]
    assert_same(last_run(tmp_path), whole)


def test_a_second_run_at_the_same_time_leaves_the_journal_alone(
    tiny_config, checkpoint, whole, decoded, tmp_path, caplog
):
    crashed(decoded, tiny_config, tmp_path, "--ckpt_path", str(checkpoint))
    (journal,) = (tmp_path / "unfinished").glob("*/rank-0.jsonl")
    before = journal.read_bytes()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold, str(journal.parent / "lock")], **pipes) as holder:
        holder.stdout.readline()
        assert run("validate", tiny_config, tmp_path, "--ckpt_path", str(checkpoint)) == 0
        other = journal.parent.with_name("0" * 16)
        assert other_journals(other, {}) is None, "one that a run is at is not unfinished"
        holder.communicate(b"\n")
    assert "another run is at the same evaluation" in caplog.text
    assert decoded() == list(range(8))
    assert journal.read_bytes() == before
    assert_same(last_run(tmp_path), whole)


def test_validations_of_fit_and_partial_ones_keep_no_journal(tiny_config, checkpoint, decoded, tmp_path):
    part = ["--ckpt_path", str(checkpoint), "--trainer.limit_val_batches"]
    # Not "1": whether Lightning's options take that for one batch or for all depends on what was imported before.
    for command, options, at in (("fit", [], 5), ("validate", [*part, "6"], 5)):
        crashed(decoded, tiny_config, tmp_path, *options, command=command, at=at)
        assert not (tmp_path / "unfinished").exists()


@pytest.mark.slow
def test_one_process_begins_and_two_finish(tiny_config, checkpoint, whole, decoded, tmp_path):
    options = ["--ckpt_path", str(checkpoint)]
    crashed(decoded, tiny_config, tmp_path, *options, at=3)
    ddp = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.default_root_dir", tmp_path]
    code, output = command_line(
        "validate", "-c", tiny_config, *options, *ddp, script=[SCRIPT], DECODED=tmp_path / "decoded"
    )
    assert code == 0, output
    assert "3 of 8 videos are done" in output
    assert sorted(map(int, (tmp_path / "decoded").read_text().split())) == [3, 4, 5, 6, 7]
    assert_same(last_run(tmp_path), whole)
    assert not (tmp_path / "unfinished").exists()
