"""Training on two processes, gloo on a CPU: one network, and the network of one process with the whole batch."""

import json

import pytest
import torch
from ddp_runs import groups
from runs import run, write_trained_bn

import videogn
from videogn.module import VideoClassifier

pytestmark = pytest.mark.slow  # the processes start once for all tests of this file, in more than ten seconds

ARGUMENTS = {
    "gn": {"num_groups": 4},
    "gn_ws": {"num_groups": 4},
    "brn": {"warmup_steps": 1, "r_ramp_steps": 2},
    "sub_bn": {"num_splits": 2},
}
MEMORY = ("recompute", "low", "lowest")
# What backward recomputes goes through other code for each of these.
CASES = [(norm, "keep") for norm in videogn.NORMS] + [
    (norm, memory) for norm in ("gn", "bn", "brn") for memory in MEMORY
]
# With the whole batch in one process these do the same; the others take their statistics from a process's own clips.
INDEPENDENT = ("gn", "ln", "in", "gn_ws", "frozen_bn")


def _id(case):
    return " ".join(case)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ddp")


@pytest.fixture(scope="module")
def ranks(tiny_config, folder):
    """Of each of two ranks: networks under torch's DDP, and two steps of ``videogn fit`` with every norm."""
    start = folder / "bn.safetensors"
    write_trained_bn(start)
    common = ["fit", "-c", str(tiny_config), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    common += ["--data.batch_size", "2"]
    jobs = {}
    for norm in videogn.NORMS:
        options = ["--model.norm", norm, "--model.norm_kwargs", json.dumps(ARGUMENTS.get(norm))]
        if norm == "frozen_bn":
            options += ["--model.init_from", str(start)]
        jobs[norm] = [*common, *options, "--trainer.default_root_dir", str(folder / norm)]
    accumulated = ["--data.batch_size", "1", "--model.recipe.clips_per_step", "4"]
    jobs["accumulated"] = [*jobs["gn"], *accumulated, "--trainer.default_root_dir", str(folder / "accumulated")]
    cases = [(norm, ARGUMENTS.get(norm), memory) for norm, memory in CASES]
    return groups(folder, {2: {"train_networks": cases, "train_synchronised": "cpu", "run_commands": jobs}})[2]


@pytest.fixture(scope="module")
def networks(ranks):
    """What :func:`ddp_runs.train_networks` finds, by case."""
    return [dict(zip(CASES, rank["train_networks"], strict=True)) for rank in ranks]


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_after_some_steps_all_ranks_have_the_same_bits(networks, case):
    """Parameters and running statistics; every rank has seen other clips."""
    first, second = (rank[case]["state"] for rank in networks)
    assert len(first) > 150
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_gradients_are_the_mean_of_those_of_the_shares(networks, case):
    assert max(rank[case]["of shares"] for rank in networks) < 1e-10


@pytest.mark.parametrize("case", [case for case in CASES if case[0] in INDEPENDENT], ids=_id)
def test_gradients_are_those_of_one_process_with_the_whole_batch(networks, case):
    assert max(rank[case]["of batch"] for rank in networks) < 1e-10


def test_gradients_of_batch_norms_are_not_those_of_the_whole_batch(networks):
    """Or else the comparison above would show nothing."""
    for norm in sorted({norm for norm, _ in CASES} - set(INDEPENDENT)):
        assert networks[0][norm, "keep"]["of batch"] > 1e-3, norm


def test_synchronised_batch_norms_are_those_of_one_process_with_the_whole_batch(ranks):
    """What tests/test_sync_bn_gpu.py asks of SyncBatchNorm, of a layer that a CPU can run: the test's own check."""
    first, second = (rank["train_synchronised"] for rank in ranks)
    assert first["hashes"] == second["hashes"]
    for rank in (first, second):
        assert rank["gradients"] < 1e-7
        assert rank["state"] < 1e-7
        assert rank["without"] > 1e-3


@pytest.mark.parametrize("norm", videogn.NORMS)
def test_fit_leaves_the_same_network_on_all_ranks(ranks, norm):
    found = [rank["run_commands"] for rank in ranks]
    first, second = (rank[norm]["state"] for rank in found)
    assert len(first) > 150
    assert [name for name in first if first[name] != second[name]] == []
    assert found[0][norm]["scores"] == found[1][norm]["scores"]


@pytest.mark.parametrize("name", ["gn", "accumulated"])
def test_fit_on_two_processes_learns_what_one_does(ranks, folder, tiny_config, tmp_path, name):
    """4 clips per step on 1 process, 2 + 2 on 2, and (1 + 1) + (1 + 1): the same clips in the same steps."""
    assert run("fit", tiny_config, tmp_path) == 0
    one, two = (
        torch.load(place / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
        for place in (tmp_path, folder / name)
    )
    assert one["global_step"] == two["global_step"] == 2
    torch.manual_seed(0)
    start = VideoClassifier(8, variant="8x8", width=8, norm="gn", norm_kwargs={"num_groups": 4}).state_dict()
    moved = max(float((tensor - start[key]).abs().max()) for key, tensor in one["state_dict"].items())
    assert 1e-3 < moved < 0.1
    for key, tensor in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][key], tensor, rtol=0, atol=1e-5)
