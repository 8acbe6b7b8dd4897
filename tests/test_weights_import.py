"""``videogn weights import`` and ``show``: what they write, print and refuse."""

import pytest
import torch
from peer_layouts import detectron, python2_pickle, random_weights
from peer_layouts import torchvision as as_torchvision

import videogn
from videogn.checkpoint import description, read, write_weights
from videogn.cli import main
from videogn.i3d import i3d_resnet
from videogn.norms import NORMS
from videogn.weights import FORMATS
from videogn.weights_cli import _NORMS
from videogn.weights_cli import FORMATS as OFFERED

WIDTH, CLASSES = 8, 5
BUILT = {"num_classes": CLASSES, "depth": 50, "variant": "8x8", "width": WIDTH, "norm": "bn", "norm_kwargs": None}


def test_the_command_line_offers_what_there_is():
    assert set(OFFERED) == {"auto", *FORMATS}
    assert _NORMS == NORMS


@pytest.fixture
def picture_file(tmp_path):
    path = tmp_path / "picture.pth"
    torch.save(as_torchvision(random_weights(variant="2d", width=WIDTH, classes=CLASSES)), path)
    return path


def test_import_writes_a_file_that_says_what_it_is(picture_file, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    command = ["weights", "import", str(picture_file), "-o", str(out), "--inflate", "center", "--variant", "8x8"]
    assert main([*command, "--frames", "16"]) == 0
    printed = capsys.readouterr().out
    assert "inflated (center) 10" in printed
    assert "no class names" in printed
    assert "--class-names" in printed
    card = read(out)["videogn"]
    assert card["architecture"] == BUILT
    assert (card["clip"]["frames"], card["clip"]["stride"], card["clip"]["std"]) == (16, 8, [0.229, 0.224, 0.225])
    assert card["source"]["format"] == "torchvision"
    assert len(card["source"]["sha256"]) == 64
    assert card["import"]["inflated"] == 10
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert main(["weights", "show", str(out)]) == 0
    assert "ResNet-50 for videos, 8x8, norm bn" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--norm", "ln"], ["norm bn", "has ln", "--convert-norm"]),
        (["--class-names", "kinetics400"], ["5 names", "found 400"]),
        (["--ignore", "nothing"], ["'nothing'"]),
        (["--from", "slowfast"], ["slowfast", "torchvision"]),
        (["--frames", "0"], ["clip.frames", "0"]),
    ],
)
def test_import_explains_wrong_options_and_writes_nothing(picture_file, tmp_path, capsys, options, words):
    out = tmp_path / "out.safetensors"
    assert main(["weights", "import", str(picture_file), "-o", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert "Traceback" not in error
    assert not out.exists()


@torch.no_grad()
def test_detectrons_pixels_and_channel_order_end_in_the_same_logits(tmp_path):
    """Detectron's network sees B, G, R in [0, 255] minus a mean; this project's sees uint8 R, G, B."""
    weights = random_weights(variant="2d", norm="gn", width=32, classes=CLASSES)
    for name, tensor in weights.items():
        if tensor.dim() == 4:
            tensor.mul_((2 / tensor[0].numel()) ** 0.5 * (0.01 if name == "blocks.0.conv.weight" else 1))
    path, out, names = tmp_path / "R-50-GN.pkl", tmp_path / "out.safetensors", tmp_path / "names.txt"
    path.write_bytes(python2_pickle({"blobs": detectron(weights)}))
    names.write_text("\n".join("abcde"))
    assert main(["weights", "import", str(path), "-o", str(out), "--variant", "2d", "--class-names", str(names)]) == 0
    model = videogn.load(out)

    theirs = i3d_resnet(CLASSES, variant="2d", norm="gn", width=32).eval()
    theirs.load_state_dict({n: t.unsqueeze(2) if t.dim() == 4 else t for n, t in weights.items()})
    # The builder takes this project's weights, for R, G, B, and writes B, G, R: the network it stands for.
    stem = theirs.blocks[0].conv
    stem.weight.copy_(stem.weight.flip(1))
    picture = torch.randint(0, 256, (1, 3, 1, 64, 64), dtype=torch.uint8)
    means = torch.tensor([102.9801, 115.9465, 122.7717]).view(1, 3, 1, 1, 1)
    expected = theirs(picture.flip(1).float() - means)
    torch.testing.assert_close(model(picture), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_norm_of_python_code_is_not_guessed(tmp_path, capsys):
    path = tmp_path / "custom.safetensors"
    write_weights(path, i3d_resnet(**BUILT).state_dict(), description(BUILT | {"norm": "custom"}, None, None))
    assert main(["weights", "import", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "'custom'" in capsys.readouterr().err
