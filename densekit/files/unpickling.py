"""Pickles of numpy arrays and plain containers, read without running anything that the file names.

A pickle is a program. Here it may call the handful of functions that numpy's own pickles call, and these only with what
describes plain numbers or text: a dtype that says it holds objects, or fields, would let raw bytes pass for pointers.
"""

import argparse
import codecs
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

# Where old and new numpy keep the functions that their pickles name.
_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_PLAIN_KINDS = "biufcSU"


class UnsafePickleError(pickle.UnpicklingError):
    """The file asks for something that is no plain data; the message says for what."""


class ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and plain containers; any other name in the file is refused before it is imported.

    ``load`` raises :class:`UnsafePickleError` then, and ``DAMAGED`` where the file is no whole pickle.

    Args:
        file: open for reading bytes.
        also: (module, name) -> further classes that the file may name.
    """

    DAMAGED = (
        pickle.UnpicklingError,
        AttributeError,
        EOFError,
        ImportError,
        LookupError,
        MemoryError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    )

    def __init__(self, file: IO[bytes], also: Mapping[tuple[str, str], Any] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self._known = _BUILDERS | dict(also or {})

    def find_class(self, module: str, name: str) -> Any:
        known = self._known.get((module, name))
        if known is None and module in _NUMPY_MODULES:
            known = _NUMPY_BUILDERS.get(name)
        if known is None:
            raise UnsafePickleError(f"{module}.{name}")
        return known

    def persistent_load(self, identity: Any) -> Any:
        raise UnsafePickleError(f"the persistent id {identity!r:.80}")


class _Dtype:
    """Stands for a dtype while its description comes in; ``made`` is the dtype."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        # Letters and digits are one number or text; anything else could be a list of fields.
        if not isinstance(name, str) or not name.lstrip("<>=|").isalnum():
            raise UnsafePickleError(f"a numpy dtype {name!r:.80}")
        self.made = _checked(np.dtype(name))

    def __setstate__(self, state: Any) -> None:
        # version, byte order, subdtype, names, fields; then sizes and flags, which follow from the name
        if not isinstance(state, tuple) or len(state) != 8 or any(state[2:5]):
            raise UnsafePickleError(f"a numpy dtype described by {state!r:.80}")
        self.made = _checked(self.made.newbyteorder(state[1]) if state[1] != "|" else self.made)


def _checked(dtype: np.dtype) -> np.dtype:
    if dtype.kind not in _PLAIN_KINDS or dtype.hasobject:
        raise UnsafePickleError(f"numpy arrays of {dtype}")
    return dtype


class _Array(np.ndarray):
    """An array that takes its content from a pickle with a dtype that has been checked."""

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype):
            raise UnsafePickleError(f"a numpy array of {dtype!r:.80}")
        super().__setstate__((version, shape, dtype.made, fortran, data))


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    if kind is not _Array:
        raise UnsafePickleError(f"a numpy array of class {kind!r:.80}")
    return np.empty(0, np.int8).view(_Array)  # shape and numbers follow


def _frombuffer(data: Any, dtype: _Dtype, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    array = np.frombuffer(data, dtype.made).reshape(shape, order=order)
    return array if axes is None else array.transpose(axes)


def _scalar(dtype: _Dtype, data: Any = b"") -> Any:
    return np.frombuffer(data if isinstance(data, bytes) else data.encode("latin1"), dtype.made)[0]


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 spells bytes; other codecs would decompress or decode what the file likes."""
    if codecs.lookup(encoding).name != "iso8859-1":
        raise UnsafePickleError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 spells bytes of no length; with an argument it would be a wish for memory."""
    return b""


class _LeftOut:
    """Stands for an object of a library that is not needed here, and drops what it held."""

    def __setstate__(self, state: Any) -> None:
        pass


_NUMPY_BUILDERS = {"_reconstruct": _reconstruct, "_frombuffer": _frombuffer, "scalar": _scalar}
_BUILDERS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1_bytes,
    ("collections", "OrderedDict"): OrderedDict,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
    ("argparse", "Namespace"): argparse.Namespace,  # the command line of a training: attributes and no code
}


def safe_beside_weights() -> list[Any]:
    """What training scripts keep beside the weights and torch does not take by itself, for its ``safe_globals``.

    That are command lines, numbers and arrays of numpy (with the checks of :class:`ArrayUnpickler`), and the curves of
    mmengine, which are left out.
    """
    numpy = {(module, name): made for module in _NUMPY_MODULES for name, made in _NUMPY_BUILDERS.items()}
    own = {key: made for key, made in _BUILDERS.items() if key[0] in ("numpy", "argparse")}
    curves = {("mmengine.logging.history_buffer", "HistoryBuffer"): _LeftOut}
    return [(made, ".".join(key)) for key, made in (numpy | own | curves).items()]
