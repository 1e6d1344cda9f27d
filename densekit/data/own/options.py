"""Options of an entry of the data set file, read and checked: paths, lists of classes, choices."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from densekit.data.own.classes import ClassList, class_list
from densekit.data.registry import Entry

__all__ = ["Form", "Option", "Place", "choice", "classes", "file", "folder", "labels", "pairs", "portable", "text"]


@dataclass(frozen=True)
class Place:
    """Place of a value in the data set file.

    Attributes:
        where: For messages, such as ``my.yaml, data set 'cells'``.
        folder: What relative paths are relative to.
    """

    where: str
    folder: str

    def path(self, value: Any) -> str:
        """Returns an absolute path."""
        if not isinstance(value, str) or not value:
            raise ValueError(f"{self.where}: {value!r} is no path.")
        return os.path.normpath(os.path.join(self.folder, os.path.expanduser(value)))


@dataclass(frozen=True)
class Option:
    """A key of a form.

    Attributes:
        read: Turns the value of the YAML file into what the form's loader takes; it compares with ``==``.
        about: One line of help.
        required: Whether the key must be there.
    """

    read: Callable[[Place, str, Any], Any]
    about: str
    required: bool = True


@dataclass(frozen=True)
class Form:
    """A way to store a data set.

    Attributes:
        about: One line of help.
        options: The keys of its entries.
        entry: Called with the data set's name and the options that were given.
    """

    about: str
    options: Mapping[str, Option]
    entry: Callable[..., Entry]

    def usage(self) -> str:
        """Returns the keys, those in brackets not required."""
        return ", ".join(key if option.required else f"[{key}]" for key, option in self.options.items())


def file(place: Place, key: str, value: Any) -> str:
    """A file that exists."""
    path = place.path(value)
    if not os.path.isfile(path):
        kind = "is a folder and must be a file" if os.path.isdir(path) else "does not exist"
        raise FileNotFoundError(f"{place.where}: {key} is {path}, which {kind}.")
    return path


def folder(place: Place, key: str, value: Any) -> str:
    """A folder that exists."""
    path = place.path(value)
    if not os.path.isdir(path):
        kind = "is a file and must be a folder" if os.path.isfile(path) else "does not exist"
        raise FileNotFoundError(f"{place.where}: {key} is {path}, which {kind}.")
    return path


def classes(place: Place, key: str, value: Any) -> ClassList:
    """A list of names, a mapping {value: name}, or a file with either."""
    if isinstance(value, str):
        return class_list(file(place, key, value))
    return class_list(value, where=f"{place.where}: {key}")


def portable(place: Place, option: Option, value: Any) -> Any:
    """Returns a value of a data set file as it may stand in a file elsewhere: its path is absolute."""
    is_path = option.read in (file, folder) or (option.read is classes and isinstance(value, str))
    return place.path(value) if is_path else value


def labels(place: Place, key: str, value: Any) -> tuple[int, ...]:
    """One label value or a list of them."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{place.where}: {key} is {value!r}; it must be a whole number or a list of them.")
    return tuple(values)


def text(place: Place, key: str, value: Any) -> str:
    """Words."""
    if not isinstance(value, str):
        raise ValueError(f"{place.where}: {key} is {value!r}; it must be text.")
    return value


def pairs(place: Place, key: str, value: Any) -> tuple[tuple[str, str], ...]:
    """A list of pairs of names."""
    good = isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in value
    )
    if not good:
        raise ValueError(
            f"{place.where}: {key} is {value!r}; it must be a list of pairs: [[left_eye, right_eye], ...]."
        )
    return tuple((a, b) for a, b in value)


def choice(*words: str) -> Callable[[Place, str, Any], str]:
    """One of several words."""

    def read(place: Place, key: str, value: Any) -> str:
        if value not in words:
            raise ValueError(f"{place.where}: {key} is {value!r}; it must be one of {', '.join(words)}.")
        return value

    return read
