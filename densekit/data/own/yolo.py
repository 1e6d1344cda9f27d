"""Form ``yolo``: a text file for each image, a line for each object.

``class x y width height``, the centre and size of a box; the same followed by keypoints, ``x y`` or ``x y visibility``
each; or ``class x1 y1 x2 y2 x3 y3 ...``, a polygon. All but class and visibility are fractions of the image. An image
without a text file has no objects, as in the tools that write this form.

Keypoints and polygons are told apart by ``kpt_shape`` ([count, 2 or 3]), which the class file or the entry gives.
Without it all lines of the data set decide: they are keypoints where every line has one length and begins with a box
that holds every labelled point, which no data set of outlines does.
"""

import functools
import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from densekit.d2.data import MetadataCatalog
from densekit.d2.structures import BoxMode
from densekit.data.own.classes import ClassList
from densekit.data.own.options import Form, Option, Place, classes, file, folder
from densekit.data.own.pairing import pick, read_lines
from densekit.data.pictures import image_size, list_pictures
from densekit.data.regions import in_threads
from densekit.data.registry import Entry, Records

__all__ = ["YOLO"]

Shape = tuple[int, int]

logger = logging.getLogger(__name__)

_MARGIN = 0.02  # of the image, by which a keypoint may lie outside its box
_SLACK = 1e-3  # rounding of the tools that write this form
_LINE = (
    "'class x y width height', that with keypoints (kpt_shape), or 'class x1 y1 x2 y2 x3 y3 ...', fractions of the "
    "image from 0 to 1"
)


def load_yolo(
    images: str,
    labels: str,
    classes: ClassList,
    split: str | None = None,
    shape: Shape | None = None,
    name: str | None = None,
) -> Records:
    """Reads the records of a data set.

    Args:
        images: Folder of the images.
        labels: Folder of the text files, named like the images.
        classes: Names by number.
        split: Text file with the names to take.
        shape: Of the keypoints: how many, and how many numbers each; None finds out.
        name: Registered name, whose metadata get names of the keypoints.

    Returns:
        ``file_name, image_id`` (the name)``, height, width`` and ``annotations`` with ``bbox`` (xyxy, pixels),
        ``bbox_mode, category_id, iscrowd`` and, of polygons, ``segmentation``, of poses ``keypoints``.

    Raises:
        ValueError: A line is not of this form, or names a class that is not in the list.
    """
    index = {number: place for place, number in enumerate(classes.ids)}
    chosen = pick(list_pictures(images), split)
    if not any(os.path.isfile(os.path.join(labels, f"{key}.txt")) for key in chosen):
        raise ValueError(f"No image of {images} has a text file of its name in {labels}. Is it the right folder?")

    def lines(item: tuple[str, str]) -> list[_Line]:
        path = os.path.join(labels, f"{item[0]}.txt")
        texts = enumerate(read_lines(path), start=1) if os.path.isfile(path) else ()
        return [_numbers(f"{path}, line {number}", text) for number, text in texts if text]

    read = in_threads(lines, list(chosen.items()))
    shape = shape or _guess_shape([line for of_image in read for line in of_image])
    if shape is not None and name is not None:
        _enter_keypoints(name, shape)

    def record(item: tuple[tuple[str, str], list[_Line]]) -> dict[str, Any]:
        (key, picture), of_image = item
        height, width = image_size(picture)
        objects = [_object(line, index, classes, height, width, shape) for line in of_image]
        return {"file_name": picture, "image_id": key, "height": height, "width": width, "annotations": objects}

    return in_threads(record, list(zip(chosen.items(), read)))


class _Line(NamedTuple):
    """A line: where it stands, its text and its numbers."""

    where: str
    text: str
    numbers: list[float]


def _numbers(where: str, text: str) -> _Line:
    try:
        words = [float(word) for word in text.split()]
    except ValueError as error:
        raise ValueError(f"{where}: {text[:80]!r} is not made of numbers ({error}). A line is {_LINE}.") from error
    return _Line(where, text, words)


