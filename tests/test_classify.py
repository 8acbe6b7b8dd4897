"""Many files through `videogn classify`: predict_video's numbers in the order of the files, whatever goes wrong."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from processes import children, linux
from video_files import write_video

import videogn
from videogn import ClipSpec, Protocol, VideoClassifier
from videogn import classify as pipeline
from videogn.classify import classify_videos
from videogn.data.batches import EvalVideo
from videogn.data.guard import AVAILABLE
from videogn.errors import UsageError, VideoError
from videogn.lanes import Lanes, Plan, split

forks = pytest.mark.skipif(not AVAILABLE, reason="this system cannot fork processes")


@pytest.fixture(scope="module")
def model():
    """Untrained, with norms at work, so that its probabilities differ between videos."""
    torch.manual_seed(0)
    model = VideoClassifier(num_classes=8, width=8, variant="8x8", norm="gn", norm_kwargs={"num_groups": 4}).eval()
    for parameter in model.network.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.clip = ClipSpec(frames=4, stride=2, protocol=Protocol(short_side=32, clips=3))
    model.class_names = tuple("abcdefgh")
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Of three sizes, and one shorter than a clip."""
    folder = tmp_path_factory.mktemp("videos")
    sizes = [(96, 64, 40), (64, 64, 30), (96, 64, 5), (64, 96, 20), (96, 64, 25), (64, 64, 33)]
    return [str(write_video(folder / f"{i}.mp4", n, width=w, height=h)) for i, (w, h, n) in enumerate(sizes)]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def expected_of(model, path, clip):
    found = videogn.predict_video(model, path, num_clips=clip.protocol.clips, topk=8)
    return torch.tensor([p.probability for p in sorted(found, key=lambda p: p.index)])


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize(("clips", "crop"), [(1, "full"), (2, "full"), (3, "three"), (10, "center")])
def test_numbers_are_those_of_predict_video(model, videos, threads, monkeypatch, lanes, clips, crop):
    clip = model.clip.with_protocol(clips=clips, crop=crop)
    monkeypatch.setattr(model, "clip", clip)
    expected = [expected_of(model, path, clip) for path in videos]
    assert len({tuple(row.tolist()) for row in expected}) == len(videos)
    threads(lanes)
    for workers in (1, 3):
        found = list(classify_videos(model, videos, workers=workers))
        assert [path for path, _ in found] == videos
        torch.testing.assert_close([probabilities for _, probabilities in found], expected, rtol=1e-5, atol=1e-7)
    assert torch.get_num_threads() == lanes


def test_the_same_bits_whoever_is_first(model, videos, threads, monkeypatch):
    """Videos of one clip share forward passes, by their place in the list alone."""
    clip = model.clip.with_protocol(clips=1)
    threads(2)
    first = dict(classify_videos(model, videos, clip, workers=1))
    read = pipeline.read_video

    def slowly(path, *arguments, **more):
        time.sleep(0.2 if path == videos[0] else 0)
        return read(path, *arguments, **more)

    monkeypatch.setattr(pipeline, "read_video", slowly)
    assert all(torch.equal(first[path], found) for path, found in classify_videos(model, videos, clip, workers=4))


def test_views_that_share_a_forward_pass(model, videos):
    """Small clips of videos of one size do, up to the budget, and clips of one video are shared out over the lanes."""
    sizes = []
    hook = model.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape))
    same = [path for path, _ in classify_videos(model, [videos[0], videos[4]] * 2, model.clip.with_protocol(clips=1))]
    assert len(same) == 4
    assert [len(shape) and shape[0] for shape in sizes] == [4]
    sizes.clear()
    list(classify_videos(model, videos[:1], model.clip.with_protocol(clips=10)))
    hook.remove()
    assert sum(shape[0] for shape in sizes) == 10
    assert max(shape[0] for shape in sizes) <= model.clips_per_forward


