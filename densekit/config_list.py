"""The shipped configurations with what they are for, read from the YAML files alone; no torch is needed.

The comment at the head of a file has three sentences that this understands. ``Published: box AP 38.6, mask AP 35.2.``,
also with ``for this setting`` or words in brackets before the colon, is the figure of the paper or of its code.
``Size as published: 48 M, 267 G at 800 x 1280.`` has the millions of parameters and the billions of multiply-adds on a
picture of that height and width. ``Task: inpainting.`` says what the model does, in the file or in a base, where its
keys do not tell.
"""

import os
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

import yaml

from densekit.config_files import find_config, shipped_config, shipped_configs

__all__ = ["ConfigFacts", "list_configs", "read_facts"]

_PUBLISHED = re.compile(
    r"\bPublished(?: for this setting| \([^)]*\))?: (.+?)(?=[;(]|\.(?:\s|$)|, evaluated| after | on val)"
)
_SIZE = re.compile(r"\bSize as published: ([\d.]+ M, [\d.]+ G at \d+ x \d+)\.")
_DETECTORS = {"GeneralizedRCNN": "detection", "RetinaNet": "detection", "ProposalNetwork": "proposals"}
_TASK = re.compile(r"\bTask: (.+?)\.(?:\s|$)")


@dataclass(frozen=True)
class ConfigFacts:
    """A shipped configuration.

    Attributes:
        name: for ``--config-file``.
        task: such as "instance segmentation".
        data: what it trains on, "" where the user says that.
        published: the published figure; "" where the file has none.
        published_size: such as "48 M, 267 G at 800 x 1280": parameters, multiply-adds, height and width; "" likewise.
    """

    name: str
    task: str
    data: str
    published: str
    published_size: str = ""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads what needs no code; a value with a tag is nothing."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)


def list_configs(word: str = "") -> list[ConfigFacts]:
    """Returns the shipped configurations in which a word occurs: in the name, the task, the data or the figure."""
    facts = map(read_facts, shipped_configs())
    return [one for one in facts if word.lower() in " ".join(vars(one).values()).lower()]


def read_facts(name: str) -> ConfigFacts:
    """Reads one configuration.

    Args:
        name: a shipped one, or a file.

    Raises:
        FileNotFoundError: there is none, or a base of it is missing.
    """
    path = find_config(name)
    head, merged = _head(path), _merged(path)
    published, size = _PUBLISHED.search(head), _SIZE.search(head)
    data = ", ".join(_names(merged.get("DATASETS", {}).get("TRAIN")))
    task = _task(merged) or _stated_task(path)
    return ConfigFacts(name, task, data, published[1] if published else "", size[1] if size else "")


def _head(path: str) -> str:
    """The comment at the head of a file, as one line."""
    with open(path, encoding="utf-8") as file:
        return " ".join(line.lstrip("# ").rstrip() for line in takewhile(lambda line: line.startswith("#"), file))


def _stated_task(path: str) -> str:
    """Returns the task that the head of a file, or of a base, names."""
    if task := _TASK.search(_head(path)):
        return task[1]
    return next(filter(None, map(_stated_task, _bases(path))), "")


@cache
def _content(path: str) -> dict[str, Any]:
    """The keys of one file, which nobody may change: many files share their bases."""
    with open(path, encoding="utf-8") as file:
        return yaml.load(file, Loader=_Loader) or {}


def _bases(path: str) -> list[str]:
    bases = _content(path).get("_BASE_", [])
    paths = []
    for base in [bases] if isinstance(bases, str) else bases:
        beside = os.path.join(os.path.dirname(path), base)
        paths.append(beside if os.path.isfile(beside) else shipped_config(base) or beside)
    return paths


def _merged(path: str) -> dict[str, Any]:
    """The keys of a file over those of its bases."""
    merged: dict[str, Any] = {}
    for base in _bases(path):
        _overlay(merged, _merged(base))
    _overlay(merged, deepcopy(_content(path)))
    return merged


def _overlay(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _overlay(below[key], value)
        else:
            below[key] = value


def _names(value: Any) -> list[str]:
    """The names in a list, or in a tuple as configurations write it."""
    return re.findall(r"[\w.-]+", value) if isinstance(value, str) else [str(name) for name in value or ()]


def _task(merged: Mapping[str, Any]) -> str:
    """Returns the task that the keys tell; "" where they do not."""
    model, data = merged.get("MODEL", {}), merged.get("DATASETS", {})
    architecture = model.get("META_ARCHITECTURE", "GeneralizedRCNN")
    tests = " ".join(_names(data.get("TEST")))
    if "panoptic" in tests or "Panoptic" in architecture:
        return "panoptic segmentation"
    if "sem_seg" in tests or architecture.endswith("Segmentor"):
        return "semantic segmentation"
    if model.get("KEYPOINT_ON"):
        return "keypoints"
    if model.get("MASK_ON"):
        return "instance segmentation"
    return _DETECTORS.get(architecture, "")
