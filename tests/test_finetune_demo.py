"""The fine-tuning demo: its two halves, a pass through all of it in small, and its table."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml

from videogn.data.motions import MOTIONS

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import finetune_demo as demo


@pytest.fixture(scope="module")
def halves():
    return [yaml.safe_load(config.read_text()) for config in (demo.PRETRAIN, demo.FINETUNE)]


def test_the_halves_share_no_class_and_the_network(halves):
    first, second = (half["data"]["demo"] for half in halves)
    assert sorted(first["classes"] + second["classes"]) == sorted(MOTIONS)
    assert (len(second["classes"]), second["train_per_class"]) == (4, 10)
    for half in halves:
        half["model"].pop("recipe")
        assert half["model"]["num_classes"] == len(half["data"]["demo"]["classes"])
    assert halves[0]["model"] == halves[1]["model"]
    assert halves[0]["data"]["clip"] == halves[1]["data"]["clip"]
    assert halves[0]["data"]["clip"]["flip"] == 0.0


@pytest.fixture
def small(tmp_path, monkeypatch, halves):
    """The two configurations with a narrow network, one epoch, and two videos where there were 10 or 100."""
    for name, half in zip(("PRETRAIN", "FINETUNE"), halves, strict=True):
        half["model"] |= {"width": 8, "norm_kwargs": {"num_groups": 4}}
        half["data"]["demo"] |= {"train_per_class": 2, "val_per_class": 1, "size": 32, "frames": 12}
        half["data"]["clip"] |= {"frames": 4, "train_short_side": [32, 32], "train_crop": 32}
        half["data"]["clip"]["protocol"] |= {"short_side": 32, "crop_size": 32}
        half["trainer"] |= {"max_epochs": 1, "check_val_every_n_epoch": 1, "log_every_n_steps": 1}
        path = tmp_path / getattr(demo, name).name
        path.write_text(yaml.safe_dump(half))
        monkeypatch.setattr(demo, name, path)
    # Processes would import torch again; these runs are so short that a thread of this one is enough.
    monkeypatch.setattr(demo, "ProcessPoolExecutor", lambda processes, mp_context: ThreadPoolExecutor(1))
    return tmp_path


def test_all_of_it_in_small(small, monkeypatch, capsys):
    monkeypatch.setattr(demo, "BATCHES", (2,))
    monkeypatch.setattr(demo, "write_result", lambda *result: results.append(result))
    results = []
    monkeypatch.setattr(sys, "argv", ["finetune_demo.py", "--seeds", "3", "--folder", str(small), "--json"])
    assert demo.main() == 0
    output = capsys.readouterr()
    assert "4 of 4" in output.err
    rows = [line.split(" | ")[:2] for line in output.out.splitlines() if line.startswith(("| bn", "| gn"))]
    assert rows == [["| bn", "2"], ["| gn", "2"]]
    [(name, _, fields)] = results
    assert (name, fields["val_videos"], fields["seeds"]) == ("finetune_demo", 4, [3])
    assert len(fields["top1"]) == 4
    assert all(len(values) == 1 for values in fields["top1"].values())
    json.dumps(fields)

    weights = {
        name: torch.load(small / name / "version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("pretrain_gn", "gn_batch2_pre-trained_seed3", "gn_batch2_nothing_seed3")
    }
    stem = "network.blocks.0.conv.weight"
    before, after, without = (state[stem] for state in weights.values())
    # A few steps of training change little: what started from the pre-trained weights is still close to them.
    assert (after - before).norm() < 0.5 * (without - before).norm()


def test_table():
    """Mean and sample standard deviation, worked out by hand."""
    values = {"nothing": (0.25, 0.5, 0.75), "pre-trained": (0.5, 0.5, 0.8)}
    top1 = {
        (norm, batch, begin, seed): value
        for norm in ("bn", "gn")
        for batch in (8, 2)
        for begin, three in values.items()
        for seed, value in enumerate(three)
    }
    assert demo.table(top1, [0, 1, 2]).splitlines()[2] == "| bn | 8 | 0.500 ± 0.250 | 0.600 ± 0.173 |"
    assert demo.table(top1, [1]).splitlines()[5] == "| gn | 2 | 0.500 | 0.500 |"
