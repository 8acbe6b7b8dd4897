"""The evaluation protocol: presets, what beats what, how it is stored and told."""

import logging
import re
from pathlib import Path

import pytest
import yaml
from runs import metrics, run

from videogn import ClipSpec, Protocol
from videogn.spec import PRESETS, nested

PROTOCOLS = Path(__file__).parents[1] / "configs" / "protocol"


def test_presets_are_the_three_ways_to_test():
    """10 clips of whole frames at short side 256 (the paper), 10 clips x 3 crops of 256 (the repositories)."""
    paper, views, one = (Protocol(name) for name in PRESETS)
    assert (paper.clips, paper.crop, paper.short_side, paper.positions) == (10, "full", 256, "ends")
    assert (views.clips, views.num_crops, views.side, views.short_side) == (10, 3, 256, 256)
    assert (one.clips, one.num_crops) == (1, 1)
    assert ClipSpec(protocol=views).num_views == 30
    assert Protocol() == Protocol(**PRESETS["paper-10clip"])


def test_fields_beat_the_preset():
    own = Protocol("30view", clips=2, short_side=64)
    assert (own.clips, own.crop, own.side) == (2, "three", 64)


def test_evaluated_clips_may_be_longer_than_training_clips():
    clip = ClipSpec(frames=8, stride=2, protocol=Protocol(frames=16, stride=1))
    assert (clip.span, clip.eval_span, clip.eval_frames, clip.eval_stride) == (15, 16, 16, 1)
    assert (ClipSpec(frames=8).eval_frames, ClipSpec(stride=3).eval_stride) == (8, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "10clip"}, "clip.protocol.preset: expected one of paper-10clip, 30view, 1clip, found '10clip'"),
        ({"clips": 0}, "clip.protocol.clips: expected at least 1, found 0"),
        ({"crop": "left"}, "clip.protocol.crop: expected full, center or three, found 'left'"),
        ({"crop_size": 300}, "clip.protocol.crop_size: expected at most short_side = 256, found 300"),
        ({"stride": 0}, "clip.protocol.stride: expected at least 1, found 0"),
    ],
)
def test_wrong_values_are_named(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Protocol(**fields)


def test_a_stored_specification_with_flat_fields_is_read():
    flat = {"frames": 8, "num_clips": 2, "eval_crop": "center", "eval_crop_size": 48, "eval_short_side": 52}
    expected = ClipSpec(frames=8, protocol=Protocol(clips=2, crop="center", crop_size=48, short_side=52))
    assert ClipSpec.from_dict(flat) == expected
    assert ClipSpec.from_dict(expected.to_dict()) == expected
    assert nested(expected.to_dict()) == expected.to_dict()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_overlays_replace_all_of_a_protocol(preset):
    """Lists of options merge: a field that an overlay leaves out would stay what an earlier file made it."""
    block = yaml.safe_load((PROTOCOLS / f"{preset}.yaml").read_text())["data"]["clip"]["protocol"]
    assert block["preset"] == preset
    assert {name for name, value in block.items() if value is None} == set(vars(Protocol())) - {"preset"}


def test_a_run_says_what_it_evaluates_before_it_starts(tiny_config, checkpoint, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    options = ["--ckpt_path", str(checkpoint), "-c", str(PROTOCOLS / "30view.yaml")]
    assert run("validate", tiny_config, tmp_path, *options, "--data.clip.protocol.short_side", "32") == 0
    told = caplog.text
    assert "val: 8 videos x 10 clips x 3 crops of 32x32 (short side 32, 4 frames, consecutive" in told
    assert float(metrics(tmp_path / "version_0")["val/videos"]) == 8
    assert told.index("8 videos x 10 clips") < told.index("val/top1")


def test_a_preset_of_the_command_replaces_the_checkpoints_protocol(tiny_data, checkpoint, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    options = ["--data.num_workers", "0", "--ckpt_path", str(checkpoint), "--trainer.logger", "false"]
    config = tmp_path / "empty.yaml"
    config.write_text(f"data: {{root: {tiny_data}}}\n")
    assert run("validate", config, tmp_path, *options) == 0
    assert "8 videos x 2 clips x whole frames (short side 32" in caplog.text
    caplog.clear()
    assert run("validate", config, tmp_path, *options, "--data.clip.protocol.clips", "3") == 0
    assert "8 videos x 3 clips x whole frames (short side 32" in caplog.text
    one = ["--data.clip.protocol.preset", "1clip", "--data.clip.protocol.short_side", "40"]
    caplog.clear()
    assert run("validate", config, tmp_path, *options, *one) == 0
    assert "8 videos x 1 clip x whole frames (short side 40" in caplog.text
