"""Files of a folder that may come from anyone."""

from __future__ import annotations

import os

from videogn.errors import UsageError


def check_file(path: str, of: str) -> None:
    """Refuses what is there and is no file: a link would show files of this machine, a pipe or device may never end.

    Args:
        path: that is about to be opened; nothing has to be there.
        of: whose file it should be, ``"run"`` for example.

    Raises:
        UsageError: a link, or neither a file nor nothing.
    """
    if os.path.islink(path):
        raise UsageError(f"{path}: expected a file of the {of}, found a link to {os.readlink(path)}; copy the file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{path}: expected a file of the {of}, found a folder, pipe or device; remove it")
