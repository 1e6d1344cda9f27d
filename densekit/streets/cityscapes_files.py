"""The scenes as a Cityscapes tree: leftImg8bit and gtFine with label ids, instance ids, colours and polygons."""

import numpy as np

from densekit.ops.outlines import polygons
from densekit.streets.coco_files import Json
from densekit.streets.labels import LABELS, STUFF
from densekit.streets.render import Picture

# Invented towns; none of Cityscapes' own, so that files of both can never be mistaken for each other.
_CITIES = (("arlenau", "brunnfeld", "kaltweiler", "moosbach"), ("seelingen", "weidenthal"))
_FRAME = 19  # the annotated frame of each snippet, as in Cityscapes


def stem(split: int, index: int, count: int) -> tuple[str, str]:
    """City and file stem of picture ``index`` of ``count`` in a split (0 train, 1 val)."""
    cities = _CITIES[split]
    city = cities[index * len(cities) // count]
    return city, f"{city}_{index:06d}_{_FRAME:06d}"


def colour_image(labels: np.ndarray) -> np.ndarray:
    """The colours of label ids (H, W), BGR (H, W, 3) uint8."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for label in LABELS.values():
        table[label.id] = label.colour[::-1]
    return table[labels]


def polygon_document(picture: Picture) -> Json:
    """The ``_polygons.json`` of a picture.

    As in Cityscapes, objects are listed from back to front and each thing is one polygon, which goes on behind what
    hides it. What stands before things follows them: so stuff, cut to what is seen of it, comes last.
    """
    height, width = picture.labels.shape
    objects = []
    for thing in picture.things:
        outlines = polygons(thing.whole)
        if outlines:
            largest = max(outlines, key=lambda outline: float(np.prod(np.ptp(outline, axis=0))))
            objects.append(_object(f"{thing.category}group" if thing.crowd else thing.category, largest))
    for label in STUFF:
        objects.extend(_object(label.name, outline) for outline in polygons(picture.labels == label.id))
    return {"imgHeight": height, "imgWidth": width, "objects": objects}


def _object(label: str, outline: np.ndarray) -> Json:
    # Whole pixels that lie inside: Cityscapes' scripts paint the outline too.
    return {"label": label, "polygon": np.floor(outline).astype(int).tolist()}
