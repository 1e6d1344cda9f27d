"""Form ``yolo``: a text file for each image, a line for each object.

``class x y width height``, the centre and size of a box, or ``class x1 y1 x2 y2 x3 y3 ...``, a polygon; all but the
class are fractions of the image. An image without a text file has no objects, as in the tools that write this form.
"""

import functools
import os
from typing import Any

from densekit.d2.structures import BoxMode
from densekit.data.own.classes import ClassList
from densekit.data.own.options import Form, Option, classes, file, folder
from densekit.data.own.pairing import pick, read_lines
from densekit.data.pictures import image_size, list_pictures
from densekit.data.regions import in_threads
from densekit.data.registry import Entry, Records

__all__ = ["YOLO"]

_SLACK = 1e-3  # rounding of the tools that write this form
_LINE = "'class x y width height' or 'class x1 y1 x2 y2 x3 y3 ...', fractions of the image from 0 to 1"


def load_yolo(images: str, labels: str, classes: ClassList, split: str | None = None) -> Records:
    """Reads the records of a data set.

    Args:
        images: Folder of the images.
        labels: Folder of the text files, named like the images.
        classes: Names by number.
        split: Text file with the names to take.

    Returns:
        ``file_name, image_id`` (the name)``, height, width`` and ``annotations`` with ``bbox`` (xyxy, pixels),
        ``bbox_mode, category_id, iscrowd`` and, of polygons, ``segmentation``.

    Raises:
        ValueError: A line is not of this form, or names a class that is not in the list.
    """
    index = {number: place for place, number in enumerate(classes.ids)}
    chosen = pick(list_pictures(images), split)
    if not any(os.path.isfile(os.path.join(labels, f"{key}.txt")) for key in chosen):
        raise ValueError(f"No image of {images} has a text file of its name in {labels}. Is it the right folder?")

    def record(item: tuple[str, str]) -> dict[str, Any]:
        key, picture = item
        height, width = image_size(picture)
        path = os.path.join(labels, f"{key}.txt")
        objects = []
        if os.path.isfile(path):
            for number, line in enumerate(read_lines(path), start=1):
                if line:
                    objects.append(_object(f"{path}, line {number}", line, index, classes, height, width))
        return {"file_name": picture, "image_id": key, "height": height, "width": width, "annotations": objects}

    return in_threads(record, list(chosen.items()))


def _object(
    where: str, line: str, index: dict[int, int], classes: ClassList, height: int, width: int
) -> dict[str, Any]:
    try:
        words = [float(word) for word in line.split()]
    except ValueError as error:
        raise ValueError(f"{where}: {line[:80]!r} is not made of numbers ({error}). A line is {_LINE}.") from error
    box = len(words) == 5
    if not box and (len(words) < 7 or len(words) % 2 == 0):
        raise ValueError(f"{where}: {len(words)} numbers. A line is {_LINE}.")
    if words[0] not in index:
        raise ValueError(
            f"{where}: class {words[0]:g} is not in {classes.source}, which has {len(classes.names)} classes, "
            f"numbered {min(classes.ids)} to {max(classes.ids)}. Correct the one or the other."
        )
    if not all(-_SLACK <= value <= 1 + _SLACK for value in words[1:]):
        raise ValueError(f"{where}: {line[:80]!r} has values outside 0 to 1. A line is {_LINE}.")
    common = {"bbox_mode": BoxMode.XYXY_ABS, "category_id": index[int(words[0])], "iscrowd": 0}
    if box:
        x, y, w, h = words[1] * width, words[2] * height, words[3] * width, words[4] * height
        corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        if w <= 0 or h <= 0:
            raise ValueError(f"{where}: the box has no area. Correct or remove it.")
        return {"bbox": corners, **common}
    xs, ys = [x * width for x in words[1::2]], [y * height for y in words[2::2]]
    polygon = [value for point in zip(xs, ys) for value in point]
    if max(xs) <= min(xs) or max(ys) <= min(ys):
        raise ValueError(f"{where}: the polygon has no area. Correct or remove it.")
    return {"bbox": [min(xs), min(ys), max(xs), max(ys)], "segmentation": [polygon], **common}


def _entry(name: str, *, images: str, classes: ClassList, labels: str | None = None, split: str | None = None) -> Entry:
    labels = labels or _beside(images)
    metadata = {
        "thing_classes": list(classes.names),
        "thing_dataset_id_to_contiguous_id": {number: place for place, number in enumerate(classes.ids)},
        "image_root": images,
        "evaluator_type": "coco",
    }
    return Entry(name, functools.partial(load_yolo, images, labels, classes, split), metadata)


def _beside(images: str) -> str:
    """The folder of labels where these tools keep it: the last ``images`` of the path is ``labels``."""
    head, word, tail = images.rpartition(f"{os.sep}images")
    path = f"{head}{os.sep}labels{tail}"
    if not word or not os.path.isdir(path):
        raise FileNotFoundError(
            f"the text files of {images} are looked for in a folder 'labels' beside 'images', "
            f"and {path if word else 'there is none'} does not exist. Name their folder under 'labels'."
        )
    return path


YOLO = Form(
    "YOLO: a text file of boxes or polygons for each image",
    {
        "images": Option(folder, "folder of the images"),
        "classes": Option(classes, "names in the order of their numbers, or a file of them (data.yaml, .names)"),
        "labels": Option(folder, "folder of the text files; by default 'labels' beside 'images'", required=False),
        "split": Option(file, "text file with the names of the images to take", required=False),
    },
    _entry,
)
