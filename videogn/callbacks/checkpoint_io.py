"""How Lightning reads and writes checkpoints here."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from videogn import checkpoint as checkpoint_format
from videogn.checkpoint_card import require
from videogn.checkpoint_storage import cannot_write, write
from videogn.errors import UsageError

_KINDS: dict[str, type | tuple[type, ...]] = {
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}


class CheckpointFiles(TorchCheckpointIO):
    """Files on a local disk, whole or not at all, checked when they are read; addresses of other kinds are none.

    ``trainer.save_checkpoint(path, storage_options={"keep": n})`` keeps n files: see
    :func:`videogn.checkpoint_storage.write`. Files and folders of weights are read as the checkpoint of a run.
    """

    _readable = False  # what this run writes can be read again, as its first checkpoint shows

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Raises UsageError where the file cannot be written, or not be read again: what was there is intact."""
        options = dict(storage_options or {})
        keep = options.pop("keep", None)
        if options:
            raise ValueError(f"storage_options: expected keep alone, found {sorted(options)} too")
        path = Path(path)
        if not self._readable:
            _check_readable(checkpoint, path)
            self._readable = True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, lambda file: torch.save(checkpoint, file), keep)
        except OSError as error:
            raise cannot_write(path, error, _bytes(checkpoint)) from error

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """To the CPU and with ``weights_only=True``, whatever the caller asks for.

        Raises:
            UsageError: damaged, or none of this project.
        """
        run = {"pytorch-lightning_version": version("lightning"), "epoch": 0, "global_step": 0}
        stored = run | checkpoint_format.read(path)
        for name, kind in _KINDS.items():
            if name in stored:
                require(isinstance(stored[name], kind), Path(path), name, f"a {kind.__name__}", stored[name])  # type: ignore[union-attr]
        # Lightning's migrations of its own old files know what this project has never written.
        written_by = str(stored["pytorch-lightning_version"])
        fits = re.fullmatch(r"2\.\d{1,4}(\.[0-9a-z]{1,16}){0,3}", written_by)
        require(fits is not None, Path(path), "pytorch-lightning_version", "2.x", written_by)
        return stored

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a file ``*.ckpt``, never a folder: the name may come from a checkpoint that was loaded."""
        path = Path(path)
        if path.suffix == ".ckpt" and (path.is_file() or path.is_symlink()):
            path.unlink()


class OwnFiles(Callback):
    """Lets the state of ModelCheckpoint in a checkpoint name files of ModelCheckpoint's own folder alone.

    Of the files that it names, Lightning removes those that are no longer the best. Where the checkpoint lies in that
    folder, or says that it was written by a run that had the same one, its names are those of files there, wherever the
    folder has been moved to; a run in another folder begins with no best files.
    """

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["callbacks"]
        for callback in trainer.checkpoint_callbacks:
            state = states.get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and state is not None:
                states[callback.state_key] = _confined(callback, state, trainer.ckpt_path)


def _confined(callback: ModelCheckpoint, state: Any, source: Any) -> dict[str, Any]:
    """The state with names in the callback's folder alone; ``source`` is the file that it is from."""
    folder, own = str(callback.dirpath), callback.state_dict()
    stored = state.get("dirpath") if isinstance(state, dict) else None
    places = [os.path.dirname(os.path.abspath(source))] if source else []
    places += [stored] if isinstance(stored, str) and "\0" not in stored else []
    best = state.get("best_k_models") if isinstance(state, dict) else None
    if not isinstance(best, dict) or os.path.realpath(folder) not in map(os.path.realpath, places):
        return own
    scores = {_inside(folder, name): score for name, score in best.items() if _is_score(score)}
    scores.pop("", None)
    worst = _inside(folder, state.get("kth_best_model_path"))
    if scores and worst not in scores:
        worst = (max if callback.mode == "min" else min)(scores, key=lambda name: float(scores[name]))
    for name in ("best_model_score", "current_score", "kth_value"):
        own[name] = state[name] if _is_score(state.get(name)) else own[name]
    for name in ("best_model_path", "last_model_path"):
        own[name] = _inside(folder, state.get(name))
    return own | {"best_k_models": scores, "kth_best_model_path": worst if scores else ""}


def _is_score(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1


def _inside(folder: str, name: Any) -> str:
    """The file of that name in the folder; empty for what is no name of a checkpoint."""
    base = os.path.basename(name) if isinstance(name, str) else ""
    return os.path.join(folder, base) if base.endswith(".ckpt") and "\0" not in base else ""


def _check_readable(checkpoint: dict[str, Any], path: Path) -> None:
    """Refuses what ``weights_only=True`` does not read, such as NumPy's numbers in the state of a callback."""
    entries = {**checkpoint, **{f"callbacks.{key}": value for key, value in checkpoint.get("callbacks", {}).items()}}
    entries.pop("callbacks", None)
    for name, value in entries.items():
        file = io.BytesIO()
        try:
            torch.save(_without_values(value), file)
            file.seek(0)
            torch.load(file, weights_only=True)
        except (pickle.PickleError, AttributeError, TypeError) as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            raise UsageError(
                f"{path}: is not written, because it could not be read again: {name}: expected plain values and "
                f"tensors, found {found[1] if found else error!s:.200}"
            ) from error


def _without_values(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return None
    if type(value) in (dict, OrderedDict):
        return {key: _without_values(entry) for key, entry in value.items()}
    return [_without_values(entry) for entry in value] if type(value) in (list, tuple) else value


def _bytes(value: Any) -> int:
    """Of the tensors in a checkpoint."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0
