"""What the index of a large data set takes: bytes per video, also on the way there, for forked workers, and pickled."""

import pickle
import sys
import tracemalloc
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from bench_index import LAYOUTS, index_bytes, read, write, write_manifest

VIDEOS = 4000
NAME = len("train/0123456789a_000000_000010.mp4")
FLAT = 5 * 8 + NAME  # five numbers and the path


@pytest.mark.parametrize("manifest", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_per_video(layout, manifest, tmp_path):
    root = tmp_path / "data"
    write(root, layout, VIDEOS)
    if manifest:
        write_manifest(root, layout)
    read(layout, root)  # imports and caches
    tracemalloc.start()
    index = read(layout, root)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Class folders have longer paths, and everything some constant beside.
    limit = VIDEOS * (FLAT + (len("class 000 of people/") if layout == "folders" else 0)) + 100_000
    assert index_bytes(index) <= held < limit
    assert len(pickle.dumps(index)) < limit
    # 250,000 videos at 600 bytes are 150 MB, beside which the interpreter and numpy have room in 200 MB.
    assert peak < VIDEOS * 600
    kept = VIDEOS - VIDEOS // 1000 if manifest else VIDEOS
    assert len(index) == len(set(map(index.path, range(len(index))))) == kept
    assert index.known_frames(kept - 1) == (250 + (VIDEOS - 1) % 50 if manifest else None)
