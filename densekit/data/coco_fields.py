"""The fields of COCO's records read as what they mean, once for training, evaluation and ``densekit check``.

Tools write numbers as text, flags as words and polygons as pairs. What has one meaning is read as that; what has none
or two is left as it is, and whoever reads the file refuses it. Ids of annotations keep their form: they are names.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Change", "Reading", "flag", "is_id", "normalised", "number", "polygons", "whole"]

_WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_NO = ("", "0", "0.0", "f", "false", "n", "no", "none", "null", "nan", "off")
_YES = ("1", "1.0", "t", "true", "y", "yes", "on")
_BOX_SLACK = 1.0  # pixels


@dataclass(frozen=True)
class Change:
    """A field that stands in the file in another form than COCO's.

    Attributes:
        field: Its key.
        entry: The record it is in, as read.
        value: As it stands in the file.
    """

    field: str
    entry: Mapping[str, Any]
    value: Any


@dataclass
class Reading:
    """A file's content in COCO's types.

    Attributes:
        content: The same lists; a record that was changed is a new one.
        changes: What was read as something else than it says.
    """

    content: Any
    changes: list[Change] = field(default_factory=list)

    def describe(self) -> str:
        """Says in a line what was changed, with the first ids; "" for nothing."""
        groups: dict[str, list[Change]] = {}
        for change in self.changes:
            groups.setdefault(change.field, []).append(change)
        return "; ".join(
            f"{len(those)} of '{key}', such as {_short(those[0].value)} of {_name(those[0].entry)}"
            for key, those in groups.items()
        )


def whole(value: Any) -> int | None:
    """A whole number that is written as such, with a point or as text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() else None
    return int(float(value)) if isinstance(value, str) and _WHOLE.fullmatch(value.strip()) else None


