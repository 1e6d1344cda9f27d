"""The two catalogues: which function loads a data set by name, and what is known about it."""

import copy
import difflib
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any


class _NamedDict(UserDict):
    """A dict by data set name, with the verbs that the catalogues speak."""

    def list(self) -> list[str]:
        """Returns the names."""
        return list(self.data)

    def remove(self, name: str) -> None:
        """Takes a name out."""
        self.pop(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}({', '.join(self.data)})"

    __str__ = __repr__


class _DatasetCatalog(_NamedDict):
    """From data set names to functions that return its records: a list of dicts in the standard format."""

    def register(self, name: str, func: Callable[[], Any]) -> None:
        """Adds a data set.

        Args:
            name: The name that configs use.
            func: Returns the records; the same ones at each call.

        Raises:
            ValueError: ``func`` is not callable, or the name is taken.
        """
        if not callable(func):
            raise ValueError(f"DatasetCatalog.register({name!r}, ...) needs a function that loads it, not {func!r}.")
        if name in self:
            raise ValueError(f"Data set {name!r} is registered already. Remove it first, or choose another name.")
        self[name] = func

    def get(self, name: str) -> Any:  # type: ignore[override] # the interface: loads, with no default
        """Loads a data set and returns its records.

        Raises:
            KeyError: The name is not registered; the nearest names are listed.
        """
        if name not in self:
            near = difflib.get_close_matches(name, self.data, n=3) or sorted(self.data)
            raise KeyError(f"Data set {name!r} is not registered. Nearest names: {', '.join(near) or 'none at all'}.")
        return self[name]()


class Metadata(types.SimpleNamespace):
    """Facts about a data set, kept as attributes: class names, id maps, file names.

    An attribute that is set keeps its value: setting an equal one is harmless, a different one is an error, because two
    parts of a program would disagree about the data.
    """

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        known = ", ".join(k for k in self.__dict__ if k != "name") or "none"
        raise AttributeError(f"Metadata of data set {self.name!r} has no {key!r}. It has: {known}.")

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self.__dict__ and self.__dict__[key] != value:
            raise ValueError(
                f"Metadata {key!r} of data set {self.name!r} is {self.__dict__[key]!r} and cannot become {value!r}. "
                f"MetadataCatalog.remove({self.name!r}) forgets the old values."
            )
        super().__setattr__(key, value)

    def as_dict(self) -> dict[str, Any]:
        """Returns a shallow copy of all attributes."""
        return copy.copy(self.__dict__)

    def set(self, **kwargs: Any) -> "Metadata":
        """Sets several attributes and returns itself."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """Returns an attribute, or the default if it is not set."""
        return getattr(self, key, default)


class _MetadataCatalog(_NamedDict):
    """From data set names to their :class:`Metadata`, one object for each name."""

    def get(self, name: str) -> Metadata:  # type: ignore[override] # the interface: makes an empty one
        """Returns the metadata of a name, new and empty if there is none yet."""
        if not name:
            raise ValueError("MetadataCatalog.get needs a data set's name, not an empty string.")
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
