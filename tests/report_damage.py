"""Runs for tests of reports, and changes to their files."""

import csv
import json
import os

import pytest

from videogn.errors import UsageError
from videogn.report.runs import read_runs

NAMES = [*"abcdef", 'g"<b>&amp;\n</script>, ', "h\udcff é\u2028"]
PATHS = [f"/data/{i}.mp4" for i in range(20)]
LABELS = [i % 8 for i in range(20)]


def change(folder, file="evaluation.json", **entries):
    path = os.path.join(folder, file)
    with open(path) as stream:
        values = json.load(stream)
    for name, value in entries.items():
        place = values
        *parents, last = name.split("__")
        for parent in parents:
            place = place[parent]
        place[last] = value
    with open(path, "w") as stream:
        json.dump(values, stream)


def edit(folder, row, **cells):
    path = os.path.join(folder, "predictions.csv")
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[row] |= cells
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def message(*folders):
    with pytest.raises(UsageError) as caught:
        read_runs([str(folder) for folder in folders])
    return str(caught.value)
