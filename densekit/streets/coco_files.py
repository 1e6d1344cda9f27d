"""The scenes as COCO instances and COCO person keypoints."""

from typing import Any

import numpy as np

from densekit.ops.outlines import bounds, polygons
from densekit.streets.labels import KEYPOINT_NAMES, LABELS, SKELETON, THINGS
from densekit.streets.render import Picture

Json = dict[str, Any]

INFO = {"description": "Synthetic street scenes", "version": "1.0"}
INSTANCE_CATEGORIES = [{"id": label.id, "name": label.name, "supercategory": "street"} for label in THINGS]
PERSON_ID = 1  # as in COCO's own keypoint files
KEYPOINT_CATEGORIES = [
    {
        "id": PERSON_ID,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(KEYPOINT_NAMES),
        "skeleton": [list(limb) for limb in SKELETON],
    }
]


def run_length_encoding(mask: np.ndarray) -> Json:
    """COCO's uncompressed run-length encoding of a mask (H, W): column by column, zeros first."""
    flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [0]])
    changes = np.flatnonzero(np.diff(flat))
    if len(changes) and changes[-1] == mask.size:
        changes = changes[:-1]
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def image_record(image_id: int, file_name: str, picture: Picture) -> Json:
    """The entry of ``images``."""
    height, width = picture.labels.shape
    return {"id": image_id, "file_name": file_name, "width": width, "height": height}


def annotate(picture: Picture, image_id: int) -> tuple[list[Json], list[Json]]:
    """The instance annotations and the person annotations of a picture, still without their ``id``.

    Riders are persons among the keypoints, as they are in COCO.
    """
    instances, persons = [], []
    for thing in picture.things:
        mask = picture.labels == thing.label
        x0, y0, x1, y1 = bounds(mask)
        outline: Any
        if thing.crowd:
            outline = run_length_encoding(mask)
        else:
            outline = [np.round(polygon, 2).ravel().tolist() for polygon in polygons(mask)]
        record = {
            "image_id": image_id,
            "category_id": LABELS[thing.category].id,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int(mask.sum()),
            "iscrowd": int(thing.crowd),
            "segmentation": outline,
        }
        instances.append(record)
        if thing.category in ("person", "rider"):
            points = np.zeros((len(KEYPOINT_NAMES), 3), dtype=np.int64) if thing.keypoints is None else thing.keypoints
            labelled = {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
            persons.append(record | {"category_id": PERSON_ID} | labelled)
    return instances, persons


def document(images: list[Json], annotations: list[Json], categories: list[Json]) -> Json:
    """A whole COCO file; annotations get their ids in order, from 1."""
    numbered = [{"id": i, **annotation} for i, annotation in enumerate(annotations, start=1)]
    return {"info": INFO, "licenses": [], "images": images, "annotations": numbered, "categories": categories}
