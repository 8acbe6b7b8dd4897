"""The journal of an evaluation: what is read back, what is left out, where it lies."""

import json

import torch

from videogn.callbacks.journal import Journal, journal_folder, read_results
from videogn.evaluation import judge


def results(count):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 6, 12, generator=generator)
    return [judge(i, f"a {i}.mp4", i % 12, p, num_clips=3) for i, p in enumerate(logits.softmax(2))]


def test_results_come_back_to_the_last_digit(tmp_path):
    journal = Journal(tmp_path / "a", rank=1)
    assert journal.lock({}) is None
    for result in results(20):
        journal.append(result)
    journal.close()
    assert list(read_results(tmp_path / "a").values()) == results(20)


def test_lines_that_are_no_results_are_left_out(tmp_path):
    journal = Journal(tmp_path, rank=0)
    first, second, *_ = results(2)
    journal.append(first)
    journal.close()
    with open(tmp_path / "rank-0.jsonl", "ab") as file:
        file.write(
            b'{"id": 7}\n[]\nnull\n1\n\xff\n\0\0\0\0\n{"id": 8, "path": "x", "label": 1, "more": 2}\n{"id": 9, "pa'
        )
    journal = Journal(tmp_path, rank=0)
    assert list(journal.results.values()) == [first]
    journal.append(second)  # on a line of its own
    journal.close()
    assert list(read_results(tmp_path).values()) == [first, second]


def test_the_folder_is_a_function_of_what_decides_alone(tmp_path):
    about = {"weights": "abc", "clip": {"frames": 4}}
    folder = journal_folder(tmp_path, about)
    assert journal_folder(tmp_path, dict(reversed(about.items()))) == folder
    assert journal_folder(tmp_path, about | {"weights": "abd"}) != folder
    journal = Journal(folder, 0)
    journal.lock(about)
    assert json.loads((folder / "about.json").read_text()) == about
    journal.remove()
    assert not (tmp_path / "unfinished").exists()
