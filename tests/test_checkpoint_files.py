"""Weights and card in a safetensors file or a folder: what is written is read, what is wrong is refused in words."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import videogn
from videogn import ClipSpec, Protocol, VideoClassifier, predict_video
from videogn import checkpoint as files
from videogn.cli import main
from videogn.errors import UsageError

ARCHITECTURE = {
    "num_classes": 6,
    "depth": 50,
    "variant": "8x8",
    "width": 8,
    "norm": "gn",
    "norm_kwargs": {"num_groups": 4},
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = VideoClassifier(**ARCHITECTURE)
    model.clip = ClipSpec(
        frames=4, stride=1, train_crop=32, train_short_side=(32, 32), protocol=Protocol(short_side=32)
    )
    model.class_names = ("left", "ångström", "右", 'with "quotes"', "not \udcff utf-8", "a/b")
    return model.eval()


@pytest.fixture(scope="module")
def card(model):
    return files.description(model.architecture, model.class_names, model.clip)


def write_folder(folder, model, card):
    """What ``videogn weights export --formats safetensors`` leaves."""
    folder.mkdir()
    weights = folder / files.WEIGHTS_FILE
    files.write_weights(weights, model.network.state_dict(), card)
    card = card | {"files": {files.WEIGHTS_FILE: {"sha256": files.sha256(weights)}}}
    (folder / files.CARD_FILE).write_text(json.dumps(card))
    return folder


@pytest.fixture(params=["file", "folder"])
def stored(request, tmp_path, model, card):
    if request.param == "folder":
        return write_folder(tmp_path / "exported", model, card)
    files.write_weights(tmp_path / "weights.bin", model.network.state_dict(), card)
    return tmp_path / "weights.bin"  # recognised by content


def test_what_is_written_is_read(stored, model, card):
    found = files.read(stored)
    expected = {f"network.{name}": tensor for name, tensor in model.network.state_dict().items()}
    assert found["state_dict"].keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found["state_dict"].items())
    assert found["videogn"].items() >= card.items()


def test_load_gives_the_model(stored, model):
    loaded = videogn.load(stored)
    assert (loaded.class_names, loaded.clip, loaded.architecture) == (model.class_names, model.clip, model.architecture)
    assert not loaded.training
    clips = torch.randint(0, 256, (2, 3, 4, 32, 40), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(clips), model(clips))


def test_a_run_s_checkpoint_classifies_alike_from_a_file(checkpoint, tiny_data, tmp_path, capsys):
    video = str(next((tiny_data / "val" / "left").iterdir()))
    loaded = videogn.load(checkpoint)
    card = json.loads(json.dumps(torch.load(checkpoint, weights_only=True)["videogn"]))
    files.write_weights(tmp_path / "w.safetensors", loaded.network.state_dict(), card)
    assert predict_video(tmp_path / "w.safetensors", video) == predict_video(checkpoint, video)
    assert main(["classify", video, "--checkpoint", str(tmp_path / "w.safetensors")]) == 0
    from_file = capsys.readouterr().out
    assert main(["classify", video, "--checkpoint", str(checkpoint)]) == 0
    assert capsys.readouterr().out == from_file


def test_dropout_of_a_run_is_kept(checkpoint):
    assert videogn.load(checkpoint).network.blocks[-1].dropout.p == 0.0


def test_a_safetensors_file_is_readable_by_others(tmp_path, model, card):
    from safetensors import safe_open

    files.write_weights(tmp_path / "w.safetensors", model.network.state_dict(), card)
    with safe_open(tmp_path / "w.safetensors", framework="np") as file:
        assert set(file.keys()) == set(model.network.state_dict())
        assert file.get_tensor("blocks.6.proj.weight").shape == (6, 256)
    (path,) = tmp_path.iterdir()
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, model, card):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match=r"w\.safetensors: cannot be written .*No space left"):
        files.write_weights(path, model.network.state_dict(), card)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_writing_into_no_folder(tmp_path, model, card):
    with pytest.raises(UsageError, match=r"absent.*No such file or directory"):
        files.write_weights(tmp_path / "absent" / "w.safetensors", model.network.state_dict(), card)


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(path, *words):
    with pytest.raises(UsageError) as caught:
        videogn.load(path)
    message = str(caught.value)
    assert len(message) < 500
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"


def test_files_of_others(tmp_path):
    save_file({"conv1.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "other.safetensors", "videogn weights import")
    torch.save({"conv1.weight": torch.zeros(2), 3: 4}, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", "other.pth", "videogn weights import")
    refused(tmp_path / "absent.safetensors", "absent.safetensors", "no such")
    refused(tmp_path, "card.json", "videogn weights export")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-100],
        lambda data: data[:200],
        lambda data: data[:9],
        lambda data: data[:8] + b"{" * 5000,
        lambda data: (2**40).to_bytes(8, "little") + data[8:],
        lambda data: (2**31).to_bytes(8, "little") + data[8:],
        lambda data: data[:8] + data[8:].replace(b'"F32"', b'"F64"', 1),
        lambda data: data[:8] + data[8:].replace(b'{\\"arch', b'[\\"arch', 1),
    ],
)
def test_damaged_files(damage, tmp_path, model, card):
    path = tmp_path / "w.safetensors"
    files.write_weights(path, model.network.state_dict(), card)
    path.write_bytes(damage(path.read_bytes()))
    refused(path, "w.safetensors: ")


def test_a_card_of_other_weights(tmp_path, model, card):
    one = write_folder(tmp_path / "one", model, card)
    changed = copy.deepcopy(model)
    changed.network.blocks[-1].proj.bias.data += 1
    other = write_folder(tmp_path / "other", changed, card)
    (one / "card.json").replace(other / "card.json")
    refused(other, "not the file that card.json belongs to", "sha256")


NONSENSE = [
    ({"architecture": None}, "architecture: expected a mapping, found None"),
    ({"architecture": ARCHITECTURE | {"width": "8"}}, "architecture.width: expected int, found '8'"),
    ({"architecture": ARCHITECTURE | {"width": 10**30}}, "cannot be built"),
    ({"architecture": ARCHITECTURE | {"width": 10**6}}, "not those of the network it describes"),
    ({"architecture": ARCHITECTURE | {"num_classes": True}}, "architecture.num_classes: expected int, found True"),
    ({"architecture": ARCHITECTURE | {"norm": ["gn"]}}, "architecture.norm: expected str"),
    ({"architecture": ARCHITECTURE | {"norm": "../../gn"}}, "cannot be built"),
    ({"architecture": ARCHITECTURE | {"norm": "bn", "norm_kwargs": None}}, "not those of the network it describes"),
    ({"architecture": ARCHITECTURE | {"norm_kwargs": {"grops": 4}}}, "cannot be built"),
    ({"architecture": ARCHITECTURE | {"norm_kwargs": [4]}}, "architecture.norm_kwargs: expected mapping or null"),
    ({"architecture": {"norm": "gn"}}, "architecture.num_classes: expected a value, found none"),
    ({"class_names": ["a"]}, "class_names: expected null, or as many names"),
    ({"class_names": [1] * 6}, "class_names: expected null, or as many names"),
    ({"class_names": "abcdef"}, "class_names: expected null, or as many names"),
    ({"class_names": None}, "no class_names"),
    ({"clip": None}, "no clip"),
    ({"clip": [4]}, "clip: expected null or a mapping"),
    ({"clip": {"frames": 4.0}}, "clip.frames: expected int, found 4.0"),
    ({"clip": {"frames": -4}}, "clip.frames: expected at least 1"),
    ({"clip": {"mean": [0.5, 0.5, None]}}, "clip.mean: expected 3 numbers"),
    ({"clip": {"std": [0.5, 0.5, 10**400]}}, "clip.std"),
    ({"clip": {"protocol": {"positions": "middle"}}}, "clip.protocol.positions: expected ends or segments"),
    ({"clip": {"fps": 3}}, "unknown fields ['fps']"),
    ({"files": {}}, "files.weights.safetensors.sha256"),
    ({"files": {"weights.safetensors": {"sha256": "../../secret"}}}, "not the file that card.json belongs to"),
    ({"files": ["weights.safetensors"]}, "files.weights.safetensors.sha256"),
]


@pytest.mark.parametrize(("entries", "words"), NONSENSE, ids=[words for _, words in NONSENSE])
def test_wrong_cards(entries, words, tmp_path, model, card):
    folder = write_folder(tmp_path / "exported", model, card)
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    refused(folder, words)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"architecture": ' + b"9" * 5000 + b"}",
        b'{"a": "' + b"x" * (17 << 20) + b'"}',
    ],
    ids=["empty", "list", "no utf-8", "deep", "long number", "huge"],
)
def test_cards_that_are_none(text, tmp_path, model, card):
    folder = write_folder(tmp_path / "exported", model, card)
    (folder / "card.json").write_bytes(text)
    refused(folder, "card.json: ")


def test_a_checkpoint_with_wrong_entries(checkpoint, tmp_path):
    whole = torch.load(checkpoint, weights_only=True)
    for changed, words in (
        ({"state_dict": [1]}, "state_dict: expected a mapping of tensors"),
        ({"state_dict": {"network.blocks.0.conv.weight": 3}}, "state_dict: expected a mapping of tensors"),
        ({"videogn": 7}, "videogn: expected a mapping, found 7"),
        ({"hyper_parameters": {"dropout": 7}}, "cannot be built: dropout"),
    ):
        torch.save(whole | changed, tmp_path / "wrong.ckpt")
        refused(tmp_path / "wrong.ckpt", "wrong.ckpt", words)


def test_command_line_shows_the_message_alone(tmp_path, tiny_data, capsys):
    save_file({"conv1.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    video = str(next((tiny_data / "val" / "left").iterdir()))
    assert main(["classify", video, "--checkpoint", str(tmp_path / "other.safetensors")]) == 2
    assert "videogn weights import" in capsys.readouterr().err


def test_importing_the_module_does_not_import_safetensors():
    code = "import videogn.checkpoint, sys; assert 'safetensors' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
