"""Boxes, areas and flags of COCO annotations against their images, each other and their masks.

Boxes are xywh, in pixels of the image, as COCO writes them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from densekit.data.coco_fields import number
from densekit.data.coco_json import BORDER, convention
from densekit.data.inspect.coco_file import Entries, Entry
from densekit.data.inspect.findings import Findings
from densekit.data.inspect.keypoints import check_keypoints
from densekit.data.inspect.mask_faults import MaskCheck

__all__ = [
    "BORDER",
    "area_problem",
    "box_convention",
    "box_problem",
    "check_objects",
    "copies",
    "image_size",
    "without_wrong_sizes",
]

_NO_NUMBERS = ("box-malformed", "box-nan")
_IOU, _OFF = 0.75, 2.0  # a mask contradicts its box if they overlap less and a side is off by more pixels
_AREA_SLACK = 1.05


def check_objects(entries: Entries, findings: Findings) -> None:
    """Checks every annotation of known image and category."""
    boxes = _Boxes(entries, findings)
    masks = MaskCheck(entries, findings, BORDER)
    with_mask: list[Entry] = []
    for annotation in entries.annotations:
        box = boxes.check(annotation)
        _check_flags(annotation, entries, findings)
        extent = masks.check(annotation)
        if annotation.get("segmentation"):
            with_mask.append(annotation)
        if box is not None:
            _check_area(annotation, box, entries, findings)
            if extent is not None:
                _compare(annotation, box, extent, entries, findings)
    things = [annotation for annotation in entries.annotations if not annotation.get("iscrowd")]
    missing = sum(not annotation.get("segmentation") for annotation in things)
    if with_mask and missing:
        findings.add("segmentation-some", "annotations", f"{missing} of {len(things)} have no mask")
    _check_copies(entries, findings)
    check_keypoints(entries, findings, BORDER)


def image_size(image: Entry) -> tuple[float, float] | None:
    """Returns (width, height) that an entry claims, None where it has no usable one."""
    width, height = image.get("width"), image.get("height")
    usable = all(isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < 1e9 for v in (width, height))
    return (width, height) if usable else None  # type: ignore[return-value] # None is excluded by `usable`


def without_wrong_sizes(images: Mapping[Any, Entry], sizes: Mapping[Any, tuple[int, int] | None]) -> dict[Any, Entry]:
    """Returns images by id, without the size where it contradicts the file.

    On which of the two the annotations were made is not known, so they can be held against neither.

    Args:
        images: entries by id.
        sizes: (width, height) of the files by id, None where one cannot be read.
    """
    return {
        key: image
        if sizes[key] is None or image_size(image) == sizes[key]
        else {**image, "width": None, "height": None}
        for key, image in images.items()
    }


def box_problem(box: Any, size: tuple[float, float] | None) -> tuple[str, str]:
    """Returns the kind of finding on one box and its detail; both empty where it is sound.

    Args:
        box: whatever the file has as xywh.
        size: (width, height) of the image; None leaves the place unchecked.
    """
    numbers = isinstance(box, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in box)
    if not numbers or len(box) != 4:
        return "box-malformed", f"bbox {str(box)[:80]}"
    if None in map(number, box):
        return "box-nan", f"bbox {str(box)[:80]}"
    x, y, width, height = box
    shown = f"bbox {[round(v, 2) for v in box]}"
    if width <= 0 or height <= 0:
        return "box-empty", shown
    if size is None:
        return "", ""
    shown += f" in an image of {size[0]} x {size[1]}"
    if x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0:
        return "box-outside", shown
    if min(x, y) < -BORDER or x + width > size[0] + BORDER or y + height > size[1] + BORDER:
        return "box-over-border", shown
    return "", ""


def box_convention(annotations: Sequence[Entry], images: Mapping[Any, Entry]) -> tuple[str, str]:
    """Tells from all boxes together how they were written.

    Returns:
        ``xywh``, ``xyxy`` or ``fractions``, and the evidence where it is not ``xywh``.
    """
    rows = []
    for annotation in annotations:
        size = image_size(images[annotation["image_id"]])
        if size and box_problem(annotation.get("bbox"), None)[0] not in _NO_NUMBERS:
            rows.append([*annotation["bbox"], *size])
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return convention(table[:, :4], table[:, 4:])


class _Boxes:
    """Checks boxes one by one, unless all of them follow another convention."""

    def __init__(self, entries: Entries, findings: Findings) -> None:
        self._entries, self._findings = entries, findings
        convention, evidence = box_convention(entries.annotations, entries.images)
        self._usual = convention == "xywh"
        if not self._usual:
            findings.add(f"boxes-{convention}", "all boxes", evidence)

    def check(self, annotation: Entry) -> list[float] | None:
        """Records what is wrong; returns the box where it has a positive size."""
        if annotation.get("bbox") is None:
            return None  # recorded as incomplete
        size = image_size(self._entries.images[annotation["image_id"]])
        kind, detail = box_problem(annotation["bbox"], size)
        if not self._usual and kind not in _NO_NUMBERS:
            return None
        if kind:
            place = self._entries.place(annotation)
            box = None if kind in _NO_NUMBERS else _corners(annotation["bbox"])
            self._findings.add(kind, self._entries.where(annotation), detail, **place, box=box)
        return annotation["bbox"] if kind in ("", "box-outside", "box-over-border") else None


def _corners(box: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = box
    return x, y, x + width, y + height


def _check_flags(annotation: Entry, entries: Entries, findings: Findings) -> None:
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        findings.add("crowd-unclear", entries.where(annotation), f"iscrowd {crowd!r}", **entries.place(annotation))
    if annotation.get("ignore"):
        findings.add("ignore-flag", entries.where(annotation), **entries.place(annotation))


def area_problem(area: Any, box: list[float]) -> bool:
    """Returns whether an area is no number, not positive or larger than its box (xywh)."""
    most = box[2] * box[3] * _AREA_SLACK + 1
    return not (isinstance(area, int | float) and 0 < area <= most)  # NaN is not


def _check_area(annotation: Entry, box: list[float], entries: Entries, findings: Findings) -> None:
    area = annotation.get("area")  # where there is none, it is computed when it is needed
    if area is not None and area_problem(area, box):
        detail = f"area {area!r}, box of {box[2] * box[3]:.1f}"
        place = entries.place(annotation)
        findings.add("area-contradicts", entries.where(annotation), detail, **place, box=_corners(box))


def _compare(
    annotation: Entry, box: list[float], extent: tuple[float, float, float, float], entries: Entries, findings: Findings
) -> None:
    """Compares a box with the rectangle around its mask (xyxy)."""
    corners = _corners(box)
    off = max(abs(a - b) for a, b in zip(corners, extent))
    if off <= _OFF:
        return
    width = min(corners[2], extent[2]) - max(corners[0], extent[0])
    height = min(corners[3], extent[3]) - max(corners[1], extent[1])
    common = max(width, 0.0) * max(height, 0.0)
    union = box[2] * box[3] + (extent[2] - extent[0]) * (extent[3] - extent[1]) - common
    if common > _IOU * union:
        return
    kind = "mask-contradicts-box" if common else "mask-elsewhere"
    shown = [round(v, 1) for v in (extent[0], extent[1], extent[2] - extent[0], extent[3] - extent[1])]
    detail = f"bbox {[round(v, 1) for v in box]}, mask within {shown}"
    place = entries.place(annotation)
    findings.add(kind, entries.where(annotation), detail, **place, box=corners, mask_box=extent)


def _check_copies(entries: Entries, findings: Findings) -> None:
    for annotation, first in copies(entries.annotations):
        findings.add(
            "object-twice", entries.where(annotation), f"like annotation {first.get('id')}", **entries.place(annotation)
        )


def copies(annotations: list[Entry]) -> list[tuple[Entry, Entry]]:
    """Returns (copy, first) for objects of equal image, class, box and mask."""
    seen: dict[tuple[Any, ...], list[Entry]] = {}
    found = []
    for annotation in annotations:
        if not isinstance(annotation.get("bbox"), list):
            continue
        key = (annotation["image_id"], annotation["category_id"], str(annotation["bbox"]))
        same = seen.setdefault(key, [])
        mask = json.dumps(annotation.get("segmentation")) if same else None
        first = next((other for other in same if json.dumps(other.get("segmentation")) == mask), None)
        if first is None:
            same.append(annotation)
        else:
            found.append((annotation, first))
    return found
