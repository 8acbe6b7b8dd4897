"""Files of weights are data: what is in them is read, and nothing that they ask for is done."""

from __future__ import annotations

import base64
import collections
import contextlib
import pickle
import random
from pathlib import Path

import numpy as np
import peer_layouts
import pytest
import torch
from peer_layouts import python2_pickle, random_weights
from safetensors.torch import save_file

from videogn.errors import UsageError
from videogn.weights import read_source
from videogn.weights.containers import open_weights
from videogn.weights.pickles import read_pickle

# Written by Python 2.7.18 and numpy 1.16.6, cPickle.dumps(value, protocol) of
#   {'blobs': {'conv1_w': np.arange(4, dtype='f4').reshape(2, 2), 'f': np.asfortranarray(np.arange(6.).reshape(2, 3)),
#              'be': np.arange(3, dtype='>f4'), 'lr': np.array(0.25, 'f4'), u'u_s': np.float32(2.5), 'model_iter': 7}}
PYTHON2 = {
    0: (
        "KGRwMQpTJ2Jsb2JzJwpwMgooZHAzClMnYmUnCnA0CmNudW1weS5jb3JlLm11bHRpYXJyYXkKX3JlY29uc3RydWN0CnA1CihjbnVt"
        "cHkKbmRhcnJheQpwNgooSTAKdFMnYicKdFJwNwooSTEKKEkzCnRjbnVtcHkKZHR5cGUKcDgKKFMnZjQnCkkwCkkxCnRScDkKKEkz"
        "ClMnPicKTk5OSS0xCkktMQpJMAp0YkkwMApTJ1x4MDBceDAwXHgwMFx4MDA/XHg4MFx4MDBceDAwQFx4MDBceDAwXHgwMCcKdGJz"
        "UydmJwpnNQooZzYKKEkwCnRTJ2InCnRScDEwCihJMQooSTIKSTMKdGc4CihTJ2Y4JwpJMApJMQp0UnAxMQooSTMKUyc8JwpOTk5J"
        "LTEKSS0xCkkwCnRiSTAxClMnXHgwMFx4MDBceDAwXHgwMFx4MDBceDAwXHgwMFx4MDBceDAwXHgwMFx4MDBceDAwXHgwMFx4MDBc"
        "eDA4QFx4MDBceDAwXHgwMFx4MDBceDAwXHgwMFx4ZjA/XHgwMFx4MDBceDAwXHgwMFx4MDBceDAwXHgxMEBceDAwXHgwMFx4MDBc"
        "eDAwXHgwMFx4MDBceDAwQFx4MDBceDAwXHgwMFx4MDBceDAwXHgwMFx4MTRAJwp0YnNWdV9zCnAxMgpjbnVtcHkuY29yZS5tdWx0"
        "aWFycmF5CnNjYWxhcgpwMTMKKGc4CihTJ2Y0JwpJMApJMQp0UnAxNAooSTMKUyc8JwpOTk5JLTEKSS0xCkkwCnRiUydceDAwXHgw"
        "MCBAJwp0UnAxNQpzUydtb2RlbF9pdGVyJwpwMTYKSTcKc1MnbHInCnAxNwpnNQooZzYKKEkwCnRTJ2InCnRScDE4CihJMQoodGcx"
        "NApJMDAKUydceDAwXHgwMFx4ODA+Jwp0YnNTJ2NvbnYxX3cnCnAxOQpnNQooZzYKKEkwCnRTJ2InCnRScDIwCihJMQooSTIKSTIK"
        "dGcxNApJMDAKUydceDAwXHgwMFx4MDBceDAwXHgwMFx4MDBceDgwP1x4MDBceDAwXHgwMEBceDAwXHgwMEBAJwp0YnNzLg=="
    ),
    2: (
        "gAJ9cQFVBWJsb2JzcQJ9cQMoVQJiZXEEY251bXB5LmNvcmUubXVsdGlhcnJheQpfcmVjb25zdHJ1Y3QKcQVjbnVtcHkKbmRhcnJh"
        "eQpxBksAhVUBYodScQcoSwFLA4VjbnVtcHkKZHR5cGUKcQhVAmY0SwBLAYdScQkoSwNVAT5OTk5K/////0r/////SwB0YolVDAAA"
        "AAA/gAAAQAAAAHRiVQFmaAVoBksAhVUBYodScQooSwFLAksDhmgIVQJmOEsASwGHUnELKEsDVQE8Tk5OSv////9K/////0sAdGKI"
        "VTAAAAAAAAAAAAAAAAAAAAhAAAAAAAAA8D8AAAAAAAAQQAAAAAAAAABAAAAAAAAAFEB0YlgDAAAAdV9zcQxjbnVtcHkuY29yZS5t"
        "dWx0aWFycmF5CnNjYWxhcgpxDWgIVQJmNEsASwGHUnEOKEsDVQE8Tk5OSv////9K/////0sAdGJVBAAAIECGUnEPVQptb2RlbF9p"
        "dGVycRBLB1UCbHJxEWgFaAZLAIVVAWKHUnESKEsBKWgOiVUEAACAPnRiVQdjb252MV93cRNoBWgGSwCFVQFih1JxFChLAUsCSwKG"
        "aA6JVRAAAAAAAACAPwAAAEAAAEBAdGJ1cy4="
    ),
}


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", PYTHON2)
def test_a_pickle_of_python_2(tmp_path, protocol):
    blobs = read_pickle(write(tmp_path, base64.b64decode(PYTHON2[protocol])))["blobs"]
    assert torch.equal(blobs["conv1_w"], torch.arange(4.0).reshape(2, 2))
    assert torch.equal(blobs["f"], torch.arange(6.0, dtype=torch.float64).reshape(2, 3))  # Fortran order
    assert torch.equal(blobs["be"], torch.arange(3.0))  # big endian
    assert (blobs["lr"].item(), blobs["lr"].shape, blobs["u_s"].item(), blobs["model_iter"]) == (0.25, (), 2.5, 7)


