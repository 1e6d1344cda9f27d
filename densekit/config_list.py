"""The shipped configurations with what they are for, read from the YAML files alone; no torch is needed.

The comment at the head of a file has two sentences that this understands: ``Published: box AP 38.6, mask AP 35.2.``
(or ``Published for this setting: ...``) is the figure of the paper or of its code, and ``Task: inpainting.`` says what
the model does where its keys do not.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from densekit.config_files import find_config, shipped_config, shipped_configs

__all__ = ["ConfigFacts", "list_configs", "read_facts"]

_PUBLISHED = re.compile(r"\bPublished(?: for this setting)?: (.+?)(?=[;(]|\.(?:\s|$)|, evaluated| after | on val)")
_TASK = re.compile(r"\bTask: (.+?)\.(?:\s|$)")


@dataclass(frozen=True)
class ConfigFacts:
    """A shipped configuration.

    Attributes:
        name: for ``--config-file``.
        task: such as "instance segmentation".
        data: what it trains on, "" where the user says that.
        published: the published figure; "" where the file has none.
    """

    name: str
    task: str
    data: str
    published: str


class _Loader(yaml.SafeLoader):
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
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    head = " ".join(line.lstrip("# ") for line in _head(lines))
    published, task = _PUBLISHED.search(head), _TASK.search(head)
    merged = _merged(path)
    data = ", ".join(_names(merged.get("DATASETS", {}).get("TRAIN")))
    return ConfigFacts(name, task[1] if task else _task(merged), data, published[1] if published else "")


def _head(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line


def _merged(path: str) -> dict[str, Any]:
    """The keys of a file over those of its bases."""
    with open(path, encoding="utf-8") as file:
        own = yaml.load(file, Loader=_Loader) or {}
    bases = own.pop("_BASE_", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        beside = os.path.join(os.path.dirname(path), base)
        _overlay(merged, _merged(beside if os.path.isfile(beside) else shipped_config(base) or beside))
    _overlay(merged, own)
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
    model, data = merged.get("MODEL", {}), merged.get("DATASETS", {})
    architecture = model.get("META_ARCHITECTURE", "GeneralizedRCNN")
    tests = " ".join(_names(data.get("TEST")))
    if "panoptic" in tests or "Panoptic" in architecture:
        return "panoptic segmentation"
    if "sem_seg" in tests or "Semantic" in architecture:
        return "semantic segmentation"
    if model.get("KEYPOINT_ON"):
        return "keypoints"
    if architecture == "ProposalNetwork":
        return "proposals"
    return "instance segmentation" if model.get("MASK_ON") else "detection"
