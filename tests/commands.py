"""Command lines for tests, as a user starts them.

Whatever happens, no process outlives its test: each command has a session of its own, which is killed as a whole.
"""

import contextlib
import os
import signal
import subprocess
import sys

TIMEOUT = 600


def command_line(*arguments, script=("-m", "videogn"), timeout=TIMEOUT, **variables):
    """Exit code and output of a command, which may start processes of its own."""
    environment = clean_environment() | {name: str(value) for name, value in variables.items()}
    command = [sys.executable, *map(str, script), *map(str, arguments)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
        output = f"still running after {timeout} s:\n{process.communicate()[0]}"
    finally:
        _kill(process)
    return process.returncode, output


def clean_environment():
    """One thread per process, and nothing that an earlier run of this process left about its ranks."""
    left = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "PL_GLOBAL_SEED")
    return {name: value for name, value in os.environ.items() if name not in left} | {"OMP_NUM_THREADS": "1"}


def _kill(process):
    """The process and what it started; its group has its number."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
