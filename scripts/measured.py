"""Where measurements of the scripts go: ``scripts/results/NAME.json``, one entry per key, with what they ran on."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import av

from videogn.study.environment import cpu_name

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, key: str, fields: dict[str, Any]) -> Path:
    """Puts one measurement into ``results/NAME.json`` under ``key``, in place of an earlier one of that key.

    Args:
        name: of the file, without the extension.
        key: what was measured, such as a backend.
        fields: numbers and texts.
    """
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    entries = json.loads(path.read_text()) if path.exists() else {}
    entries[key] = {"command": _command(), "date": datetime.date.today().isoformat(), **_machine(), **fields}
    path.write_text(json.dumps(entries, indent=1) + "\n")
    return path


def _command() -> str:
    """The command line, with paths of files that belong to this machine cut to their names."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return shlex.join(["python", f"scripts/{Path(sys.argv[0]).name}", *words])


def _machine() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in ("av", "decord", "torchcodec", "torch", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    versions |= {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    return {"cpu": cpu_name(), "versions": versions}
