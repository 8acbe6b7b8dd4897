"""What a study was made with: command, date, machine, versions. Imports no torch before it is asked."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videogn.data.cores import available_cores
from videogn.data.files import cannot_write, write_atomically
from videogn.report.studies import STUDY_FILE
from videogn.study.grid import Study
from videogn.study.outcomes import Outcome

if TYPE_CHECKING:
    from videogn.study.figures import StudyFigure

_PACKAGES = ("videogn", "torch", "lightning", "av")


def environment(command: str, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Plain values: ``command``, ``date`` (UTC), ``cpu``, ``cores``, ``devices``, ``versions`` and ``run_hours``.

    Args:
        command: as the user typed it.
        outcomes: of the runs that are done; their dates, devices, versions and times are taken, not this process's.
    """
    taken = [outcome for outcome in outcomes if outcome.training is not None]
    dates = sorted(o.training.date[:10] for o in taken if o.training and o.training.date)
    versions = {f"{name} {of}" for o in taken for name, of in (o.training.versions if o.training else {}).items()}
    return {
        "command": command,
        "date": " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
        "cpu": cpu_name(),
        "cores": available_cores(),
        "devices": sorted({o.training.device for o in taken if o.training}),
        "versions": sorted(versions) or [f"{name} {version(name)}" for name in _PACKAGES],
        "run_hours": round(sum(o.seconds for o in taken) / 3600, 2),
    }


def write_record(study: Study, made_with: Mapping[str, Any], figures: Sequence[StudyFigure], output: Path) -> None:
    """Writes ``study.json``: name and title, what :func:`environment` says, and the figures, which reports can show.

    Raises:
        UsageError: the file cannot be written.
    """
    shown = [{"name": figure.name, "title": figure.title, "caption": figure.caption} for figure in figures]
    about = {"study": study.name, "title": study.title, **made_with, "figures": shown}
    try:
        write_atomically(str(output / STUDY_FILE), [json.dumps(about, indent=1), "\n"])
    except OSError as error:
        raise cannot_write(str(output), error) from error


def cpu_name() -> str:
    """The processor's, as the system tells it."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def command_line(arguments: Iterable[str]) -> str:
    """The command as it can be typed again, with places of this machine's alone cut to their names."""
    return shlex.join(["videogn", "study", *map(_told, arguments)])


def _told(argument: str) -> str:
    name, equals, value = argument.rpartition("=")
    return f"{name}{equals}{Path(value).name if os.path.isabs(value) else value}"