def number(value: Any) -> float | None:
    """A finite number, also as text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = float(value) if _DECIMAL.fullmatch(value.strip()) else None
    if not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return result if math.isfinite(result) else None


def flag(value: Any) -> int | None:
    """0 or 1 of what says no or nothing, or yes; None of what says neither.

    Numbers other than 0 are a yes, as in COCO's own code; NaN says nothing.
    """
    if value is None:
        return 0
    if isinstance(value, bool | int | float):
        return int(value != 0 and value == value)
    if isinstance(value, str):
        word = value.strip().lower()
        return 0 if word in _NO else 1 if word in _YES else None
    return None


def is_id(value: Any) -> bool:
    """Tells whether a value can name an annotation: text, or a finite number."""
    return (isinstance(value, str | int) and not isinstance(value, bool)) or number(value) is not None


def polygons(segmentation: Any, box: Any) -> Any:
    """A segmentation as COCO's list of flat polygons, where other tools' forms leave no doubt.

    Read are points as pairs, ``[[x, y], ...]`` and ``[[[x, y], ...], ...]``, one polygon without the list around it,
    numbers as text, and the annotation's own box, ``[[x, y, width, height]]``, as a rectangle, which is what COCO's own
    code makes of it.

    Returns:
        The same object where nothing is to be changed.
    """
    if not isinstance(segmentation, list) or not segmentation:
        return segmentation
    if _has_text(segmentation):
        segmentation = _with_numbers(segmentation)
    if len(segmentation) >= 6 and len(segmentation) % 2 == 0 and type(segmentation[0]) is not list:
        return segmentation if None in map(_plain, segmentation) else [segmentation]
    if _is_points(segmentation):
        return [_flat(segmentation)]
    if any(_is_points(entry) for entry in segmentation):
        return [_flat(entry) if _is_points(entry) else entry for entry in segmentation]
    if len(segmentation) == 1 and _is_box(segmentation[0], box):
        x, y, width, height = segmentation[0]
        return [[x, y, x, y + height, x + width, y + height, x + width, y]]
    return segmentation


def _has_text(entry: list[Any]) -> bool:
    kinds = set(map(type, entry))
    return str in kinds or (list in kinds and any(_has_text(inner) for inner in entry if type(inner) is list))


def _with_numbers(entry: Any) -> Any:
    """Lists of lists with numbers that are written as text as numbers; the same object where there are none."""
    if isinstance(entry, str):
        value = number(entry)
        return entry if value is None else value
    if not isinstance(entry, list):
        return entry
    read = [_with_numbers(value) for value in entry]
    return entry if all(a is b for a, b in zip(read, entry)) else read


def _is_points(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) >= 3
        and all(isinstance(point, list) and len(point) == 2 and None not in map(_plain, point) for point in entry)
    )


def _is_box(entry: Any, box: Any) -> bool:
    if not all(isinstance(four, list) and len(four) == 4 and None not in map(_plain, four) for four in (entry, box)):
        return False
    return all(abs(a - b) <= _BOX_SLACK for a, b in zip(entry, box)) and min(entry[2:]) > 0


def _plain(value: Any) -> float | None:
    return None if isinstance(value, str) else number(value)


def _flat(points: Sequence[Sequence[float]]) -> list[float]:
    return [value for point in points for value in point]


def normalised(content: Any) -> Reading:
    """Returns a file's content in COCO's types; the content itself is left as it is.

    Args:
        content: Of a JSON file, whatever it holds.
    """
    if not isinstance(content, Mapping):
        return Reading(content)
    changes: list[Change] = []
    done = dict(content)
    images = _entries(content, "images")
    categories = _entries(content, "categories")
    if images:
        done["images"] = [_image(entry, changes) for entry in images]
    if categories:
        done["categories"] = _with_whole_ids(categories, changes)
    ids = {key: _ids(done.get(key)) for key in ("images", "categories")}
    annotations = _entries(content, "annotations")
    if annotations:
        done["annotations"] = [_annotation(entry, ids, changes) for entry in annotations]
    return Reading(done, changes)


def _entries(content: Mapping[str, Any], key: str) -> list[Any]:
    found = content.get(key)
    return found if isinstance(found, list) else []


def _ids(entries: Any) -> dict[str, Any]:
    """The ids of entries by how they are written; what two ids share is left out."""
    written: dict[str, Any] = {}
    for entry in entries if isinstance(entries, list) else ():
        key = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(key, int | str) and not isinstance(key, bool):
            text = str(key)
            written[text] = key if written.get(text, key) == key else None
    return {text: key for text, key in written.items() if key is not None}


def _set(entry: dict[str, Any], key: str, value: Any, changes: list[Change], source: dict[str, Any]) -> dict[str, Any]:
    """Returns the entry with another value; a copy if it is still the one that was read."""
    changes.append(Change(key, source, source[key]))
    changed = dict(entry) if entry is source else entry
    changed[key] = value
    return changed


def _image(entry: Any, changes: list[Change]) -> Any:
    if not isinstance(entry, dict):
        return entry
    out = entry
    if isinstance(entry.get("id"), float) and (key := whole(entry["id"])) is not None:
        out = _set(out, "id", key, changes, entry)
    for side in ("width", "height"):
        value = entry.get(side)
        if type(value) is not int and (pixels := whole(value)) is not None:
            out = _set(out, side, pixels, changes, entry)
    return out


def _with_whole_ids(categories: list[Any], changes: list[Change]) -> list[Any]:
    """Categories with numbers as ids where all are numbers in some form and none would coincide."""
    keys = [whole(entry.get("id")) if isinstance(entry, dict) else None for entry in categories]
    if None in keys or len(set(keys)) < len({str(entry["id"]) for entry in categories}):
        return categories
    return [
        entry if type(entry["id"]) is int else _set(entry, "id", key, changes, entry)
        for entry, key in zip(categories, keys)
    ]


def _annotation(entry: Any, ids: Mapping[str, Mapping[str, Any]], changes: list[Change]) -> Any:
    if not isinstance(entry, dict):
        return entry
    out = entry
    for key, known in (("image_id", ids["images"]), ("category_id", ids["categories"])):
        value = entry.get(key)
        if type(value) is int and type(known.get(str(value), value)) is int:
            continue
        named = _known(value, known)
        if named is not None and (type(named) is not type(value) or named != value):
            out = _set(out, key, named, changes, entry)
    for key in ("iscrowd", "ignore"):
        if key in entry and not (type(entry[key]) is int and entry[key] in (0, 1)):
            said = flag(entry[key])
            if said is not None:
                out = _set(out, key, said, changes, entry)
    if "area" in entry and (type(entry["area"]) not in (int, float) or number(entry["area"]) is None):
        out = _other_number(out, "area", entry, changes)
    if "num_keypoints" in entry and type(entry["num_keypoints"]) is not int:
        out = _other_number(out, "num_keypoints", entry, changes)
    box = entry.get("bbox")
    if isinstance(box, list) and len(box) == 4 and (read := _with_numbers(box)) is not box:
        out = _set(out, "bbox", read, changes, entry)
        box = read
    if entry.get("segmentation"):
        outlines = _mask(entry["segmentation"]) or polygons(entry["segmentation"], box)
        if outlines is not entry["segmentation"]:
            out = _set(out, "segmentation", outlines, changes, entry)
    return _with_visibility(out, entry, changes)


def _mask(segmentation: Any) -> dict[str, Any] | None:
    """An RLE mask whose size is whole numbers in another form; None for anything else."""
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(size, list) or all(type(side) is int for side in size):
        return None
    sides = [whole(side) for side in size]
    return None if None in sides else {**segmentation, "size": sides}


def _known(value: Any, known: Mapping[str, Any]) -> Any:
    """The id that a reference means, None where it is none of them."""
    if isinstance(value, str):
        found = known.get(value)
        return found if found is not None or (key := whole(value)) is None else known.get(str(key))
    key = whole(value)
    return None if key is None else known.get(str(key))


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _other_number(out: dict[str, Any], key: str, entry: dict[str, Any], changes: list[Change]) -> dict[str, Any]:
    """The field as a number; without it where it is none, for then it is computed."""
    value = entry[key]
    read = number(float(value)) if isinstance(value, bool) else number(value)
    if value is None or read is None:
        if value is not None:
            changes.append(Change(key, entry, value))
        out = dict(out) if out is entry else out
        del out[key]
        return out
    return _set(out, key, int(read) if key == "num_keypoints" else read, changes, entry)


def _with_visibility(out: dict[str, Any], entry: dict[str, Any], changes: list[Change]) -> dict[str, Any]:
    """Keypoints with visibilities 0, 1 and 2: other numbers above 0 are visible, below it not labelled."""
    points = entry.get("keypoints")
    if not isinstance(points, list) or not points or len(points) % 3:
        return out
    flags = points[2::3]
    if all(type(value) is int and 0 <= value <= 2 for value in flags):
        return out
    if not all(type(value) in (int, float) and _is_finite(value) for value in flags):
        return out
    told = [int(value) if value in (0, 1, 2) else 2 * (value > 0) for value in flags]
    if told == flags:  # 2.0 is 2
        return out
    new = list(points)
    new[2::3] = told
    return _set(out, "keypoints", new, changes, entry)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _name(entry: Mapping[str, Any]) -> str:
    kind = "annotation" if "image_id" in entry else "image" if "file_name" in entry else "category"
    return f"{kind} {entry.get('id', '(no id)')}"
