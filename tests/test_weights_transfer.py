"""From a source into a network: inflation by its formula, all or nothing, and a reason for whatever is not taken."""

import json

import pytest
import torch
from peer_layouts import random_weights

from videogn.errors import UsageError
from videogn.i3d import i3d_resnet
from videogn.norms import NORMS
from videogn.weights import Source, inflate, transfer

WIDTH, CLASSES = 8, 5
GROUPS = {"gn": {"num_groups": 4}, "gn_ws": {"num_groups": 4}}


def architecture(norm="bn", **changes):
    entries = {"num_classes": CLASSES, "depth": 50, "variant": "8x8", "width": WIDTH, "norm": norm}
    return entries | {"norm_kwargs": GROUPS.get(norm)} | changes


def source(norm="bn", variant="8x8", **changes):
    """A file with random weights, whose names are this project's with ``file.`` before them."""
    tensors = random_weights(
        depth=changes.get("depth", 50),
        variant=variant,
        norm="bn" if norm in ("bn", "brn", "sub_bn", "frozen_bn") else "gn",
        width=changes.pop("width", WIDTH),
        classes=changes.pop("classes", CLASSES),
    )
    entries = {
        "path": "some.pth",
        "format": "videogn",
        "tensors": tensors,
        "names": {name: f"file.{name}" for name in tensors},
        "ignored": {},
        "unexplained": (),
        "norm": norm,
        "norm_kwargs": GROUPS.get(norm),
        "depth": 50,
        "variant": variant,
    }
    return Source(**(entries | changes))


def build(arch):
    return i3d_resnet(**arch)


def refused(arch, weights, *words, **options):
    """A transfer raises UsageError with these words, and leaves the network as it was."""
    net = build(arch)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(UsageError) as error:
        transfer(net, arch, weights, **options)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


# -- inflation ---------------------------------------------------------------------------------------------------------


def test_inflation_by_its_formula():
    weight = torch.randn(2, 3, 5, 7)
    mean, center = inflate(weight, 5, "mean"), inflate(weight, 5, "center")
    assert mean.shape == center.shape == (2, 3, 5, 5, 7)
    torch.testing.assert_close(mean.sum(2), weight)
    assert all(torch.equal(mean[:, :, t], weight / 5) for t in range(5))
    assert torch.equal(center[:, :, 2], weight)
    assert center[:, :, [0, 1, 3, 4]].abs().max() == 0
    assert torch.equal(inflate(weight.unsqueeze(2), 1), weight.unsqueeze(2))


def test_inflation_refuses_what_it_cannot_do():
    with pytest.raises(UsageError, match="'mean', 'center'"):
        inflate(torch.zeros(1, 1, 1, 1), 3, "middle")
    with pytest.raises(ValueError, match="odd number of frames, found 2"):
        inflate(torch.zeros(1, 1, 1, 1), 2, "center")
    with pytest.raises(ValueError, match=r"found shape \(1, 1, 3, 1, 1\)"):
        inflate(torch.zeros(1, 1, 3, 1, 1), 5)


# -- what is taken -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inflation", ["mean", "center"])
def test_a_pictures_network_is_inflated_and_all_of_it_is_reported(inflation):
    arch, weights = architecture(), source(variant="2d")
    net = build(arch)
    report = transfer(net, arch, weights, inflation=inflation)
    state = net.state_dict()
    for name, tensor in weights.tensors.items():
        expected = inflate(tensor, state[name].shape[2], inflation) if tensor.dim() == 4 else tensor
        assert torch.equal(state[name], expected), name
    # conv1, the 3 blocks of res2, every other one of res3 (2 of 4), res4 (3 of 6) and res5 (1 of 3)
    assert len(report.inflated) == 1 + 3 + 2 + 3 + 1
    assert {t.name for t in (*report.loaded, *report.inflated)} == set(weights.tensors)
    assert not report.missing
    assert not report.skipped
    text = report.text()
    assert f"inflated ({inflation}) 10" in text
    assert "7x7 -> 5x7x7" in text
    assert len(text.splitlines()) == 4
    full = report.text(every_tensor=True)
    assert "file.blocks.0.conv.weight (8, 3, 7, 7) -> blocks.0.conv.weight (8, 3, 5, 7, 7)" in full
    assert len(full.splitlines()) == 4 + len(weights.tensors)
    assert json.loads(json.dumps(report.summary()))["inflated"] == 10


@pytest.mark.parametrize("norm", NORMS)
def test_videogn_to_videogn_is_tensor_by_tensor(norm):
    arch, weights = architecture(norm), source(norm)
    net = build(arch)
    transfer(net, arch, weights)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in weights.tensors.items())


BATCH = ("bn", "brn", "sub_bn", "frozen_bn")


@pytest.mark.parametrize("theirs", NORMS)
@pytest.mark.parametrize("ours", NORMS)
def test_which_norms_load_into_which(theirs, ours):
    arch, weights = architecture(ours), source(theirs)
    if theirs == ours or {theirs, ours} <= set(BATCH):
        net = build(arch)
        report = transfer(net, arch, weights)
        assert not report.missing
        assert torch.equal(net.blocks[0].norm.weight, weights.tensors["blocks.0.norm.weight"])
        return
    refused(arch, weights, f"norm {theirs}", f"has {ours}", "without a missing key and accuracy would collapse")
    net = build(arch)
    initial = {name: tensor.clone() for name, tensor in net.state_dict().items() if "norm" in name}
    report = transfer(net, arch, weights, convert_norm=True)
    state = net.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in initial.items())
    for name, tensor in weights.tensors.items():
        assert "norm" in name or torch.equal(state[name], tensor), name
    assert {weights.names[name] for name in weights.tensors if "norm" in name} == set(report.skipped)
    assert set(report.missing) == {name for name in initial if "num_batches" not in name}


