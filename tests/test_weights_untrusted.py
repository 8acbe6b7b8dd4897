"""A file of weights does nothing that it asks for, takes no more memory than it has, and is refused with a message."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from videogn.errors import UsageError
from videogn.weights import read_source


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(data)
    return path


class Run:
    """Pickled, it is a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def short(text: str) -> bytes:
    """SHORT_BINUNICODE"""
    return b"\x8c" + bytes([len(text)]) + text.encode()


def calls(module: str, name: str, *arguments: str) -> bytes:
    """A pickle of protocol 4 that calls what STACK_GLOBAL finds."""
    return b"\x80\x04" + short(module) + short(name) + b"\x93(" + b"".join(map(short, arguments)) + b"tR."


F4 = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"


def attacks(mark: str) -> dict[str, bytes]:
    touch = f"touch {mark}"
    python = f"open({mark!r}, 'w')"
    line = touch.encode()
    string = b"U" + bytes([len(line)]) + line
    old_python = b"X" + struct.pack("<i", len(python)) + python.encode()
    objects = np.array([Run(touch)], dtype=object)
    found = {f"os.system, protocol {p}": pickle.dumps({"blobs": {"a": Run(touch)}}, p) for p in range(6)}
    found |= {f"object array, protocol {p}": pickle.dumps({"blobs": {"a": objects}}, p) for p in range(6)}
    return found | {
        "eval": calls("builtins", "eval", python),
        "exec": calls("builtins", "exec", python),
        "eval of Python 2": b"\x80\x02c__builtin__\neval\n" + old_python + b"\x85R.",
        "execfile": calls("__builtin__", "execfile", "/etc/hostname"),
        "import": calls("builtins", "__import__", "antigravity"),
        "getattr": calls("builtins", "getattr", "os", "system"),
        "dotted name": calls("numpy", "ndarray.__class__.__base__.__subclasses__"),
        "dotted path to os": calls("numpy", "os.system", touch),
        "a class's method": calls("numpy.core.multiarray", "_reconstruct.__globals__.__getitem__", "os"),
        "numpy's loader": calls("numpy", "load", mark),
        "numpy.core.numeric": calls("numpy.core.numeric", "loads", touch),
        "subprocess": calls("subprocess", "getoutput", touch),
        "runpy": calls("runpy", "_run_code", python),
        "operator": calls("operator", "attrgetter", "system"),
        "functools": calls("functools", "partial", "os.system"),
        "codecs decode": calls("_codecs", "decode", "aa", "hex"),
        "codec by name": calls("_codecs", "encode", "aa", "rot13"),
        "copy_reg": b"\x80\x02ccopy_reg\n_reconstructor\ncnumpy\nndarray\nc__builtin__\nobject\nN\x87R.",
        "copyreg": calls("copyreg", "add_extension", "os", "system", "7"),
        "INST": b"(S'" + line + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + line + b"'\no.",
        "NEWOBJ": b"\x80\x02cnumpy\nndarray\nK\x01\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04cnumpy\nndarray\n)}\x92.",
        "EXT1": b"\x80\x02\x82\x07.",
        "persistent name": b"\x80\x02" + string + b"Q.",
        "persistent name, as text": b"Pos.system\n.",
        "buffer": b"\x80\x05\x97.",
        "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b".",
        "state for a function": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}" + string + b"K\x01sb.",
        "attributes for a function": b"\x80\x02ccollections\nOrderedDict\nN}" + string + b"K\x01s\x86b.",
        "attributes for an array": b"\x80\x02" + ARRAY + b"N}U\x06valuesK\x01s\x86b.",
        "objects in place of bytes": b"\x80\x02" + ARRAY + b"(K\x01K\x01\x85" + F4 + b"\x89](K\x01etb.",
        "structured type": b"\x80\x02cnumpy\ndtype\nU\x02V8K\x00K\x01\x87R.",
        "a type of fields": b"\x80\x02cnumpy\ndtype\n]U\x01aU\x01O\x86a\x85R.",
        "scalar of objects": b"\x80\x02" + SCALAR + F4.replace(b"\x02f4", b"\x01O") + string + b"\x86R.",
        "wrong shape": b"\x80\x02" + ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + F4 + b"\x89" + string + b"tb.",
        "negative shape": b"\x80\x02" + ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + F4 + b"\x89U\x00tb.",
        "a string longer than the file": b"\x80\x02T\xff\xff\xff\x7fabc.",
        "a number in a place of its own": b"\x80\x02}r\xff\xff\xff\xff.",
        "a key that takes forever": b"\x80\x02}" + b")" + b"2\x86" * 200 + b"K\x01s.",
        "a frame longer than the file": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    }