def _guess_shape(lines: Sequence[_Line]) -> Shape | None:
    """The shape of keypoints that all lines of a data set have; None where they have none."""
    lengths = {len(line.numbers) for line in lines}
    rest = lengths.pop() - 5 if len(lengths) == 1 else 0
    for dims in (3, 2):  # a visibility is one of three numbers, a place hardly ever
        if rest <= 0 or rest % dims or not all(_is_pose(line.numbers, dims) for line in lines):
            continue
        found, where = f"boxes with {rest // dims} keypoints of {dims} numbers", lines[0].where
        # Visibilities in line after line are no places; a single object that fills the picture may have such corners.
        surely = dims == 3 and (len(lines) > 1 or 2.0 in lines[0].numbers)
        if not surely and all(_is_outline(line.numbers) for line in lines):
            logger.warning(
                "%s: the lines may be polygons or %s, and are read as polygons; kpt_shape tells.", where, found
            )
            return None
        logger.info("%s: the lines are read as %s; kpt_shape tells otherwise.", where, found)
        return rest // dims, dims
    return None


def _is_pose(numbers: Sequence[float], dims: int) -> bool:
    """Tells whether numbers are a box in the image and points inside it."""
    _, x, y, width, height, *points = numbers
    flags = points[2::3] if dims == 3 else [2.0] * (len(points) // 2)
    if not set(flags) <= {0.0, 1.0, 2.0} or min(width, height) <= 0:
        return False
    if min(x - width / 2, y - height / 2) < -_MARGIN or max(x + width / 2, y + height / 2) > 1 + _MARGIN:
        return False
    labelled = [(a, b) for a, b, v in zip(points[0::dims], points[1::dims], flags) if v > 0 and (a or b)]
    return all(abs(a - x) <= width / 2 + _MARGIN and abs(b - y) <= height / 2 + _MARGIN for a, b in labelled)


def _is_outline(numbers: Sequence[float]) -> bool:
    """Tells whether numbers are an outline, whose first two corners are as near to the others as corners are."""
    xs, ys = numbers[1::2], numbers[2::2]
    if len(xs) != len(ys):
        return False
    for values in (xs, ys):
        low, high = min(values[2:]), max(values[2:])
        reach = high - low + _MARGIN
        if min(values[:2]) < low - reach or max(values[:2]) > high + reach:
            return False
    return True


def _object(
    line: _Line, index: dict[int, int], classes: ClassList, height: int, width: int, shape: Shape | None
) -> dict[str, Any]:
    where, text, words = line
    box = len(words) == 5
    if shape is not None and len(words) != 5 + shape[0] * shape[1]:
        raise ValueError(
            f"{where}: {len(words)} numbers. With kpt_shape {list(shape)} a line has {5 + shape[0] * shape[1]}: class, "
            f"box, and {shape[1]} for each keypoint."
        )
    if shape is None and len(words) == 6:
        raise ValueError(
            f"{where}: {len(words)} numbers, a box and one more. Is the last the confidence of a prediction? Labels "
            f"have none: remove it. A line is {_LINE}."
        )
    if shape is None and not box and (len(words) < 7 or len(words) % 2 == 0):
        raise ValueError(f"{where}: {len(words)} numbers. A line is {_LINE}.")
    if words[0] not in index:
        raise ValueError(
            f"{where}: class {words[0]:g} is not in {classes.source}, which has {len(classes.names)} classes, "
            f"numbered {min(classes.ids)} to {max(classes.ids)}. Correct the one or the other."
        )
    points = words[5:] if shape is not None else []
    places = words[1:] if shape is None else [*words[1:5], *points[0 :: shape[1]], *points[1 :: shape[1]]]
    if not all(-_SLACK <= value <= 1 + _SLACK for value in places):
        raise ValueError(f"{where}: {text[:80]!r} has values outside 0 to 1. A line is {_LINE}.")
    common: dict[str, Any] = {"bbox_mode": BoxMode.XYXY_ABS, "category_id": index[int(words[0])], "iscrowd": 0}
    if box or shape is not None:
        x, y, w, h = words[1] * width, words[2] * height, words[3] * width, words[4] * height
        if w <= 0 or h <= 0:
            raise ValueError(f"{where}: the box has no area. Correct or remove it.")
        if shape is not None:
            common["keypoints"] = _keypoints(where, points, shape, width, height)
        return {"bbox": [x - w / 2, y - h / 2, x + w / 2, y + h / 2], **common}
    xs, ys = [x * width for x in words[1::2]], [y * height for y in words[2::2]]
    polygon = [value for point in zip(xs, ys) for value in point]
    if max(xs) <= min(xs) or max(ys) <= min(ys):
        raise ValueError(f"{where}: the polygon has no area. Correct or remove it.")
    return {"bbox": [min(xs), min(ys), max(xs), max(ys)], "segmentation": [polygon], **common}


def _keypoints(where: str, points: Sequence[float], shape: Shape, width: int, height: int) -> list[float]:
    """x, y and visibility of each, pixels; a point at 0, 0 is not labelled where no visibility says so."""
    found: list[float] = []
    for k in range(shape[0]):
        x, y, *flag = points[k * shape[1] : (k + 1) * shape[1]]
        visible = flag[0] if flag else 2.0 * bool(x or y)
        if visible not in (0, 1, 2):
            raise ValueError(f"{where}: keypoint {k + 1} has the visibility {visible:g}; it is 0, 1 or 2.")
        found += [x * width, y * height, int(visible)] if visible else [0.0, 0.0, 0]
    return found


def _enter_keypoints(name: str, shape: Shape) -> None:
    """Names for the keypoints of a data set, which these files do not have."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("keypoint_names") is None:
        metadata.keypoint_names = tuple(f"point_{k + 1}" for k in range(shape[0]))
    if metadata.get("keypoint_flip_map") is None:
        metadata.keypoint_flip_map = ()  # which ones a mirror exchanges is not known


def _kpt_shape(place: Place, key: str, value: Any) -> Shape:
    """[count, 2 or 3]."""
    if not (isinstance(value, list | tuple) and len(value) == 2 and all(type(v) is int for v in value)):
        raise ValueError(f"{place.where}: {key} is {value!r}; it is [number of keypoints, 2 or 3].")
    if value[0] < 1 or value[1] not in (2, 3):
        raise ValueError(f"{place.where}: {key} is {value!r}; it is [number of keypoints, 2 or 3].")
    return value[0], value[1]


def _entry(
    name: str,
    *,
    images: str,
    classes: ClassList,
    labels: str | None = None,
    split: str | None = None,
    kpt_shape: Shape | None = None,
) -> Entry:
    labels = labels or _beside(images)
    kpt_shape = kpt_shape or classes.kpt_shape
    metadata = {
        "thing_classes": list(classes.names),
        "thing_dataset_id_to_contiguous_id": {number: place for place, number in enumerate(classes.ids)},
        "image_root": images,
        "evaluator_type": "coco",
    }
    return Entry(name, functools.partial(load_yolo, images, labels, classes, split, kpt_shape, name), metadata)


def _beside(images: str) -> str:
    """The folder of labels where these tools keep it: the last ``images`` of the path is ``labels``."""
    head, word, tail = images.rpartition(f"{os.sep}images")
    path = f"{head}{os.sep}labels{tail}"
    if not word:
        raise FileNotFoundError(
            f"the text files of {images} are looked for in a folder 'labels' in place of 'images' in the path, and the "
            "path has no folder 'images'. Name the folder of the text files under 'labels'."
        )
    if not os.path.isdir(path):
        raise FileNotFoundError(
            f"the text files of {images} are looked for in {path}, which does not exist. Name their folder under "
            "'labels'."
        )
    return path


YOLO = Form(
    "YOLO: a text file of boxes or polygons for each image",
    {
        "images": Option(folder, "folder of the images"),
        "classes": Option(classes, "names in the order of their numbers, or a file of them (data.yaml, .names)"),
        "labels": Option(folder, "folder of the text files; by default 'labels' beside 'images'", required=False),
        "split": Option(file, "text file with the names of the images to take", required=False),
        "kpt_shape": Option(_kpt_shape, "[number of keypoints, 2 or 3]; by default that of classes", required=False),
    },
    _entry,
)
