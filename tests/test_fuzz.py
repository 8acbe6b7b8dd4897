"""Damaged files come to frames or to one VideoError; the long version is ``scripts/fuzz_decode.py``."""

import importlib.util

import pytest
from fuzzing import MUTATIONS, jobs, read_damaged, resident_peak, write_seeds

from videogn.data import guard
from videogn.data.decode import check_backend
from videogn.errors import UsageError

MIB = 1 << 20


@pytest.mark.skipif(not guard.AVAILABLE, reason="needs child processes that can be ended")
@pytest.mark.parametrize(("backend", "rounds"), [("pyav", 2), ("decord", 1), ("torchcodec", 1)])
def test_frames_or_one_error(tmp_path, backend, rounds):
    """Every mutation of every container in child processes. A crash or a hang must not be PyAV's."""
    if importlib.util.find_spec("av" if backend == "pyav" else backend) is None:
        pytest.skip(f"{backend} is not installed")
    try:
        check_backend(backend)
    except UsageError as error:
        pytest.skip(str(error))
    (tmp_path / "sound").mkdir()
    sources = write_seeds(tmp_path / "sound")
    todo = {job.name: job for job in jobs(sources, rounds * len(sources) * len(MUTATIONS), 0, backend, tmp_path)}
    held = resident_peak()  # by this process, whatever ran in it before; its children begin with that
    outcomes = dict(guard.guarded_map(read_damaged, todo.items(), workers=1, timeout=10.0))
    ended = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Exception)}
    read = [outcome for name, outcome in outcomes.items() if name not in ended]
    assert outcomes.keys() == todo.keys()
    assert not (ended if backend == "pyav" else {})
    assert [outcome for outcome in read if outcome.kind not in ("frames", "error")] == []
    assert sum(outcome.kind == "frames" for outcome in read) > len(outcomes) // 5
    assert sum(outcome.kind == "error" for outcome in read) > len(outcomes) // 5
    assert max(outcome.peak for outcome in read) - held < 2048 * MIB


def test_damage_is_a_function_of_the_seed(tmp_path):
    sources = write_seeds(tmp_path)[:2]
    first, second = (list(jobs(sources, 40, 5, "pyav", tmp_path)) for _ in range(2))
    assert [job.data() for job in first] == [job.data() for job in second]
    assert len({bytes(job.data()) for job in first}) > 35
