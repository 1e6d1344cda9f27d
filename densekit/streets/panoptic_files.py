"""The scenes as COCO panoptic: one PNG of segment ids a picture, and a JSON of what the segments are."""

import numpy as np

from densekit.files.cityscapes_files import FIRST_INSTANCE, label_of, labels_of
from densekit.ops.outlines import bounds
from densekit.streets.coco_files import Json
from densekit.streets.labels import LABELS, STUFF, THINGS
from densekit.streets.render import Picture

CATEGORIES = [
    {
        "id": label.id,
        "name": label.name,
        "supercategory": "street",
        "isthing": int(label.is_thing),
        "color": list(label.colour),
    }
    for label in (*STUFF, *THINGS)
]


def segment_ids(picture: Picture) -> np.ndarray:
    """The segment of each pixel (H, W) int32, numbered as in Cityscapes' instanceIds.

    Stuff and crowds have their label id, instance n of a class has label id * 1000 + n.
    """
    table = np.arange(256, dtype=np.int32)
    counts: dict[str, int] = {}
    for thing in picture.things:
        label_id = LABELS[thing.category].id
        if thing.crowd:
            table[thing.label] = label_id
            continue
        table[thing.label] = label_id * FIRST_INSTANCE + counts.get(thing.category, 0)
        counts[thing.category] = counts.get(thing.category, 0) + 1
    return table[picture.labels]


def label_ids(ids: np.ndarray) -> np.ndarray:
    """Cityscapes' label id of each pixel (H, W) uint8, from the segments'."""
    return labels_of(ids).astype(np.uint8)


def annotate(picture: Picture, ids: np.ndarray, image_id: int, file_name: str) -> Json:
    """The panoptic annotation of a picture."""
    segments = []
    for value in np.unique(ids).tolist():
        mask = ids == value
        x0, y0, x1, y1 = bounds(mask)
        category = label_of(value)
        if category == 0:
            continue
        is_crowd = value < FIRST_INSTANCE and any(label.id == value for label in THINGS)
        segments.append(
            {
                "id": value,
                "category_id": category,
                "area": int(mask.sum()),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": int(is_crowd),
            }
        )
    return {"image_id": image_id, "file_name": file_name, "segments_info": segments}
