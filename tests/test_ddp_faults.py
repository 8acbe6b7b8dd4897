"""Two processes of a run, of which one is signalled, killed, held up or stopped: nothing hangs, nothing is lost."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import clean_environment, command_line
from fault_runs import scenarios

pytestmark = pytest.mark.slow  # processes that are started once for most tests of this file, in more than ten seconds

RECIPES = Path(__file__).parents[1] / "configs" / "cluster"
# Of four steps an epoch. Each process has a worker with a child that reads the videos.
OPTIONS = ["--data.batch_size", "1", "--trainer.max_epochs", "2", "--model.dropout", "0.5", "--data.num_workers", "1"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def fault(rank, moment, at=1, number=None, **more):
    return {"rank": rank, "moment": moment, "at": at, **({"signal": number} if number else {}), **more}


@pytest.fixture(scope="module")
def found(tiny_config, tmp_path_factory):
    """What became of the scenarios. Those of the chain are one run, which goes on after each of them."""
    folder = tmp_path_factory.mktemp("faults")

    def scenario(place, *faults, options=(), **more):
        where = ["--trainer.default_root_dir", str(folder / place), "--ckpt_path", "last"]
        arguments = ["fit", "-c", str(tiny_config), *TWO, *OPTIONS, *where, *options]
        return {"arguments": arguments, "faults": faults, **more}

    short = ["--trainer.limit_train_batches", "3", "--trainer.max_epochs", "1", "--trainer.limit_val_batches", "2"]
    wanted = {
        "whole": scenario("whole"),
        "one is asked": scenario("chain", fault(1, "step", 2, "SIGTERM")),
        "all are asked": scenario("chain", fault(1, "step", 1, "SIGUSR1", group=True)),
        "asked in validation": scenario("chain", fault(1, "validation", 2, "SIGUSR1")),
        "killed in a step": scenario("chain", fault(1, "step", 1, "SIGKILL")),
        "killed while writing": scenario("chain", fault(0, "write", 1, "SIGKILL")),
        "asked by SLURM": scenario("chain", fault(0, "step", 1, "SIGUSR1"), fault(1, "step", 2, "SIGTERM"), slurm=True),
        "killed in validation": scenario("chain", fault(1, "validation", 2, "SIGKILL")),
        "the end": scenario("chain"),
        "killed at the start": scenario("start", fault(0, "start", 1, "SIGKILL")),
        "hanging file": scenario(
            "hang", fault(1, "read", 2, sleep=600), options=[*short, "--data.decode_timeout", "3"]
        ),
        "stopped": scenario("stop", fault(1, "step", 2, "SIGSTOP", silent=4.0), options=short),
    }
    return scenarios(folder / "logs", wanted) | {"folder": folder}


def weights(folder):
    return torch.load(folder / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("one is asked", 143, "stopped by SIGTERM: step"),
        ("all are asked", 75, "stopped by SIGUSR1: "),
        ("asked in validation", 75, "stopped by SIGUSR1: what was trained is saved"),
        ("asked by SLURM", 75, "stopped by SIGUSR1: step"),
    ],
)
def test_all_processes_stop_together_with_the_code_of_the_signal(found, name, code, text):
    """Whichever got it, and whenever: they agree on a step, save once, and leave no process."""
    assert found[name]["codes"] == [code, code], found[name]
    assert found[name]["seconds"] < 60
    assert found[name]["left"] == []
    logs = "".join(found[name]["logs"])
    assert logs.count(text) == 1, logs
    assert "Traceback" not in logs
    assert "was ended" not in logs, "a process that reads videos heeds nobody but its parent"


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("killed in a step", 1),
        ("killed while writing", 0),
        ("killed in validation", 1),
        ("killed at the start", 0),
    ],
)
def test_a_killed_process_ends_the_others_with_a_message(found, name, rank):
    codes = found[name]["codes"]
    assert codes[rank] == -signal.SIGKILL, found[name]
    assert codes[1 - rank] == 1
    # Where no connection closes, a minute without a sign of life is what tells; a busy machine adds to it.
    assert found[name]["seconds"] < 100
    assert found[name]["left"] == []
    log = found[name]["logs"][1 - rank]
    assert log.count(f"videogn: error: process {rank} of 2 is gone") == 1, log
    assert "--ckpt_path last goes on" in log
    assert "Traceback" not in log


def test_a_run_that_was_interrupted_in_all_these_ways_ends_with_the_same_weights(found):
    assert found["whole"]["codes"] == found["the end"]["codes"] == [0, 0], found["the end"]
    expected, chain = (weights(found["folder"] / place) for place in ("whole", "chain"))
    assert [name for name, tensor in expected.items() if not torch.equal(chain[name], tensor)] == []
    assert [path.name for path in (found["folder"] / "chain").iterdir()] == ["version_0"]


def test_a_file_that_hangs_costs_its_timeout(found):
    """The other process waits in the exchange of gradients meanwhile, and takes nobody for dead."""
    assert found["hanging file"]["codes"] == [0, 0], found["hanging file"]
    assert 3 < found["hanging file"]["seconds"] < 60
    assert "no progress for 3 s" in found["hanging file"]["logs"][1]


def test_a_process_that_stands_still_ends_the_run(found):
    """As when its machine is gone: no connection closes."""
    assert found["stopped"]["codes"][0] == 1, found["stopped"]
    assert 4 < found["stopped"]["seconds"] < 60
    assert "process 1 of 2 has given no sign of life for 4 s" in found["stopped"]["logs"][0]


# -- launchers -------------------------------------------------------------------------------------------------------


def test_one_that_lightning_has_started_is_killed(tiny_config, tmp_path):
    faults = [fault(1, "step", 2, "SIGKILL")]
    where = ["--trainer.default_root_dir", tmp_path / "run"]
    code, output = command_line(
        *("fit", "-c", tiny_config, *TWO, *OPTIONS, *where),
        script=[Path(__file__).parent / "fault_runs.py"],
        FAULTS=json.dumps(faults),
        FAULTS_FOLDER=tmp_path,
    )
    assert code == 1, output
    assert output.count("process 1 of 2 was ended by SIGKILL") == 1, output
    assert "Traceback" not in output


def _wait(condition, seconds=240):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def _processes(variable):
    """Numbers of the processes that were started with this in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and variable.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return sorted(found)


