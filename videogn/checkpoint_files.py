"""Files of checkpoints: written whole or not at all, checked, and found again."""

from __future__ import annotations

import os
from pathlib import Path


def find_last(root: str | os.PathLike[str]) -> Path | None:
    """The newest usable checkpoint of a run under ``root``."""
    found = sorted(Path(root).glob("version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None
