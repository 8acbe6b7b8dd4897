"""How Lightning reads and writes checkpoints here."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from videogn import checkpoint


class CheckpointFiles(TorchCheckpointIO):
    """Reads and writes checkpoints; files and folders of weights are read as the checkpoint of a run."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        super().save_checkpoint(checkpoint, path)

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        run = {"pytorch-lightning_version": version("lightning"), "epoch": 0, "global_step": 0}
        return run | checkpoint.read(path)
