"""A COCO file read leniently: whatever can be understood is kept, whatever cannot becomes a finding.

The loader (:mod:`densekit.data.coco_json`) stops at the first fault; here all of them are wanted.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from densekit.data import coco_json
from densekit.data.coco_fields import Change, is_id, normalised
from densekit.data.inspect.findings import Findings, Histogram
from densekit.files.atomic import leads_out

__all__ = ["Entries", "Entry", "inside", "is_complete", "read_entries", "read_json"]

Entry = dict[str, Any]

_SHOWN_KEYS = 12
_KINDS = {"iscrowd": "crowd-flag", "keypoints": "keypoint-visibility"}  # of fields with a kind of their own


@dataclass
class Entries:
    """The entries of a COCO file that can be told apart, each with its id.

    Attributes:
        images: id -> entry, the first of each id.
        categories: id -> entry, the first of each id.
        annotations: those whose image and category are listed, in the order of the file.
        folder: of the images.
    """

    images: dict[Any, Entry]
    categories: dict[Any, Entry]
    annotations: list[Entry]
    folder: str

    def path(self, image: Entry) -> str:
        """Returns an image's file, in one spelling; nothing outside the folder is ever opened."""
        return inside(self.folder, image["file_name"])

    def where(self, annotation: Entry) -> str:
        """Names an annotation for a person."""
        image = self.images[annotation["image_id"]]
        return f"annotation {annotation.get('id')} of image {image['id']} ({image['file_name']})"

    def place(self, annotation: Entry) -> dict[str, Any]:
        """Returns the fields of a finding that say where an annotation is."""
        image = self.images[annotation["image_id"]]
        return {"image": self.path(image), "image_id": image["id"], "annotation_id": annotation.get("id")}


def inside(folder: str, name: str) -> str:
    """The path of a named file below a folder; of a name that leads out of it, one at which there is no file."""
    if leads_out(name, folder):
        name = f"(outside) {name}".replace(os.sep, "_").replace("\0", "_")
    return os.path.normpath(os.path.join(folder, name))


