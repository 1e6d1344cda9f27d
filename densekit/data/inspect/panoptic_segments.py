"""COCO panoptic data sets: the JSON of segments against the PNGs, the images and the category list."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from densekit.data.inspect.coco_file import Entries, Entry, inside, read_entries, read_json
from densekit.data.inspect.findings import Findings, Histogram
from densekit.data.inspect.inspection import Inspection, Options, check_class_count, inspect_pictures, listed_pictures
from densekit.data.inspect.pictures import PictureFacts, progress_map
from densekit.files.atomic import leads_out
from densekit.files.panoptic_png import read_panoptic_png

__all__ = ["check_panoptic_file", "inspect_panoptic"]

_BOX_SLACK = 1.5  # pixels; tools differ in whether the last pixel is inside


def inspect_panoptic(json_file: str, png_root: str, image_root: str, name: str, options: Options) -> Inspection:
    """Inspects a panoptic file, its PNGs and its images.

    Raises:
        FileNotFoundError: There is no such file.
    """
    findings = Findings(name)
    found = _read_file(json_file, image_root, findings)
    if found is None:
        return Inspection(findings)
    by_image, entries = found
    check_class_count(len(entries.categories), findings, options)
    facts, leaked = inspect_pictures(listed_pictures(entries), findings, options)
    counts, images = _check_segments(by_image, entries, png_root, facts, findings, options)
    findings.objects = sum(counts.values())
    findings.histogram = Histogram("segments", counts, images)
    for class_name, count in counts.items():
        if not count:
            findings.add("class-unused", f"class {class_name}")
    return Inspection(findings, facts=facts, leaked=leaked)


def check_panoptic_file(json_file: str, png_root: str, findings: Findings, options: Options) -> None:
    """Checks a panoptic file against its PNGs, the images left out.

    Raises:
        FileNotFoundError: There is no such file.
    """
    own = Findings(findings.name)
    found = _read_file(json_file, "", own)
    if found is not None:
        _check_segments(*found, png_root, {}, own, options)
    for kind, listed in own.by_kind.items():
        findings.by_kind.setdefault(kind, []).extend(listed)


def _read_file(json_file: str, image_root: str, findings: Findings) -> tuple[dict[Any, Entry], Entries] | None:
    """Returns the annotations by image and the entries, None where there are none to be told apart."""
    content = read_json(json_file, findings)
    if content is None:
        return None
    annotations = content.get("annotations") if isinstance(content, dict) else None
    others = {**content, "annotations": []} if isinstance(content, dict) else content
    entries = read_entries(json_file, others, image_root, findings)
    if entries is None or not isinstance(annotations, list):
        if entries is not None:
            findings.add("annotations-unreadable", json_file, "no list 'annotations'")
        return None
    return _by_image(annotations, entries, findings), entries


def _by_image(annotations: list[Any], entries: Entries, findings: Findings) -> dict[Any, Entry]:
    kept: dict[Any, Entry] = {}
    for number, annotation in enumerate(annotations):
        keys = ("image_id", "file_name", "segments_info")
        missing = [key for key in keys if not isinstance(annotation, dict) or annotation.get(key) is None]
        if missing or not isinstance(annotation["segments_info"], list):
            what = ", ".join(missing) or "list under segments_info"
            findings.add("entry-incomplete", f"annotation number {number} of the list", f"has no {what}")
        elif not isinstance(annotation["image_id"], int | str) or annotation["image_id"] not in entries.images:
            findings.add("image-unknown", annotation["file_name"], f"image_id {annotation['image_id']!r}")
        elif leads_out(str(annotation["file_name"])):
            findings.add("path-outside", f"image {annotation['image_id']}", str(annotation["file_name"]))
        elif annotation["image_id"] in kept:
            findings.add("annotation-id-twice", annotation["file_name"], f"image {annotation['image_id']} again")
        else:
            kept[annotation["image_id"]] = annotation
    for key, image in entries.images.items():
        if key not in kept:
            path = entries.path(image)
            findings.add("panoptic-missing", f"image {key} ({image['file_name']})", image=path, image_id=key)
    return kept


def _check_segments(
    by_image: Mapping[Any, Entry],
    entries: Entries,
    root: str,
    facts: Mapping[str, PictureFacts],
    findings: Findings,
    options: Options,
) -> tuple[dict[str, int], dict[str, int]]:
    """Checks all images; returns how many segments of each class there are, and in how many images."""
    counts = dict.fromkeys(entries.categories, 0)
    images = dict.fromkeys(entries.categories, 0)
    items = [(key, inside(root, str(entry["file_name"]))) for key, entry in by_image.items()]
    maps = progress_map(lambda item: _read(item[1]), items, options.workers, options.progress, "panoptic PNGs")
    for (key, path), ids in zip(items, maps):
        image = entries.path(entries.images[key])
        check = _ImageCheck(key, path, image, entries, findings)
        found = check.segments(by_image[key]["segments_info"])
        for category in found.values():
            counts[category] += 1
        for category in set(found.values()):
            images[category] += 1
        if isinstance(ids, str):
            check.add("label-missing" if not os.path.isfile(path) else "label-unreadable", ids)
        else:
            check.pixels(ids, by_image[key]["segments_info"], facts.get(image))
    names = {key: category["name"] for key, category in entries.categories.items()}
    return {names[key]: count for key, count in counts.items()}, {names[key]: count for key, count in images.items()}


def _read(path: str) -> np.ndarray | str:
    """The ids, or why there are none."""
    try:
        return read_panoptic_png(path)
    except FileNotFoundError:
        return ""
    except ValueError as error:
        return str(error)


class _ImageCheck:
    """Checks the segments of one image."""

    def __init__(self, key: Any, path: str, image: str, entries: Entries, findings: Findings) -> None:
        self._key, self._path, self._entries, self._findings = key, path, entries, findings
        self._image = image if os.path.isfile(image) else None

    def add(self, kind: str, detail: str, **fields: Any) -> None:
        self._findings.add(kind, self._path, detail, image=self._image, image_id=self._key, **fields)

    def segments(self, listed: list[Any]) -> dict[int, Any]:
        """Checks the list; returns segment id -> category of the sound ones."""
        found: dict[int, Any] = {}
        for segment in listed:
            key, category = (
                (segment.get("id"), segment.get("category_id")) if isinstance(segment, dict) else (None, None)
            )
            if not isinstance(key, int) or key <= 0 or category is None:
                self.add("entry-incomplete", f"segment {str(segment)[:60]}")
            elif not isinstance(category, int | str) or category not in self._entries.categories:
                self.add("category-unknown", f"segment {key}: category_id {category!r}")
            elif key in found:
                self.add("segment-twice", f"segment {key}")
            else:
                found[key] = category
        return found

    def pixels(self, ids: np.ndarray, listed: list[Any], image: PictureFacts | None) -> None:
        """Compares the list with the PNG."""
        height, width = ids.shape
        if image is not None and image.upright_size is not None and image.upright_size != (width, height):
            self.add("label-size", f"{width} x {height}, its image {' x '.join(map(str, image.upright_size))}")
        drawn, counts = np.unique(ids, return_counts=True)
        areas = dict(zip(drawn.tolist(), counts.tolist()))
        segments = {s["id"]: s for s in listed if isinstance(s, dict) and isinstance(s.get("id"), int)}
        strange = sorted(areas.keys() - segments.keys() - {0})
        if strange:
            self.add("segment-unlisted", f"ids {', '.join(map(str, strange[:8]))}")
        if set(areas) == {0}:
            self.add("label-void", "")
        for key, segment in segments.items():
            if key not in areas:
                self.add("segment-absent", f"segment {key}")
            elif segment.get("area") is not None and segment["area"] != areas[key]:
                self.add("segment-area", f"segment {key}: area {segment['area']!r}, {areas[key]} pixels")
            elif isinstance(segment.get("bbox"), list):
                self._box(ids, segment)

    def _box(self, ids: np.ndarray, segment: Entry) -> None:
        rows, columns = np.nonzero(ids == segment["id"])
        extent = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        box = segment["bbox"]
        if len(box) != 4 or not all(isinstance(v, int | float) for v in box):
            self.add("box-malformed", f"segment {segment['id']}: bbox {box}")
        elif max(abs(a - b) for a, b in zip(box, extent)) > _BOX_SLACK:
            shown = [int(v) for v in extent]
            self.add("segment-area", f"segment {segment['id']}: bbox {box}, its pixels {shown}")
