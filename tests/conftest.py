"""Fixtures that several test files share."""

import os
import signal

import pytest
import torch
from runs import run

from videogn.data.demo import DemoSpec, generate_demo

# One thread: the tests' tensors are small, and threads that wait for each other on a busy machine cost minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# A shell that starts a job in the background makes it ignore Ctrl-C, and its children, whose reaction is tested here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def unblocked_signals():
    """A test that leaves signals blocked would take them from all that follow, and from the processes they start."""
    yield
    if hasattr(signal, "pthread_sigmask"):
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


@pytest.fixture(autouse=True)
def environment():
    """Lightning leaves ranks, ports and seeds in the environment, where the next test's processes would find them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def malloc(monkeypatch):
    """`videogn classify` has malloc keep what is freed; the process of the tests goes on with others, and counts."""
    monkeypatch.setattr("videogn.lanes.keep_freed_memory", lambda: None)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny") / "demo"
    generate_demo(root, DemoSpec(train_per_class=1, val_per_class=1, size=32, frames=12))
    return root


@pytest.fixture(scope="session")
def tiny_config(tiny_data, tmp_path_factory):
    """A run of two optimiser steps that takes about a second."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(
        f"""
seed_everything: 0
model:
  {{num_classes: 8, variant: 8x8, width: 8, norm: gn, norm_kwargs: {{num_groups: 4}}, dropout: 0.0}}
data:
  root: {tiny_data}
  num_workers: 0
  batch_size: 4
  clip: {{frames: 4, stride: 1, train_short_side: [32, 32], train_crop: 32, flip: 0.0,
         protocol: {{clips: 2, short_side: 32}}}}
trainer: {{accelerator: cpu, devices: 1, max_epochs: 1, log_every_n_steps: 1, enable_progress_bar: false,
          enable_model_summary: false, num_sanity_val_steps: 0}}
"""
    )
    return path


@pytest.fixture(scope="session")
def fitted(tiny_config, tmp_path_factory):
    """Folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    assert run("fit", tiny_config, folder) == 0
    return folder / "version_0"


@pytest.fixture
def checkpoint(fitted):
    return fitted / "checkpoints" / "last.ckpt"
