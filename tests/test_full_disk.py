"""A disk that is full ends a run with a message, and leaves the last checkpoint intact."""

import errno
import os
import resource
import shutil

import pytest
import torch
from run_states import state
from runs import run

from videogn import checkpoint, checkpoint_storage
from videogn.callbacks import CheckpointFiles, ResumePoints
from videogn.checkpoint_files import find_last
from videogn.checkpoint_storage import lost_folder
from videogn.errors import UsageError


def refused(path, *words, size=4_000_000):
    with pytest.raises(UsageError) as caught:
        CheckpointFiles().save_checkpoint(state(2, big=torch.zeros(size // 4)), path, {"keep": 2})
    missing = [word for word in (str(path), *words) if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


def full(monkeypatch, room, code=errno.ENOSPC, match=".ckpt."):
    """Lets files of that name hold ``room`` bytes."""

    class Disk:
        def __init__(self, file):
            self.file, self.written = file, 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.written += len(data)
            if self.written > room:
                raise OSError(code, os.strerror(code))
            return self.file.write(data)

    def opened(path, mode="r"):
        return Disk(open(path, mode)) if match in str(path) else open(path, mode)

    monkeypatch.setattr(checkpoint_storage, "open", opened, raising=False)


@pytest.mark.parametrize("room", [0, 100, 1000, 3_000_000])
def test_no_room_for_a_checkpoint(tmp_path, monkeypatch, room):
    last = tmp_path / "deep" / "checkpoints" / "last.ckpt"
    CheckpointFiles().save_checkpoint(state(1), last, {"keep": 2})
    with monkeypatch.context() as patches:
        full(patches, room)
        refused(last, "No space left", "about 4 MB are needed", "are free", "that was there is intact", "Make room")
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    assert checkpoint.read(last)["global_step"] == 1
    CheckpointFiles().save_checkpoint(state(2), last, {"keep": 2})
    assert checkpoint.read(last)["global_step"] == 2


def test_a_real_limit(tmp_path):
    """The kernel's, on the size of a file."""
    last = tmp_path / "last.ckpt"
    CheckpointFiles().save_checkpoint(state(1), last, {"keep": 2})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        refused(last, "File too large", "about 4 MB", "quota or limit", "intact")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert checkpoint.read(last)["global_step"] == 1


def test_other_things_in_the_way(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "last.ckpt", "exists")
    (tmp_path / "folder.ckpt").mkdir()
    refused(tmp_path / "folder.ckpt", "directory")
    full(monkeypatch, 0, errno.EDQUOT)
    refused(tmp_path / "last.ckpt", "quota", "about 4 MB")
    full(monkeypatch, 0, errno.EROFS)
    refused(tmp_path / "last.ckpt", "Read-only")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.ckpt"}


def test_a_run_whose_folder_is_removed(tiny_config, tmp_path, capsys, monkeypatch):
    saved = []
    real = ResumePoints.save

    def save(self, trainer):
        saved.append(trainer.global_step)
        if len(saved) == 2:
            shutil.rmtree(tmp_path / "version_0")
        real(self, trainer)

    monkeypatch.setattr(ResumePoints, "save", save)
    assert run("fit", tiny_config, tmp_path, "--resume.every_n_steps", "1") == 2
    told = capsys.readouterr().err
    assert f"{tmp_path}/version_0/" in told
    assert "is gone (No such file or directory): the run's folder was moved or removed" in told
    assert "Traceback" not in told


def test_other_errors_are_not_taken_for_a_lost_folder(tmp_path):
    for error in (
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/video.mp4"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", f"{tmp_path}-other/metrics.csv"),
        PermissionError(errno.EPERM, "Operation not permitted", f"{tmp_path}/metrics.csv"),
        OSError("without a number"),
        ConnectionResetError(),
    ):
        assert lost_folder(error, tmp_path) is None
    assert "Make room" in str(lost_folder(OSError(errno.EDQUOT, "Disk quota exceeded"), tmp_path))


def test_a_run_on_a_full_disk(tiny_config, tmp_path, capsys, monkeypatch):
    options = ("--trainer.max_epochs", "3", "--ckpt_path", "last")
    folder = tmp_path / "version_0" / "checkpoints"
    writes = []
    real = checkpoint_storage.write

    def second_fails(path, fill, keep=None):
        writes.append(path)
        if len(writes) > 3:
            with monkeypatch.context() as patches:
                full(patches, 10_000)
                return real(path, fill, keep)
        return real(path, fill, keep)

    monkeypatch.setattr("videogn.callbacks.checkpoint_io.write", second_fails)
    assert run("fit", tiny_config, tmp_path, *options) == 2
    told = capsys.readouterr().err
    for word in (str(folder), "cannot be written (No space left", "needed", "free", "Make room", "--ckpt_path"):
        assert word in told, told
    assert "Traceback" not in told
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    before = find_last(tmp_path, pytest.fail)
    assert before == folder / "last.ckpt"
    steps = checkpoint.read(before)["global_step"]
    monkeypatch.setattr("videogn.callbacks.checkpoint_io.write", real)
    assert run("fit", tiny_config, tmp_path, *options) == 0
    assert checkpoint.read(folder / "last.ckpt")["global_step"] == 6 > steps
    assert not (tmp_path / "version_1").exists()
