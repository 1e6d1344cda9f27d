"""A corrected copy of a COCO file: what can be put right without guessing, with a count of each change.

The order matters: entries first, then images, then objects. What only a person can decide (masks that contradict
boxes, class lists, copies of an image with different annotations) is left as it is.
"""

import copy
from collections import Counter
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from densekit.data.coco_fields import is_id, normalised
from densekit.data.coco_json import is_limb
from densekit.data.coco_masks import polygon_problem, rle_problem, segmentation_extent
from densekit.data.ground_truth import segmentation_area
from densekit.data.inspect.coco_file import Entry, is_complete
from densekit.data.inspect.keypoints import keypoint_names, keypoint_table
from densekit.data.inspect.objects import (
    BORDER,
    area_problem,
    box_convention,
    box_problem,
    copies,
    image_size,
    without_wrong_sizes,
)
from densekit.data.inspect.pictures import PictureFacts

__all__ = ["fix_coco"]

Changes = Counter[str]


def fix_coco(
    content: Mapping[str, Any],
    paths: Mapping[Any, str],
    facts: Mapping[str, PictureFacts],
    leaked: Set[str] = frozenset(),
) -> tuple[dict[str, Any], Changes]:
    """Corrects the content of a COCO file.

    Args:
        content: what the file holds; it is left as it is.
        paths: image id -> file.
        facts: file -> what it says about itself.
        leaked: files to leave out, since another data set has them.

    Returns:
        The corrected content, and how often each change was made.
    """
    reading = normalised(content)
    fixed = copy.deepcopy(dict(reading.content))
    changes: Changes = Counter(f"values of '{change.field}' written in COCO's form" for change in reading.changes)
    fixed["categories"] = _unique("category", fixed.get("categories", []), "name", changes)
    for category in fixed["categories"]:
        _fix_skeleton(category, changes)
    listed = _unique("image", fixed["images"], "file_name", changes)
    images, moved = _merge(_usable(listed, paths, facts, leaked, changes), paths, changes)
    categories = {category["id"]: category for category in fixed["categories"]}
    annotations = _belonging(fixed.get("annotations", []), images, moved, categories, changes)
    _enter_sizes(images, annotations, paths, facts, changes)
    sure = without_wrong_sizes(images, {key: facts[paths[key]].upright_size for key in images})
    convention = box_convention(annotations, sure)[0]
    if convention == "xyxy":
        _subtract_corners(annotations, changes)
    posed = {annotation["category_id"] for annotation in annotations if annotation.get("keypoints")}
    kept = []
    for annotation in annotations:
        image = sure[annotation["image_id"]]
        if not _fix_mask(annotation, image, changes):
            continue
        if convention == "fractions" or _fix_box(annotation, image, changes):
            _fix_flags(annotation, changes)
            if convention != "fractions":
                _fix_area(annotation, changes)
            if annotation["category_id"] in posed and not (annotation["iscrowd"] and not annotation.get("keypoints")):
                _fix_keypoints(annotation, image, categories[annotation["category_id"]], changes)
            kept.append(annotation)
    repeated = {id(annotation) for annotation, _ in copies(kept)}
    changes["copies of an object removed"] += len(repeated)
    fixed["images"] = list(images.values())
    fixed["annotations"] = [annotation for annotation in kept if id(annotation) not in repeated]
    _number(fixed["annotations"], changes)
    return fixed, +changes


def _unique(kind: str, entries: list[Any], name: str, changes: Changes) -> list[Entry]:
    kept: dict[Any, Entry] = {}
    for entry in entries:
        if not is_complete(entry, name):
            changes[f"incomplete {kind} entries removed"] += 1
        elif kept.setdefault(entry["id"], entry) is not entry:
            changes[f"{kind} entries with a used id removed"] += 1
    return list(kept.values())


def _fix_skeleton(category: Entry, changes: Changes) -> None:
    limbs = category.get("skeleton")
    if not isinstance(limbs, list):
        return
    good = [limb for limb in limbs if is_limb(limb, len(keypoint_names(category)))]
    changes["limbs of no keypoint removed"] += len(limbs) - len(good)
    category["skeleton"] = good


