"""Crops, scales and normalisation, against torchvision and against the formula in float64."""

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from videogn.data.transforms import eval_crops, eval_view, to_float, train_view
from videogn.data.view import apply_view
from videogn.spec import ClipSpec, Protocol

SIZES = [(256, 340), (340, 256), (240, 427), (97, 65), (48, 64), (360, 360)]
SMALL = ClipSpec(train_short_side=(64, 80), train_crop=56, protocol=Protocol(short_side=64))


def noise(height, width, frames=2):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8))


def train_transform(frames, spec, rng):
    return apply_view(frames, train_view(*frames.shape[1:3], spec, rng))


def eval_transform(frames, spec):
    return eval_crops(apply_view(frames, eval_view(*frames.shape[1:3], spec)), spec)


def planes(frames):
    return frames.permute(0, 3, 1, 2)


class Draws:
    """A generator that gives what it was told: scale, top, left, flip."""

    def __init__(self, *values):
        self.values = list(values)
        self.ranges = []

    def integers(self, low, high):
        self.ranges.append((low, high))
        return self.values.pop(0)

    def random(self):
        return self.values.pop(0)


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_training_shape(size):
    for seed in range(5):
        clip = train_transform(noise(*size), SMALL, np.random.default_rng(seed))
        assert clip.shape == (2, 56, 56, 3)
        assert clip.dtype == torch.uint8
        assert clip.is_contiguous()


def test_training_copies_pixels_where_nothing_is_scaled():
    frames = noise(64, 90)
    crop = frames[:, 5:61, 30:86]
    assert torch.equal(train_transform(frames, SMALL, Draws(64, 5, 30, 0.9)), crop)
    assert torch.equal(train_transform(frames, SMALL, Draws(64, 5, 30, 0.1)), crop.flip(2))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [64, 71, 80])
def test_training_box(size, scale):
    height, width = size
    side = int(56 * min(size) / scale + 0.5)
    assert abs(side - 56 * min(size) / scale) <= 0.5
    top, left = (height - side) // 3, (width - side) // 2
    draws = Draws(scale, top, left, 0.9)
    frames = noise(*size)
    clip = train_transform(frames, SMALL, draws)
    assert draws.ranges == [(64, 81), (0, height - side + 1), (0, width - side + 1)]
    expected = v2.functional.resized_crop(planes(frames), top, left, side, side, [56, 56], antialias=True)
    assert torch.equal(planes(clip), expected)


@pytest.mark.parametrize("size", SIZES)
def test_training_places_pixels_where_a_scaled_frame_has_them(size):
    # Ramps along x and y: each pixel tells where in the source its centre lies.
    height, width = size
    y = torch.arange(height).view(-1, 1).expand(height, width) * 255 / height
    x = torch.arange(width).view(1, -1).expand(height, width) * 255 / width
    frames = torch.stack([y, x, x], dim=2)[None].round().to(torch.uint8)
    side = int(56 * min(size) / 71 + 0.5)
    clip = train_transform(frames, SMALL, Draws(71, 2, 3, 0.9))[0].double()
    centres = (torch.arange(56) + 0.5) * side / 56 - 0.5
    inside = slice(4, 52)  # away from the borders, where the filter is cut off
    assert (clip[inside, :, 0] - (centres[inside, None] + 2) * 255 / height).abs().max() <= 1.01
    assert (clip[:, inside, 1] - (centres[None, inside] + 3) * 255 / width).abs().max() <= 1.01


def test_training_places_and_flips_are_uniform():
    frames = torch.arange(66, dtype=torch.uint8)[None, None, :, None].expand(1, 64, 66, 3)
    spec = dataclasses.replace(SMALL, train_short_side=(64, 64), train_crop=64)
    rng = np.random.default_rng(0)
    seen = [tuple(train_transform(frames, spec, rng)[0, 0, [0, -1], 0].tolist()) for _ in range(1200)]
    counts = {pair: seen.count(pair) for pair in set(seen)}
    assert set(counts) == {(0, 63), (1, 64), (2, 65), (63, 0), (64, 1), (65, 2)}
    assert all(abs(count - 200) < 50 for count in counts.values())


def test_training_without_flip_and_with_every_scale():
    frames = torch.arange(200, dtype=torch.uint8)[None, None, :, None].expand(1, 160, 200, 3)
    spec = dataclasses.replace(SMALL, flip=0.0)
    for seed in range(20):
        row = train_transform(frames, spec, np.random.default_rng(seed))[0, 0, :, 0].int()
        assert (row.diff() >= 0).all()


def test_training_follows_its_generator():
    frames = noise(97, 120)
    first, again, other = (train_transform(frames, SMALL, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# -- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_full_frames_are_torchvisions(size):
    frames = noise(*size)
    resized, boxes = eval_transform(frames, SMALL)
    expected = v2.Resize(64, antialias=True)(planes(frames))
    assert torch.equal(planes(resized), expected)
    assert boxes == [(0, 0, *expected.shape[-2:])]
    assert resized.is_contiguous()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [None, 56, 57])
def test_the_centre_is_torchvisions(size, side):
    frames = noise(*size)
    spec = SMALL.with_protocol(crop="center", crop_size=side)
    cut, boxes = eval_transform(frames, spec)
    expected = v2.CenterCrop(side or 64)(v2.Resize(64, antialias=True)(planes(frames)))
    assert torch.equal(planes(cut), expected)
    assert boxes == [(0, 0, side or 64, side or 64)]
    assert cut.is_contiguous()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [None, 57])
def test_three_squares_along_the_longer_side(size, side):
    frames = noise(*size)
    spec = SMALL.with_protocol(crop="three", crop_size=side)
    whole, boxes = eval_transform(frames, spec)
    _, height, width, _ = whole.shape
    side = side or 64
    assert torch.equal(whole, eval_transform(frames, SMALL)[0])
    for i, box in enumerate(boxes):  # SlowFast, uniform_crop
        top, left = int(np.ceil((height - side) / 2)), int(np.ceil((width - side) / 2))
        if height > width:
            top = (0, top, height - side)[i]
        else:
            left = (0, left, width - side)[i]
        assert box == (top, left, side, side)


def test_nothing_is_touched_where_nothing_is_scaled():
    frames = noise(64, 85)
    assert torch.equal(eval_transform(frames, SMALL)[0], frames)
    spec = SMALL.with_protocol(crop="center")
    assert torch.equal(eval_transform(frames, spec)[0], frames[:, :, 10:74])


# -- normalisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", [ClipSpec(), ClipSpec(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))])
def test_normalisation_formula(dtype, spec):
    clips = torch.arange(256, dtype=torch.uint8).view(1, 1, 4, 8, 8).repeat(2, 3, 1, 1, 1)
    x = clips.double()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1, 1) for values in (spec.mean, spec.std))
    result = to_float(clips, spec, dtype)
    assert result.dtype == dtype
    torch.testing.assert_close(
        result.double(), (x / 255 - mean) / std, rtol=torch.finfo(dtype).eps, atol=4 * torch.finfo(torch.float32).eps
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalisation_keeps_the_memory_format(memory_format, dtype):
    clips = torch.randint(0, 256, (2, 3, 4, 6, 8), dtype=torch.uint8).contiguous(memory_format=memory_format)
    assert to_float(clips, ClipSpec(), dtype).stride() == clips.stride()
    assert clips.dtype == torch.uint8


def test_frames_become_channels_last_clips():
    frames = noise(16, 20, frames=4)
    clips = to_float(frames.permute(3, 0, 1, 2)[None], ClipSpec())
    assert clips.is_contiguous(memory_format=torch.channels_last_3d)
