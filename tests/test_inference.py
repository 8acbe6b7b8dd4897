"""Inference copies: folded, in float32 or bfloat16, with the predictions of the model that they come from."""

import copy
import logging

import pytest
import torch
from torch import nn
from video_files import SHARED_VIDEOS

import videogn
from videogn import ClipSpec, Protocol, VideoClassifier
from videogn.cli import main
from videogn.data import read_frames
from videogn.errors import UsageError
from videogn.inference import for_inference, has_bfloat16, predict_video
from videogn.norms import Conv3d, is_norm

REAL = sorted(SHARED_VIDEOS.glob("*_*.mp4"))


@pytest.fixture(scope="module")
def trained(tiny_data):
    """A network that knows its eight training videos: its logits differ, as those of random weights do not."""
    torch.manual_seed(0)
    model = VideoClassifier(num_classes=8, width=8, variant="8x8", norm="bn", dropout=0.0)
    model.clip = ClipSpec(frames=8, stride=1, protocol=Protocol(short_side=32, crop="center", clips=2))
    model.class_names = tuple(sorted(path.name for path in (tiny_data / "train").iterdir()))
    videos = sorted((tiny_data / "train").glob("*/*"))
    labels = torch.tensor([model.class_names.index(path.parent.name) for path in videos])
    frames = torch.stack([read_frames(path, range(12)) for path in videos]).permute(0, 4, 1, 2, 3)
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=2e-3)
    model.train()
    for step in range(40):
        start = step % 5
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(frames[:, :, start : start + 8]), labels).backward()
        optimizer.step()
    return model.eval()


def test_the_model_stays_as_it_was(trained):
    before = copy.deepcopy(trained.state_dict())
    copied = for_inference(trained, "bfloat16")
    assert not any(is_norm(layer) for layer in copied.network.modules())
    assert sum(is_norm(layer) for layer in trained.network.modules()) == 53
    assert trained.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_float32_predictions_are_the_models(trained, tiny_data):
    copied = for_inference(trained)
    for path in sorted((tiny_data / "val").glob("*/*")):
        expected = {p.label: p.probability for p in predict_video(trained, path, topk=8)}
        found = {p.label: p.probability for p in predict_video(copied, path, topk=8)}
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_bfloat16_ends_in_float32(trained):
    copied = for_inference(trained, "bfloat16")
    kinds = {type(layer): layer.weight.dtype for layer in copied.modules() if hasattr(layer, "weight")}
    assert kinds == {Conv3d: torch.bfloat16, nn.Linear: torch.float32}
    seen = []
    copied.network.blocks[3].register_forward_hook(lambda layer, inputs, out: seen.append(out.dtype))
    clips = torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8)
    assert copied(clips).dtype == torch.float32
    assert seen == [torch.bfloat16]


def keeps_top5(model, paths):
    """Compares the five best classes; returns on how many videos they were told apart by float32 itself.

    Where the fifth and the sixth class are within 10 % of each other, rounding may swap them.
    """
    precise, rounded = for_inference(model, "float32"), for_inference(model, "bfloat16")
    clear = 0
    for path in paths:
        expected = predict_video(precise, path, num_clips=2, topk=8)
        found = predict_video(rounded, path, num_clips=2, topk=5)
        assert found[0].label == expected[0].label
        if expected[4].probability > 1.1 * expected[5].probability:
            clear += 1
            assert {p.label for p in found} == {p.label for p in expected[:5]}, path
    return clear


def test_bfloat16_keeps_the_top5_of_generated_videos(trained, tiny_data):
    assert keeps_top5(trained, sorted((tiny_data / "train").glob("*/*"))) >= 4


@pytest.mark.skipif(not REAL, reason="real videos are not here")
def test_bfloat16_keeps_the_top5_of_real_videos(trained):
    assert keeps_top5(trained, REAL) >= len(REAL) // 2


def test_norms_keep_their_precision_in_bfloat16():
    """gn is not folded; its parameters and its statistics stay in float32."""
    torch.manual_seed(0)
    model = VideoClassifier(num_classes=5, width=8, variant="8x8", norm="gn_ws", norm_kwargs={"num_groups": 4})
    model.clip = ClipSpec(frames=4)
    copied = for_inference(model, "bfloat16")
    assert {layer.weight.dtype for layer in copied.network.modules() if is_norm(layer)} == {torch.float32}
    clips = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected, found = model.eval()(clips), copied(clips)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_auto_follows_the_device(monkeypatch, caplog):
    model = VideoClassifier(num_classes=2, width=8, variant="8x8", norm="ln")

    def dtype(precision):
        return for_inference(model, precision).network.blocks[0].conv.weight.dtype

    for flags, expected in (({}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert has_bfloat16(torch.device("cpu")) is bool(flags)
        assert dtype("auto") == expected
        assert dtype("float32") == torch.float32
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            assert dtype("bfloat16") == torch.bfloat16
            assert ("no instructions" in caplog.text) is not bool(flags)
    with pytest.raises(UsageError, match=r"precision: expected one of .*'float32'.* found 'half'"):
        for_inference(model, "half")


def test_classify_with_a_precision(checkpoint, tiny_data, capsys):
    video = str(next((tiny_data / "val" / "left").iterdir()))
    assert main(["classify", video, "--checkpoint", str(checkpoint), "--precision", "bfloat16", "--topk", "8"]) == 0
    assert "%" in capsys.readouterr().out
    from_path = predict_video(checkpoint, video)
    from_model = predict_video(videogn.load(checkpoint), video)
    assert [p.probability for p in from_path] == pytest.approx([p.probability for p in from_model], rel=1e-5)
