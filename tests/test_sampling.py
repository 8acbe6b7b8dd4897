"""Frame numbers of clips, against the formulas written out and against pytorchvideo."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from videogn.data.sampling import eval_indices, train_indices, unique_frames
from videogn.spec import ClipSpec, Protocol

SPECS = [
    ClipSpec(),
    ClipSpec(frames=64, stride=1),
    ClipSpec(frames=8, stride=8),
    ClipSpec(frames=1, stride=1, protocol=Protocol(clips=1)),
    ClipSpec(frames=5, stride=3, protocol=Protocol(clips=3, positions="segments")),
    ClipSpec(frames=5, stride=3, short_video="clamp", protocol=Protocol(clips=3)),
]
LENGTHS = [1, 2, 5, 29, 32, 62, 63, 64, 65, 100, 250, 300, 1001]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_numbers_stay_inside_and_go_forward(spec, length):
    clips = [*eval_indices(length, spec), train_indices(length, spec, np.random.default_rng(length))]
    for clip in clips:
        assert clip.shape == (spec.frames,)
        assert clip.dtype == np.int64
        assert clip.min() >= 0
        assert clip.max() < length
        if length >= spec.span:
            assert (np.diff(clip) == spec.stride).all()
    starts = eval_indices(length, spec)[:, 0]
    assert (np.diff(starts) >= 0).all()
    assert starts[0] == 0 or spec.protocol.clips == 1


@pytest.mark.parametrize("positions", ["ends", "segments"])
@pytest.mark.parametrize("clips", [1, 2, 3, 10, 30])
@pytest.mark.parametrize("length", LENGTHS)
def test_both_position_rules(positions, clips, length):
    spec = ClipSpec(protocol=Protocol(clips=clips, positions=positions))
    delta = max(length - ((32 - 1) * 2 + 1), 0)
    if positions == "segments":  # SlowFast, get_start_end_idx: delta * clip_idx / num_clips
        expected = [int(Fraction(delta * i, clips)) for i in range(clips)]
    elif clips == 1:
        expected = [delta // 2]
    else:  # mmaction2, SampleFrames with keep_tail_frames: delta / (num_clips - 1) apart
        expected = [int(Fraction(delta * i, clips - 1)) for i in range(clips)]
    assert eval_indices(length, spec)[:, 0].tolist() == expected
    if length >= spec.span and positions == "ends" and clips > 1:
        assert eval_indices(length, spec)[-1, -1] == length - 1


@pytest.mark.parametrize("clips", [1, 3, 10])
@pytest.mark.parametrize("length", [63, 100, 257, 300])
def test_pytorchvideo_has_the_segments_rule(clips, length):
    clip_sampling = pytest.importorskip("pytorchvideo.data.clip_sampling")
    spec = ClipSpec(protocol=Protocol(clips=clips, positions="segments"))
    # One frame is one second there, so that its seconds are frame numbers.
    sampler = clip_sampling.ConstantClipsPerVideoSampler(clip_duration=spec.span, clips_per_video=clips)
    starts = []
    for _ in range(clips):
        info = sampler(None, Fraction(length), {})
        starts.append(int(info.clip_start_sec))
    assert eval_indices(length, spec)[:, 0].tolist() == starts


def test_worked_examples():
    spec = ClipSpec(frames=3, stride=2, protocol=Protocol(clips=3))
    assert eval_indices(11, spec).tolist() == [[0, 2, 4], [3, 5, 7], [6, 8, 10]]
    assert eval_indices(11, spec.with_protocol(positions="segments"))[:, 0].tolist() == [0, 2, 4]
    assert eval_indices(11, spec.with_protocol(clips=1)).tolist() == [[3, 5, 7]]
    assert eval_indices(3, spec).tolist() == [[0, 2, 1]] * 3
    assert eval_indices(3, dataclasses.replace(spec, short_video="clamp")).tolist() == [[0, 2, 2]] * 3
    assert (eval_indices(11, spec) + 40)[1].tolist() == [43, 45, 47]  # a part of 11 frames from frame 40 on


def test_training_starts_are_uniform_over_all_places():
    spec = ClipSpec(frames=4, stride=2)  # 7 frames: 5 places in 11 frames
    rng = np.random.default_rng(0)
    starts = np.array([train_indices(11, spec, rng)[0] for _ in range(5000)])
    counts = np.bincount(starts)
    assert len(counts) == 5
    assert abs(counts - 1000).max() < 120


def test_training_follows_its_generator():
    first, again, other = (train_indices(300, ClipSpec(), np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("length", LENGTHS)
def test_unique_frames(length):
    indices = eval_indices(length, ClipSpec())
    unique, index = unique_frames(indices)
    assert (np.diff(unique) > 0).all()
    assert index.shape == indices.shape
    assert unique.dtype == index.dtype == np.int64
    assert (unique[index] == indices).all()
    assert len(unique) == len(set(indices.ravel().tolist()))


@pytest.mark.parametrize("length", [0, -3])
def test_a_video_without_frames(length):
    with pytest.raises(ValueError, match=f"expected at least 1, found {length}"):
        eval_indices(length, ClipSpec())
    with pytest.raises(ValueError, match=f"expected at least 1, found {length}"):
        train_indices(length, ClipSpec(), np.random.default_rng(0))
