"""Makes the reference of configuration keys from the code: default, type, comment and owner of each.

The runtime's defaults are dictionaries, whose places are read from their source. All other keys are assigned; a
configuration that notes the line of each assignment says where. The comment is that line's, and the block right above.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from densekit.config_defaults import all_keys, default_config
from densekit.d2.config import CfgNode
from densekit.runtime.config import get_cfg as runtime_defaults

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = (ROOT / "densekit/runtime/config/defaults.py", ROOT / "densekit/runtime/config/defaults_model.py")
Place = tuple[Path, int]


class Key(NamedTuple):
    """A key of the configuration.

    Attributes:
        name: with dots.
        default: its value, None for a node.
        is_node: it holds further keys.
        comment: what the source says about it.
        owner: "Detectron2", "densekit", or the file below densekit or projects that declares it.
    """

    name: str
    default: Any
    is_node: bool
    comment: str
    owner: str


def list_keys() -> list[Key]:
    """Returns all keys of the built-in runtime, densekit and the systems, in the order of the configuration."""
    places = _places_in_defaults()
    host = set(all_keys(runtime_defaults()))
    cfg, assigned = _traced_defaults()
    places |= assigned
    found = []
    for name in all_keys(cfg):
        node: Any = cfg
        for part in name.split("."):
            node = node[part]
        is_node, place = isinstance(node, CfgNode), places.get(name)
        owner = "Detectron2" if name in host else _owner(place[0]) if place else "densekit"
        found.append(Key(name, None if is_node else node, is_node, comment_at(*place) if place else "", owner))
    return found


def _owner(path: Path) -> str:
    parts = path.resolve().relative_to(ROOT).parts
    return f"projects/{parts[1]}" if parts[0] == "projects" else "densekit" if len(parts) == 2 else "/".join(parts)


def _traced_defaults() -> tuple[CfgNode, dict[str, Place]]:
    """Returns the default configuration, and the place of each assignment that made a key."""
    noted: dict[tuple[int, str], Place] = {}
    nodes: list[CfgNode] = []  # kept alive, so that no two have one id
    plain = CfgNode.__setattr__

    def noting(self: CfgNode, name: str, value: Any) -> None:
        frame = sys._getframe(1)
        nodes.append(self)
        noted[id(self), name] = (Path(frame.f_code.co_filename), frame.f_lineno)
        plain(self, name, value)

    CfgNode.__setattr__ = noting
    try:
        cfg = default_config()
    finally:
        CfgNode.__setattr__ = plain
    places = {}
    for name in all_keys(cfg):
        *above, last = name.split(".")
        node: Any = cfg
        for part in above:
            node = node[part]
        if (id(node), last) in noted:
            places[name] = noted[id(node), last]
    return cfg, places


def _places_in_defaults() -> dict[str, Place]:
    """Returns the places of the keys in the runtime's dictionaries."""
    tables: dict[str, tuple[Path, ast.Dict]] = {}
    for path in DEFAULTS:
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            if named and isinstance(node.value, ast.Dict):
                tables[node.target.id] = (path, node.value)
            elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Dict):
                tables[""] = (path, node.args[0])  # what get_cfg puts together

    def walk(path: Path, table: ast.Dict, prefix: str) -> Iterator[tuple[str, Place]]:
        for key, value in zip(table.keys, table.values):
            if not isinstance(key, ast.Constant):
                continue
            name = f"{prefix}{key.value}"
            yield name, (path, key.lineno)
            if isinstance(value, ast.Dict):
                yield from walk(path, value, f"{name}.")
            elif isinstance(value, ast.Name) and value.id in tables:
                yield from walk(*tables[value.id], f"{name}.")

    return dict(walk(*tables[""], ""))


def comment_at(path: Path, line: int) -> str:
    """Returns the comment of a line and of the block right above it; "see above" takes the block before.

    Args:
        path: Python source.
        line: its number, from 1.
    """
    lines = path.read_text().splitlines()
    own = _trailing(lines[line - 1])
    above, number = [], line - 2
    while number >= 0 and lines[number].lstrip().startswith("#"):
        above.insert(0, lines[number].lstrip()[1:].strip())
        number -= 1
    if own == "see above" and not above:
        return comment_at(path, line - 1)
    parts = [" ".join(above), "" if own == "see above" else own]
    return " ".join(part if part.endswith((".", "...")) or part == parts[-1] else f"{part}." for part in parts if part)


def _trailing(line: str) -> str:
    code, mark, comment = line.partition("  # ")
    return comment.strip() if mark and code.strip() else ""


def page() -> str:
    """Returns the reference in Markdown: a table for each node."""
    lines = [
        "# Configuration keys",
        "",
        "Every key with its default, made from the code. *Owner* is who declares it: Detectron2 (which the built-in",
        "runtime follows), densekit's trainer, a shared part, or a system. `densekit train --config-file FILE",
        "--print-config` shows the values of a run, and where each comes from.",
    ]
    keys = list_keys()
    nodes: dict[str, list[Key]] = {"": []}
    about = {key.name: key.comment for key in keys if key.is_node}
    for key in keys:
        if not key.is_node:
            nodes.setdefault(key.name.rpartition(".")[0], []).append(key)
    for node, members in sorted(nodes.items()):
        lines += ["", f"## {node or 'At the top'}", ""]
        if about.get(node):
            lines += [_escaped(about[node])[0].upper() + _escaped(about[node])[1:], ""]
        lines += ["| key | default | type | meaning | owner |", "|---|---|---|---|---|"]
        for key in members:
            kind = "any" if key.default is None else type(key.default).__name__
            name, shown = f"`{key.name.rpartition('.')[2]}`", _escaped(f"`{key.default!r}`")
            lines.append(f"| {name} | {shown} | {kind} | {_escaped(key.comment)} | {key.owner} |")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") if "`" not in text else text.replace("|", "\\|")
