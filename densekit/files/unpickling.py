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
import torch

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
    """Returns text as bytes, as pickle protocol 2 spells them; other codecs could decompress or decode at will."""
    if codecs.lookup(encoding).name != "iso8859-1":
        raise UnsafePickleError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Returns no bytes, as protocol 2 spells them; an argument would be a request for memory."""
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
    """Lists the types that training scripts save beside the weights, for the ``safe_globals`` of torch.

    That are command lines, numbers and arrays of numpy (with the checks of :class:`ArrayUnpickler`), and the curves of
    mmengine, which are left out.
    """
    numpy = {(module, name): made for module in _NUMPY_MODULES for name, made in _NUMPY_BUILDERS.items()}
    own = {key: made for key, made in _BUILDERS.items() if key[0] in ("numpy", "argparse")}
    curves = {("mmengine.logging.history_buffer", "HistoryBuffer"): _LeftOut}
    return [(made, ".".join(key)) for key, made in (numpy | own | curves).items()]


class Record:
    """Stands for an object of a class that is not imported: it keeps what the file says of it, and does nothing.

    Each class that a file names gets a subclass of its own, so that the file's instructions to make objects find a
    class; their arguments are dropped.

    Attributes:
        entries: the attributes that the file gives the object; empty if it describes itself otherwise.
    """

    kind = ""

    def __new__(cls, *_: Any, **__: Any) -> "Record":
        made = super().__new__(cls)
        made.entries = {}
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict):
            state = state[0]  # attributes, and slots
        self.entries: dict[str, Any] = state if isinstance(state, dict) else {}

    # A file may also put items into what is a list, a set or a dictionary where it was written.
    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


class RecordUnpickler(pickle.Unpickler):
    """Rebuilds tensors and plain containers; any other name in the file becomes a :class:`Record`.

    Nothing is imported, and of functions only those of :data:`_BUILDERS` and :data:`_TORCH_BUILDERS` run. Given
    :class:`RecordPickle`, ``torch.load`` adds the tensors' memory.
    """

    def find_class(self, module: str, name: str) -> Any:
        known = (_BUILDERS | _TORCH_BUILDERS).get((module, name))
        if known is None and module in _NUMPY_MODULES:
            known = _NUMPY_BUILDERS.get(name)
        if known is None and module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            known = getattr(torch, name)
        return known or type(name.rpartition(".")[2] or "Record", (Record,), {"kind": f"{module}.{name}"})


class RecordPickle:
    """Stand-in for the pickle module, with the names that ``torch.load`` reads of its ``pickle_module``."""

    Unpickler = RecordUnpickler

    @staticmethod
    def load(file: IO[bytes], **options: Any) -> Any:
        return RecordUnpickler(file, **options).load()


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """A tensor without its gradient's flag, hooks and metadata."""
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


def _itself(data: Any, *_: Any) -> Any:
    return data


_TORCH_BUILDERS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _itself,
    ("torch._utils", "_rebuild_parameter_with_state"): _itself,
    ("torch", "Size"): tuple,
}


def module_tensors(record: Record) -> dict[str, Any]:
    """The parameters and buffers of a recorded ``torch.nn.Module`` by their paths, as its ``state_dict`` has them."""
    found: dict[str, Any] = {}
    _collect(record, "", found, set())
    return found


def _collect(record: Record, prefix: str, found: dict[str, Any], around: set[int]) -> None:
    entries = record.entries
    if id(record) in around:
        raise UnsafePickleError(f"a module that holds itself, at {prefix!r}")
    left_out = entries.get("_non_persistent_buffers_set", ())
    for table in ("_parameters", "_buffers"):
        for name, value in _items(entries.get(table)):
            if value is not None and not (table == "_buffers" and name in left_out):
                found[prefix + name] = value
    for name, module in _items(entries.get("_modules")):
        if isinstance(module, Record):
            _collect(module, f"{prefix}{name}.", found, around | {id(record)})


def _items(table: Any) -> list[tuple[str, Any]]:
    return [(str(name), value) for name, value in table.items()] if isinstance(table, dict) else []


def is_module(value: Any) -> bool:
    """Tells whether a value is the record of a ``torch.nn.Module``."""
    return isinstance(value, Record) and {"_parameters", "_buffers", "_modules"} <= value.entries.keys()
