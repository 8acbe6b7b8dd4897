"""A checkpoint from someone else has nothing run, opened, called or removed but what the command line names.

Watched from outside, as in test_untrusted.py; each bait is real where the restrictions are taken away.
"""

import contextlib
import os
import pickle
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from runs import run
from traps import Payload, set_trap

import videogn
from videogn.callbacks import CheckpointFiles, OwnFiles
from videogn.cli import main
from videogn.errors import UsageError
from videogn.module import VideoClassifier

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture
def trap(tmp_path):
    (tmp_path / "trap").mkdir()
    with set_trap(tmp_path / "trap") as trap:
        yield trap


@pytest.fixture
def own(fitted, tmp_path):
    """A run of one epoch, as it is in a folder that its user names."""
    shutil.copytree(fitted, tmp_path / "runs" / "version_0")
    return tmp_path / "runs"


# -- code --------------------------------------------------------------------------------------------------------------

CONTAINERS = {
    "torch": lambda value, path: torch.save(value, path),
    "torch of old": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    "pickle": lambda value, path: path.write_bytes(pickle.dumps(value)),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_no_code_of_a_checkpoint_runs(container, own, tiny_config, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what some set for other programs
    sentinel = tmp_path / "sentinel"
    whole = torch.load(own / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    evil = own / "version_0" / "checkpoints" / "last.ckpt"
    evil.unlink()
    for other in evil.parent.iterdir():
        other.unlink()
    CONTAINERS[container](whole | {"hyper_parameters": Payload(sentinel)}, evil)
    video = str(next((tiny_data / "val" / "left").iterdir()))
    for arguments in (
        ["classify", video, "--checkpoint", str(evil)],
        ["weights", "import", str(evil), "-o", str(tmp_path / "out.safetensors")],
        ["weights", "export", str(evil), "-o", str(tmp_path / "exported")],
    ):
        assert main(arguments) == 2, arguments
    for command, options in (
        ("fit", ("--ckpt_path", str(evil))),
        ("fit", ("--ckpt_path", "last")),
        ("fit", ("--model.init_from", str(evil))),
        ("validate", ("--ckpt_path", str(evil), "--weights_only", "false")),
    ):
        assert run(command, tiny_config, own, *options) == 2, (command, options)
    with pytest.raises(UsageError):
        CheckpointFiles().load_checkpoint(evil, weights_only=False)
    assert not sentinel.exists()
    with contextlib.suppress(Exception):
        torch.load(evil, weights_only=False)
    assert sentinel.exists(), "no bait"


def test_names_of_code_in_a_checkpoint_are_not_followed(checkpoint, tmp_path, trap):
    whole = torch.load(checkpoint, weights_only=True)
    own = whole["hyper_parameters"]
    for evil in (
        {"_instantiator": "os.system", "_class_path": "os.system"},
        {"_instantiator": "lightning.pytorch.cli.instantiate_module", "_class_path": "antigravity.Module"},
        {"init_from": str(trap.other), "freeze_stages": 1},
        {"init_from": trap.address},
        {"dropout": "__import__('os').system('true')"},
        {"norm": "os.system"},
    ):
        path = tmp_path / "evil.ckpt"
        torch.save(whole | {"hyper_parameters": own | evil}, path)
        with contextlib.suppress(ValueError, TypeError):
            videogn.load(path)
        with contextlib.suppress(ValueError, TypeError):
            assert VideoClassifier.load_from_checkpoint(path).initial is None
    assert "antigravity" not in sys.modules
    assert trap.touched() == set()


# -- names of files ----------------------------------------------------------------------------------------------------


def state_of_best(whole):
    (key,) = [key for key in whole["callbacks"] if key.startswith("ModelCheckpoint")]
    return whole["callbacks"][key]


def baited(own, name):
    """The run's checkpoint, which calls its best checkpoint so far by another name, and its score bad."""
    path = own / "version_0" / "checkpoints" / "last.ckpt"
    whole, bad = torch.load(path, weights_only=True), torch.tensor(-1.0)
    state_of_best(whole).update(
        dirpath=f"{own}/version_0/checkpoints",
        best_k_models={name: bad},
        kth_best_model_path=name,
        kth_value=bad,
        best_model_path=name,
        last_model_path=name,
        best_model_score=bad,
    )
    torch.save(whole, path)
    return path


@pytest.fixture
def victims(own, tmp_path):
    """Files and folders that are nobody's business, and what a checkpoint may call them."""
    file, folder = tmp_path / "thesis.ckpt", tmp_path / "photos.ckpt"
    file.write_text("thesis")
    (folder / "inner").mkdir(parents=True)
    up = f"{own}/version_0/checkpoints/../../.."
    return (file, folder / "inner"), [
        str(file),
        f"file://{file}",
        f"{up}/thesis.ckpt",
        str(folder),
        f"{up}/photos.ckpt",
        f"{own}/version_0/config.yaml",
    ]


def go_on(config, own, epochs):
    return run("fit", config, own, "--trainer.max_epochs", str(epochs), "--ckpt_path", "last")


def test_a_checkpoint_has_no_file_removed(own, tiny_config, victims, trap):
    precious, names = victims
    for epochs, name in ((2, names[4]), (3, trap.address)):
        path = baited(own, name)
        assert go_on(tiny_config, own, epochs) == 0, name
        assert all(path.exists() for path in precious), name
        assert name not in state_of_best(torch.load(path, weights_only=True))["best_k_models"]
    assert trap.touched() == set()


def test_the_bait_is_taken_without_restrictions(own, tiny_config, victims, monkeypatch):
    (_, inner), names = victims
    baited(own, names[4])
    monkeypatch.setattr(OwnFiles, "on_load_checkpoint", lambda *_: None)
    monkeypatch.setattr(CheckpointFiles, "remove_checkpoint", TorchCheckpointIO.remove_checkpoint)
    monkeypatch.setattr("lightning.pytorch.callbacks.ModelCheckpoint.setup", _with_dirpath(own))
    assert go_on(tiny_config, own, 2) == 0
    assert not inner.exists()


def _with_dirpath(own):
    """The folder by the very name that the checkpoint has for it."""
    setup = ModelCheckpoint.setup

    def call(self, *arguments, **options):
        setup(self, *arguments, **options)
        self.dirpath = f"{own}/version_0/checkpoints"

    return call


def loaded(best, state, source):
    """The callback with a checkpoint's state."""
    checkpoint = {"callbacks": {best.state_key: state}}
    OwnFiles().on_load_checkpoint(SimpleNamespace(checkpoint_callbacks=[best], ckpt_path=str(source)), None, checkpoint)
    best.load_state_dict(checkpoint["callbacks"][best.state_key])


def test_a_state_names_checkpoints_of_its_own_folder_alone(own, victims, tmp_path, trap):
    folder = own / "version_0" / "checkpoints"
    addresses = [trap.address, trap.address.replace("http", "s3"), trap.address.replace("a.ts", "a.ckpt")]
    best = ModelCheckpoint(dirpath=folder, monitor="val/top1", mode="max", save_top_k=3)
    for name in [*victims[1], *addresses, "\0.ckpt", "", "/", "..", ".ckpt/..", f"{folder}/best.ckpt", 7, None]:
        for source in (folder / "last.ckpt", tmp_path / "last.ckpt"):
            state = {
                "dirpath": str(folder),
                "best_k_models": {name: torch.tensor(0.5), "x/y.ckpt": "no score"},
                "kth_best_model_path": name,
                "best_model_path": name,
                "last_model_path": name,
                "best_model_score": "0.5",
            }
            loaded(best, state, source)
            found = [*best.best_k_models, best.best_model_path, best.last_model_path, best.kth_best_model_path]
            assert {os.path.dirname(path) for path in found} <= {"", str(folder)}, name
            assert all(path.endswith(".ckpt") for path in found if path), name
            assert best.best_model_score is None
    loaded(best, {"best_k_models": [1]}, folder / "last.ckpt")
    loaded(best, "x", folder / "last.ckpt")
    assert trap.touched() == set()


def test_a_run_in_another_folder_begins_with_no_best_files(own, tmp_path):
    best = ModelCheckpoint(dirpath=tmp_path / "new", monitor="val/top1", mode="max")
    state = {"dirpath": str(own), "best_k_models": {f"{own}/best.ckpt": torch.tensor(0.5)}, "best_model_path": "x.ckpt"}
    loaded(best, state, own / "last.ckpt")
    assert (best.best_k_models, best.best_model_path, best.best_model_score) == ({}, "", None)


def test_the_best_checkpoint_is_known_where_the_folder_was_moved_to(own, tiny_config):
    """The restriction does not cost what the state is for: one best checkpoint, not one more after each restart."""
    assert go_on(tiny_config, own, 2) == 0
    state = state_of_best(torch.load(own / "version_0" / "checkpoints" / "last.ckpt", weights_only=True))
    (name,) = state["best_k_models"]
    (left,) = (own / "version_0" / "checkpoints").glob("best-*")
    assert os.path.realpath(name) == str(left)


def test_only_files_of_checkpoints_are_removed(tmp_path, trap):
    for name in ("a.ckpt", "thesis.txt"):
        (tmp_path / name).touch()
    (tmp_path / "link.ckpt").symlink_to(trap.other)
    (tmp_path / "photos.ckpt").mkdir()
    for name in ("a.ckpt", "link.ckpt", "photos.ckpt", "thesis.txt", "absent.ckpt"):
        CheckpointFiles().remove_checkpoint(tmp_path / name)
    CheckpointFiles().remove_checkpoint(trap.address.replace("a.ts", "a.ckpt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos.ckpt", "thesis.txt", "trap"]
    assert trap.other.exists()
    assert trap.touched() == set()


def replaced(value, text):
    """A copy with ``text`` for every string, and for every name of a checkpoint file."""
    if isinstance(value, dict):
        return {text if str(key).endswith(".ckpt") else key: replaced(v, text) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(replaced(v, text) for v in value)
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("what", ["file", "address"])
def test_every_text_of_a_checkpoint_may_be_a_path(what, own, tiny_config, trap):
    """Whether the run then goes on or fails is not the point."""
    text = str(trap.other) if what == "file" else trap.address
    path = own / "version_0" / "checkpoints" / "last.ckpt"
    whole = torch.load(path, weights_only=True)
    kept = ("videogn", "state_dict", "pytorch-lightning_version")
    evil = {name: value if name in kept else replaced(value, text) for name, value in whole.items()}
    evil |= {"hparams_name": text, "datamodule_hyper_parameters": {"root": text}, "datamodule_hparams_name": text}
    torch.save(evil, path)
    size = trap.other.stat().st_size
    for command, options in (("fit", ("--trainer.max_epochs", "2")), ("validate", ())):
        with contextlib.suppress(Exception, SystemExit):
            run(command, tiny_config, own, "--ckpt_path", str(path), *options)
    assert trap.touched() == set()
    assert trap.other.stat().st_size == size


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"loops": [1]}, "loops: expected a dict"),
        ({"callbacks": "x"}, "callbacks: expected a dict"),
        ({"global_step": "3"}, "global_step: expected a int"),
        ({"pytorch-lightning_version": "0.7.6"}, "pytorch-lightning_version: expected 2.x, found"),
        ({"pytorch-lightning_version": "2.6.6; true"}, "pytorch-lightning_version: expected 2.x, found"),
    ],
)
def test_entries_of_wrong_types_are_refused(entries, words, own):
    path = own / "version_0" / "checkpoints" / "last.ckpt"
    torch.save(torch.load(path, weights_only=True) | entries, path)
    with pytest.raises(UsageError, match=words):
        CheckpointFiles().load_checkpoint(path)
