"""Companions of panoptic and semantic PNGs: COCO's panoptic JSON, and the list of label maps."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from densekit.files.atomic import atomic_write
from densekit.formats.classes import Classes

PANOPTIC, SEMANTIC = "panoptic.json", "semantic.json"

Line = dict[str, Any]


def write_panoptic(folder: Path, lines: Iterable[Line], classes: Classes) -> None:
    """Writes COCO's panoptic JSON for the PNGs in ``panoptic/``, whose colours are the ids of the segments."""
    images, annotations = [], []
    for line in lines:
        images.append({"id": line["image_id"], **{key: line[key] for key in ("file_name", "height", "width")}})
        segments = [{k: v for k, v in info.items() if k != "isthing"} for info in line["segments_info"]]
        annotations.append(
            {"image_id": line["image_id"], "file_name": f"{line['stem']}.png", "segments_info": segments}
        )
    categories = [
        {"id": key, "name": name, "supercategory": "", "isthing": int(is_thing)}
        for key, name, is_thing in classes.segments()
    ]
    _write(folder / PANOPTIC, {"images": images, "annotations": annotations, "categories": categories})


def write_semantic(folder: Path, lines: Iterable[Line], classes: Classes) -> None:
    """Writes which label map in ``semantic/`` belongs to which picture, and what the values of its pixels mean."""
    maps = [
        {"image_id": line["image_id"], "file_name": line["file_name"], "map": f"{line['stem']}.png"} for line in lines
    ]
    categories = [{"id": key, "name": name} for key, name in classes.labels]
    _write(folder / SEMANTIC, {"categories": categories, "maps": maps})


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        json.dump(content, file, allow_nan=False)
        file.write("\n")
