"""The counted memory of an evaluation's forward pass, against the storages of a real one."""

from inspect import signature

import pytest
import torch

from videogn import NORMS, VideoClassifier
from videogn.i3d import i3d_resnet
from videogn.memory import count_batch, count_evaluation
from videogn.memory.live import LiveStorages

MIB = 2**20


def real_peak(network, clips, frames, height, width):
    """The most bytes that storages hold while the network predicts on this CPU."""
    with LiveStorages("cpu") as live, torch.no_grad():
        for tensor in network.state_dict(keep_vars=True).values():
            live._add(tensor.untyped_storage())  # made before, and held all the time
        shape = (clips, 3, frames, height, width)
        pixels = torch.zeros(shape, dtype=torch.uint8).to(memory_format=torch.channels_last_3d)
        live.trace.clear()
        x = [pixels.float()]
        network(x.pop())
        return max(live.trace)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_equals_the_storages_of_a_real_forward_pass(norm):
    kwargs = {"num_groups": 4} if norm in ("gn", "gn_ws") else None
    network = i3d_resnet(5, variant="8x8", width=8, norm=norm, norm_kwargs=kwargs).eval()
    for shape in ((1, 4, 32, 40), (3, 8, 40, 32)):
        counted = count_evaluation(network, *shape, device="cpu")
        real = real_peak(network, *shape)
        if norm in ("gn", "gn_ws", "in", "ln"):  # torch's own group norm on a CPU holds a little less than on CUDA
            assert real <= counted <= 1.1 * real
        else:
            assert counted == real


def test_30_views_of_64_frames_fit_where_training_does():
    """Four views of 64x256x256 at once, the default, and a step of four clips."""
    with torch.device("meta"):
        network = i3d_resnet(norm="gn")
    at_once = signature(VideoClassifier).parameters["clips_per_forward"].default
    one, some = (count_evaluation(network, n, 64, 256, 256, dtype=torch.bfloat16) for n in (1, at_once))
    assert one < 700 * MIB
    assert some < 1300 * MIB < count_batch(network, 4, 64, 224)[0].peak
