"""The bar that commands draw on a terminal."""

import io
import sys

import pytest

from videogn.data.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("name", ["runs/[a/b]", "a[bold]b", "[red]"])
def test_names_in_brackets_are_text(monkeypatch, name):
    """They may be those of folders, files and classes; rich would take them for colours."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "200")
    with ProgressBar(f"windows of {name}", 2) as bar:
        bar.update(1, f"note {name}")
        bar.message(f"message {name}")
        bar.update(2, f"note {name}")
    told = sys.stderr.getvalue()
    for text in (f"windows of {name}", f"note {name}", f"message {name}"):
        assert text in told
