"""The same seed gives the same training: with any number of data workers, and of processes where the norm allows."""

import json

import pytest
import torch
from commands import command_line
from ddp_runs import fingerprint, groups, train_curves
from runs import write_trained_bn

from videogn.data.demo import DemoSpec, generate_demo
from videogn.report.curves import read_curves

STEPS = 20
# An instance has two values in the last stage here. With the usual eps, IN leaves little more than the sign of their
# difference, so that the last digit of a sum grows to 1e-3 of the loss in these 20 steps.
INDEPENDENT = {"gn": {"num_groups": 4}, "ln": None, "in": {"eps": 1e-2}, "gn_ws": {"num_groups": 4}, "frozen_bn": None}
CLOSE = 1e-5
SHORT = 8
RUNS = [(workers, 0.5) for workers in (0, 1, 2, 4)] + [(workers, 0.0) for workers in (0, 4)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 videos."""
    root = tmp_path_factory.mktemp("data") / "demo"
    generate_demo(root, DemoSpec(train_per_class=3, val_per_class=1, size=32, frames=12))
    return root


@pytest.fixture(scope="module")
def command(data, tiny_config):
    """A command of 20 steps, 7 epochs begun, with random sizes, places and flips."""
    found = ["fit", "-c", str(tiny_config), "--data.root", str(data), "--data.batch_size", "8"]
    found += ["--data.clip.train_short_side", "[32, 40]", "--data.clip.flip", "0.5"]
    return [*found, "--trainer.max_steps", str(STEPS), "--trainer.max_epochs", "-1", "--trainer.limit_val_batches", "0"]


# -- workers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_workers(command, tmp_path_factory):
    """Loss curves and weights of short runs by (workers, dropout), each with batches of 4: 6 steps in an epoch."""
    folder = tmp_path_factory.mktemp("workers")
    jobs = {}
    for workers, dropout in RUNS:
        options = ["--data.num_workers", str(workers), "--model.dropout", str(dropout), "--data.batch_size", "4"]
        options += [
            "--trainer.max_steps",
            str(SHORT),
            "--trainer.default_root_dir",
            str(folder / f"{workers}-{dropout}"),
        ]
        jobs[f"{workers}-{dropout}"] = [*command, *options]
    jobs["again"] = [*jobs["2-0.5"], "--trainer.default_root_dir", str(folder / "again")]
    jobs["other seed"] = [*jobs["0-0.5"], "--seed_everything", "1", "--trainer.default_root_dir", str(folder / "seed")]
    return jobs, train_curves(jobs)


@pytest.mark.parametrize(("workers", "dropout"), [run for run in RUNS if run[0] > 0])
def test_any_number_of_workers_gives_the_same_curve_and_weights(by_workers, workers, dropout):
    """To the bit, into a second epoch, in which the workers live on."""
    _, found = by_workers
    one = found[f"0-{dropout}"]
    assert len(one["losses"]) == SHORT
    assert found[f"{workers}-{dropout}"] == one


def test_what_should_differ_does(by_workers):
    """Or else the comparisons would show nothing."""
    _, found = by_workers
    assert len(set(found["0-0.5"]["losses"])) == SHORT
    assert found["0-0.0"]["losses"][1:] != found["0-0.5"]["losses"][1:]
    assert found["other seed"]["losses"][0] != found["0-0.5"]["losses"][0]


@pytest.mark.slow
def test_the_same_command_twice_gives_the_same_weights(by_workers, tmp_path):
    """In one process, and in one that starts anew and has other hashes of strings."""
    jobs, found = by_workers
    assert found["again"] == found["2-0.5"]
    code, output = command_line(*jobs["2-0.5"], "--trainer.default_root_dir", tmp_path, PYTHONHASHSEED=1)
    assert code == 0, output
    weights = torch.load(tmp_path / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    prefix = "network."
    hashes = {name.removeprefix(prefix): fingerprint(weights[name]) for name in weights if name.startswith(prefix)}
    assert hashes == found["2-0.5"]["weights"]


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_processes(command, tmp_path_factory):
    """By norm: what 1 process with batches of 8 finds, and each of 2 with batches of 4, in float64 without dropout."""
    folder = tmp_path_factory.mktemp("processes")
    start = folder / "bn.safetensors"
    write_trained_bn(start)

    def jobs(processes):
        found = {}
        for norm, arguments in {**INDEPENDENT, "bn": None}.items():
            options = ["--model.norm", norm, "--model.norm_kwargs", json.dumps(arguments)]
            options += ["--trainer.precision", "64-true", "--data.batch_size", str(8 // processes)]
            options += ["--trainer.devices", str(processes)] + ["--trainer.strategy", "ddp"] * (processes > 1)
            options += ["--model.init_from", str(start)] * (norm == "frozen_bn")
            found[norm] = [*command, *options, "--trainer.default_root_dir", str(folder / f"{norm}-{processes}")]
        return found

    two = groups(folder / "2", {2: {"train_curves": jobs(2)}})[2]
    return folder, train_curves(jobs(1)), [rank["train_curves"] for rank in two]


def difference(by_processes, norm):
    """Between 1 process and 2, as shares of the values: the largest of a loss, and of a tensor of weights.

    What is logged is the mean of the processes' losses.
    """
    folder, one, two = by_processes
    assert two[0][norm]["weights"] == two[1][norm]["weights"]
    losses = [torch.tensor([float(loss) for loss in run[norm]["losses"]]).double() for run in (one, *two)]
    assert [len(loss) for loss in losses] == [STEPS] * 3
    mean = (losses[1] + losses[2]) / 2
    places = [folder / f"{norm}-{n}" / "version_0" for n in (1, 2)]
    logged = torch.from_numpy(read_curves(str(places[1]))["train/loss"].values)
    torch.testing.assert_close(logged, mean, rtol=1e-6, atol=0.0)
    assert not torch.allclose(logged, losses[1], rtol=1e-3)
    weights = [torch.load(place / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for place in places]
    assert len(weights[0]) > 150
    of_weights = [
        float((weights[1][name] - tensor).abs().max() / tensor.abs().max())
        for name, tensor in weights[0].items()
        if tensor.is_floating_point() and tensor.any()
    ]
    return float(((mean - losses[0]) / losses[0]).abs().max()), max(of_weights)


@pytest.mark.slow
@pytest.mark.parametrize("norm", INDEPENDENT)
def test_norms_without_a_batch_learn_on_two_processes_what_they_learn_on_one(by_processes, norm):
    of_loss, of_weights = difference(by_processes, norm)
    assert of_loss < CLOSE
    assert of_weights < CLOSE


@pytest.mark.slow
def test_a_batch_norm_does_not(by_processes):
    """Its statistics are those of 4 clips instead of 8. Or else the comparison above would show nothing."""
    of_loss, of_weights = difference(by_processes, "bn")
    assert of_loss > 100 * CLOSE
    assert of_weights > 100 * CLOSE
