"""SIGTERM and SIGUSR1: a run saves, says so and ends with its code, and goes on to the same weights."""

import os
import signal
import time

import pytest
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from runs import run

from videogn import stopping
from videogn.callbacks import CheckpointFiles
from videogn.cli import main
from videogn.data.child_signals import heed_parent_alone
from videogn.launching import join_launcher
from videogn.module import VideoClassifier
from videogn.stopping import REQUESTS, Stopped, StopRequests

pytestmark = pytest.mark.slow  # the command in processes of its own

TWO_EPOCHS = ["--data.batch_size", "2", "--trainer.max_epochs", "2", "--model.dropout", "0.5"]  # of four steps


def ask(number):
    os.kill(os.getpid(), number)


def at(monkeypatch, place, method, count, do):
    """Calls ``do`` at the beginning of the count-th call of a method; the list that is returned has all calls."""
    usual, calls = getattr(place, method), []

    def called(self, *arguments, **options):
        calls.append(method)
        if len(calls) == count:
            do()
        return usual(self, *arguments, **options)

    monkeypatch.setattr(place, method, called)
    return calls


def stopped(config, folder, *options, command="fit"):
    with pytest.raises(Stopped) as ended:
        run(command, config, folder, *TWO_EPOCHS, *options)
    return ended.value


