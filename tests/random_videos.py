"""Videos with drawn logits, and what an evaluation finds for them."""

import numpy as np
import torch

from videogn.evaluation import judge


def draw(count, classes, coarse=False, seed=0, clips=4, skill=1.5):
    """Probabilities (videos, clips, classes), labels, and what the evaluation finds. The last class is no label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(max(classes - 1, 1), size=count)
    logits = rng.normal(size=(count, clips, classes)) + rng.normal(size=(count, 1, classes))
    logits[np.arange(count), :, labels] += skill
    p = torch.from_numpy(logits).softmax(dim=2).numpy()
    if coarse:
        p = np.round(p * 4) / 4  # sums of quarters are exact, so that equal means are equal
    results = [
        judge(i, f"v/{i}.mp4", int(label), torch.from_numpy(p[i]), num_clips=clips) for i, label in enumerate(labels)
    ]
    return p, labels, results
