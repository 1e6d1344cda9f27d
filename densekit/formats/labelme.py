"""LabelMe's JSON, one file for each picture: polygons of masks, rectangles of boxes, points of poses."""

import json
import os
from pathlib import Path
from typing import Any

from densekit.files.atomic import atomic_write
from densekit.formats.classes import Classes
from densekit.formats.shapes import mask_polygons

FOLDER = "labelme"
_VERSION = "5.5.0"  # of LabelMe, which reads files of its own and of earlier versions


def write_picture(folder: Path, line: dict[str, Any], source: str, classes: Classes) -> None:
    """Writes a picture's objects; those of several shapes share a ``group_id``.

    Args:
        folder: of the output; the file is ``labelme/<stem>.json`` below it.
        line: the picture's.
        source: the picture's file; LabelMe finds it by its way from the JSON file.
        classes: whose names are the labels.
    """
    path = folder / FOLDER / f"{line['stem']}.json"
    names = dict(classes.things)
    points = list(classes.looks.get("keypoint_names") or ())
    shapes = [
        shape
        for group, result in enumerate(line["instances"], start=1)
        for shape in _shapes(result, names[result["category_id"]], points, group)
    ]
    content = {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": Path(os.path.relpath(source, path.parent)).as_posix(),
        "imageData": None,
        "imageHeight": line["height"],
        "imageWidth": line["width"],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        json.dump(content, file, indent=2, allow_nan=False)


def _shapes(result: dict[str, Any], name: str, points: list[str], group: int) -> list[dict[str, Any]]:
    outlines = (
        [("polygon", part.tolist()) for part in mask_polygons(result["segmentation"])]
        if "segmentation" in result
        else []
    )
    if not outlines:
        x, y, width, height = result["bbox"]
        outlines = [("rectangle", [[x, y], [x + width, y + height]])]
    found = [(name, kind, outline) for kind, outline in outlines]
    keypoints = result.get("keypoints", [])
    for number in range(len(keypoints) // 3):
        label = points[number] if number < len(points) else f"point {number}"
        # From COCO's pixel indices to LabelMe's continuous coordinates.
        found.append((label, "point", [[value + 0.5 for value in keypoints[3 * number : 3 * number + 2]]]))
    return [
        {
            "label": label,
            "points": outline,
            "group_id": group if len(found) > 1 else None,
            "description": "",
            "shape_type": kind,
            "flags": {},
            "score": result["score"],
        }
        for label, kind, outline in found
    ]
