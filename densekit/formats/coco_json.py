"""COCO's JSON: the list of results that evaluations take, and a whole data set file that annotation tools open.

The whole file has each object's run-length encoding, which loses nothing, and a ``score`` beside COCO's own fields.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pycocotools.mask as mask_utils

from densekit.files.atomic import atomic_write
from densekit.formats.classes import Classes

RESULTS = "coco_instances_results.json"
FULL = "coco_full.json"
_VISIBLE = 2

Line = dict[str, Any]


def write_results(folder: Path, lines: Iterable[Line], classes: Classes) -> None:
    """Writes the results of all pictures in COCO's format."""
    with atomic_write(folder / RESULTS) as file:
        _write_list(file, (result for line in lines for result in line["instances"]))
        file.write("\n")


def write_full(folder: Path, lines: Iterable[Line], classes: Classes) -> None:
    """Writes a file of COCO's annotation format: pictures, categories, and an annotation for each result.

    Args:
        folder: Where to.
        lines: Can be gone through more than once.
        classes: The categories.
    """
    numbered = all(isinstance(line["image_id"], int) for line in lines)
    # Of a data set whose ids are names: COCO's are numbers, and tools such as CVAT take no others.
    ids = {} if numbered else {line["image_id"]: line["index"] + 1 for line in lines}
    images = ({"id": ids.get(line["image_id"], line["image_id"]), **_fields(line)} for line in lines)
    results = (
        result | {"image_id": ids.get(result["image_id"], result["image_id"])}
        for line in lines
        for result in line["instances"]
    )
    with atomic_write(folder / FULL) as file:
        file.write('{"info": {"description": "Predictions made by densekit"}, "licenses": [],\n"images": ')
        _write_list(file, images)
        file.write(',\n"categories": ')
        _write_list(file, categories(classes))
        file.write(',\n"annotations": ')
        _write_list(file, (_annotation(number + 1, result) for number, result in enumerate(results)))
        file.write("}\n")


def categories(classes: Classes) -> list[dict[str, Any]]:
    """COCO's description of the classes of objects, with their keypoints if they have them."""
    points = {}
    if names := list(classes.looks.get("keypoint_names") or ()):
        rules = classes.looks.get("keypoint_connection_rules") or ()
        points = {"keypoints": names, "skeleton": [[names.index(a) + 1, names.index(b) + 1] for a, b, _ in rules]}
    return [{"id": key, "name": name, "supercategory": "", **points} for key, name in classes.objects()]


def _fields(line: Line) -> dict[str, Any]:
    return {key: line[key] for key in ("file_name", "height", "width")}


def _annotation(number: int, result: dict[str, Any]) -> dict[str, Any]:
    """An annotation from a result; of keypoints it says that they are visible, and keeps their scores beside them."""
    mask, points = result.get("segmentation"), result.get("keypoints")
    width, height = result["bbox"][2:]
    annotation = {"id": number, **result, "area": int(mask_utils.area(mask)) if mask else width * height, "iscrowd": 0}
    annotation.setdefault("segmentation", [])  # which some tools look up without asking
    if points:
        annotation["keypoints"] = [v if k % 3 < 2 else _VISIBLE for k, v in enumerate(points)]
        annotation["num_keypoints"] = len(points) // 3
        annotation["keypoint_scores"] = points[2::3]
    return annotation


def _write_list(file: IO[str], entries: Iterable[dict[str, Any]] | Sequence[dict[str, Any]]) -> None:
    """Writes a JSON list with an entry on each line; the list is never in memory."""
    file.writelines(_pieces(entries))


def _pieces(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    opening = "["
    for entry in entries:
        yield opening + json.dumps(entry, allow_nan=False)
        opening = ",\n"
    yield "]" if opening != "[" else "[]"
