"""The files that a run leaves, written and read back."""

import pytest

from videogn.results import PREDICTIONS_FILE, VideoResult, read_predictions, write_predictions


@pytest.mark.parametrize("name", ["plain", 'a, "b"', "a\nb", "a\rb", "a\r\n", " a ", "=a", "é", "caf\udce9", "a\0b"])
def test_names_that_tables_find_hard(tmp_path, name):
    names = [name, "other"]
    results = [
        VideoResult(0, f"videos/{name}.mp4", 0, None, (0, 1), (0.75, 0.25), 0, 0.75, (0, 1), (0, 1), (0, 0)),
        VideoResult(1, "b.mp4", 1, f"{name}: cannot be read"),
        VideoResult(2, "c.mp4", -1, None, (1, 0), (0.5, 0.5), view_top1=(1, 1), subset_top1=(1, 1)),
    ]
    path = str(tmp_path / PREDICTIONS_FILE)
    write_predictions(path, results, names)
    assert read_predictions(path, names) == results
