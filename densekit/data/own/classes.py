"""Lists of classes as people keep them: names in a row, numbered names, or a file with either."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from densekit.d2.data import MetadataCatalog

__all__ = ["ClassList", "class_list", "enter_things", "number_names"]

_LABELME_EXTRAS = ("__ignore__", "_background_")


@dataclass(frozen=True)
class ClassList:
    """Names of classes, in the order of the indices that models learn.

    Attributes:
        source: The file, or where the list stands.
        names: One for each class.
        ids: The number of each class in the data set's files; 0, 1, ... for a plain list.
        colours: RGB of each class, if the list has them.
        ignore: Numbers that the list declares to be no class.
        numbered: Whether the numbers stand in the list, or are only places in it.
        kpt_shape: How many keypoints objects have, and how many numbers each, where the file says so (data.yaml).
    """

    source: str
    names: tuple[str, ...]
    ids: tuple[int, ...]
    colours: tuple[tuple[int, int, int], ...] = ()
    ignore: tuple[int, ...] = ()
    numbered: bool = False
    kpt_shape: tuple[int, int] | None = None


def class_list(value: Any, where: str = "") -> ClassList:
    """Reads a list of classes.

    Args:
        value: Names, a mapping {number: name}, or the path of a file: ``.json`` or ``.yaml`` with either of them, also
            under ``names`` or ``classes`` (with ``colors`` and ``ignore_label``, if there are such), else text with a
            name on each line.
        where: Where ``value`` stands, if it is no path.

    Raises:
        ValueError: It is none of these, is empty, or has a name or number twice.
    """
    source = value if isinstance(value, str) else where
    content = _read(value) if isinstance(value, str) else value
    extras: Mapping[str, Any] = {}
    if isinstance(content, dict) and ("names" in content or "classes" in content):
        extras, content = content, content.get("names", content.get("classes"))
    numbered = isinstance(content, dict)
    entries = content.items() if numbered else enumerate(content if isinstance(content, list) else ())
    pairs = [(_number(number), name) for number, name in entries]
    if not pairs:
        raise ValueError(f"{source}: there is no list of classes. Write names, or {{number: name}}.")
    for number, name in pairs:
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise ValueError(f"{source}: class {name!r} has the number {number!r}; numbers count from 0.")
        if not isinstance(name, str | int | float) or isinstance(name, bool) or not str(name).strip():
            raise ValueError(f"{source}: class number {number} has the name {name!r}, which is no text. Quote it.")
    pairs.sort(key=lambda pair: pair[0])
    names = tuple(str(name).strip() for _, name in pairs)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{source}: the class {twice[0]!r} occurs twice.")
    ids = tuple(number for number, _ in pairs)
    again = next((number for number in ids if ids.count(number) > 1), None)
    if again is not None:
        raise ValueError(f"{source}: the number {again} occurs twice.")
    if extras.get("nc", len(names)) != len(names):
        raise ValueError(
            f"{source} says nc: {extras['nc']} and names {len(names)} classes. Correct the one or the other."
        )
    return ClassList(
        source, names, ids, _colours(source, extras, len(names)), _ignored(source, extras), numbered, _kpt_shape(extras)
    )


def _number(key: Any) -> Any:
    """The keys of JSON are always text."""
    return int(key) if isinstance(key, str) and key.isdecimal() else key


def _read(path: str) -> Any:
    ending = os.path.splitext(path)[1].lower()
    with open(path, encoding="utf-8-sig") as stream:  # some editors write a mark at the beginning
        try:
            if ending == ".json":
                return json.load(stream)
            if ending in (".yaml", ".yml"):
                return yaml.safe_load(stream)
            return [line.strip() for line in stream if line.strip()]
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"Class list {path} cannot be read: {error}.") from error


def _colours(source: str, extras: Mapping[str, Any], count: int) -> tuple[tuple[int, int, int], ...]:
    colours = extras.get("colors", extras.get("colours")) or []
    good = isinstance(colours, list) and all(
        isinstance(rgb, list) and len(rgb) == 3 and all(isinstance(v, int) and 0 <= v < 256 for v in rgb)
        for rgb in colours
    )
    if not good or len(colours) not in (0, count):
        raise ValueError(f"{source}: colors must be [red, green, blue] (0 to 255) for each of the {count} classes.")
    return tuple((red, green, blue) for red, green, blue in colours)


def _kpt_shape(extras: Mapping[str, Any]) -> tuple[int, int] | None:
    value = extras.get("kpt_shape")
    if not isinstance(value, list) or len(value) != 2 or any(type(v) is not int or v <= 0 for v in value):
        return None
    return (value[0], value[1]) if value[1] in (2, 3) else None


def _ignored(source: str, extras: Mapping[str, Any]) -> tuple[int, ...]:
    value = extras.get("ignore_label")
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{source}: ignore_label is {value!r}; it must be a whole number or a list of them.")
    return tuple(values)


def number_names(records: list[dict[str, Any]], classes: ClassList | None, name: str) -> None:
    """Replaces the names of classes, which the files of some forms hold, by their indices.

    Args:
        records: Whose annotations have a name as ``category_id``; changed in place.
        classes: The list of the entry, whose numbers, if it has them, become the data set's ids; None takes the names
            that occur, in alphabetical order.
        name: The data set's.

    Raises:
        ValueError: A name is not in the list; or the classes contradict those known of the data set.
    """
    objects = [annotation for record in records for annotation in record["annotations"]]
    found = {annotation["category_id"] for annotation in objects}
    if classes is None:
        source, names = "the annotations", tuple(sorted(found))
        ids: tuple[int, ...] = ()
    else:
        listed = [(number, n) for number, n in zip(classes.ids, classes.names) if n not in _LABELME_EXTRAS]
        source, names = classes.source, tuple(n for _, n in listed)
        ids = tuple(number for number, _ in listed) if classes.numbered else ()
        unknown = sorted(found - set(names))
        if unknown:
            raise ValueError(
                f"Data set {name!r}: the annotations name the class {', '.join(map(repr, unknown[:5]))}, which "
                f"{source} does not list ({', '.join(names)}). Correct the one or the other; names are compared "
                "letter by letter."
            )
    # Else from 1, as in COCO's files: in many formats that predictions may be written in, 0 is the background.
    enter_things(name, names, ids or tuple(range(1, len(names) + 1)), source)
    index = {class_name: index for index, class_name in enumerate(names)}
    for annotation in objects:
        annotation["category_id"] = index[annotation["category_id"]]


def enter_things(name: str, names: tuple[str, ...], ids: tuple[int, ...], source: str) -> None:
    """Enters the classes of objects in a data set's metadata.

    Raises:
        ValueError: Other classes are there.
    """
    metadata = MetadataCatalog.get(name)
    known = metadata.get("thing_classes")
    if known is not None and tuple(known) != names:
        raise ValueError(
            f"Data set {name!r} is known with the classes {', '.join(known)}, and {source} has {', '.join(names)}. "
            "Choose another name, or start anew."
        )
    metadata.set(
        thing_classes=list(names),
        thing_dataset_id_to_contiguous_id={number: index for index, number in enumerate(ids)},
    )
