"""``videogn validate`` on real files against the paper's sentence, written out from the logits on."""

import csv
import math

import numpy as np
import pytest
import torch
from runs import metrics, run

import videogn
from videogn.data import probe, read_frames
from videogn.data.sampling import eval_indices
from videogn.evaluation import VideoAccuracy

CLIPS = 10
SHARPENED = 30  # after two steps all clips look alike to the network, and any kind of mean would be the same
FRAMES = 4  # of the configuration's clips, of consecutive frames


def frames_of_clips(path):
    """Ten clips regularly sampled over the video, first and last frame included: uint8 (10, T, H, W, 3)."""
    free = probe(path).num_frames - FRAMES
    starts = [math.floor(free * i / (CLIPS - 1)) for i in range(CLIPS)]
    return torch.stack([read_frames(path, range(start, start + FRAMES)) for start in starts])


def reference(network, clips, mean, std):
    """ "... average the softmax scores of 10 clips as the final prediction" (Wu & He, ECCV 2018, section 4.3)."""
    scores = 0
    for clip in clips.numpy():
        pixels = (clip / 255 - np.array(mean)) / np.array(std)  # T,H,W,C
        logits = network(torch.from_numpy(pixels).permute(3, 0, 1, 2)[None])[0].numpy()
        scores += np.exp(logits) / np.exp(logits).sum()
    return scores / len(clips)


@pytest.fixture(scope="module")
def evaluated(fitted, tiny_config, tmp_path_factory):
    """The rows of predictions.csv and what was logged; scores of the reference, (videos, classes)."""
    folder = tmp_path_factory.mktemp("validate")
    checkpoint = folder / "sharp.ckpt"
    stored = torch.load(fitted / "checkpoints" / "last.ckpt", weights_only=True)
    stored["state_dict"]["network.blocks.6.proj.weight"] *= SHARPENED
    torch.save(stored, checkpoint)
    options = ["--ckpt_path", str(checkpoint), "--data.clip.protocol.clips", str(CLIPS)]
    assert run("validate", tiny_config, folder, *options) == 0
    with open(folder / "version_0" / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    model = videogn.load(checkpoint)
    network = model.network.double()
    with torch.inference_mode():
        scores = [reference(network, frames_of_clips(row["path"]), model.clip.mean, model.clip.std) for row in rows]
    labels = [model.class_names.index(row["label"]) for row in rows]
    return rows, metrics(folder / "version_0"), np.array(scores), np.array(labels), model


def test_the_ten_clips_are_those_of_the_sampling(evaluated):
    rows, *_, model = evaluated
    spec = model.clip.with_protocol(clips=CLIPS)
    for row in rows:
        indices = eval_indices(probe(row["path"]).num_frames, spec)
        shown = read_frames(row["path"], indices.reshape(-1)).unflatten(0, indices.shape)
        assert torch.equal(shown, frames_of_clips(row["path"]))


def test_validate_logs_the_accuracy_of_the_reference(evaluated):
    rows, logged, scores, labels, _ = evaluated
    assert len(rows) == len(scores) == 8
    ranks = (scores > scores[np.arange(len(labels)), labels][:, None]).sum(axis=1)
    assert float(logged["val/top1"]) == (scores.argmax(axis=1) == labels).mean() == (ranks < 1).mean()
    assert float(logged["val/top5"]) == (ranks < 5).mean()
    # float32 against float64: 50 layers lose some 1e-6 of their values, and logits are 30 times sharper.
    loss = -np.log(scores[np.arange(len(labels)), labels]).mean()
    assert float(logged["val/loss"]) == pytest.approx(loss, rel=1e-4)


def test_predictions_are_those_of_the_reference(evaluated):
    rows, _, scores, labels, model = evaluated
    for row, p, label in zip(rows, scores, labels, strict=True):
        order = np.argsort(-p, kind="stable")[:5]
        assert [row[f"class_{i}"] for i in range(1, 6)] == [model.class_names[c] for c in order]
        found = [float(row[f"probability_{i}"]) for i in range(1, 6)]
        np.testing.assert_allclose(found, p[order], rtol=1e-4)
        assert float(row["label_probability"]) == pytest.approx(p[label], rel=1e-4)
        assert len(row["view_top1"].split()) == CLIPS


def test_video_accuracy_of_float64_logits_is_the_reference_to_rounding(evaluated):
    rows, _, scores, labels, model = evaluated
    network = model.network.double()
    metric = VideoAccuracy(len(rows))
    for i, (row, label) in enumerate(zip(rows, labels.tolist(), strict=True)):
        clips = frames_of_clips(row["path"]).permute(0, 4, 1, 2, 3).double()
        mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1, 1) for v in (model.clip.mean, model.clip.std))
        with torch.inference_mode():
            metric.update(i, network((clips / 255 - mean) / std).softmax(dim=1), label)
    found = metric.compute()
    own = scores[np.arange(len(labels)), labels]
    ranks = (scores > own[:, None]).sum(axis=1)
    assert (found.top1, found.top5) == ((ranks < 1).mean(), (ranks < 5).mean())
    assert found.loss == pytest.approx(-np.log(own).mean(), rel=1e-12)
