"""The child's side of :mod:`videogn.data.guard`: answers calls until its parent is gone."""

from __future__ import annotations

import gc
import io
import mmap
import os
import pickle
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import numpy as np
import torch

from videogn.errors import VideoError
from videogn.launching import die_with

ALIGN = 64
"""What results in the shared memory are aligned to; its first so many bytes hold the number of beats."""


def serve(
    function: Callable[[Any, Callable[[], None]], Any], connection: Connection, memory: mmap.mmap, parent: int
) -> NoReturn:
    """Answers each (argument, place in the memory) with (good, pickle, sizes of its parts in the memory).

    Args:
        function: (argument, beat) -> result.
        connection: to the parent; the process ends when it closes.
        memory: shared with the parent.
        parent: number of the parent's process.
    """
    die_with(parent)
    # Ctrl-C and a batch system reach the whole group; the parent decides, and ends this process by SIGKILL.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT, signal.SIGILL):
        signal.signal(number, signal.SIG_DFL)  # the parent reports crashes; torch and faulthandler would print them
    torch.set_num_threads(1)
    gc.freeze()  # what the parent holds stays for good: looking through it for garbage would copy its pages
    beats = np.frombuffer(memory, np.int64, 1)

    def beat() -> None:
        beats[0] += 1

    while True:
        try:
            argument, at = connection.recv()
        except (EOFError, ConnectionResetError):
            os._exit(0)
        try:
            good, result = True, function(argument, beat)
        except Exception as error:
            good, result = False, portable(error)
        beat()
        try:
            message = (good, *_pack(result, memory, at))
        except Exception as error:  # what cannot be pickled
            text = f"{type(result).__name__} cannot be sent to another process ({error})"
            message = (False, *_pack(RuntimeError(text), memory, at))
        connection.send(message)
        del result  # or the next call would have its memory beside this one's


def portable(error: Exception) -> Exception:
    """The error in a form that survives pickling, with the child's traceback unless it is about a video."""
    if not isinstance(error, VideoError):
        error.add_note(f"In the child process:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    return error


def _pack(result: Any, memory: mmap.mmap, at: int) -> tuple[bytes, list[int]]:
    """Pickles a result; its tensors and arrays go into the shared memory from ``at`` on, while there is room."""
    sizes: list[int] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        nonlocal at
        raw = buffer.raw()
        if at + raw.nbytes > len(memory):
            return True  # inside the pickle
        memory[at : at + raw.nbytes] = raw
        sizes.append(raw.nbytes)
        at += -(-raw.nbytes // ALIGN) * ALIGN
        return False

    body = io.BytesIO()
    _Pickler(body, protocol=5, buffer_callback=keep).dump(result)
    return body.getvalue(), sizes


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if type(value) is torch.Tensor:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented
