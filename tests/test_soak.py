"""The script that watches a long run, for a short one, and what it takes for growth."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from soak import growth, soak


def test_growth_sees_leaks_and_jumps_and_no_outliers():
    steps = range(0, 1000, 10)
    assert growth([(step, 100 + step / 50) for step in steps]) == pytest.approx(20)
    assert growth([(step, 100 + 30 * (step > 500)) for step in steps]) == pytest.approx(30 / 0.9)
    assert growth([(step, 100 + 30 * (step in (10, 500, 980))) for step in steps]) == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone tells what processes hold")
def test_a_short_run_holds_no_more_and_more(tmp_path):
    """Workers and their children, one of which is killed on the way and replaced, are all seen, and stay as many."""
    samples, _ = soak(tmp_path, steps=60, every=4, workers=1)
    first, last = samples[5], samples[-1]  # behind the first validation
    assert len(samples) == 15
    assert first["processes"] == last["processes"] == 1 + 2 + 2  # training, and a loader each for it and validation
    for name, more in {"threads": 0, "shared_maps": 2, "shm_files": 2, "files": 2, "children_files": 12}.items():
        assert last[name] <= first[name] + more, name
    for name in ("heap_mb", "training_mb", "workers_mb", "children_mb"):
        assert first[name] > 5
        assert last[name] < first[name] + 20, name
