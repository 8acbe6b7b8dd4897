"""Pickles of Python 2 with numpy arrays, as caffe2's programs wrote them, read without running what they say.

A pickle is a program: it names callables and calls them. Three things keep that harmless here. Only operations that
build plain values and arrays are known. The names that a pickle may use stand for callables of this module, not for
numpy's. And arrays are made from their bytes, after their shape and number type are checked against them, so that
nothing of numpy's own unpickling sees the file.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from videogn.errors import UsageError

# What builds plain values, and the two steps by which an array comes about. Left out are extension codes, persistent
# names, buffers from outside, sets, and the operations that make instances of classes.
_OPERATIONS = """
    PROTO FRAME STOP MARK POP POP_MARK DUP
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS
    GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE
    GLOBAL STACK_GLOBAL REDUCE BUILD
""".split()  # noqa: SIM905, easier to compare with pickletools' list
_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


def read_pickle(path: Path) -> Any:
    """The value in a pickle of protocol 0 to 5, strings of Python 2 as latin-1.

    On top and one dictionary further down, where caffe2's files have their blobs, numpy arrays become tensors and numpy
    scalars tensors without dimensions. Tuples become lists.

    Raises:
        UsageError: a damaged file; one that names anything but numpy's arrays, scalars and number types (object arrays
            are refused), or that does anything but build plain values of them.
    """
    try:
        # In memory as a whole, where a length in the file cannot make the reader reserve more than there is.
        data = path.read_bytes()
        value = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        return _tensors(value, depth=2)
    except _Refused as error:
        raise UsageError(
            f"{path}: refused, nothing was executed: {error}. Expected a pickle of numpy arrays, strings, numbers and "
            "plain containers, as caffe2 wrote them"
        ) from error
    except Exception as error:  # pickle raises many types, down to IndexError, for bytes that are no pickle
        raise UsageError(f"{path}: not a readable pickle ({str(error)[:200] or type(error).__name__})") from error


class _Refused(Exception):
    pass


def _list_of(count: int) -> Callable[[Any], None]:
    def load(reader: Any) -> None:
        reader.stack[-count:] = [reader.stack[-count:]]

    return load


class _Unpickler(pickle._Unpickler):
    """Python's own reader in Python: the one in C has no table of operations to choose from, and a number in the file
    decides how much memory it takes for values to come back to.
    """

    dispatch: ClassVar = {
        **{code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in _OPERATIONS)},
        # Lists for tuples, because lists are no keys: tuples of tuples of the same tuple take forever to hash.
        pickle.EMPTY_TUPLE[0]: pickle._Unpickler.dispatch[pickle.EMPTY_LIST[0]],
        pickle.TUPLE[0]: pickle._Unpickler.dispatch[pickle.LIST[0]],
        pickle.TUPLE1[0]: _list_of(1),
        pickle.TUPLE2[0]: _list_of(2),
        pickle.TUPLE3[0]: _list_of(3),
    }

    def load(self) -> Any:
        try:
            return super().load()
        except KeyError as error:  # a byte that is not in the table
            raise _Refused(f"it has the operation {error}, which builds neither plain values nor arrays") from error

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise _Refused(f"it asks for {(module + '.' + name)[:100]!r}")
        return found


class _Callable:
    """What a name in a pickle stands for: it can be called and nothing else."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("it changes a function")


class _NumberType:
    """In place of ``numpy.dtype``: a number type by its code, then its byte order as the state."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any = None, *_: Any) -> None:
        code = code.lstrip("<>|=") if isinstance(code, str) else code
        if not isinstance(code, str) or code not in _NUMBERS:
            raise _Refused(f"it has an array of {code[:20] if isinstance(code, str) else 'objects'}, not of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subtype, names, fields, size, alignment, flags): numpy/_core/src/multiarray/descriptor.c
        if not isinstance(state, list) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise _Refused("it has a number type without a byte order")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """In place of ``numpy.ndarray``: empty, then filled from its state."""

    __slots__ = ("values",)

    def __init__(self, *_: Any) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        # (version, shape, number type, Fortran order, bytes): numpy/_core/src/multiarray/methods.c, array_setstate
        if not isinstance(state, list) or len(state) != 5:
            raise _Refused("it has an array without shape and values")
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _NumberType):
            raise _Refused("it has an array without a number type")
        if not isinstance(shape, list) or len(shape) > 8 or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise _Refused("it has an array without a shape")
        values = np.frombuffer(_bytes(data), dtype.dtype)
        if math.prod(shape) != values.size:
            raise _Refused(f"it has an array of shape {tuple(shape)} with {values.size} values")
        self.values = values.reshape(shape, order="F" if fortran else "C")


def _bytes(data: Any) -> bytes:
    """Bytes of a pickle, which come as a string of latin-1 where Python 2 wrote it."""
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, bytes):
        raise _Refused(f"it has {type(data).__name__} where the bytes of an array belong")
    return data


def _scalar(dtype: Any, data: Any) -> _Array:
    array = _Array()
    array.__setstate__([1, [], dtype, False, data])
    return array


def _encode(text: Any, encoding: Any = None) -> bytes:
    """In place of ``_codecs.encode``, by which Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("it encodes something that is not the bytes of an array")
    return text.encode("latin1")


_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED: dict[tuple[str, str], _Callable] = {
    **{(module, "_reconstruct"): _Callable(_Array) for module in _ARRAYS},
    **{(module, "scalar"): _Callable(_scalar) for module in _ARRAYS},
    ("numpy", "ndarray"): _Callable(_Array),
    ("numpy", "dtype"): _Callable(_NumberType),
    ("collections", "OrderedDict"): _Callable(dict),
    ("_codecs", "encode"): _Callable(_encode),
}


def _tensors(value: Any, depth: int) -> Any:
    if isinstance(value, dict) and depth:
        return {name: _tensors(each, depth - 1) for name, each in value.items()}
    if isinstance(value, _Array) and value.values is not None:
        # A copy, in this machine's byte order, that torch may write to.
        return torch.from_numpy(value.values.astype(value.values.dtype.newbyteorder("="), order="C", copy=True))
    return value
