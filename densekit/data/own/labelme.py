"""Form ``labelme``: a JSON file of shapes for each image, as LabelMe writes it.

Polygons, rectangles, circles and masks are objects; shapes of one label and ``group_id`` are one. Points and lines are
left out with a warning. An image belongs to the JSON file of its name; the path within the file is not followed.
"""

import base64
import binascii
import functools
import io
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from densekit.d2.structures import BoxMode
from densekit.data.coco_fields import whole
from densekit.data.coco_json import read_json
from densekit.data.own.classes import ClassList, number_names
from densekit.data.own.options import Form, Option, classes, file, folder
from densekit.data.own.pairing import read_pairs
from densekit.data.pictures import image_size
from densekit.data.registry import Entry, Records
from densekit.files.image_limit import UNREADABLE, readable
from densekit.ops.outlines import bounds, polygons

__all__ = ["LABELME"]

_CIRCLE = 32  # corners of the polygon that stands for a circle
_NO_AREA = ("point", "points", "line", "linestrip")

logger = logging.getLogger(__name__)


def load_labelme(
    name: str, images: str, annotations: str, classes: ClassList | None = None, split: str | None = None
) -> Records:
    """Reads the records of a data set; images without a JSON file are left out.

    Args:
        name: Registered name; the classes are entered in its metadata.
        images: Folder of the images.
        annotations: Folder of the JSON files, named like the images.
        classes: Names; None takes those that occur, in alphabetical order.
        split: Text file with the names to take.

    Returns:
        ``file_name, image_id`` (the name)``, height, width`` and ``annotations`` with ``bbox`` (xyxy, pixels),
        ``bbox_mode, category_id, iscrowd, segmentation`` (polygons).

    Raises:
        FileNotFoundError: A JSON file has no image.
        ValueError: A JSON file cannot be parsed, contradicts its image or has a shape that cannot be used.
    """
    records = read_pairs(images, annotations, ".json", split, _read)
    left_out = sum(record.pop("left_out") for record in records)
    if left_out:
        logger.warning("%s: %d points and lines are left out; they have no area.", annotations, left_out)
    number_names(records, classes, name)
    return records


def _read(path: str, image: str) -> dict[str, Any]:
    """A record whose categories are still names."""
    content, _ = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ValueError(f"{path} is no LabelMe file: it has no list 'shapes' at its top level.")
    height, width = image_size(image)
    told = (content.get("imageWidth"), content.get("imageHeight"))
    said = tuple(whole(side) or side or real for side, real in zip(told, (width, height)))  # text is read, null is none
    if said != (width, height):
        raise ValueError(
            f"{path} says {said[0]} x {said[1]} (width x height), and its image {image} is {width} x {height}. Is it "
            "another version of the image, or turned by an EXIF tag? Correct the one or the other."
        )
    objects: dict[Any, dict[str, Any]] = {}
    left_out = 0
    for number, shape in enumerate(content["shapes"]):
        label, where = _label(path, number, shape)
        if _kind(shape) in _NO_AREA:
            left_out += 1
            continue
        outlines, box = _region(where, shape)
        group = shape.get("group_id")
        key = number if group is None else (label, str(group))
        entire = objects.setdefault(key, {"category_id": label, "iscrowd": 0, "segmentation": [], "bbox": box})
        entire["segmentation"].extend(outline.ravel().tolist() for outline in outlines)
        entire["bbox"] = [*map(min, entire["bbox"][:2], box[:2]), *map(max, entire["bbox"][2:], box[2:])]
        entire["bbox_mode"] = BoxMode.XYXY_ABS
    return {
        "file_name": image,
        "height": height,
        "width": width,
        "annotations": list(objects.values()),
        "left_out": left_out,
    }


def _label(path: str, number: int, shape: Any) -> tuple[str, str]:
    label = shape.get("label") if isinstance(shape, dict) else None
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)  # a class may be called 7
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"{path}: shape number {number} has no label.")
    label = label.strip()
    return label, f"{path}: shape number {number} ({label})"


def _kind(shape: dict[str, Any]) -> str:
    """The form of a shape; null and nothing are a polygon, as in files of older versions and other tools."""
    return shape.get("shape_type") or "polygon"


def _region(where: str, shape: dict[str, Any]) -> tuple[Sequence[np.ndarray], list[float]]:
    """Polygons (N, 2) of a shape and its box (xyxy), pixels; outlines of a mask lie a little inside of its pixels."""
    points = _points(where, shape)
    if _kind(shape) == "mask" and len(points) >= 2:
        corner, mask = points.min(axis=0), _mask(where, shape)
        found = [outline + corner for outline in polygons(mask)]
        if not found:
            raise ValueError(f"{where} is an empty mask. Correct or remove it.")
        return found, (np.reshape(bounds(mask), (2, 2)) + corner).ravel().tolist()
    outline = _outline(where, shape, points)
    return [outline], [*outline.min(axis=0).tolist(), *outline.max(axis=0).tolist()]


def _points(where: str, shape: dict[str, Any]) -> np.ndarray:
    """The points (N, 2) that a shape is drawn by."""
    try:
        points = np.array(shape.get("points"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"{where} has points that are no list of finite [x, y].")
    return points


def _outline(where: str, shape: dict[str, Any], points: np.ndarray) -> np.ndarray:
    """The corners (N, 2) of a shape that is no mask."""
    kind = _kind(shape)
    if kind in ("polygon", "rotation"):  # a rectangle that is turned has its four corners
        if len(points) < 3 or (np.ptp(points, axis=0) <= 0).any():
            raise ValueError(f"{where} is a polygon without area ({len(points)} points). Correct or remove it.")
        return points
    if kind not in ("rectangle", "circle") or len(points) < 2:
        raise ValueError(
            f"{where} has shape_type {kind!r} with {len(points)} points, and cannot be an object: polygon, rectangle, "
            "circle and mask can."
        )
    if kind == "circle":
        centre, edge = points[:2]
        radius = float(np.linalg.norm(edge - centre))
        if radius <= 0:
            raise ValueError(f"{where} is a circle without area. Correct or remove it.")
        angles = np.arange(_CIRCLE) * (2 * math.pi / _CIRCLE)
        return centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)  # of two corners or of four
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"{where} is a rectangle without area. Correct or remove it.")
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _mask(where: str, shape: dict[str, Any]) -> np.ndarray:
    """The pixels (h, w) of a mask, which begin at its box's upper left corner."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape.get("mask") or "", validate=True))) as image:
            return np.asarray(image.convert("L")) > 0
    except (binascii.Error, TypeError, *UNREADABLE) as error:
        raise ValueError(f"{where} has a mask that is no PNG in base 64: {readable(error)}.") from error


def _entry(
    name: str,
    *,
    images: str,
    annotations: str | None = None,
    classes: ClassList | None = None,
    split: str | None = None,
) -> Entry:
    load = functools.partial(load_labelme, name, images, annotations or images, classes, split)
    return Entry(name, load, {"image_root": images, "evaluator_type": "coco"})


LABELME = Form(
    "LabelMe: a JSON of shapes for each image",
    {
        "images": Option(folder, "folder of the images"),
        "annotations": Option(folder, "folder of the JSON files; by default that of the images", required=False),
        "classes": Option(classes, "names, or a file of them; by default those that occur", required=False),
        "split": Option(file, "text file with the names to take", required=False),
    },
    _entry,
)
