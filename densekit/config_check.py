"""Faults of a config file in words: file, line, key, and the nearest key that exists.

The files are read here a second time, before the host merges them, because the host forgets which file of a ``_BASE_``
chain a key came from. Nothing here changes the config.
"""

import difflib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml

from densekit.config_defaults import all_keys, key_owners
from densekit.config_files import nearest_shipped, shipped_config
from densekit.d2.config import CfgNode
from densekit.d2.utils.file_io import PathManager

_BASE_KEY = "_BASE_"
_SHOWN = 6


def check_file(cfg: CfgNode, path: str, _chain: tuple[str, ...] = ()) -> None:
    """Checks a YAML file and its bases against the keys and types of ``cfg``.

    Args:
        cfg: The config that the file will be merged into.
        path: The file.

    Raises:
        FileNotFoundError: The file or a base of it does not exist.
        ValueError: Anything else that is wrong with it.
    """
    if not PathManager.isfile(path):
        raise FileNotFoundError(f"Config file '{path}' does not exist.")
    root = _parse(path)
    for node in _bases(root):
        base, line = node.value, node.start_mark.line + 1
        where = f"{path}, line {line}"
        base_path = _resolve(base, path)
        if base_path in (*_chain, path):
            raise ValueError(f"{where}: the {_BASE_KEY} '{base}' leads back to '{base_path}'.")
        if not PathManager.isfile(base_path):
            raise FileNotFoundError(
                f"{where}: the {_BASE_KEY} '{base}' is '{base_path}', which does not exist.{nearest_shipped(base)}"
            )
        check_file(cfg, base_path, (*_chain, path))
    _check_mapping(cfg, cfg, root, path, "")


def lines_of_keys(path: str) -> dict[str, tuple[str, int]]:
    """Tells where the value of each key comes from that a config file and its bases set.

    Args:
        path: A file that :func:`check_file` has nothing against.

    Returns:
        Key -> (file, line) of the last file, in the order of merging, that sets it.
    """
    root = _parse(path)
    found: dict[str, tuple[str, int]] = {}
    for node in _bases(root):
        found |= lines_of_keys(os.path.normpath(_resolve(node.value, path)))

    def walk(mapping: yaml.MappingNode, prefix: str) -> None:
        for key, value in mapping.value:
            if isinstance(value, yaml.MappingNode) and value.value:
                walk(value, f"{prefix}{key.value}.")
            elif prefix + key.value != _BASE_KEY:
                found[prefix + key.value] = (path, key.start_mark.line + 1)

    walk(root, "")
    return found


def _bases(root: yaml.MappingNode) -> Iterator[yaml.ScalarNode]:
    """The nodes of the files that a file names as its bases."""
    for value in (value for key, value in root.value if key.value == _BASE_KEY):
        yield from value.value if isinstance(value, yaml.SequenceNode) else [value]


