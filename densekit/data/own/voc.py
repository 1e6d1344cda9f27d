"""Form ``voc``: Pascal VOC (doi 10.1007/s11263-009-0275-4), an XML file of boxes for each image.

Corners are pixels counted from 1, both inside the box, so a box that covers an image of width W goes from 1 to W and
becomes 0 to W here. Objects marked difficult are objects like others.
"""

import functools
import math
from typing import Any
from xml.etree import ElementTree

from densekit.d2.structures import BoxMode
from densekit.data.own.classes import ClassList, number_names
from densekit.data.own.options import Form, Option, classes, file, folder
from densekit.data.own.pairing import read_pairs
from densekit.data.pictures import image_size
from densekit.data.registry import Entry, Records

__all__ = ["VOC"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def load_voc(
    name: str, images: str, annotations: str, classes: ClassList | None = None, split: str | None = None
) -> Records:
    """Reads the records of a data set; images without an XML file are left out.

    Args:
        name: Registered name; the classes are entered in its metadata.
        images: Folder of the images.
        annotations: Folder of the XML files, named like the images.
        classes: Names; None takes those that occur, in alphabetical order.
        split: Text file with the names to take.

    Returns:
        ``file_name, image_id`` (the name)``, height, width`` and ``annotations`` with ``bbox`` (xyxy, pixels),
        ``bbox_mode, category_id, iscrowd``.

    Raises:
        FileNotFoundError: An XML file has no image.
        ValueError: An XML file cannot be parsed, contradicts its image or has a box without area.
    """
    records = read_pairs(images, annotations, ".xml", split, _read)
    number_names(records, classes, name)
    return records


class _DocumentTypeError(ValueError):
    """The file declares a document type."""


class _WithoutTypes(ElementTree.TreeBuilder):
    """Builds the tree of a file without entities of its own, with which a few lines can fill the memory."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Called where a document type begins, before anything in it is read."""
        raise _DocumentTypeError(
            f"{self._path} has a document type (<!DOCTYPE {name} ...>), whose entities could fill the memory or name "
            "other files. Annotations need none: remove the declaration."
        )


def _read(path: str, image: str) -> dict[str, Any]:
    """A record whose categories are still names."""
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_WithoutTypes(path))).getroot()
    except _DocumentTypeError:
        raise
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the others: of its encoding
        raise ValueError(
            f"{path} is not XML: {error}. A file that breaks off was not copied to its end, "
            "and one of another encoding has to be saved in UTF-8."
        ) from error
    if root.tag != "annotation":
        raise ValueError(f"{path} is no Pascal VOC file: it is a <{root.tag}> and should be an <annotation>.")
    height, width = image_size(image)
    said = tuple(_number(path, root.find("size"), key, 0) for key in ("width", "height"))
    if said not in ((0, 0), (width, height)):  # many tools write zeros
        raise ValueError(
            f"{path} says {said[0]:g} x {said[1]:g} (width x height), and its image {image} is {width} x {height}. Is "
            "it another version of the image, or turned by an EXIF tag? Correct the one or the other."
        )
    objects = [_object(path, element, height, width) for element in root.iter("object")]
    return {"file_name": image, "height": height, "width": width, "annotations": objects}


def _object(path: str, element: ElementTree.Element, height: int, width: int) -> dict[str, Any]:
    label = (element.findtext("name") or "").strip()
    if not label:
        raise ValueError(f"{path}: an object has no name.")
    box = element.find("bndbox")
    if box is None:
        raise ValueError(f"{path}: the object {label!r} has no <bndbox>.")
    x0, y0, x1, y1 = (_number(path, box, key) for key in _CORNERS)
    if x1 < x0 or y1 < y0 or x0 > width or y0 > height or x1 < 1 or y1 < 1:
        raise ValueError(
            f"{path}: the box of {label!r}, {x0:g} {y0:g} {x1:g} {y1:g} (xmin ymin xmax ymax), has no area within its "
            f"image of {width} x {height}. Correct or remove it."
        )
    return {
        "bbox": [max(x0 - 1, 0.0), max(y0 - 1, 0.0), x1, y1],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": label,
        "iscrowd": 0,
    }


def _number(path: str, element: ElementTree.Element | None, key: str, default: float | None = None) -> float:
    text = None if element is None else element.findtext(key)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path}: <{key}> is {text!r}, which is no number.")
    return value


def _entry(
    name: str, *, images: str, annotations: str, classes: ClassList | None = None, split: str | None = None
) -> Entry:
    load = functools.partial(load_voc, name, images, annotations, classes, split)
    return Entry(name, load, {"image_root": images, "evaluator_type": "coco"})


VOC = Form(
    "Pascal VOC: an XML of boxes for each image",
    {
        "images": Option(folder, "folder of the images (JPEGImages)"),
        "annotations": Option(folder, "folder of the XML files (Annotations)"),
        "classes": Option(classes, "names, or a file of them; by default those that occur", required=False),
        "split": Option(file, "text file with the names to take (ImageSets/Main/train.txt)", required=False),
    },
    _entry,
)
