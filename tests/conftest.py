"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
import torch

# One thread per process: the suite runs in parallel processes, and small tensors gain nothing from more.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """The folder of real videos beside the checkout; tests that need it skip where it is absent."""
    folder = REPOSITORY.parent / "shared" / "videos"
    if not folder.is_dir():
        pytest.skip("no ../shared/videos")
    return folder