def last(folder):
    return torch.load(folder / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole(tiny_config, tmp_path_factory):
    """The weights of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert run("fit", tiny_config, folder, *TWO_EPOCHS) == 0
    return last(folder)["state_dict"]


def assert_goes_on(config, folder, whole):
    assert run("fit", config, folder, *TWO_EPOCHS, "--ckpt_path", "last") == 0
    found = last(folder)["state_dict"]
    assert [name for name, tensor in whole.items() if not torch.equal(found[name], tensor)] == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_training_is_saved_before_the_next_step(number, code, tiny_config, tmp_path, whole, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        steps = at(patch, VideoClassifier, "training_step", 2, lambda: ask(number))
        assert stopped(tiny_config, tmp_path).code == code
    assert len(steps) == 2
    assert last(tmp_path)["global_step"] == 2
    told = capfd.readouterr().err
    assert f"stopped by {number.name}: step 2 is saved" in told
    assert f"--ckpt_path last goes on (exit code {code})" in told
    assert_goes_on(tiny_config, tmp_path, whole)


def test_a_validation_ends_at_its_next_batch(tiny_config, tmp_path, whole, monkeypatch):
    with monkeypatch.context() as patch:
        batches = at(patch, VideoClassifier, "validation_step", 2, lambda: ask(signal.SIGUSR1))
        assert stopped(tiny_config, tmp_path).code == 75
    assert len(batches) == 2, "of eight"
    assert last(tmp_path)["global_step"] == 4
    assert_goes_on(tiny_config, tmp_path, whole)


def test_accumulated_batches_are_finished_to_a_step(tiny_config, tmp_path, monkeypatch):
    batches = at(monkeypatch, VideoClassifier, "training_step", 3, lambda: ask(signal.SIGTERM))
    stopped(tiny_config, tmp_path, "--model.recipe.clips_per_step", "4")
    assert len(batches) == 4
    assert last(tmp_path)["global_step"] == 2


@pytest.mark.parametrize(
    ("method", "options"), [("validation_step", ["--trainer.num_sanity_val_steps", "2"]), ("on_train_start", [])]
)
def test_before_the_first_step_there_is_nothing_to_save(method, options, tiny_config, tmp_path, monkeypatch, capfd):
    calls = at(monkeypatch, VideoClassifier, method, 1, lambda: ask(signal.SIGUSR1))
    assert stopped(tiny_config, tmp_path, *options).code == 75
    assert len(calls) == 1
    assert "before there was anything to save" in capfd.readouterr().err
    assert not list(tmp_path.glob("version_0/checkpoints/*"))


def test_a_checkpoint_that_is_being_written_is_finished(tiny_config, tmp_path, monkeypatch):
    at(monkeypatch, CheckpointFiles, "save_checkpoint", 1, lambda: ask(signal.SIGTERM))
    assert stopped(tiny_config, tmp_path, "--resume.every_n_steps", "3").code == 143
    assert last(tmp_path)["global_step"] == 3
    assert not list(tmp_path.rglob("*.partial"))


def test_a_run_at_its_end_is_finished(tiny_config, tmp_path, monkeypatch):
    """It needs no other one after it."""
    at(monkeypatch, VideoClassifier, "on_train_end", 1, lambda: ask(signal.SIGUSR1))
    assert run("fit", tiny_config, tmp_path) == 0


def test_an_evaluation_says_that_the_same_command_goes_on(tiny_config, checkpoint, tmp_path, monkeypatch, capfd):
    batches = at(monkeypatch, VideoClassifier, "validation_step", 3, lambda: ask(signal.SIGUSR1))
    assert stopped(tiny_config, tmp_path, "--ckpt_path", str(checkpoint), command="validate").code == 75
    assert len(batches) == 3
    told = capfd.readouterr().err
    assert "the same command goes on (exit code 75)" in told
    (journal,) = tmp_path.glob("unfinished/*/rank-0.jsonl")
    assert len(journal.read_text().splitlines()) == 3


def test_lightning_installs_no_handlers_of_its_own(tiny_config, tmp_path, monkeypatch):
    """They exchange tensors inside the handler, and save in the middle of a step."""
    assert hasattr(_SignalConnector, "register_signal_handlers")
    assert hasattr(_TrainingEpochLoop, "_broadcast_sigterm_tensor")
    found = []
    at(monkeypatch, VideoClassifier, "training_step", 1, lambda: found.append(signal.getsignal(signal.SIGTERM)))
    before = signal.getsignal(signal.SIGTERM)
    assert run("fit", tiny_config, tmp_path) == 0
    assert found == [REQUESTS._handle]
    assert signal.getsignal(signal.SIGTERM) is before


# -- the listener ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ends(monkeypatch):
    """Exit codes of a process that ends at once."""
    codes = []
    monkeypatch.setattr(stopping.os, "_exit", codes.append)
    return codes


def test_a_second_signal_ends_at_once_with_the_code_of_the_first(monkeypatch, ends):
    requests = StopRequests()
    with requests:
        requests.deferred = True
        ask(signal.SIGUSR1)
        ask(signal.SIGTERM)  # from a launcher that hands on what the whole job got
        assert (requests.asked, ends) == (signal.SIGUSR1, [])
        now = time.monotonic()
        monkeypatch.setattr(stopping.time, "monotonic", lambda: now + 6)
        ask(signal.SIGTERM)
        assert ends == [75]


def test_a_fork_of_the_run_heeds_no_request():
    with StopRequests() as requests:
        pid = os.fork()
        if pid == 0:
            ask(signal.SIGTERM)
            os._exit(0 if requests.asked is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="no sigwaitinfo")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_worker_obeys_its_parent_alone(number):
    ready, tell = os.pipe()
    worker = os.fork()
    if worker == 0:
        heed_parent_alone()
        os.write(tell, b"x")
        while True:
            time.sleep(1)
    os.read(ready, 1)
    other = os.fork()
    if other == 0:
        os.kill(worker, number)
        os._exit(0)
    os.waitpid(other, 0)
    time.sleep(0.3)
    assert os.waitpid(worker, os.WNOHANG) == (0, 0)
    os.kill(worker, number)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0


# -- launchers -------------------------------------------------------------------------------------------------------


def test_torchrun_that_restarts_needs_a_store_for_each_attempt(monkeypatch, capsys):
    """In the one that attempts share by default, processes find the addresses of those that have ended, and hang."""
    for name, value in {"RUN_ID": "x", "MAX_RESTARTS": "3", "USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    monkeypatch.setattr("videogn.launching.die_with", lambda parent: None)
    assert main(["fit"]) == 2
    assert "expected TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in capsys.readouterr().err
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    join_launcher()


def test_options_that_contradict_slurm_are_named(tiny_config, tmp_path, monkeypatch, capsys):
    variables = {"NTASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert run("fit", tiny_config, tmp_path, "--trainer.strategy", "ddp") == 2
    assert "--trainer.devices" in capsys.readouterr().err
