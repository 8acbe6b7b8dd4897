"""Memory format and compilation of training, through the command line."""

import pytest
import torch
from runs import run
from torch._dynamo.testing import CompileCounterWithBackend

import videogn
from videogn.callbacks import RunSummary
from videogn.checkpoint import KEY
from videogn.i3d import I3DResNet
from videogn.run_setup import compile_for_training


def test_network_input_and_weights_are_channels_last(tiny_config, tmp_path, monkeypatch):
    """From the loader on, in training and in evaluation; kernels of one position have no format."""
    seen = {True: [], False: []}
    forward = I3DResNet.forward

    def spy(self, x):
        seen[self.training].append(x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous())
        kernels = [p for p in self.parameters() if p.dim() == 5]
        seen[self.training].append(all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in kernels))
        return forward(self, x)

    monkeypatch.setattr(I3DResNet, "forward", spy)
    monkeypatch.setattr(RunSummary, "on_fit_start", lambda *_: None)  # it counts on a made-up input
    assert run("fit", tiny_config, tmp_path) == 0
    assert len(seen[True]) == 2 * 2  # steps
    assert len(seen[False]) == 2 * 8  # videos
    assert all(seen[True] + seen[False])


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_compiled_training(backend, tiny_config, fitted, tmp_path, monkeypatch):
    """The weights and the keys of eager training; one compilation, whatever sizes evaluation has."""
    counter = CompileCounterWithBackend(backend)
    monkeypatch.setattr(
        "videogn.module.compile_for_training",
        lambda network, device: compile_for_training(network, torch.device("cuda"), counter),
    )
    options = ["--model.compile", "true", "--data.clip.protocol.crop", "three", "--model.clips_per_forward", "4"]
    assert run("fit", tiny_config, tmp_path, *options) == 0
    assert counter.frame_count == 1
    saved, eager = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (tmp_path / "version_0", fitted)
    )
    assert saved["hyper_parameters"] == eager["hyper_parameters"]
    assert saved[KEY] | {"clip": None} == eager[KEY] | {"clip": None}
    for name, tensor in eager["state_dict"].items():
        torch.testing.assert_close(saved["state_dict"][name], tensor, rtol=1e-3, atol=1e-4)
    assert saved["state_dict"].keys() == eager["state_dict"].keys()
    videogn.load(tmp_path / "version_0" / "checkpoints" / "last.ckpt")


def test_compiling_is_refused_where_it_does_not_help(tiny_config, checkpoint, tmp_path, capsys):
    assert run("fit", tiny_config, tmp_path, "--model.compile", "true") == 2
    assert "model.compile: expected a CUDA device, found 'cpu'" in capsys.readouterr().err
    assert run("fit", tiny_config, tmp_path, "--model.compile", "true", "--model.memory", "low") == 2
    assert "memory='low'" in capsys.readouterr().err
    # A configuration made for training on a GPU evaluates on a CPU.
    assert run("validate", tiny_config, tmp_path, "--model.compile", "true", "--ckpt_path", str(checkpoint)) == 0


def test_the_compiler_gets_every_activation_on_every_device():
    """Checkpoint regions, which standard means on CUDA, cannot be compiled."""
    network = videogn.VideoClassifier(num_classes=2, width=8, norm="ln", compile=True).network
    assert {block.memory for block in network.modules() if hasattr(block, "memory")} == {"keep"}