def test_the_builder_of_pickles_agrees_with_python(tmp_path):
    """Python's own reader, numpy's own code: what the tests' files hold is what they are meant to."""
    value = {"blobs": {"a": np.arange(400, dtype=np.float32).reshape(4, 100), "lr": np.float64(0.5), "n": 3, "x": 0.5}}
    data = python2_pickle(value)
    theirs, ours = pickle.loads(data, encoding="latin1")["blobs"], read_pickle(write(tmp_path, data))["blobs"]
    for name, expected in value["blobs"].items():
        assert np.array_equal(theirs[name], expected), name
        assert np.array_equal(np.asarray(ours[name]), expected), name


@pytest.mark.parametrize("protocol", range(5))
def test_pickles_of_python_3(tmp_path, protocol):
    value = collections.OrderedDict(a=np.arange(6, dtype=np.float32).reshape(2, 3), n=np.int64(3), lr=0.5, text="é")
    found = read_pickle(write(tmp_path, pickle.dumps(value, protocol)))
    assert torch.equal(found["a"], torch.arange(6.0).reshape(2, 3))
    assert (found["n"].item(), found["lr"], found["text"]) == (3, 0.5, "é")


@pytest.mark.parametrize("nest", ["state_dict", "model_state", "model", "state_dict_ema", None])
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files(tmp_path, nest, legacy):
    path = tmp_path / "file.any"
    tensors = {"a.weight": torch.randn(3, 2), "a.bias": torch.randn(2)}
    value = {nest: tensors, "epoch": 3} if nest else tensors
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    contents = open_weights(path)
    assert (contents.nest, dict(contents.beside)) == (nest or "", {"epoch": 3} if nest else {})
    assert all(torch.equal(contents.entries[name], value) for name, value in tensors.items())


def test_trained_weights_before_their_average(tmp_path):
    path = tmp_path / "file"
    torch.save({"state_dict_ema": {"a": torch.zeros(1)}, "state_dict": {"a": torch.ones(1)}}, path)
    assert open_weights(path).entries["a"].item() == 1


def test_safetensors_by_content(tmp_path):
    path = tmp_path / "weights.pth"
    weights = random_weights(50, "2d")
    save_file({name: value.contiguous() for name, value in peer_layouts.torchvision(weights).items()}, path)
    source = read_source(path)
    assert source.format == "torchvision"
    assert all(torch.equal(source.tensors[name], value) for name, value in weights.items())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "found a web page"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, r"starts with b'\\x89HDF"),
        (b"PK\x03\x04" + b"\0" * 64, "torch cannot read"),
        (b"\x80\x02", "not a readable pickle"),
        (pickle.dumps([1, 2]), "expected names with tensors, found an object of type list"),
        (pickle.dumps({"blobs": {1: 2}}), "keys that are no strings"),
        (pickle.dumps({"blobs": {"a": 2, "lr": 0.1}}), "expected names with tensors, found 'a', 'lr'"),
    ],
)
def test_files_that_are_no_weights(tmp_path, data, message):
    with pytest.raises(UsageError, match=message):
        read_source(write(tmp_path, data))


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.pth: cannot read this checkpoint file .No such file"):
        read_source(tmp_path / "nothing.pth")
    with pytest.raises(UsageError, match="videogn weights export"):
        read_source(tmp_path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence", "ignore:Detected pickle protocol")
def test_damaged_files_give_messages(tmp_path):
    """Bytes changed, cut off and put in at random: a message or the contents, never another error."""
    torch.save({"state_dict": {"a": torch.zeros(3), "b": torch.ones(2, 2)}}, tmp_path / "zip")
    torch.save({"a": torch.zeros(3)}, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    save_file({"a": torch.zeros(3)}, tmp_path / "safetensors", {"format": "pt"})
    originals = [(tmp_path / name).read_bytes() for name in ("zip", "legacy", "safetensors")]
    originals += [base64.b64decode(data) for data in PYTHON2.values()]
    rng = random.Random(0)
    path = tmp_path / "file"
    for number in range(600):
        data = bytearray(originals[number % len(originals)])
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(data))
            change = rng.randrange(3)
            if change == 0:
                data[at] = rng.randrange(256)
            elif change == 1:
                del data[at : at + rng.choice((1, 4, 100))]
            else:
                data[at:at] = rng.randbytes(rng.choice((1, 4)))
            if not data:
                break
        path.write_bytes(data)
        with contextlib.suppress(UsageError):
            open_weights(path)
