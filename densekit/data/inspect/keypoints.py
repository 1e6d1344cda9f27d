"""Keypoints of COCO annotations and of their categories."""

from typing import Any

import numpy as np

from densekit.data.coco_json import is_limb
from densekit.data.inspect.coco_file import Entries, Entry
from densekit.data.inspect.findings import Findings

__all__ = ["check_keypoints", "keypoint_names", "keypoint_table"]


def check_keypoints(entries: Entries, findings: Findings, border: float) -> None:
    """Checks the names and limbs of the categories, and each annotation against them.

    Args:
        entries: the file.
        findings: where to record.
        border: pixels by which rounding may carry a point over the border.
    """
    lists: dict[str, str] = {}
    for category in entries.categories.values():
        if category.get("keypoints"):
            _check_category(category, findings)
            lists[str(category["keypoints"])] = category["name"]
    if len(lists) > 1:
        findings.add("keypoint-names", f"categories {', '.join(lists.values())}", "their lists of keypoints differ")
    counts = {key: len(keypoint_names(category)) for key, category in entries.categories.items()}
    used = {a["category_id"] for a in entries.annotations if a.get("keypoints")}
    for annotation in entries.annotations:
        # A file of boxes may list the names of keypoints and have none.
        if annotation.get("keypoints") or (annotation["category_id"] in used and not annotation.get("iscrowd")):
            _check_annotation(annotation, counts[annotation["category_id"]], entries, findings, border)


def keypoint_names(category: Entry) -> list[Any]:
    """Returns the names of a category's keypoints; empty where it has none, or no list of them."""
    names = category.get("keypoints")
    return names if isinstance(names, list) else []


def keypoint_table(annotation: Entry, count: int) -> np.ndarray | None:
    """Returns (K, 3) float64 x, y, visibility; None where there are not K triples of numbers."""
    numbers = annotation.get("keypoints")
    if not isinstance(numbers, list) or len(numbers) != 3 * count or not count:
        return None
    if not all(isinstance(value, int | float) for value in numbers):
        return None
    return np.array(numbers, dtype=np.float64).reshape(-1, 3)


def _check_category(category: Entry, findings: Findings) -> None:
    names, where = keypoint_names(category), f"category {category['name']}"
    if not names or len(set(map(str, names))) < len(names):
        findings.add("keypoint-names", where, f"keypoints {category['keypoints']}")
        return
    for name in names:
        other = _mirrored(str(name))
        if other != name and other not in names:
            findings.add("keypoint-mirror", where, f"{name} without {other}")
    skeleton = category.get("skeleton") or []
    for limb in skeleton if isinstance(skeleton, list) else [skeleton]:
        if not is_limb(limb, len(names)):
            findings.add("keypoint-skeleton", where, f"limb {limb} of {len(names)} keypoints")


def _mirrored(name: str) -> str:
    return name.replace("left", "right") if "left" in name else name.replace("right", "left")


def _check_annotation(annotation: Entry, count: int, entries: Entries, findings: Findings, border: float) -> None:
    def add(kind: str, detail: str, point: Any = None) -> None:
        box = None if point is None else (point[0] - 4, point[1] - 4, point[0] + 4, point[1] + 4)
        findings.add(kind, entries.where(annotation), detail, **entries.place(annotation), box=box)

    table = keypoint_table(annotation, count)
    if table is None:
        found = annotation.get("keypoints")
        length = len(found) if isinstance(found, list) else 0
        add("keypoint-count", f"{length} numbers for {count} keypoints (3 each)")
        return
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        add("keypoint-nan", f"keypoint {np.flatnonzero(~finite)[0] + 1}: {table[~finite][0].tolist()}")
    places, visible = table[:, :2], table[:, 2]
    odd = finite & ~np.isin(visible, (0, 1, 2))
    if odd.any():
        add("keypoint-visibility", f"visibility {visible[odd][0]:g} of keypoint {np.flatnonzero(odd)[0] + 1}")
    placed = finite & (visible == 0) & (places != 0).any(axis=1)
    if placed.any():
        add("keypoint-unlabelled", f"keypoint {np.flatnonzero(placed)[0] + 1}: {table[placed][0].tolist()}")
    image = entries.images[annotation["image_id"]]
    if isinstance(image.get("width"), int | float) and isinstance(image.get("height"), int | float):
        size = np.array([image["width"], image["height"]])
        outside = finite & (visible > 0) & ((places < -border) | (places > size + border)).any(axis=1)
        if outside.any():
            first = places[outside][0].tolist()
            add("keypoint-outside", f"keypoint {np.flatnonzero(outside)[0] + 1} at {first} of {size.tolist()}", first)
    labelled, claimed = int((visible > 0).sum()), annotation.get("num_keypoints")
    if claimed is not None and claimed != labelled:
        add("keypoint-number", f"num_keypoints {claimed!r}, {labelled} labelled")
