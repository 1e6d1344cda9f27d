"""Registration of data sets: harmless twice, an error where two differ, and read once where two parts ask in turn."""

import difflib
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from densekit.d2.data import DatasetCatalog, MetadataCatalog

__all__ = ["Entry", "check_registered", "is_ours", "load_and_keep", "register", "take_over"]

Records = list[dict[str, Any]]


class Entry(NamedTuple):
    """A data set before it is registered.

    Attributes:
        name: For DATASETS.TRAIN and DATASETS.TEST.
        load: Reads the records when the data set is used. Two of equal function and arguments are the same.
        metadata: What is known before anything is read.
    """

    name: str
    load: "functools.partial[Records]"
    metadata: Mapping[str, Any]


def register(entry: Entry) -> None:
    """Registers a data set; the same again is harmless.

    Raises:
        ValueError: The name is taken by other files or another loader; the message names both.
    """
    name, load, metadata = entry
    if name in DatasetCatalog:
        before = _original(DatasetCatalog[name])
        if not is_ours(before):
            raise ValueError(f"Data set name {name!r} is taken by another loader. Choose another name.")
    else:
        before = load
    known = MetadataCatalog.get(name)
    for key, value in metadata.items():
        if known.get(key) is not None and known.get(key) != value:
            raise ValueError(
                f"Data set {name!r} is registered with {key} {known.get(key)!r} and cannot be registered again with "
                f"{value!r}. Choose another name."
            )
    if (before.func, before.args, before.keywords) != (load.func, load.args, load.keywords):
        raise ValueError(
            f"Data set {name!r} is registered with {_described(before)} and cannot be registered again with "
            f"{_described(load)}. Choose another name."
        )
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, load)
    known.set(**metadata)


def check_registered(name: str, remedy: str) -> None:
    """Raises a ValueError with the nearest names and the remedy if a data set is not registered."""
    if name in DatasetCatalog:
        return
    near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"Data set {name!r} is not registered. {hint}{remedy}")


def is_ours(loader: Any) -> bool:
    """Returns whether a registered loader is one of densekit's, which compare by their arguments."""
    loader = _original(loader)
    return isinstance(loader, functools.partial) and loader.func.__module__.startswith("densekit.")


def take_over(name: str) -> None:
    """Frees a standard name that the host has given to a loader of its own; its metadata stays."""
    if name in DatasetCatalog and not is_ours(DatasetCatalog[name]):
        DatasetCatalog.remove(name)


def load_and_keep(name: str) -> Any:
    """Loads a data set and keeps what was read for the next who asks for it, and only for that one.

    So a run that has looked at its annotations before it trains parses them once, and does not hold them while it does.
    """
    loader = _original(DatasetCatalog[name])
    records = DatasetCatalog.get(name)
    DatasetCatalog[name] = _Kept(name, loader, records)
    return records


class _Kept:
    """Stands for a loader in the catalogue, with what it returned; gives that away and makes room for the loader."""

    def __init__(self, name: str, loader: Any, records: Any) -> None:
        self._name, self.loader, self._records = name, loader, records

    def __call__(self) -> Any:
        DatasetCatalog[self._name] = self.loader
        return self._records


def _original(loader: Any) -> Any:
    return loader.loader if isinstance(loader, _Kept) else loader


def _described(load: "functools.partial[Records]") -> str:
    values = [*load.args, *(f"{key} {value!r}" for key, value in load.keywords.items())]
    return f"{load.func.__name__.removeprefix('load_')} ({', '.join(map(str, values))})"