def test_the_recipe_of_torchrun_goes_on_after_a_kill(tiny_config, found, tmp_path):
    """Rank 1 is killed when the first checkpoint is there; torchrun starts both again. Then torchrun itself is killed,
    and nothing is left."""
    mark = f"MARK={tmp_path}"
    environment = clean_environment() | {"PROCESSES": "2", "MARK": str(tmp_path)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = [RECIPES / "torchrun.sh", "-c", tiny_config, *OPTIONS, "--resume.every_n_steps", "1"]

    def start(folder):
        log = open(tmp_path / "log", "a")  # noqa: SIM115
        arguments = [*map(str, command), "--trainer.default_root_dir", str(folder)]
        return subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, start_new_session=True)

    def rank_1():
        return set(_processes(mark)) & set(_processes("RANK=1"))

    process = start(tmp_path / "run")
    try:
        _wait((tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt").exists)
        os.kill(min(rank_1()), signal.SIGKILL)
        assert process.wait(240) == 0, (tmp_path / "log").read_text()
        assert "process 1 of 2 is gone" in (tmp_path / "log").read_text()
        expected, again = (weights(folder) for folder in (found["folder"] / "whole", tmp_path / "run"))
        assert [name for name, tensor in expected.items() if not torch.equal(again[name], tensor)] == []
        process = start(tmp_path / "killed")
        _wait((tmp_path / "killed" / "version_0" / "checkpoints" / "last.ckpt").exists)
        process.kill()
        process.wait()
        _wait(lambda: not _processes(mark), 30)
    finally:
        for pid in _processes(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


SRUN = """#!/bin/bash
# As srun: a process for each task, all of which get the signal; the highest of their codes.
echo "srun $*" >> "$CALLS"
while [[ $1 == --* ]]; do shift; done
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NODEID=0 python -m "$@" & pids+=($!)
done
trap 'kill -USR1 "${pids[@]}"' USR1
code=0
for pid in "${pids[@]}"; do
  while true; do wait "$pid"; own=$?; kill -0 "$pid" 2>/dev/null || break; done
  wait "$pid"; own=$?
  ((own > code)) && code=$own
done
exit $code
"""


def test_the_recipe_of_slurm_queues_the_job_again(tiny_config, found, tmp_path):
    """With an srun and an scontrol that do as SLURM's; SIGUSR1 comes to srun when the first checkpoint is there."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {"srun": SRUN, "scontrol": '#!/bin/bash\necho "scontrol $*" >> "$CALLS"\n'}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(stat.S_IRWXU)
    variables = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "videogn", "SLURM_NODELIST": "127.0.0.1"}
    variables |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
    variables |= {"CALLS": str(tmp_path / "calls"), "MARK": str(tmp_path)}
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [RECIPES / "slurm.sh", "-c", tiny_config, *OPTIONS, "--trainer.default_root_dir", tmp_path / "run"]

    def start():
        log = open(tmp_path / "log", "a")  # noqa: SIM115
        environment = clean_environment() | variables | {"PATH": path}
        arguments = [*map(str, command), "--resume.every_n_steps", "1"]
        return subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, start_new_session=True)

    def srun():
        return [pid for pid in _processes(f"MARK={tmp_path}") if b"tools/srun" in _command(pid)]

    job = start()
    try:
        _wait((tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt").exists)
        os.kill(min(srun()), signal.SIGUSR1)
        assert job.wait(120) == 75, (tmp_path / "log").read_text()
        assert (tmp_path / "calls").read_text().splitlines()[-1] == "scontrol requeue 4711"
        job = start()
        assert job.wait(240) == 0, (tmp_path / "log").read_text()
        assert (tmp_path / "calls").read_text().count("scontrol") == 1
        assert _processes(f"MARK={tmp_path}") == []
    finally:
        for pid in _processes(f"MARK={tmp_path}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    expected, again = (weights(folder) for folder in (found["folder"] / "whole", tmp_path / "run"))
    assert [name for name, tensor in expected.items() if not torch.equal(again[name], tensor)] == []


def _command(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
