"""decord and torchcodec return the frames of PyAV, bit for bit, or leave the file to it. In a child process, because
decord has been seen to hang inside native code, which no exception and no signal handler can end."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from video_files import SHARED_VIDEOS, has_encoder, set_display_matrix, write_video
from video_table import KINDS, make

from videogn.data.decode.other import nal_types

CHILD = """
import json, sys
import numpy as np
from videogn.data.decode import VideoReader
from videogn.errors import UsageError, VideoError

backend, *paths = sys.argv[1:]
results = {}
for path in paths:
    rng = np.random.default_rng(0)
    try:
        with VideoReader(path, backend) as reader, VideoReader(path) as exact:
            n = exact.num_frames
            reference = exact.read(np.arange(n)).numpy()
            orders = [np.arange(n), np.array([n - 1, 0, n - 1]), np.arange(n)[::-1][:20:3]]
            orders += [rng.integers(0, n, 3) for _ in range(400 // n)]
            same = all((reader.read(order).numpy() == reference[order]).all() for order in orders)
            results[path] = {"same": bool(same), "fallback": reader.fallback}
    except UsageError as error:
        results = {"unusable": str(error)}
        break
    except VideoError as error:
        results[path] = {"same": False, "fallback": None, "error": str(error)}
print(json.dumps(results))
"""
TURNS = {"90": (0, 1, -1, 0), "180": (-1, 0, 0, -1), "270": (0, -1, 1, 0)}
MIRRORS = {"left": (-1, 0, 0, 1), "down": (1, 0, 0, -1), "diagonal": (0, 1, 1, 0), "other diagonal": (0, -1, -1, 0)}
REAL = [path for path in sorted(SHARED_VIDEOS.glob("*")) if path.suffix in (".mp4", ".mkv", ".mov", ".avi")]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Every kind that this FFmpeg writes, several streams, orientations, and the real files."""
    folder = tmp_path_factory.mktemp("videos")
    files = [make(name, folder) for name, kind in KINDS.items() if has_encoder(kind.codec)]
    for first_frames, container in ((2, "mkv"), (40, "mkv"), (2, "mp4"), (40, "mp4")):
        first = {"width": 192, "height": 128, "num_frames": first_frames}
        path = folder / f"{first_frames} before.{container}"
        files.append(write_video(path, 20, before=first, marked=first_frames == 40))
    for name, matrix in (TURNS | MIRRORS).items():
        files.append(write_video(folder / f"turned {name}.mp4", 20))
        set_display_matrix(files[-1], matrix)
    return files + REAL


@pytest.fixture(scope="module", params=["decord", "torchcodec"])
def backend(request) -> str:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture(scope="module")
def results(backend, files) -> dict[str, dict[str, Any]]:
    """Name of the file -> same, fallback, error: what one child process found."""
    command = [sys.executable, "-c", CHILD, backend, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    if "unusable" in results:
        pytest.skip(results["unusable"])
    return {Path(path).name: result for path, result in results.items()}


def test_every_kind_of_file(results, backend):
    """The frames of PyAV in every order, read by the backend itself or left to PyAV, as the table has it."""
    found = {name: result for name, result in results.items() if name in KINDS}
    assert {name: result for name, result in found.items() if not result["same"]} == {}
    unlike = {name for name, result in found.items() if (result["fallback"] is None) != getattr(KINDS[name], backend)}
    assert unlike == set(), {name: found[name] for name in unlike}


def test_several_video_streams(results):
    found = {name: result for name, result in results.items() if "before" in name}
    assert len(found) == 4
    assert all(result["same"] for result in found.values()), found


def test_orientations(results):
    turned = {name: results[f"turned {name}.mp4"] for name in TURNS | MIRRORS}
    assert all(result["same"] for result in turned.values()), turned
    assert all(turned[name]["fallback"] is None for name in TURNS), turned
    assert all(turned[name]["fallback"] for name in MIRRORS), turned


@pytest.mark.skipif(not REAL, reason="no shared videos")
def test_real_files(results):
    found = {path.name: results[path.name] for path in REAL}
    assert "cannot be decoded" in found.pop("corrupted.mp4")["error"]
    assert all(result["same"] for result in found.values()), found
    left = {name for name, result in found.items() if result["fallback"]}
    assert left == {"xvid_bframes_no_pts_320x240.avi"}, found


def test_nal_types():
    units = [b"\x09\xf0", b"\x67abc", b"\x68ab", b"\x06x", b"\x65" + b"y" * 300]
    lengths = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    start_codes = b"\0\0\0\1" + b"\0\0\1".join(units)
    assert nal_types(lengths, 4) == nal_types(start_codes, 0) == {5, 6, 7, 8, 9}
    assert nal_types(b"", 4) == nal_types(b"", 0) == set()
