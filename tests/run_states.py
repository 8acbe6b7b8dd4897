"""Small checkpoints of runs that never were."""

import os

import torch

CARD = {
    "architecture": {"num_classes": 2, "depth": 50, "variant": "8x8", "width": 8, "norm": "gn", "norm_kwargs": None},
    "class_names": ["a", "b"],
    "clip": None,
}


def state(step, **more):
    """A checkpoint of a run, of a kilobyte."""
    return {
        "videogn": CARD,
        "state_dict": {"network.weight": torch.arange(8.0) + step},
        "loops": {"fit_loop": {}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(8)}}}],
        "callbacks": {},
        "epoch": 1,
        "global_step": step,
        "pytorch-lightning_version": "2.6.6",
        **more,
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and (all(map(same, a, b)) and len(a) == len(b) if isinstance(a, list) else a == b)


def damaged(folder, name="a.ckpt", step=0):
    """A checkpoint with a bit of a tensor flipped, and its bytes before that."""
    path = folder / name
    torch.save(state(step), path)
    data = path.read_bytes()
    at = data.index((torch.arange(8.0) + step).numpy().tobytes()) + 13
    path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
    return path, data


def save(folder, name, step, **more):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state(step, **more), folder / name)
    os.utime(folder / name, (step, step))
    return folder / name