@pytest.mark.parametrize("name", attacks("x"))
def test_pickles_that_want_more_than_arrays(tmp_path, name):
    mark = tmp_path / "mark"
    path = write(tmp_path, attacks(str(mark))[name])
    with pytest.raises(UsageError, match="file: "):
        read_source(path)
    assert not mark.exists()


def test_the_attacks_are_real(tmp_path):
    """With Python's own reader they do what the test above says that they do not."""
    for name in ("os.system, protocol 2", "object array, protocol 2", "eval", "INST", "OBJ", "subprocess"):
        mark = tmp_path / name
        pickle.loads(attacks(f"'{mark}'" if name != "eval" else str(mark))[name])
        assert mark.exists(), name


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_that_run_something(tmp_path, legacy):
    mark = tmp_path / "mark"
    path = tmp_path / "file"
    command = Run(f"touch {mark}")
    for value in (command, {"state_dict": {"conv1.weight": torch.zeros(1)}, "optimizer": command}):
        torch.save(value, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(UsageError, match=r"weights_only=True \(.*GLOBAL posix\.system.*\).*If you trust the file"):
            read_source(path)
        assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_torch_file_of_a_module(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "file")
    with pytest.raises(UsageError, match="save the tensors alone"):
        read_source(tmp_path / "file")


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torchscript(tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(tmp_path / "file")
    with pytest.raises(UsageError, match="a TorchScript program"):
        read_source(tmp_path / "file")


def test_torch_file_that_fills_the_memory(tmp_path):
    path = tmp_path / "file"
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, path)  # a view of one number
    with pytest.raises(UsageError, match=r"a of shape \(1000000, 1000000\) is larger than the file"):
        read_source(path)
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "plain")
    with zipfile.ZipFile(tmp_path / "plain") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert path.stat().st_size < 10**5
    with pytest.raises(UsageError, match=r"promises \d{7}"):
        read_source(path)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_torch_values_that_are_no_plain_tensors(tmp_path):
    for value in (torch.zeros(2, 2).to_sparse(), torch.zeros(2, device="meta")):
        torch.save({"a": value}, tmp_path / "file")
        with pytest.raises(UsageError, match="expected plain values"):
            read_source(tmp_path / "file")


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "data",
    [
        safetensors({"a": entry(0, 4000, [1000])}, b"\0" * 16),
        safetensors({"a": entry(0, 16, [10**9])}, b"\0" * 16),
        safetensors({"a": entry(0, 16, [2**62, 4])}, b"\0" * 16),
        safetensors({"a": entry(8, 24, [4]), "b": entry(0, 16, [4])}, b"\0" * 24),
        safetensors({"a": entry(16, 0, [4])}, b"\0" * 16),
        safetensors({"a": entry(0, 16, [4], "X9")}, b"\0" * 16),
        safetensors({"a": entry(0, 16, [4])}, b"\0" * 16, length=5000),
        safetensors({"a": entry(0, 16, [4])}, b"\0" * 16, length=2**33),
        safetensors({"a": entry(0, 16, [4])}, b"\0" * 16, length=2**63),
        safetensors({"a": entry(0, 16, [4])}, b"\0" * 16, length=7),
        safetensors(b"{not json", b"\0" * 16),
        safetensors({}),
        safetensors({"a": entry(0, 16, [4]), "__metadata__": {"videogn": "{"}}, b"\0" * 16),
        safetensors({"a": entry(0, 16, [4]), "__metadata__": {"videogn": "[" * 100_000}}, b"\0" * 16),
    ],
)
def test_safetensors_that_lie(tmp_path, data):
    with pytest.raises(UsageError, match="file: "):
        read_source(write(tmp_path, data))