@pytest.mark.parametrize("threads_of_all", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("short_side", [32, 224])
@pytest.mark.parametrize("videos_of_all", [1, 2, 1000])
def test_lanes_need_no_more_memory_than_one_forward_pass(model, threads, threads_of_all, short_side, videos_of_all):
    threads(threads_of_all)
    clip = model.clip.with_protocol(short_side=short_side, crop="three")
    plan = Plan.of(model, clip, videos_of_all)
    pixels = plan.lanes * plan.views * clip.eval_frames * short_side**2
    assert pixels <= max(model.clips_per_forward * clip.eval_frames * short_side**2, plan.lanes * 2**18)
    assert plan.lanes * plan.threads <= threads_of_all
    assert 1 <= plan.lanes <= videos_of_all * clip.num_views


@pytest.mark.parametrize("views", [1, 2, 3, 4, 7, 100])
def test_parts_are_all_views_in_their_order(views):
    video = EvalVideo(torch.zeros(9, 4, 4, 3), torch.arange(20).view(5, 4), [(0, x, 2, 2) for x in range(3)], -1, 0, "")
    parts = split(video, views)
    found = [(clip.tolist(), crop) for part in parts for clip in part.index for crop in part.crops]
    assert found == [(clip.tolist(), crop) for clip in video.index for crop in video.crops]
    assert max(len(part.index) * len(part.crops) for part in parts) <= views


@forks
def test_bad_files_cost_themselves_alone(model, videos, tmp_path, monkeypatch):
    hangs, crashes, missing, text = (str(tmp_path / name) for name in ("hangs", "crashes", "missing", "text.mp4"))
    Path(text).write_text("no video")
    read = pipeline.read_video

    def badly(path, *arguments, **more):
        if path == hangs:
            time.sleep(60)
        if path == crashes:
            os.kill(os.getpid(), signal.SIGSEGV)
        return read(path, *arguments, **more)

    monkeypatch.setattr(pipeline, "read_video", badly)
    paths = [hangs, videos[0], crashes, missing, videos[1], text, *videos[2:]]
    for clips in (1, 10):
        clip = model.clip.with_protocol(clips=clips)
        found = dict(classify_videos(model, paths, clip, workers=3, timeout=0.5))
        assert list(found) == paths
        errors = {path: str(outcome) for path, outcome in found.items() if isinstance(outcome, VideoError)}
        assert list(errors) == [hangs, crashes, missing, text]
        assert "no progress for 0.5 s" in errors[hangs]
        assert "SIGSEGV" in errors[crashes]
        assert "no such file" in errors[missing].lower()
        for path in videos:
            torch.testing.assert_close(found[path], expected_of(model, path, clip), rtol=1e-5, atol=1e-7)
    assert "no progress" in str(dict(classify_videos(model, [hangs], timeout=0.3))[hangs])


@forks
def test_a_slow_file_holds_no_other_one_and_no_memory(model, videos, tmp_path, monkeypatch):
    """It waits until the others are read, which happens though no more than three videos are held at a time."""
    others = [f"{videos[1]}?{i}" for i in range(12)]
    read = pipeline.read_video

    def slow(path, *arguments, **more):
        if path == videos[0]:
            end = time.monotonic() + 20
            while len(os.listdir(tmp_path)) < len(others) and time.monotonic() < end:
                time.sleep(0.01)
            return read(path, *arguments, **more)
        (tmp_path / path.rpartition("?")[2]).touch()
        return read(path.partition("?")[0], *arguments, **more)

    monkeypatch.setattr(pipeline, "read_video", slow)
    begun = time.monotonic()
    held = []
    submit = Lanes.submit
    monkeypatch.setattr(Lanes, "submit", lambda lanes, *job: (held.append(lanes.waiting), submit(lanes, *job)))
    found = list(classify_videos(model, [videos[0], *others], model.clip.with_protocol(clips=10), workers=3))
    assert time.monotonic() - begun < 20
    assert [path for path, _ in found] == [videos[0], *others]
    per_video = -(-10 // Plan.of(model, model.clip.with_protocol(clips=10), 13).views)
    assert max(held) < 3 * per_video


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_output_that_is_not_finite_names_the_file(model, videos, value):
    bias = model.network.blocks[-1].proj.bias
    before = bias.data.clone()
    try:
        bias.data[3] = value
        with pytest.raises(FloatingPointError, match=r"0\.mp4: .*not finite"):
            videogn.predict_video(model, videos[0])
        with pytest.raises(FloatingPointError, match=r"\d\.mp4: .*not finite"):  # whose forward pass is done first
            list(classify_videos(model, videos))
    finally:
        bias.data.copy_(before)


def test_a_video_that_the_network_cannot_compute(model, videos, monkeypatch):
    compute = model.probabilities

    def short_of_memory(parts):
        if any(part.frames.shape[1] > part.frames.shape[2] for part in parts):
            raise RuntimeError("DefaultCPUAllocator: not enough memory\nmore lines")
        return compute(parts)

    monkeypatch.setattr(model, "probabilities", short_of_memory)
    found = dict(classify_videos(model, videos))
    errors = [path for path, outcome in found.items() if isinstance(outcome, VideoError)]
    assert errors == [videos[3]]
    assert "not enough memory" in str(found[videos[3]])
    assert "more lines" not in str(found[videos[3]])


@forks
@linux
def test_leaving_early_leaves_no_process(model, videos):
    before = children(os.getpid(), ended=True)
    answers = classify_videos(model, videos)
    next(answers)
    assert len(children(os.getpid(), ended=True)) > len(before)
    answers.close()
    assert children(os.getpid(), ended=True) == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_wrong_arguments(model, videos):
    with pytest.raises(UsageError, match="workers"):
        list(classify_videos(model, videos, workers=0))
    with pytest.raises(UsageError, match="backend"):
        list(classify_videos(model, videos, backend="opencv"))
    assert list(classify_videos(model, [])) == []