def _usable(
    images: list[Entry], paths: Mapping[Any, str], facts: Mapping[str, PictureFacts], leaked: Set[str], changes: Changes
) -> list[Entry]:
    kept = []
    for image in images:
        path = paths[image["id"]]
        if facts[path].problem:
            changes["images removed that are missing or cannot be read"] += 1
        elif path in leaked:
            changes["images removed that the other data set has"] += 1
        else:
            kept.append(image)
    return kept


def _merge(images: list[Entry], paths: Mapping[Any, str], changes: Changes) -> tuple[dict[Any, Entry], dict[Any, Any]]:
    """Merges entries of one file; returns the images and, for each merged id, the id that took its place."""
    first: dict[str, Any] = {}
    moved = {image["id"]: first.setdefault(paths[image["id"]], image["id"]) for image in images}
    kept = {image["id"]: image for image in images if moved[image["id"]] == image["id"]}
    changes["entries of one file merged"] += len(images) - len(kept)
    return kept, moved


def _belonging(
    annotations: list[Any], images: Mapping[Any, Entry], moved: Mapping[Any, Any], categories: Mapping[Any, Entry],
    changes: Changes,
) -> list[Entry]:  # fmt: skip
    kept = []
    for annotation in annotations:
        keys = [annotation.get(key) if isinstance(annotation, dict) else None for key in ("image_id", "category_id")]
        if not all(isinstance(key, int | str) and not isinstance(key, bool) for key in keys):
            changes["annotations without image or category removed"] += 1
        elif moved.get(keys[0]) not in images:
            changes["annotations of images that are not listed, or no longer, removed"] += 1
        elif keys[1] not in categories:
            changes["annotations of unknown categories removed"] += 1
        else:
            annotation["image_id"] = moved[keys[0]]
            kept.append(annotation)
    return kept


def _enter_sizes(
    images: Mapping[Any, Entry], annotations: list[Entry], paths: Mapping[Any, str], facts: Mapping[str, PictureFacts],
    changes: Changes,
) -> None:  # fmt: skip
    """Enters the files' sizes where the annotations cannot have been made on an image that was resized or turned."""
    far: dict[Any, list[float]] = {}
    for annotation in annotations:
        if box_problem(annotation.get("bbox"), None)[0] == "":
            box, corner = annotation["bbox"], far.setdefault(annotation["image_id"], [0.0, 0.0])
            corner[0], corner[1] = max(corner[0], box[0] + box[2]), max(corner[1], box[1] + box[3])
    for key, image in images.items():
        size, claimed = facts[paths[key]].upright_size, image_size(image)
        if size is None or claimed == size:
            continue
        right, bottom = far.get(key, [0.0, 0.0])
        fits = right <= size[0] + BORDER and bottom <= size[1] + BORDER
        resized = claimed is not None and abs(claimed[0] * size[1] - claimed[1] * size[0]) <= sum(size)
        turned = claimed is not None and facts[paths[key]].orientation != 1
        if fits and not resized and not turned:
            image["width"], image["height"] = size
            changes["sizes of images taken from their files"] += 1