@contextmanager
def plain_bases(path: str) -> Iterator[str]:
    """Gives the file that the host can merge, which knows bases relative to a file and no shipped names.

    Args:
        path: A file that :func:`check_file` has nothing against.

    Yields:
        ``path`` itself; or a copy, where a base in the chain is the name of a shipped file, which lasts as long as the
        block.
    """
    if not _names_shipped(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield _with_plain_bases(path, folder)


def _names_shipped(path: str) -> bool:
    """Tells whether the file, or one of its bases, names a base that only densekit's own search finds."""
    targets = [(_beside(node.value, path), _resolve(node.value, path)) for node in _bases(_parse(path))]
    return any(plain != found or _names_shipped(found) for plain, found in targets)


def _with_plain_bases(path: str, folder: str) -> str:
    """Writes a copy of a file that names its bases by absolute paths, and of those bases; returns the copy."""
    with PathManager.open(path, "r") as file:
        text = file.read()
    for node in reversed(list(_bases(_parse(path)))):
        base = _with_plain_bases(_resolve(node.value, path), folder)
        text = text[: node.start_mark.index] + json.dumps(base) + text[node.end_mark.index :]
    number, copy = tempfile.mkstemp(suffix=".yaml", dir=folder)
    with open(number, "w", encoding="utf-8") as file:
        file.write(text)
    return copy


def check_options(cfg: CfgNode, opts: Sequence[Any]) -> None:
    """Checks ``KEY VALUE`` overrides from the command line against ``cfg``.

    Raises:
        ValueError: A value or a key is missing, unknown or of the wrong type.
    """
    for word in opts[::2]:
        if str(word).startswith("--"):
            raise ValueError(f"The flag {word} comes after KEY VALUE overrides; put flags in front of them.")
        if "=" in str(word):
            raise ValueError(f"Overrides are KEY VALUE pairs: write '{str(word).replace('=', ' ', 1)}', not '{word}'.")
    if len(opts) % 2:
        raise ValueError(f"Overrides are KEY VALUE pairs, and the last one has no value: {' '.join(map(str, opts))!r}.")
    for key, value in zip(opts[::2], opts[1::2]):
        node = cfg
        for part in key.split("."):
            if not isinstance(node, CfgNode) or part not in node:
                raise ValueError(f"Override {key} {value}: {_unknown(cfg, key)}")
            node = node[part]
        _check_type(node, value, key, f"Override {key} {value}")


def _parse(path: str) -> yaml.MappingNode:
    """The nodes of a YAML file, with their lines; nothing is constructed, so no tag runs code."""
    with PathManager.open(path, "r") as file:
        try:
            root = yaml.compose(file, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
            raise ValueError(f"{path}{line}: this is not YAML: {error.problem}.") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: this is not YAML: {error}.") from error
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path}: a config file holds 'KEY: value' lines; this one has none.")
    return root


def _resolve(base: str, path: str) -> str:
    """The path of a base: beside the file that names it, else a shipped file of that name."""
    plain = _beside(base, path)
    return plain if PathManager.isfile(plain) else shipped_config(base) or plain


def _beside(base: str, path: str) -> str:
    base = os.path.expanduser(base)
    return base if os.path.isabs(base) or "://" in base else os.path.join(os.path.dirname(path), base)


def _check_mapping(root: CfgNode, node: CfgNode, mapping: yaml.MappingNode, path: str, prefix: str) -> None:
    lines: dict[str, int] = {}
    for key_node, value_node in mapping.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        full_key, where = prefix + key, f"{path}, line {line}"
        if key in lines:
            raise ValueError(
                f"{where}: {full_key} is already set in line {lines[key]}, and only one of them would count."
            )
        lines[key] = line
        if full_key == _BASE_KEY:
            continue
        if key in node and isinstance(node[key], CfgNode) and isinstance(value_node, yaml.MappingNode):
            _check_mapping(root, node[key], value_node, path, full_key + ".")
            continue
        try:
            value = yaml.constructor.SafeConstructor().construct_document(value_node)
        except yaml.constructor.ConstructorError:
            continue  # a tag: the host takes or refuses it
        if key in node:
            _check_type(node[key], value, full_key, where)
        else:
            _check_unlisted(root, value, full_key, where)


def _check_unlisted(root: CfgNode, value: Any, key: str, where: str) -> None:
    """Leaves the last word on a key that does not exist to the host: it may be a deprecated one."""
    tree = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    try:
        root.clone().merge_from_other_cfg(CfgNode(tree))
    except KeyError as error:
        raise ValueError(f"{where}: {_unknown(root, key)}") from error
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{where}: {error}") from error


def _unknown(cfg: CfgNode, key: str) -> str:
    """The sentences about a key that does not exist."""
    owners, nearest = key_owners(), _nearest(cfg, key)
    named = [f"{other} ({owners[other]})" if other in owners else other for other in nearest]
    sentences = [f"there is no config key {key}."]
    if nearest:
        sentences.append(f"The nearest: {', '.join(named)}.")
    node = _project_node(key, owners)
    if node and owners[node] not in {owners.get(other) for other in nearest}:
        inside = sorted(other for other in owners if other.startswith(f"{node}."))
        listed = ", ".join(inside[:_SHOWN]) + (", ..." if len(inside) > _SHOWN else "")
        sentences.append(f"Keys of that kind belong to {owners[node]}, which has {listed}.")
    if len(sentences) == 1:
        sentences.append("Nothing that exists is like it.")
    return " ".join(sentences)


def _project_node(key: str, owners: Mapping[str, str]) -> str | None:
    """The node of a project that a key with these words was probably meant for."""
    own = {other.rpartition(".")[0] for other in owners} & owners.keys()
    tails = {node.rpartition(".")[2]: node for node in sorted(own)}
    parts = key.upper().split(".")
    for part in parts:
        for tail, node in tails.items():
            if f"_{tail}_" in f"_{part}_":
                return node
    near = (match for part in parts for match in difflib.get_close_matches(part, tails, n=1, cutoff=0.8))
    return tails.get(next(near, ""))


def _nearest(cfg: CfgNode, key: str, count: int = 3) -> list[str]:
    """Existing keys, those of the same node and name before those that merely look alike."""
    owner, _, name = key.rpartition(".")

    def likeness(other: str) -> float:
        other_owner, _, other_name = other.rpartition(".")
        by_name = difflib.SequenceMatcher(None, name.lower(), other_name.lower()).ratio()
        by_owner = difflib.SequenceMatcher(None, owner.lower(), other_owner.lower()).ratio()
        return 0.7 * by_name + 0.3 * by_owner

    ranked = sorted(all_keys(cfg), key=likeness, reverse=True)
    return [other for other in ranked[:count] if likeness(other) > 0.6]


def _check_type(current: Any, value: Any, key: str, where: str) -> None:
    """Lets the host's own rule decide whether ``value`` may replace ``current``."""
    try:
        CfgNode({"value": current}).merge_from_other_cfg(CfgNode({"value": value}))
    except (ValueError, KeyError, AssertionError) as error:
        given = CfgNode._decode_cfg_value(value)
        remedy = f" Write {float(given)}." if isinstance(current, float) and type(given) is int else ""
        default = "" if isinstance(current, CfgNode) else f" (by default {_short(current)})"
        raise ValueError(
            f"{where}: {key} is {_kind(current)}{default}, and {_short(given)} is {_kind(given)}.{remedy}"
        ) from error


def _kind(value: Any) -> str:
    kinds = {
        bool: "true or false",
        int: "an integer",
        float: "a float",
        str: "a string",
        list: "a list",
        tuple: "a tuple",
    }
    if isinstance(value, dict):
        return "a node with keys of its own"
    return "empty" if value is None else kinds.get(type(value), f"a {type(value).__name__}")


def _short(value: Any) -> str:
    text = repr(dict(value) if isinstance(value, CfgNode) else value)
    return text if len(text) <= 60 else text[:57] + "..."
