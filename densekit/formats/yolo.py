"""YOLO's text files, one for each picture: boxes, outlines of masks, or poses, in shares of the picture's size.

A row is the class's number from 0, in the order of ``classes.txt`` and ``data.yaml``, and then ``x y w h`` of a box
(its middle and its size), ``x1 y1 x2 y2 ...`` of an outline, or a box followed by ``x y 2`` for each keypoint. There
are no scores in it: these are labels, as training takes them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from densekit.files.atomic import atomic_write
from densekit.formats.classes import Classes
from densekit.formats.shapes import mask_polygons, one_outline

FOLDER = "yolo"
_VISIBLE = 2

Line = dict[str, Any]


def write_picture(folder: Path, line: Line, source: str, classes: Classes) -> None:
    """Writes ``yolo/labels/<stem>.txt``, an empty file where nothing was found."""
    numbers = {key: number for number, (key, _) in enumerate(classes.things)}
    size = np.array([line["width"], line["height"]], dtype=np.float64)
    rows = [(numbers[result["category_id"]], _values(result, size)) for result in line["instances"]]
    path = folder / FOLDER / "labels" / f"{line['stem']}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.writelines(f"{number} {' '.join(f'{value:.6g}' for value in values)}\n" for number, values in rows)


def write_names(folder: Path, lines: Iterable[Line], classes: Classes) -> None:
    """Writes the classes: ``yolo/classes.txt`` for labelling tools, ``yolo/data.yaml`` for training."""
    names = [name for _, name in classes.things]
    (folder / FOLDER).mkdir(exist_ok=True)
    with atomic_write(folder / FOLDER / "classes.txt") as file:
        file.writelines(f"{name}\n" for name in names)
    content: dict[str, Any] = {"names": dict(enumerate(names))}
    if points := classes.looks.get("keypoint_names"):
        content["kpt_shape"] = [len(points), 3]
    with atomic_write(folder / FOLDER / "data.yaml") as file:
        yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)


def _values(result: dict[str, Any], size: np.ndarray) -> list[float]:
    outlines = mask_polygons(result["segmentation"]) if "segmentation" in result else []
    if outlines and "keypoints" not in result:
        return (one_outline(outlines) / size).clip(0, 1).ravel().tolist()
    corner, extent = np.array(result["bbox"][:2]), np.array(result["bbox"][2:])
    row = np.concatenate([(corner + extent / 2) / size, extent / size])
    if "keypoints" in result:
        points = np.array(result["keypoints"]).reshape(-1, 3)
        places = (points[:, :2] + 0.5) / size  # from COCO's pixel indices
        row = np.concatenate([row, np.column_stack([places, np.full(len(points), _VISIBLE)]).ravel()])
    return row.tolist()
