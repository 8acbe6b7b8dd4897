"""Exported folders: programs for torch and ONNX Runtime compute what the network does, and the card tells the truth."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from runs import metrics, run
from torch import nn
from video_files import SHARED_VIDEOS

import videogn
from videogn import ClipSpec
from videogn import checkpoint as files
from videogn.blocks import Head
from videogn.cli import main
from videogn.inference import read_clips
from videogn.norms import NORMS, is_norm
from videogn.weights.accuracy import measured_accuracy
from videogn.weights.programs import Program, _GroupNorm, load_onnx, load_pt2, save_onnx, save_pt2, trace

pytestmark = pytest.mark.slow  # programs of every norm

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

REAL = sorted(SHARED_VIDEOS.glob("*_*.mp4"))
ALL = {"card.json", "weights.safetensors", "model.pt2", "model.onnx"}


def randomised(norm, variant="8x8"):
    """A network whose norms all do something; of two residual blocks, because tracing takes its time."""
    torch.manual_seed(0)
    groups = {"num_groups": 4} if norm in ("gn", "gn_ws") else None
    network = videogn.i3d_resnet(6, variant=variant, norm=norm, norm_kwargs=groups, width=8).eval()
    stem, res2, pool2, res3, *_ = network.blocks
    for stage in (res2, res3):
        stage.res_blocks = stage.res_blocks[:1]
    network.blocks = nn.ModuleList([stem, res2, pool2, res3, Head(64, 6, dropout=0.5)]).eval()
    for name, tensor in network.state_dict().items():
        if tensor.dim() == 1 and tensor.is_floating_point():
            low, high = (0.5, 1.5) if name.endswith(("weight", "running_var")) else (-0.2, 0.2)
            tensor.uniform_(low, high)
    network.blocks[-1].proj.weight.data.mul_(4)
    return network.requires_grad_(False)


def truth(network, clip, clips):
    """The network in float64, its input normalised by the formula."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1, 1) for values in (clip.mean, clip.std))
    double = network.double()(((clips.double() / 255) - mean) / std).softmax(1)
    network.float()
    return double


@pytest.mark.parametrize("norm", NORMS)
def test_programs_of_every_norm(norm, tmp_path):
    clip = ClipSpec(mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 0.125))
    network = randomised(norm, "32x2" if norm == "bn" else "8x8")
    program = Program(network, clip)
    assert not any(is_norm(layer) for layer in program.modules())
    assert any(is_norm(layer) for layer in network.modules())
    traced = trace(program)
    card = {"architecture": {"num_classes": 6}, "class_names": ["右"]}
    save_pt2(traced, tmp_path / "model.pt2", card)
    save_onnx(traced, tmp_path / "model.onnx", card)
    for path, load in ((tmp_path / "model.pt2", load_pt2), (tmp_path / "model.onnx", load_onnx)):
        found = load(path)
        for shape in ((1, 3, 8, 40, 40), (3, 3, 8, 40, 40), (2, 3, 13, 33, 70), (1, 3, 6, 32, 34)):
            clips = torch.randint(0, 256, shape, dtype=torch.uint8)
            expected = truth(network, clip, clips)
            assert expected.max() < 0.999  # not saturated, where every program would be right
            torch.testing.assert_close(found(clips).double(), expected, rtol=0, atol=1e-5 * float(expected.max()))


def test_group_norms_of_programs_keep_digits():
    """The mean is far from 0, where torch's group norm loses digits on channels-last inputs."""
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 8)
    nn.init.normal_(norm.weight)
    x = (torch.randn(2, 8, 16, 40, 40) + 100).contiguous(memory_format=torch.channels_last_3d)
    expected = norm.double()(x.double()).detach()
    norm.float()
    with torch.no_grad():
        assert (norm(x) - expected).abs().max() > 1e-3
        assert (_GroupNorm(norm)(x) - expected).abs().max() < 1e-4


def test_onnx_file_describes_itself(exported):
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == (
        "clips",
        "tensor(uint8)",
        ["batch", 3, "frames", "height", "width"],
    )
    assert (result.name, result.type, result.shape) == ("probabilities", "tensor(float)", ["batch", 8])
    card = json.loads(session.get_modelmeta().custom_metadata_map["videogn"])
    assert card["class_names"] == list(videogn.load(exported).class_names)


def test_files_hold_no_paths_of_this_machine(exported):
    """Exporters write source files and lines beside each operation, and compress them in one of the formats."""
    import zipfile

    folder = str(files.__file__).encode().rpartition(b"/videogn/")[0]
    with zipfile.ZipFile(exported / "model.pt2") as archive:
        parts = [archive.read(name) for name in archive.namelist()]
    parts += [path.read_bytes() for path in exported.iterdir()]
    assert not any(folder in part or b"site-packages" in part for part in parts)


# -- the command -------------------------------------------------------------------------------------------------------


def exports(path, folder, *options):
    return main(["weights", "export", str(path), "-o", str(folder), *options])


