"""Damaged checkpoints: each has its reason, and a run goes on from the newest that is usable."""

import os
import random
import shutil
import zipfile

import pytest
import torch
from run_states import damaged, same, save, state
from runs import run

from videogn import checkpoint, checkpoint_files
from videogn.checkpoint_files import find_last
from videogn.checkpoint_storage import DamagedFile
from videogn.errors import UsageError

# -- bytes -------------------------------------------------------------------------------------------------------------


def test_torch_itself_does_not_see_a_flipped_bit(tmp_path):
    """What the checksums are compared for."""
    path, data = damaged(tmp_path)
    assert torch.load(path, weights_only=True)["state_dict"]["network.weight"].tolist() != list(range(8))
    with pytest.raises(DamagedFile, match=r"a\.ckpt: is damaged: the checksum of the record '\w+/data/\d' is not"):
        checkpoint.read(path)
    path.write_bytes(data)
    checkpoint.read(path)


def test_a_flipped_bit_anywhere_is_told_or_does_nothing(tmp_path):
    path, draw = tmp_path / "a.ckpt", random.Random(0)
    torch.save(state(3), path)
    data, whole = path.read_bytes(), checkpoint.read(path)
    messages = []
    for at in draw.sample(range(len(data)), 800):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :])
        try:
            found = checkpoint.read(path)
        except UsageError as error:
            messages.append(str(error))
        else:
            assert same(found, whole), f"byte {at} of {len(data)}"
    assert len(messages) > 250  # the others are padding
    assert all(message.startswith(f"{path}: ") and len(message) < 600 for message in messages)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "the file is empty"),
        (lambda data: bytes(len(data)), "begins with zeros"),
        (lambda data: data[:-1], "cut short"),
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: data[:4], "cut short"),
        (lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2), "cut short"),
        (lambda data: data[:3] + data[4:], "not a readable checkpoint"),
        (lambda data: b"something else", "not a readable checkpoint"),
    ],
)
def test_damage_has_a_reason(damage, words, tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save(state(3), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedFile, match=rf"a\.ckpt: .*{words}"):
        checkpoint.read(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_of_something_else(tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w", compression) as archive:
        archive.writestr("thesis.txt", "words " * 1000)
    with pytest.raises(DamagedFile, match="a zip archive of something else"):
        checkpoint.read(tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w", compression) as archive:
        archive.writestr("a/data.pkl", bytes(10_000_000))
    words = "not as torch.save" if compression else "not a readable"
    with pytest.raises(DamagedFile, match=words):
        checkpoint.read(tmp_path / "a.ckpt")


# -- what a run goes on from -------------------------------------------------------------------------------------------


def test_the_newest_run_and_its_last_checkpoint(tmp_path):
    warnings = []
    assert find_last(tmp_path / "absent", warnings.append) is None
    assert find_last(tmp_path, warnings.append) is None
    without_logger = save(tmp_path / "checkpoints", "last.ckpt", 900)
    assert find_last(tmp_path, warnings.append) == without_logger
    save(tmp_path / "version_9" / "checkpoints", "last.ckpt", 9000)
    run = tmp_path / "version_10" / "checkpoints"
    save(run, "best.ckpt", 1010)
    assert find_last(tmp_path, warnings.append) == run / "best.ckpt"
    save(run, "last-2.ckpt", 1001)
    save(run, "last-1.ckpt", 1002)
    assert find_last(tmp_path, warnings.append) == run / "last-1.ckpt"
    save(run, "last.ckpt", 1003)
    (tmp_path / "version_11" / "checkpoints").mkdir(parents=True)
    (tmp_path / "version_12" / "checkpoints" / "last.ckpt").mkdir(parents=True)  # a folder
    save(tmp_path / "version_13x" / "checkpoints", "last.ckpt", 5)
    save(tmp_path / "other" / "version_99" / "checkpoints", "last.ckpt", 99_000)  # the root of another run
    assert find_last(str(tmp_path), warnings.append) == run / "last.ckpt"
    os.utime(without_logger, (10_000, 10_000))
    assert find_last(tmp_path, warnings.append) == without_logger
    assert warnings == []


def test_weights_and_files_of_others_are_no_checkpoints_of_a_run(tmp_path):
    run = tmp_path / "version_1" / "checkpoints"
    older = save(tmp_path / "version_0" / "checkpoints", "last.ckpt", 5)
    run.mkdir(parents=True)
    torch.save({key: value for key, value in state(9).items() if key != "optimizer_states"}, run / "best.ckpt")
    torch.save({"conv1.weight": torch.zeros(2)}, run / "resnet.ckpt")
    assert find_last(tmp_path, pytest.fail) == older


def test_a_damaged_checkpoint_falls_back_with_a_warning(tmp_path):
    warnings = []
    folder = tmp_path / "version_3" / "checkpoints"
    save(folder, "last-1.ckpt", 80)
    damaged(folder, "last.ckpt", 120)
    assert find_last(tmp_path, warnings.append) == folder / "last-1.ckpt"
    (warning,) = warnings
    assert f"{folder / 'last.ckpt'}: is damaged: the checksum" in warning
    assert f"goes on from {folder / 'last-1.ckpt'}, which has 80 steps instead of 120: 40 are computed again" in warning
    damaged(folder, "last.ckpt", 80)
    assert find_last(tmp_path, warnings.append) == folder / "last-1.ckpt"
    assert warnings.pop().endswith("which has as many steps (80).")
    (folder / "last.ckpt").write_bytes(b"")
    assert find_last(tmp_path, warnings.append) == folder / "last-1.ckpt"
    assert "last.ckpt: is damaged: the file is empty" in warnings[1]
    assert warnings[1].endswith("last-1.ckpt, which has 80 steps.")


def test_all_damaged_is_no_new_start(tmp_path):
    save(tmp_path / "version_2" / "checkpoints", "last.ckpt", 7)
    folder = tmp_path / "version_3" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("last.ckpt", "last-1.ckpt"):
        damaged(folder, name, 120)
    with pytest.raises(UsageError) as caught:
        find_last(tmp_path, pytest.fail)
    for word in (str(folder), "last.ckpt: is damaged", "last-1.ckpt: is damaged", "none that is usable", "--ckpt_path"):
        assert word in str(caught.value)


def test_a_damaged_file_that_is_named_names_another(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, "last-1.ckpt", 80)
    damaged(folder, "last.ckpt", 120)
    with pytest.raises(DamagedFile, match=r"last\.ckpt: is damaged.*last-1\.ckpt is usable, after 80 steps"):
        checkpoint_files.read(folder / "last.ckpt")
    (folder / "last-1.ckpt").unlink()
    with pytest.raises(DamagedFile, match="No other file of its folder is usable"):
        checkpoint_files.read(folder / "last.ckpt")


def test_a_run_whose_checkpoint_is_damaged(fitted, tiny_config, tmp_path, capsys):
    folder = shutil.copytree(fitted, tmp_path / "version_0") / "checkpoints"
    data = (folder / "last.ckpt").read_bytes()
    at = len(data) // 2
    (folder / "last.ckpt").write_bytes(data[:at] + bytes(100) + data[at + 100 :])
    named = ("--ckpt_path", str(folder / "last.ckpt"))
    assert run("fit", tiny_config, tmp_path, *named) == 2
    told = capsys.readouterr().err
    assert "last.ckpt: is damaged: the checksum of the record" in told
    assert "is usable, after" in told
    assert run("validate", tiny_config, tmp_path, *named) == 2
    for path in folder.glob("*.ckpt"):
        path.write_bytes(data[:-100])
    assert run("fit", tiny_config, tmp_path, "--ckpt_path", "last") == 2
    told = capsys.readouterr().err
    assert "found none that is usable" in told
    assert "cut short" in told
