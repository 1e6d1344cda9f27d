"""``CfgNode``: attribute access, typed merging, freezing, and YAML files that inherit through ``_BASE_``.

The tree itself is yacs through fvcore. Changed here: files are always loaded safely, a missing file or base is named,
and the version of a file is checked.
"""

import os
from typing import IO, Any

import yaml
from fvcore.common.config import BASE_KEY
from fvcore.common.config import CfgNode as FvcoreNode

from densekit.runtime.config.arithmetic import ConfigLoader
from densekit.runtime.config.foreign import check_foreign_keys
from densekit.runtime.utils.file_io import PathManager

VERSION = 2  # of the key names; 1 is the naming before Detectron2 was first released


class CfgNode(FvcoreNode):
    """A config: nested keys with typed values.

    ``merge_from_file``, ``merge_from_list`` and ``merge_from_other_cfg`` change existing keys only, and only to a value
    of the same type (lists and tuples convert, ``None`` goes with every type). Keys beginning with ``COMPUTED_`` may be
    set once, even when frozen.
    """

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[Any]:
        return PathManager.open(filename, "r")

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Reads a YAML file on top of the file or files that its ``_BASE_`` names.

        Args:
            filename: Path or URL. ``_BASE_`` is relative to it, absolute, a URL or begins with ``~``; of a list of
                bases the later ones win.
            allow_unsafe: Accepted for Detectron2's interface and without effect: a tag that would run code is refused.

        Raises:
            FileNotFoundError: A base does not exist; names it and the file that asks for it.
            yaml.YAMLError: The file is not YAML or holds a tag that would run code; names the file and the line.
        """
        with cls._open_cfg(filename) as file:
            own = yaml.load(file, Loader=ConfigLoader) or {}
        if not isinstance(own, dict):
            raise ValueError(f"Config file '{filename}' holds a {type(own).__name__}, not keys with values.")
        bases = own.pop(BASE_KEY, [])
        merged: dict[str, Any] = {}
        for base in [bases] if isinstance(bases, str) else bases:
            path = _base_path(base, filename)
            if not PathManager.isfile(path):
                raise FileNotFoundError(
                    f"Config file '{filename}' has the {BASE_KEY} '{base}', but '{path}' does not exist."
                )
            _overlay(merged, cls.load_yaml_with_base(path), path)
        _overlay(merged, own, filename)
        return merged

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merges a YAML file and its bases.

        Args:
            cfg_filename: Path or URL of the file.
            allow_unsafe: Accepted for Detectron2's interface and without effect.

        Raises:
            FileNotFoundError: The file or one of its bases does not exist.
            KeyError: The file holds a key that this config does not have.
            ValueError: A value has another type than the key, or the file is written in the keys of version 1.
        """
        if not PathManager.isfile(cfg_filename):
            raise FileNotFoundError(f"Config file '{cfg_filename}' does not exist.")
        loaded = self.load_yaml_with_base(cfg_filename)
        version = loaded.get("VERSION", VERSION)
        if version != VERSION:
            raise ValueError(
                f"Config file '{cfg_filename}' has VERSION {version}, and only version {VERSION} is read. Load it in "
                "Detectron2, which renames its keys, and save it again from there."
            )
        self.merge_from_other_cfg(type(self)(loaded))

    def merge_from_other_cfg(self, cfg_other: FvcoreNode) -> None:
        """Merges another config, whose keys must exist here and have the same types.

        Raises:
            KeyError: A key does not exist here.
            ValueError: A value has another type, or asks for a part of Detectron2 that the runtime does not have.
        """
        if "VERSION" in self:  # only a whole config has Detectron2's keys
            check_foreign_keys(cfg_other)
        super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list: list[Any]) -> None:
        """Merges ``[key, value, key, value ...]``.

        Raises:
            KeyError: A key does not exist here.
            ValueError: A value has another type, or asks for a part of Detectron2 that the runtime does not have.
        """
        super().merge_from_list(cfg_list)
        check_foreign_keys(self)


def _base_path(base: str, filename: str) -> str:
    base = os.path.expanduser(base)
    if os.path.isabs(base) or "://" in base:
        return base
    return os.path.join(os.path.dirname(filename), base)


def _overlay(below: dict[str, Any], above: dict[str, Any], filename: str) -> None:
    """Writes ``above`` over ``below``, key by key."""
    for key, value in above.items():
        if isinstance(value, dict) and key in below:
            if not isinstance(below[key], dict):
                raise ValueError(f"Config file '{filename}' has keys under '{key}', but its base has a value there.")
            _overlay(below[key], value, filename)
        else:
            below[key] = value