def test_groups_decide_whether_group_norms_are_the_same():
    refused(architecture("gn", norm_kwargs={"num_groups": 8}), source("gn"), "gn (4 groups)", "gn (8 groups)")
    refused(architecture("gn_ws", norm_kwargs={"num_groups": 8}), source("gn_ws"), "(4 groups)", "(8 groups)")
    one = architecture("gn", norm_kwargs={"num_groups": 1})
    assert not transfer(build(one), one, source("ln")).missing
    per_channel = architecture("gn", norm_kwargs={"channels_per_group": 1})
    assert not transfer(build(per_channel), per_channel, source("in")).missing


def test_another_eps_is_noted():
    arch = architecture("bn", norm_kwargs={"eps": 1e-3})
    assert "0.001 in the network" in transfer(build(arch), arch, source("bn")).text()


def test_another_variant_of_video_networks_is_noted():
    arch = architecture(variant="32x2")
    assert "variant 8x8, the network of 32x2" in transfer(build(arch), arch, source()).text()


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_another_network_is_named_with_the_options_to_set():
    weights = source(depth=101, width=16)
    refused(architecture(), weights, "101 in the file, 50 in the network", "--model.depth 101", "--model.width 16")
    refused(architecture(variant="2d"), source(), "variant", "for pictures")


def test_what_nothing_explains_is_refused_unless_it_is_named():
    extra = "file.nonlocal_conv3_1_theta_w"
    weights = source(unexplained=(extra,))
    refused(architecture(), weights, extra, "init_ignore", "--ignore")
    refused(architecture(), weights, "no name in the file matches", "'nothing*'", ignore=["*nonlocal*", "nothing*"])
    arch = architecture()
    report = transfer(build(arch), arch, weights, ignore=["*nonlocal*"])
    assert report.skipped[extra] == (None, "ignored by '*nonlocal*'")
    assert "1: ignored by '*nonlocal*'" in report.text()
    misplaced = source()
    tensors = dict(misplaced.tensors) | {"blocks.1.res_blocks.7.branch2.conv_a.weight": torch.zeros(1)}
    refused(architecture(), source(tensors=tensors), "1 with no place", "res_blocks.7")


def test_what_the_program_writes_beside_weights_is_reported_as_skipped():
    arch = architecture()
    report = transfer(build(arch), arch, source(ignored={"conv1_w_momentum": "momentum of the optimiser"}))
    assert "skipped 1: momentum of the optimiser\n    conv1_w_momentum" in report.text()


@pytest.mark.parametrize("name", ["blocks.0.conv.weight", "blocks.4.res_blocks.2.branch2.norm_b.running_var"])
def test_a_missing_tensor_is_refused(name):
    tensors = without(source().tensors, name)
    refused(architecture(), source(tensors=tensors), "1 of the network are not in the file", name)


def test_wrong_shapes_and_values_are_all_in_one_message():
    tensors = dict(source().tensors)
    tensors["blocks.0.norm.weight"] = torch.zeros(3)
    tensors["blocks.0.norm.bias"] = torch.full((WIDTH,), float("nan"))
    tensors["blocks.0.norm.running_var"] = torch.full((WIDTH,), -1.0)
    refused(
        architecture(),
        source(tensors=tensors),
        "file.blocks.0.norm.weight (3,) for blocks.0.norm.weight (8,)",
        "2 hold NaN",
        "file.blocks.0.norm.bias, file.blocks.0.norm.running_var",
    )


def test_temporal_kernels_of_other_lengths_are_not_inflated():
    tensors = dict(source().tensors)
    tensors["blocks.1.res_blocks.0.branch2.conv_a.weight"] = torch.zeros(WIDTH, WIDTH, 1, 1, 1)
    refused(architecture(), source(tensors=tensors), "(8, 8, 1, 1, 1) for", "(8, 8, 3, 1, 1)")


# -- the classifier ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "names", "why"),
    [
        ({"classes": 7}, None, "7 classes in the file, 5 in the network"),
        ({"class_names": tuple("abcde")}, tuple("abcxe"), "number 3 is 'd' in the file and 'x' here"),
        ({"tensors": without(source().tensors, "blocks.6.proj.weight", "blocks.6.proj.bias")}, None, "has none"),
    ],
)
def test_another_classifier_is_refused_or_left_out(changes, names, why):
    arch, weights = architecture(), source(**changes)
    refused(arch, weights, "classifier", why, class_names=names)
    net = build(arch)
    initial = net.blocks[6].proj.weight.clone()
    report = transfer(net, arch, weights, new_head=True, class_names=names)
    assert torch.equal(net.blocks[6].proj.weight, initial)
    assert list(report.missing) == ["blocks.6.proj.weight", "blocks.6.proj.bias"]
    assert why in report.text()


def test_a_classifier_of_the_same_classes_is_taken():
    arch, weights = architecture(), source(class_names=tuple("abcde"))
    net = build(arch)
    report = transfer(net, arch, weights, new_head=True, class_names=list("abcde"))
    assert torch.equal(net.blocks[6].proj.weight, weights.tensors["blocks.6.proj.weight"])
    assert not report.missing
