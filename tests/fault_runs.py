"""Groups of processes of which some are signalled, killed or held up at chosen moments of ``videogn``'s commands.

One process imports everything, and forks the ranks of one scenario after another. The ranks of a scenario and all that
they start are a group of processes, so that what is left of it is seen, and ended.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from commands import command_line

LIMIT = 120


def scenarios(folder, wanted, timeout=600):
    """Runs scenarios one after another; of each ``{"codes", "seconds", "left", "logs"}``, by name.

    Args:
        folder: for logs.
        wanted: by name: ``{"arguments": [...], "faults": [...], "slurm": False}``. A fault is ``{"rank", "moment",
            "at", "signal"}``: the process of this rank gets the signal when the moment comes for the at-th time, or
            with ``"group"`` all processes; or it sleeps ``"sleep"`` seconds. ``"silent"`` says after how many seconds
            a process without a sign of life is taken for dead.

    Returns:
        ``codes``: exit codes by rank, negative for a signal, None for one that stands still; ``seconds``: from the
        first fault to the end of the last; ``left``: processes that were there five seconds later; ``logs``: what each
        rank printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wanted.json").write_text(json.dumps(wanted))
    code, output = command_line(folder, script=[__file__], timeout=timeout)
    assert code == 0, output
    return json.loads((folder / "found.json").read_text())


def main(folder):
    """Runs all scenarios of a folder."""
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as the command does, before torch is imported
    import videogn.training_cli  # noqa: F401

    wanted = json.loads((folder / "wanted.json").read_text())
    found = {name: _run(folder, name, **scenario) for name, scenario in wanted.items()}
    (folder / "found.json").write_text(json.dumps(found))


def _run(folder, name, arguments, faults=(), slurm=False, world=2):
    logs = [folder / f"{name}-{rank}.log" for rank in range(world)]
    place = folder / name  # of what the faults leave
    place.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, ranks[0] if ranks else 0)
            os.environ.update(_variables(rank, world, port, slurm))
            _be(arguments, faults, rank, logs[rank], place)
        with contextlib.suppress(PermissionError):
            os.setpgid(pid, ranks[0] if ranks else pid)
        ranks.append(pid)
    codes, end = {}, time.monotonic() + LIMIT
    while len(codes) < world and time.monotonic() < end:
        for pid in set(ranks) - set(codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if codes and all(_state(pid) == "T" for pid in set(ranks) - set(codes)):
            break
        time.sleep(0.02)
    seconds = time.time() - min((came.stat().st_mtime for came in place.iterdir()), default=time.time())
    end = time.monotonic() + 5
    while (left := _members(ranks[0])) and time.monotonic() < end:
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(ranks[0], signal.SIGKILL)
    for pid in set(ranks) - set(codes):
        os.waitpid(pid, 0)
    return {
        "codes": [codes.get(pid) for pid in ranks],
        "seconds": seconds,
        "left": left,
        "logs": [log.read_text() for log in logs],
    }


def _variables(rank, world, port, slurm):
    if not slurm:
        shared = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(world), "NODE_RANK": "0"}
        return shared | {"MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "videogn",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NNODES": "1",
        "SLURM_NTASKS": str(world),
        "SLURM_NTASKS_PER_NODE": str(world),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
        "MASTER_PORT": str(port),
    }


def _members(group):
    """Command lines of the living processes of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == group and _state(entry.name) != "Z":
                found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def _state(process):
    """One letter: T stands still, Z has ended."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def _be(arguments, faults, rank, log, place):
    """Is a rank."""
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 1
    try:
        from videogn.cli import main

        arm(faults, rank, place)
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    except BaseException:
        import traceback

        traceback.print_exc()
    # As the interpreter ends: threads first.
    import threading

    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def arm(faults, rank, folder):
    """Puts each fault of a rank in front of what happens at its moment; a fault comes once, whatever is started again.

    Args:
        faults: as :func:`scenarios` takes them.
        folder: where each leaves a file when it comes.
    """
    from videogn.callbacks import failures
    from videogn.callbacks.checkpoint_io import CheckpointFiles
    from videogn.data.datamodule import KineticsDataModule
    from videogn.data.dataset import TrainClips
    from videogn.module import VideoClassifier

    places = {
        "start": (KineticsDataModule, "setup"),
        "step": (VideoClassifier, "training_step"),
        "validation": (VideoClassifier, "validation_step"),
        "write": (CheckpointFiles, "save_checkpoint"),
        "read": (TrainClips, "read"),
    }
    for number, fault in enumerate(faults):
        failures._SILENT_SECONDS = fault.get("silent", failures._SILENT_SECONDS)
        if fault["rank"] == rank:
            _arm(fault, *places[fault["moment"]], folder / f"fault-{number}")


def _arm(fault, place, method, came):
    usual, process, count = getattr(place, method), os.getpid(), 0

    def armed(self, *arguments, **options):
        nonlocal count
        count += 1
        if count == fault["at"] and not came.exists():
            came.touch()
            time.sleep(fault.get("sleep", 0))
            if "signal" in fault:
                _send(getattr(signal, fault["signal"]), 0 if fault.get("group") else process)
        return usual(self, *arguments, **options)

    setattr(place, method, armed)


def _send(number, process):
    """From a process that is not the parent of a loader's workers; 0 is the whole group."""
    if process == os.getpid():
        os.kill(process, number)
    elif os.fork() == 0:
        os.kill(process, number)
        os._exit(0)
    time.sleep(0.2)


def command():
    """The ``videogn`` command with the faults of the environment: ``FAULTS``, JSON, and ``FAULTS_FOLDER``."""
    from videogn.cli import main as videogn

    rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
    arm(json.loads(os.environ["FAULTS"]), rank, Path(os.environ["FAULTS_FOLDER"]))
    return videogn()


if __name__ == "__main__":
    sys.exit(command() if "FAULTS" in os.environ else main(Path(sys.argv[1])))
