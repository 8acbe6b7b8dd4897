"""Exports that fail: one line that says why, and nothing left behind."""

import pytest
import torch

from videogn import ClipSpec, Protocol, VideoClassifier
from videogn import checkpoint as files
from videogn.cli import main
from videogn.weights import export as export_module
from videogn.weights.export import ExportError, compare
from videogn.weights.programs import load_pt2
from videogn.weights_cli import _generated_clips

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def exports(path, folder, *options):
    return main(["weights", "export", str(path), "-o", str(folder), *options])


@pytest.fixture
def small(tmp_path):
    """A file of weights, beside which exports are written."""
    torch.manual_seed(0)
    model = VideoClassifier(2, variant="8x8", norm="bn", width=8)
    clip = ClipSpec(frames=4, stride=1, protocol=Protocol(short_side=40, crop="center"))
    card = files.description(model.architecture, ("a", "b"), clip)
    files.write_weights(tmp_path / "small.safetensors", model.network.state_dict(), card)
    return tmp_path / "small.safetensors"


def test_a_program_that_differs_fails_and_leaves_nothing(small, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    assert exports(small, folder, "--formats", "safetensors") == 0
    assert {path.name for path in folder.iterdir()} == {"card.json", "weights.safetensors"}
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def wrong(path):
        program = load_pt2(path)
        return lambda clips: program(clips) * 1.001

    monkeypatch.setattr(export_module, "load_pt2", wrong)
    assert exports(small, folder, "--force", "--formats", "pt2") == 1
    error = capsys.readouterr().err
    assert "model.pt2" in error
    assert "logits differ by 1.0e-03" in error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small.safetensors"]


def test_an_exporter_that_fails_is_one_line(small, tmp_path, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("no rule for aten::odd\nand forty lines more")

    monkeypatch.setattr(export_module, "save_pt2", broken)
    assert exports(small, tmp_path / "out", "--formats", "pt2") == 1
    error = capsys.readouterr().err
    assert "no rule for aten::odd" in error
    assert "forty" not in error
    assert list(tmp_path.iterdir()) == [small]


def test_weights_that_diverged(small, tmp_path, capsys):
    stored = files.read(small)
    weights = {name.removeprefix("network."): tensor for name, tensor in stored["state_dict"].items()}
    weights["blocks.6.proj.bias"] = torch.full((2,), float("nan"))
    files.write_weights(small, weights, stored["videogn"])
    assert exports(small, tmp_path / "out") == 1
    assert "not finite" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [small]


def test_refusals_come_before_the_work(small, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    monkeypatch.setattr("videogn.checkpoint.read", lambda path: pytest.fail("work was done"))
    for folder, options, words in (
        ("mine", ["--force"], "'thesis.txt'"),
        ("small.safetensors", ["--force"], "expected a new folder, found a file"),
        ("out", ["--formats", "pt2,onxx"], "safetensors,pt2,onnx, found onxx"),
        ("out", ["--formats", ""], "found none"),
    ):
        assert exports(small, tmp_path / folder, *options) == 2
        assert words in capsys.readouterr().err
    monkeypatch.setattr(export_module, "find_spec", lambda name: None)
    assert exports(small, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert 'pip install "videogn[export]"' in error
    assert "--formats safetensors,pt2" in error
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "card.json").touch()
    assert exports(small, tmp_path / "out", "--formats", "pt2") == 2
    assert "--force" in capsys.readouterr().err


def test_compare_measures_logits():
    """Whatever the network's confidence, the measure is the change of a logit over 1 + its distance from the best."""
    for best in (1.0, 20.0, 60.0):
        logits = torch.tensor([[best, 0.0, -1.0]], dtype=torch.float64)
        found = logits + torch.tensor([[0.0, 0.0, 5e-5 * (best + 2)]])
        measured = compare("model", [found.softmax(1)], [logits.softmax(1)])
        assert measured == pytest.approx(5e-5, rel=0.15)  # the softmax of 1.0, 0, -1 moves with its smallest logit
        with pytest.raises(ExportError, match="logits differ by"):
            compare("model", [(logits + 3 * (found - logits)).softmax(1)], [logits.softmax(1)])
    expected = [torch.tensor([[0.9, 0.1]])]
    for wrong in ([[0.9, float("nan")]], [[0.9, 0.0]], [[0.9, 0.1, 0.0]], [[0.899, 0.0999]]):
        with pytest.raises(ExportError):
            compare("model", [torch.tensor(wrong)], expected)


@pytest.mark.parametrize(("crop", "side"), [("full", 40), ("center", 36), ("three", 36)])
def test_generated_clips_have_the_size_of_evaluation(crop, side):
    clips = _generated_clips(ClipSpec(frames=1, protocol=Protocol(short_side=40, crop=crop, crop_size=36)))
    assert clips.shape == (3, 3, 1, side, side)
    assert clips.dtype == torch.uint8
    assert clips.float().std() > 5
