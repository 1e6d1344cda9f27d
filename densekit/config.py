"""Configuration of a run: a loader that says what is wrong with a file or an override, and where values come from."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml

from densekit.config_check import check_file, check_options, lines_of_keys, plain_bases
from densekit.config_defaults import default_config
from densekit.config_files import find_config
from densekit.d2.config import CfgNode
from densekit.modeling.semantic_fpn import take_loss_keys
from densekit.projects import adapt_all_configs, adapt_each_config


def load_config(config: str | CfgNode, opts: Sequence[Any] = ()) -> CfgNode:
    """The config of a run: defaults, then a file with its bases, then overrides.

    Args:
        config: YAML file or the name of a shipped one; "" for the defaults alone. A config is copied.
        opts: ``[KEY, VALUE, KEY, VALUE, ...]``; values are read as Python literals where they are such.

    Returns:
        A config that is not frozen, with the keys of the host, of densekit and of every project.

    Raises:
        FileNotFoundError: The file or one of its bases does not exist.
        ValueError: A file is not YAML, a key does not exist or a value has the wrong type; the message names file,
            line, key and the nearest keys.
    """
    if isinstance(config, CfgNode):
        cfg = config.clone()
        cfg.defrost()
        _override(cfg, opts)
        return cfg
    cfg = _merged(config, opts)
    take_loss_keys(cfg)
    adapt_all_configs(cfg)
    return cfg


def _merged(config_file: str, opts: Sequence[Any]) -> CfgNode:
    """The values as they are written; projects have not adapted them."""
    cfg = default_config()
    if config_file:
        path = find_config(config_file)
        check_file(cfg, path)
        try:
            with plain_bases(path) as plain:
                cfg.merge_from_file(plain, allow_unsafe=False)
        except yaml.constructor.ConstructorError as error:
            raise ValueError(f"A tag in '{path}' or its bases would run code; write its value. {error}") from error
        except ValueError as error:  # the host has no part for a value; its sentence begins with the key
            file, line = lines_of_keys(path).get(str(error).partition(" ")[0], (path, 0))
            raise ValueError(f"{file}{f', line {line}' if line else ''}: {error}") from error
    _override(cfg, opts)
    return cfg


def _override(cfg: CfgNode, opts: Sequence[Any]) -> None:
    check_options(cfg, opts)
    cfg.merge_from_list(list(opts))


def explicit_keys(config_file: str, opts: Sequence[Any] = ()) -> set[str]:
    """Returns the keys that stand in the overrides or in the file itself, not in one of its bases."""
    path = find_config(config_file) if config_file else ""
    lines = lines_of_keys(path) if path else {}
    return set(opts[::2]) | {key for key, (file, _) in lines.items() if file == path}


def describe_config(
    cfg: CfgNode, config_file: str, opts: Sequence[Any], notes: Iterable[str] = (), *, changed_only: bool = False
) -> str:
    """Writes a config with the origin of every value.

    Args:
        cfg: What :func:`load_config` made of the file and the overrides, maybe adapted to machine and data since.
        config_file: The file.
        opts: The overrides.
        notes: Sentences on what was adapted and why, which name the keys.
        changed_only: Leave out what has its default, and show the default of the rest.

    Returns:
        A line ``KEY: value  # origin`` for each key. Origins are default, a file with its line, command line, or for
        what none of these says: which project has adapted it, or the note.
    """
    lines = lines_of_keys(find_config(config_file)) if config_file else {}
    defaults, merged = dict(_leaves(default_config())), _merged(config_file, opts)
    written, given = dict(_leaves(merged)), opts[::2]
    adapted = dict(_adapted(merged))
    rows = []
    for key, value in sorted(_leaves(cfg)):
        before, origin = defaults.get(key), "default"
        if value != written.get(key):
            note = next((note for note in notes if re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.]*\w)", note)), None)
            reason = f"adapted: {note}" if note else "adapted"
            origin = adapted[key][0] if key in adapted and adapted[key][1] == value else reason
        elif key in given:
            origin = "command line"
        elif key in lines:
            origin = "{}:{}".format(*lines[key])
        if not changed_only:
            rows.append(f"{key}: {value!r}  # {origin}")
        elif value != before:
            rows.append(f"{key}: {before!r} -> {value!r}  # {origin}")
    return "\n".join(rows)


def _adapted(cfg: CfgNode) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Lets the projects adapt a merged config; each key that one changes, with who it was and the new value."""
    before = dict(_leaves(cfg))
    for name in adapt_each_config(cfg):
        after = dict(_leaves(cfg))
        yield from (
            (key, (f"adapted by projects/{name}", value)) for key, value in after.items() if value != before[key]
        )
        before = after


def _leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