def read_json(path: str, findings: Findings) -> Any:
    """Reads a JSON file; returns None and records why where that fails.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Annotation file {path} does not exist.")
    try:
        content, has_non_finite = coco_json.read_json(path)
    except ValueError as error:
        findings.add("annotations-unreadable", path, str(error).removeprefix(f"{path} ").rstrip("."))
        return None
    if content is None:
        findings.add("annotations-unreadable", path, "it holds nothing but null")
    if has_non_finite:
        findings.add("json-nan", path)
    return content


def read_entries(path: str, content: Any, folder: str, findings: Findings) -> Entries | None:
    """Sorts out the entries of a file; returns None where it is no COCO file at all."""
    reading = normalised(content)
    content = reading.content
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        kind = type(content).__name__
        if isinstance(content, dict):
            kind = f"keys {', '.join(sorted(content)[:_SHOWN_KEYS])}{', ...' if len(content) > _SHOWN_KEYS else ''}"
        findings.add("annotations-unreadable", path, f"no COCO file: an object with 'images' is needed, found {kind}")
        return None
    lists = {}
    for key in ("images", "annotations", "categories"):
        lists[key] = content.get(key, [])
        if not isinstance(lists[key], list):
            findings.add("annotations-unreadable", path, f"'{key}' is a {type(lists[key]).__name__}, not a list")
            return None
        if key not in content and not os.path.basename(path).startswith("image_info"):
            findings.add("annotations-unreadable", path, f"'{key}' is missing")
    images = _by_id("image", lists["images"], "file_name", findings)
    categories = _by_id("category", lists["categories"], "name", findings)
    if not images:
        findings.add("no-images", path)
    _check_names(categories, findings)
    entries = Entries(images, categories, [], folder)
    _check_files(entries, findings)
    entries.annotations = _known(entries, lists["annotations"], findings)
    for change in reading.changes:
        _report_change(change, entries, findings)
    _check_annotation_ids(entries, findings)
    findings.images, findings.objects = len(images), len(entries.annotations)
    findings.histogram = _histogram(entries)
    for name, count in findings.histogram.counts.items():
        if not count and entries.annotations:
            findings.add("class-unused", f"class {name}")
    _check_empty(entries, findings)
    return entries


def _report_change(change: Change, entries: Entries, findings: Findings) -> None:
    entry, value = change.entry, repr(change.value)
    detail = f"{change.field} {value[:60]}{'...' if len(value) > 60 else ''}"
    kind = _KINDS.get(change.field, "value-type")
    image = entry.get("image_id")
    if "image_id" in entry and _is_in(image, entries.images):
        findings.add(kind, entries.where(dict(entry)), detail, **entries.place(dict(entry)))
    else:
        what = "annotation" if "image_id" in entry else "image" if "file_name" in entry else "category"
        findings.add(kind, f"{what} {entry.get('id')}", detail)


def is_complete(entry: Any, name: str) -> bool:
    """Returns whether an image or category has an id and its name."""
    if not isinstance(entry, dict) or type(entry.get("id")) not in (int, str):
        return False
    if name == "name":
        return type(entry.get(name)) in (int, float, str)  # a category may be called 7
    return isinstance(entry.get(name), str) and bool(entry[name])


def _by_id(kind: str, listed: list[Any], name: str, findings: Findings) -> dict[Any, Entry]:
    kept: dict[Any, Entry] = {}
    for number, entry in enumerate(listed):
        missing = [key for key in ("id", name) if _lacks(entry, key)]
        if missing or not is_complete(entry, name):
            what = f"has no {', '.join(missing)}" if missing else f"has {entry['id']!r} and {entry[name]!r}"
            findings.add("entry-incomplete", f"{kind} number {number} of the list", f"{what} (id and {name})")
        elif entry["id"] in kept:
            detail = f"{kept[entry['id']][name]} and {entry[name]}"
            findings.add(f"{kind}-id-twice", f"{kind} id {entry['id']}", detail)
        else:
            kept[entry["id"]] = entry
    if len({type(key) for key in kept}) > 1:
        findings.add("id-type", f"{kind} ids", f"such as {', '.join(repr(k) for k in _one_of_each_type(kept))}")
    elif kind == "category" and (odd := [key for key in kept if _is_no_number(key)]):
        findings.add("id-type", "category ids", f"such as {odd[0]!r}, which is no number that metrics count with")
    return kept


def _is_no_number(key: int | str) -> bool:
    return isinstance(key, str) or abs(key) > coco_json.MOST_ID


def _one_of_each_type(values: Any) -> list[Any]:
    return list({type(value): value for value in values}.values())


def _check_names(categories: dict[Any, Entry], findings: Findings) -> None:
    _report_repeats(
        categories.values(), lambda entry: entry["name"],
        lambda first, again: findings.add(
            "category-name-twice", f"category {again['name']}", f"ids {first['id']} and {again['id']}"
        ),
    )  # fmt: skip


def _check_files(entries: Entries, findings: Findings) -> None:
    for key, image in entries.images.items():
        if leads_out(image["file_name"], entries.folder):
            findings.add("path-outside", f"image {key}", image["file_name"], image_id=key)
    _report_repeats(
        entries.images.values(), entries.path,
        lambda first, again: findings.add(
            "file-listed-twice", again["file_name"], f"image ids {first['id']} and {again['id']}",
            image=entries.path(again), image_id=again["id"],
        ),
    )  # fmt: skip


def _report_repeats(listed: Any, key: Callable[[Entry], Any], report: Callable[[Entry, Entry], None]) -> None:
    first: dict[Any, Entry] = {}
    for entry in listed:
        if first.setdefault(key(entry), entry) is not entry:
            report(first[key(entry)], entry)


def _known(entries: Entries, listed: list[Any], findings: Findings) -> list[Entry]:
    """Returns the annotations of known images and categories; what else is missing is checked with the object."""
    kept = []
    for number, annotation in enumerate(listed):
        missing = [key for key in ("id", "image_id", "category_id", "bbox") if _lacks(annotation, key)]
        named = annotation.get("id") if isinstance(annotation, dict) else None
        label = f"annotation number {number} of the list" if named is None else f"annotation {named}"
        if missing:
            hint = " (a panoptic file?)" if isinstance(annotation, dict) and "segments_info" in annotation else ""
            findings.add("entry-incomplete", label, f"has no {', '.join(missing)}{hint}", annotation_id=named)
        elif not is_id(named):
            findings.add("entry-incomplete", label, f"has the id {str(named)[:40]!r}")
        if {"image_id", "category_id"} & set(missing) or not isinstance(annotation, dict):
            continue
        if not _is_in(annotation["image_id"], entries.images):
            findings.add("image-unknown", label, f"image_id {annotation['image_id']!r}", annotation_id=named)
        elif not _is_in(annotation["category_id"], entries.categories):
            detail = f"category_id {annotation['category_id']!r}"
            place = entries.place(annotation)
            findings.add("category-unknown", entries.where(annotation), detail, **place)
        else:
            kept.append(annotation)
    return kept


def _lacks(annotation: Any, key: str) -> bool:
    return not isinstance(annotation, dict) or annotation.get(key) is None


def _is_in(key: Any, known: dict[Any, Entry]) -> bool:
    # True == 1 and 1.0 == 1 as keys of a dict; a list has no hash.
    return isinstance(key, int | str) and not isinstance(key, bool) and key in known


def _check_annotation_ids(entries: Entries, findings: Findings) -> None:
    seen: set[Any] = set()
    odd: list[Any] = []
    for annotation in entries.annotations:
        key = annotation.get("id")
        if not is_id(key):
            continue
        if not isinstance(key, int) or not 0 <= key < 2**63:
            odd.append(key)
        if key in seen:
            findings.add("annotation-id-twice", entries.where(annotation), **entries.place(annotation))
        seen.add(key)
    if 0 in seen:  # 0.0 too
        zero = next(annotation for annotation in entries.annotations if annotation.get("id") == 0)
        findings.add("annotation-id-zero", entries.where(zero), **entries.place(zero))
    if odd:
        findings.add("annotation-id-odd", "annotation ids", f"{len(odd)}, such as {str(odd[0])[:40]!r}")


def _histogram(entries: Entries) -> Histogram:
    """Counts objects and images by class, crowds left out."""
    counts = dict.fromkeys(entries.categories, 0)
    images: dict[Any, set[Any]] = {key: set() for key in entries.categories}
    for annotation in entries.annotations:
        if not annotation.get("iscrowd"):
            counts[annotation["category_id"]] += 1
            images[annotation["category_id"]].add(annotation["image_id"])
    names: dict[Any, str] = {}
    for key, entry in entries.categories.items():  # two categories of one name must not share a row
        name = str(entry["name"])
        names[key] = f"{name} ({key})" if name in names.values() else name
    return Histogram(
        "objects",
        {names[key]: count for key, count in counts.items()},
        {names[key]: len(found) for key, found in images.items()},
    )


def _check_empty(entries: Entries, findings: Findings) -> None:
    used = {annotation["image_id"] for annotation in entries.annotations if not annotation.get("iscrowd")}
    if not entries.annotations:
        return  # a test set without annotations
    for key, image in entries.images.items():
        if key not in used:
            findings.add("image-empty", f"image {key} ({image['file_name']})", image=entries.path(image), image_id=key)