@pytest.fixture(scope="module")
def exported(fitted, tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "folder"
    video = next((tiny_data / "val" / "up").iterdir())
    assert (
        main(["weights", "export", str(fitted / "checkpoints" / "last.ckpt"), "-o", str(folder), "--video", str(video)])
        == 0
    )
    assert {path.name for path in folder.iterdir()} == ALL
    assert list(folder.parent.iterdir()) == [folder]
    return folder


def by_onnxruntime(folder, video):
    """(label, probability) of all classes, best first, with nothing of this package but the decoder."""
    card = json.loads((folder / "card.json").read_text())
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    clips = read_clips(video, ClipSpec.from_dict(card["clip"]).with_protocol(clips=3))
    (probabilities,) = session.run(None, {"clips": clips.numpy()})
    return sorted(zip(card["class_names"], probabilities.mean(0), strict=True), key=lambda pair: -pair[1])


def classified(folder, video, capsys):
    capsys.readouterr()
    command = ["classify", str(video), "--checkpoint", str(folder), "--num-clips", "3", "--format", "json"]
    assert main(command) == 0
    return json.loads(capsys.readouterr().out)["predictions"]


def same_top5(folder, video, capsys):
    expected, found = classified(folder, video, capsys), by_onnxruntime(folder, video)[:5]
    assert [label for label, _ in found] == [p["label"] for p in expected]
    assert [p for _, p in found] == pytest.approx([p["probability"] for p in expected], rel=1e-4)


def test_onnxruntime_has_the_top5_of_classify(exported, tiny_data, capsys):
    for video in sorted((tiny_data / "val").glob("*/*"))[:3]:
        same_top5(exported, video, capsys)


@pytest.mark.skipif(not REAL, reason="no shared videos")
def test_onnxruntime_has_the_top5_of_classify_on_real_videos(exported, capsys):
    for video in REAL:
        same_top5(exported, video, capsys)


def test_classify_and_load_take_the_folder(exported, checkpoint, tiny_data, capsys):
    video = next((tiny_data / "val" / "left").iterdir())
    assert classified(exported, video, capsys) == classified(checkpoint, video, capsys)
    model, original = videogn.load(exported), videogn.load(checkpoint)
    assert (model.clip, model.class_names, model.architecture) == (
        original.clip,
        original.class_names,
        original.architecture,
    )
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), original.parameters(), strict=True))


def test_pt2_runs_without_this_package(tmp_path):
    program = Program(randomised("gn"), ClipSpec())
    save_pt2(trace(program), tmp_path / "model.pt2", {})
    clips = torch.randint(0, 256, (2, 3, 4, 40, 40), dtype=torch.uint8)
    torch.save((clips, program(clips)), tmp_path / "expected.pt")
    code = f"""
import sys, torch
clips, expected = torch.load({str(tmp_path / "expected.pt")!r})
found = torch.export.load({str(tmp_path / "model.pt2")!r}).module()(clips)
assert torch.allclose(found, expected)
assert not any(name.startswith("videogn") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_the_card(exported, checkpoint, fitted):
    card = json.loads((exported / "card.json").read_text())
    stored = torch.load(checkpoint, weights_only=True)
    assert card.items() >= {name: stored["videogn"][name] for name in ("architecture", "class_names", "clip")}.items()
    for name in ALL - {"card.json"}:
        path = exported / name
        assert card["files"][name] == {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    assert card["exported_from"] == {"file": "last.ckpt", "sha256": files.sha256(checkpoint)}
    assert card["check"]["shapes"] == [[1, 3, 4, 32, 32], [2, 3, 4, 32, 32], [1, 3, 4, 32, 32]]
    assert set(card["check"]["differences"]) == {"model.pt2", "model.onnx"}
    logged = metrics(fitted)
    accuracy = card["accuracy"]
    for name in ("top1", "top5", "clip_top1", "loss"):
        assert accuracy[name] == pytest.approx(float(logged[f"val/{name}"]), rel=1e-6)
    assert (accuracy["videos"], accuracy["videos_failed"]) == (8, 0)
    assert (accuracy["split"], accuracy["clips"], accuracy["crop"]) == ("val", 2, "full")
    assert accuracy["global_step"] == stored["global_step"] > 0


def test_accuracy_is_that_of_the_weights_or_unknown(fitted):
    folder = fitted / "checkpoints"
    best = next(folder.glob("best*"))
    for path in (folder / "last.ckpt", best):
        stored = files.read(path)
        known = measured_accuracy(stored, path)
        assert known["videos"] == 8
        stored["global_step"] += 1  # saved later than it was measured
        later = measured_accuracy(stored, path)
        by_name = {"top1": pytest.approx(known["top1"], abs=1e-6), "split": "val", "clips": 2, "crop": "full"}
        assert later == (by_name if path == best else None)
    stored["callbacks"] = {"Scores": {"global_step": stored["global_step"], "metrics": {"val/top1": float("nan")}}}
    assert measured_accuracy(stored, best) is None
    assert measured_accuracy({"videogn": {"clip": None}}, best) is None


def test_an_export_takes_its_own_place(exported, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(exported, folder)
    assert exports(folder, folder, "--formats", "safetensors") == 2
    assert exports(folder, folder, "--force", "--formats", "safetensors") == 0
    before, after = (json.loads((each / "card.json").read_text()) for each in (exported, folder))
    assert set(after["files"]) == {"weights.safetensors"} == {path.name for path in folder.iterdir()} - {"card.json"}
    assert after["exported_from"] == {"file": "out"}
    assert after["accuracy"] == before["accuracy"]
    assert all(
        torch.equal(*pair) for pair in zip(*(videogn.load(f).parameters() for f in (exported, folder)), strict=True)
    )
    assert list(tmp_path.iterdir()) == [folder]


# -- weights where checkpoints go --------------------------------------------------------------------------------------


def test_validate_takes_weights(exported, checkpoint, tiny_config, tmp_path, capsys):
    found = {}
    for name, path in (("run", checkpoint), ("file", exported / "weights.safetensors"), ("folder", exported)):
        assert run("validate", tiny_config, tmp_path / name, "--ckpt_path", str(path)) == 0
        found[name] = metrics(tmp_path / name / "version_0")
    assert found["run"]["val/videos"] == "8.0"
    assert found["file"] == found["folder"] == found["run"]
    capsys.readouterr()
    assert run("fit", tiny_config, tmp_path, "--ckpt_path", str(exported)) == 2
    assert "--model.init_from" in capsys.readouterr().err
