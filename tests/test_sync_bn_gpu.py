"""SyncBatchNorm on two processes against one process with the whole batch. On a CPU torch has none."""

import sys

import pytest
import torch
from ddp_runs import groups
from runs import run


def test_sync_batchnorm_is_refused_on_a_cpu(tiny_config, tmp_path, capsys):
    options = ["--model.norm", "bn", "--model.norm_kwargs", "null", "--trainer.sync_batchnorm", "true"]
    assert run("fit", tiny_config, tmp_path, *options, "--trainer.strategy", "ddp") == 2
    message = capsys.readouterr().err
    assert "trainer.sync_batchnorm: torch synchronises batch norms between CUDA devices only" in message
    assert "Traceback" not in message


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(sys.platform == "win32", reason="two processes on one device need gloo for CUDA tensors")
def test_two_processes_do_what_one_does_with_the_whole_batch(tmp_path):
    """Gradients, parameters and running statistics of two steps of an I3D, in float64; one device is enough."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    first, second = groups(tmp_path, {2: {"train_synchronised": "cuda"}}, launcher=launcher)[2]
    first, second = first["train_synchronised"], second["train_synchronised"]
    assert first["hashes"] == second["hashes"]
    for rank in (first, second):
        assert rank["gradients"] < 1e-7
        assert rank["state"] < 1e-7
        assert rank["without"] > 1e-3  # or else the comparison would show nothing
