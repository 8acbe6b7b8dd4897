"""Groups of processes for tests: the command line as a user starts it, or a function of this file on every rank.

Whatever happens, no process outlives its test: each group has a session of its own, which is killed as a whole.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

TIMEOUT = 120


def command_line(*arguments, script=("-m", "videogn"), timeout=TIMEOUT, **variables):
    """Exit code and output of a command, which may start processes of its own."""
    environment = _clean_environment() | {name: str(value) for name, value in variables.items()}
    command = [sys.executable, *map(str, script), *map(str, arguments)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
        raise AssertionError(f"still running after {timeout} s:\n{process.communicate()[0]}") from None
    finally:
        _kill(process)
    return process.returncode, output


def group(world, function, folder, timeout=TIMEOUT, **arguments):
    """What a function of this file returned on each of ``world`` ranks, through JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arguments.json").write_text(json.dumps(arguments))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "NODE_RANK": "0"}
    ranks = []
    try:
        for rank in range(world):
            environment = _clean_environment() | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with open(folder / f"{rank}.log", "w") as log:
                command = [sys.executable, __file__, function, str(folder)]
                ranks.append(
                    subprocess.Popen(
                        command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                    )
                )
        codes = []
        for process in ranks:
            try:
                codes.append(process.wait(timeout))
            except subprocess.TimeoutExpired:
                codes.append("still running")
                timeout = 1
    finally:
        for process in ranks:
            _kill(process)
    logs = "\n".join((folder / f"{rank}.log").read_text()[-3000:] for rank in range(world))
    assert codes == [0] * world, f"exit codes {codes}\n{logs}"
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


def _clean_environment():
    """One thread per process, and nothing that an earlier run of this process left about its ranks."""
    left = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "PL_GLOBAL_SEED")
    return {name: value for name, value in os.environ.items() if name not in left} | {"OMP_NUM_THREADS": "1"}


def _kill(process):
    """The process and what it started; its group has its number."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# -- on every rank -----------------------------------------------------------------------------------------------------


def run_commands(jobs):
    """Runs commands one after another; of each, every digit of the scores, and hashes of what a training ends with."""
    from videogn.cli import main
    from videogn.evaluation import VideoAccuracy
    from videogn.module import VideoClassifier

    found = {}
    compute = VideoAccuracy.compute

    def recorded(self):
        scores = compute(self)
        found[name].setdefault("scores", []).append({k: repr(v) for k, v in scores._asdict().items()})
        return scores

    def on_train_end(self):
        found[name]["state"] = {key: fingerprint(tensor) for key, tensor in self.network.state_dict().items()}

    VideoAccuracy.compute, VideoClassifier.on_train_end = recorded, on_train_end
    for name, arguments in jobs.items():
        found[name] = {}
        assert main(arguments) == 0, name
    VideoAccuracy.compute = compute
    del VideoClassifier.on_train_end
    return found


def fingerprint(tensor):
    """Of the bits of a tensor."""
    return hashlib.sha256(tensor.detach().contiguous().cpu().numpy().tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    try:
        result = globals()[sys.argv[1]](**json.loads((folder / "arguments.json").read_text()))
    except BaseException:
        # Hard, because a peer that waits in an exchange may keep an orderly end from coming.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(result))