def _subtract_corners(annotations: list[Entry], changes: Changes) -> None:
    for annotation in annotations:
        if box_problem(annotation.get("bbox"), None)[0] == "":
            x0, y0, x1, y1 = annotation["bbox"]
            annotation["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            changes["boxes turned from xyxy into xywh"] += 1


def _fix_mask(annotation: Entry, image: Entry, changes: Changes) -> bool:
    """Removes what is no mask; returns whether the annotation stays."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return True
    if isinstance(segmentation, dict):
        broken = bool(rle_problem(segmentation, image)[0])
        changes["annotations with a broken or empty RLE mask removed"] += broken
        return not broken
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        changes["annotations with a malformed segmentation removed"] += 1
        return False
    sound = [polygon for polygon in segmentation if not polygon_problem(polygon)[0]]
    changes["polygons that are no area removed"] += len(segmentation) - len(sound)
    changes["annotations without any sound polygon removed"] += not sound
    size = image_size(image)
    if sound and size is not None:
        x0, y0, x1, y1 = segmentation_extent(sound) or (0.0, 0.0, 0.0, 0.0)
        if max(-x0, -y0, x1 - size[0], y1 - size[1]) > BORDER:
            sound = [_clip_polygon(polygon, size) for polygon in sound]
            sound = [polygon for polygon in sound if not polygon_problem(polygon)[0]]
            changes["masks clipped to their image"] += 1
    annotation["segmentation"] = sound
    return bool(sound)


def _clip_polygon(polygon: list[float], size: tuple[float, float]) -> list[float]:
    return np.clip(np.reshape(polygon, (-1, 2)), 0, size).ravel().tolist()


def _fix_box(annotation: Entry, image: Entry, changes: Changes) -> bool:
    """Clips or replaces a box; returns whether the annotation stays."""
    size = image_size(image)
    kind = box_problem(annotation.get("bbox"), size)[0]
    if kind == "":
        return True
    if kind == "box-over-border" and size is not None:
        box = _clip_box(annotation["bbox"], size)
        changes["boxes clipped to their image"] += 1
    else:
        extent = segmentation_extent(annotation["segmentation"]) if annotation.get("segmentation") else None
        if extent is None:
            changes["annotations without a usable box or mask removed"] += 1
            return False
        box = [extent[0], extent[1], extent[2] - extent[0], extent[3] - extent[1]]
        changes["boxes taken from their masks"] += 1
    if box_problem(box, size)[0]:
        changes["annotations outside their image removed"] += 1
        return False
    annotation["bbox"] = box
    annotation.pop("area", None)  # it was that of the old box or mask
    return True


def _clip_box(box: list[float], size: tuple[float, float]) -> list[float]:
    x0, y0 = max(box[0], 0), max(box[1], 0)
    return [x0, y0, min(box[0] + box[2], size[0]) - x0, min(box[1] + box[3], size[1]) - y0]


def _fix_flags(annotation: Entry, changes: Changes) -> None:
    if annotation.pop("ignore", None):
        annotation["iscrowd"] = 1
        changes["'ignore' turned into iscrowd"] += 1
    if annotation.setdefault("iscrowd", 0) not in (0, 1):
        annotation["iscrowd"] = 0  # an object that is no crowd can be looked at; a crowd would be lost
        changes["iscrowd that says neither yes nor no set to 0"] += 1


def _fix_area(annotation: Entry, changes: Changes) -> None:
    box, segmentation = annotation["bbox"], annotation.get("segmentation")
    if area_problem(annotation.get("area"), box):
        area = segmentation_area(segmentation) if segmentation else 0.0
        annotation["area"] = area or box[2] * box[3]
        changes["areas computed"] += 1


def _fix_keypoints(annotation: Entry, image: Entry, category: Entry, changes: Changes) -> None:
    names = keypoint_names(category)
    if not names:
        return
    table = keypoint_table(annotation, len(names))
    if table is None:
        table = np.zeros((len(names), 3))
        changes["keypoints of a wrong number marked as not labelled"] += 1
    before = table.copy()
    table[~np.isfinite(table).all(axis=1)] = 0
    table[:, 2] = np.where(np.isin(table[:, 2], (0, 1, 2)), table[:, 2], 2.0 * (table[:, 2] > 0))
    if (size := image_size(image)) is not None:
        outside = ((table[:, :2] < -BORDER) | (table[:, :2] > np.array(size) + BORDER)).any(axis=1)
        table[outside] = 0
    table[table[:, 2] == 0] = 0
    changed = int((~np.equal(before, table).all(axis=1)).sum())
    changes["keypoints corrected or marked as not labelled"] += changed
    labelled = int((table[:, 2] > 0).sum())
    changes["num_keypoints counted anew"] += annotation.get("num_keypoints", labelled) != labelled
    numbers = table.ravel().tolist()
    annotation["keypoints"] = [int(value) if value == int(value) else value for value in numbers]
    annotation["num_keypoints"] = labelled


def _number(annotations: list[Entry], changes: Changes) -> None:
    """Gives new ids to annotations without one, with a used one, or with 0."""
    seen: set[Any] = set()
    free = max((a["id"] for a in annotations if type(a.get("id")) is int), default=0)
    for annotation in annotations:
        key = annotation.get("id")
        if not is_id(key) or key in seen or key == 0:
            free += 1
            annotation["id"] = free
            changes["annotations numbered anew"] += 1
        seen.add(annotation["id"])
