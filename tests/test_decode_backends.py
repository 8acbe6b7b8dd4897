"""decord and torchcodec return the frames of PyAV, bit for bit, or leave the file to it. In a child process, because
decord has been seen to hang inside native code, which no exception and no signal handler can end."""

import importlib.util
import json
import subprocess
import sys

import pytest
from video_files import SHARED_VIDEOS, cut_by_edit_list, write_video

from videogn.data.decode_pyav import nal_types

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
            orders = [np.arange(n), np.array([n - 1, 0])] + [rng.integers(0, n, 3) for _ in range(400 // n)]
            same = all((reader.read(order) == exact.read(order)).all() for order in orders)
            results[path] = {"same": bool(same), "fallback": reader.fallback}
    except UsageError as error:
        results = {"unusable": str(error)}
        break
    except VideoError as error:
        results[path] = {"error": str(error)}
print(json.dumps(results))
"""


def compare(backend, paths):
    """path -> same, fallback or error."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, backend, *map(str, paths)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    if "unusable" in results:
        pytest.skip(results["unusable"])
    return results


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
def test_same_frames_or_a_reason(tmp_path, backend):
    plain = write_video(tmp_path / "plain.mp4", 40)
    own = [
        plain,
        write_video(tmp_path / "bframes.mkv", 40, bframes=3),
        write_video(tmp_path / "variable.mp4", 40, milliseconds=[40 * i + 7 * (i % 5) for i in range(40)]),
        write_video(tmp_path / "turned.mp4", 40, rotation=90),
        write_video(tmp_path / "odd_444.mp4", 40, width=97, height=65, pix_fmt="yuv444p"),
        write_video(tmp_path / "vp9.webm", 40, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
    ]
    left = [
        write_video(tmp_path / "open.mp4", 40, bframes=2, options={"x264-params": "open-gop=1"}),
        write_video(tmp_path / "refresh.mp4", 40, options={"x264-params": "intra-refresh=1"}),
        write_video(tmp_path / "no_times.avi", 40, codec="mpeg4", bframes=2),
        write_video(tmp_path / "stream.ts", 40, bframes=2),
        write_video(tmp_path / "ten_bit.mkv", 40, pix_fmt="yuv420p10le"),
        write_video(tmp_path / "interlaced.mp4", 40, options={"x264-params": "interlaced=1"}),
    ]
    (left if backend == "decord" else own).append(cut_by_edit_list(plain, tmp_path / "cut.mp4", 15))
    results = compare(backend, own + left)
    assert {path.name: results[str(path)] for path in own} == {p.name: {"same": True, "fallback": None} for p in own}
    assert all(results[str(path)]["same"] for path in left), results
    assert all(results[str(path)]["fallback"] for path in left), results


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
@pytest.mark.skipif(not SHARED_VIDEOS.is_dir(), reason="no shared videos")
def test_real_files(backend):
    paths = [path for path in sorted(SHARED_VIDEOS.iterdir()) if path.suffix in (".mp4", ".mkv", ".mov", ".avi")]
    results = {path.name: result for path, result in zip(paths, compare(backend, paths).values(), strict=True)}
    assert "cannot be decoded" in results.pop("corrupted.mp4")["error"]
    assert all(result["same"] for result in results.values()), results
    left = {name for name, result in results.items() if result["fallback"]}
    assert left == {"xvid_bframes_no_pts_320x240.avi"}, results


def test_nal_types():
    units = [b"\x09\xf0", b"\x67abc", b"\x68ab", b"\x06x", b"\x65" + b"y" * 300]
    lengths = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    start_codes = b"\0\0\0\1" + b"\0\0\1".join(units)
    assert nal_types(lengths, 4) == nal_types(start_codes, 0) == {5, 6, 7, 8, 9}
    assert nal_types(b"", 4) == nal_types(b"", 0) == set()
