"""Reading a COCO annotation file with checks that say what is wrong, where, and what to do.

The file is read once and checked in whole columns, so that 860,000 annotations take seconds.
"""

import json
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from densekit.d2.utils.file_io import PathManager
from densekit.d2.utils.logger import log_first_n
from densekit.data.coco_fields import is_id, normalised, number
from densekit.files.atomic import leads_out

__all__ = [
    "BORDER",
    "MOST_ID",
    "CocoFile",
    "check_inside",
    "convention",
    "drop_unusable",
    "entries_by_id",
    "is_limb",
    "read_coco_file",
    "read_json",
]

logger = logging.getLogger(__name__)

_ANNOTATION_KEYS = frozenset({"id", "image_id", "category_id", "bbox"})
BORDER = 1.0  # pixels by which rounding may carry an annotation over the border
_LEAST_FOR_ALL = 5  # so many boxes before all of them are called wrong
_SHOWN_KEYS = 12
_MOST_PIXELS = 10**6  # of a side
MOST_ID = 2**53  # of a category, which the metrics count with
_BOX_RULE = "A bbox is four finite numbers [x, y, width, height], in pixels."


@dataclass
class CocoFile:
    """A checked annotation file.

    Attributes:
        path: As given, for messages.
        categories: By id, sorted.
        images: By id, sorted.
        annotations: In the order of the file.
        boxes: (N, 4) xywh of the annotations, pixels.
        has_non_finite: Whether NaN or Infinity is written anywhere in the file.
    """

    path: str
    categories: dict[Any, dict[str, Any]]
    images: dict[Any, dict[str, Any]]
    annotations: list[dict[str, Any]]
    boxes: np.ndarray
    has_non_finite: bool

    def fail(self, annotation: dict[str, Any], what: str) -> NoReturn:
        """Raises a ValueError about one annotation."""
        raise ValueError(f"{self.path}: annotation {_name(annotation)} {what}")


def read_coco_file(path: str, image_root: str | None = None) -> CocoFile:
    """Reads and checks everything but masks and keypoints.

    Args:
        path: JSON file with ``images``, ``annotations`` and ``categories``. Only a file named ``image_info*``, as COCO
            calls its test sets, may lack annotations.
        image_root: Folder that the names of images may not leave.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON or not COCO, or ids, sizes or boxes are wrong.
    """
    content, has_non_finite = read_json(path)
    _check_form(path, content)
    reading = normalised(content)
    content = reading.content
    if reading.changes:
        log_first_n(
            logging.WARNING,
            f"{path}: read as what they mean: {reading.describe()}. densekit check --fix writes them in COCO's types.",
            key="message",  # a run reads its files for the checks and again for its loaders
        )
    images = entries_by_id(path, "image", content["images"], ("id", "file_name", "height", "width"))
    categories = entries_by_id(path, "category", content["categories"], ("id", "name"))
    if not images:
        raise ValueError(f"{path} has no images: its 'images' list is empty.")
    for image_id, image in images.items():
        check_inside(path, f"image {image_id}", image["file_name"], image_root)
    _check_sizes(path, images)
    _check_category_ids(path, categories)
    file = CocoFile(path, categories, images, content.get("annotations", []), np.zeros((0, 4)), has_non_finite)
    _check_ids(file)
    file.boxes = _read_boxes(file)
    return file


def read_json(path: str) -> tuple[Any, bool]:
    """Reads an annotation file.

    Returns:
        Its content, and whether NaN or Infinity occurs (JSON has neither, Python writes both).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON.
    """
    local = Path(PathManager.get_local_path(path))
    if not local.is_file():
        raise FileNotFoundError(
            f"Annotation file {path} does not exist (looked for {local.absolute()}). Data sets that come with "
            "densekit lie under the folder that the environment variable DETECTRON2_DATASETS names, by default "
            "./datasets."
        )
    non_finite: list[str] = []

    def constant(name: str) -> float:
        non_finite.append(name)
        return float(name.replace("Infinity", "inf"))

    try:
        return json.loads(local.read_bytes(), parse_constant=constant), bool(non_finite)
    except json.JSONDecodeError as error:
        start = error.doc[:40].strip()
        raise ValueError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; it begins with {start!r}. "
            "A file that breaks off was not copied or written to its end."
        ) from error
    except RecursionError as error:
        raise ValueError(f"{path} is not an annotation file: its lists are nested too deeply to be read.") from error
    except UnicodeDecodeError as error:
        likely = (
            "Is it text in another encoding? Save it as UTF-8."
            if local.read_bytes()[:64].lstrip()[:1] in (b"{", b"[")
            else "Is it an archive or an image?"
        )
        raise ValueError(f"{path} is not JSON: byte {error.start} is not UTF-8. {likely}") from error
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{path} cannot be read: {error}.") from error


def _check_form(path: str, content: Any) -> None:
    if not isinstance(content, dict):
        kind = f"a list of {len(content)} items" if isinstance(content, list) else type(content).__name__
        hint = ""
        if isinstance(content, list) and content and isinstance(content[0], dict) and "score" in content[0]:
            hint = " This looks like a file of results, not of annotations."
        raise ValueError(
            f"{path} is not a COCO annotation file: its top level is {kind}, not an object with 'images', "
            f"'annotations' and 'categories'.{hint}"
        )
    wanted = ["images", "annotations", "categories"]
    if Path(path).name.startswith("image_info"):
        wanted.remove("annotations")
    missing = [key for key in wanted if key not in content]
    if missing:
        raise ValueError(
            f"{path} is not a COCO annotation file: {', '.join(missing)} missing; its top level has "
            f"{_first(sorted(map(str, content)), _SHOWN_KEYS) or 'nothing'}."
        )
    for key in wanted:
        if not isinstance(content[key], list):
            raise ValueError(f"{path}: '{key}' must be a list, not {type(content[key]).__name__}.")


def entries_by_id(path: str, kind: str, entries: list[Any], keys: tuple[str, ...]) -> dict[Any, dict[str, Any]]:
    """Sorts the entries of a list by their ids.

    Args:
        path: Of the file, for messages.
        kind: What an entry is, for messages.
        entries: The list.
        keys: Which every entry must have.

    Raises:
        ValueError: An entry lacks a key, or an id occurs twice.
    """
    for place, entry in enumerate(entries):
        missing = [key for key in keys if not isinstance(entry, dict) or entry.get(key) is None]
        if missing:
            raise ValueError(f"{path}: {kind} {_name(entry, place)} has no {', '.join(missing)}.")
        if type(entry["id"]) not in (int, str):
            raise ValueError(
                f"{path}: {kind} number {place} of the list has the id {str(entry['id'])[:40]!r}. Ids are whole "
                "numbers or text."
            )
    _check_unique(path, kind, [entry["id"] for entry in entries])
    try:
        ordered = sorted(entries, key=lambda entry: entry["id"])
    except TypeError as error:
        raise ValueError(f"{path}: the ids of {kind} entries mix types ({error}). Use integers.") from error
    return {entry["id"]: entry for entry in ordered}


def _check_unique(path: str, kind: str, ids: list[Any]) -> None:
    try:
        if len(set(ids)) == len(ids):
            return
    except TypeError as error:
        raise ValueError(f"{path}: a {kind} id is no number or string ({error}).") from error
    seen: set[Any] = set()
    twice = [i for i in ids if i in seen or seen.add(i)]  # type: ignore[func-returns-value] # add returns None
    raise ValueError(f"{path}: {len(twice)} {kind} ids occur twice, first {_first(twice)}. Ids must be unique.")


def check_inside(path: str, what: str, name: Any, root: str | None = None) -> None:
    """Refuses a file name in an annotation file that leads out of the folder it is relative to.

    Args:
        path: The annotation file.
        what: What has the name.
        name: The name.
        root: The folder, if it is known.

    Raises:
        ValueError: The name is no text, or is none below the folder.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"{path}: {what} has the file name {name!r}, which is no text.")
    if leads_out(name, root):
        raise ValueError(
            f"{path}: {what} has the file name {name!r}, which leads out of the folder of images"
            f"{f' {root!r}' if root else ''}. Name the folder that holds all of them, and files relative to it."
        )


def is_limb(limb: Any, count: int) -> bool:
    """Returns whether an entry of a skeleton is a pair of keypoint numbers, from 1."""
    return isinstance(limb, list) and len(limb) == 2 and all(isinstance(i, int) and 1 <= i <= count for i in limb)


def _check_sizes(path: str, images: dict[Any, dict[str, Any]]) -> None:
    for image_id, image in images.items():
        for key in ("width", "height"):
            value = image[key]
            if type(value) is not int or not 0 < value < _MOST_PIXELS:
                raise ValueError(f"{path}: image {image_id} ({image['file_name']}) has {key} {value!r}, not pixels.")


def _check_category_ids(path: str, categories: dict[Any, dict[str, Any]]) -> None:
    for key, category in categories.items():
        if type(category["name"]) not in (int, float, str):
            raise ValueError(f"{path}: category {key} has the name {category['name']!r}, which is no text.")
        if not isinstance(key, str) and (type(key) is not int or abs(key) > MOST_ID):
            raise ValueError(
                f"{path}: category {category['name']!r} has the id {key!r}. COCO numbers its categories: write whole "
                "numbers, also as 'category_id' of the annotations."
            )
    text = [key for key in categories if isinstance(key, str)]
    if text:
        raise ValueError(
            f"{path}: category {categories[text[0]]['name']!r} has the id {text[0]!r}, which is text. COCO numbers "
            "its categories: write whole numbers, also as 'category_id' of the annotations."
        )


def _check_ids(file: CocoFile) -> None:
    annotations, path = file.annotations, file.path
    for place, annotation in enumerate(annotations):
        if not isinstance(annotation, dict) or any(annotation.get(key) is None for key in _ANNOTATION_KEYS):
            _explain_missing(path, place, annotation)
    # COCO's own minival files of 2014 repeat some annotations and name images of other splits.
    if "minival" in Path(path).name:
        file.annotations = [a for a in annotations if a["image_id"] in file.images]
        return
    nameless = next((a for a in annotations if not is_id(a["id"])), None)
    if nameless is not None:
        raise ValueError(
            f"{path}: an annotation of image {nameless['image_id']!r} has the id {nameless['id']!r}. Ids are numbers "
            "or text."
        )
    _check_unique(path, "annotation", [annotation["id"] for annotation in annotations])
    for key, known in (("image_id", file.images), ("category_id", file.categories)):
        with suppress(TypeError):  # of a list as an id
            if {annotation[key] for annotation in annotations} <= known.keys() and not any(
                isinstance(annotation[key], bool) for annotation in annotations
            ):
                continue
        wrong = [a for a in annotations if isinstance(a[key], bool | list | dict) or a[key] not in known]
        which = "image" if key == "image_id" else "category"
        listed = f"The known ids are {_first(known, 100)}." if which == "category" else f"It lists {len(known)} images."
        raise ValueError(
            f"{path}: annotation {wrong[0]['id']} has {key} {wrong[0][key]!r}, which is no {which} of the file "
            f"({len(wrong)} annotations like this). {listed} Correct the annotations or add the {which}."
        )


def _explain_missing(path: str, place: int, annotation: Any) -> NoReturn:
    keys = annotation if isinstance(annotation, dict) else {}
    missing = sorted(key for key in _ANNOTATION_KEYS if keys.get(key) is None)
    hint = ""
    if "segments_info" in keys:
        hint = " This is a panoptic file; densekit's instance data sets need the instances file."
    elif "caption" in keys:
        hint = " This is a captions file; the instances file is needed."
    raise ValueError(f"{path}: annotation {_name(annotation, place)} has no {', '.join(missing)}.{hint}")


def _read_boxes(file: CocoFile) -> np.ndarray:
    """Returns (N, 4) float64; any box that is not four finite numbers ends here."""
    raw = [annotation["bbox"] for annotation in file.annotations]
    if not raw:
        return np.zeros((0, 4))
    # As whole columns first: a check number by number takes seconds for a million of boxes.
    fours = set(map(type, raw)) == {list} and set(map(len, raw)) == {4}
    if fours and set(map(type, chain.from_iterable(raw))) <= {int, float}:
        with suppress(OverflowError):  # a whole number of hundreds of digits
            boxes = np.array(raw, dtype=np.float64)
            if np.isfinite(boxes).all():
                return boxes
    for annotation, box in zip(file.annotations, raw):
        numbers = isinstance(box, list) and all(not isinstance(v, str) and number(v) is not None for v in box)
        if not numbers or len(box) != 4:
            shown = repr(box)
            shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
            file.fail(annotation, f"of image {annotation['image_id']} has bbox {shown}. {_BOX_RULE}")
    return np.array([list(map(float, box)) for box in raw])


def drop_unusable(file: CocoFile, report: Callable[[str, list[Any]], None]) -> np.ndarray:
    """Finds boxes that no training can use.

    Args:
        file: The file.
        report: Called with what is wrong and the ids of the annotations, once for each kind.

    Returns:
        (N,) bool, True where the annotation must be left out.

    Raises:
        ValueError: No box at all can be used, or the boxes are fractions of the image.
    """
    boxes = file.boxes
    if not len(boxes):
        return np.zeros(0, dtype=bool)
    if np.abs(boxes).max() <= 1:
        file.fail(
            file.annotations[0],
            f"and all others have boxes within [0, 1], such as {boxes[0].tolist()}: fractions of the image. "
            f"{_BOX_RULE} Multiply by the image's size.",
        )
    size_of = {image_id: (image["width"], image["height"]) for image_id, image in file.images.items()}
    sizes = np.array([size_of[annotation["image_id"]] for annotation in file.annotations])
    kind, evidence = convention(boxes, sizes)
    if kind == "xyxy":
        file.fail(
            file.annotations[0],
            f"and the others have boxes that look like [x0, y0, x1, y1]: {evidence}. {_BOX_RULE} densekit check --fix "
            "subtracts the first corner from the second.",
        )
    flat = (boxes[:, 2:] <= 0).any(axis=1)
    outside = ~flat & ((boxes[:, :2] >= sizes) | (boxes[:, :2] + boxes[:, 2:] <= 0)).any(axis=1)
    if (flat | outside).all():
        file.fail(
            file.annotations[0],
            f"and all others have boxes without area or outside their image, such as {boxes[0].tolist()} in an image "
            f"of {sizes[0].tolist()} (width, height). {_BOX_RULE}",
        )
    for what, mask in (("boxes of zero or negative size", flat), ("boxes outside their image", outside)):
        if mask.any():
            report(what, [file.annotations[i]["id"] for i in np.flatnonzero(mask)])
    return flat | outside


def convention(boxes: np.ndarray, sizes: np.ndarray) -> tuple[str, str]:
    """Tells from all boxes of a file together how they were written.

    Args:
        boxes: (N, 4), pixels if they are ``xywh``.
        sizes: (N, 2) width and height of their images.

    Returns:
        ``xywh``, ``xyxy`` or ``fractions``, and the evidence where it is not ``xywh``.
    """
    if len(boxes) < _LEAST_FOR_ALL:
        return "xywh", ""
    first, second = boxes[:, :2], boxes[:, 2:]
    shown = [value.item() for value in (*boxes[0], *sizes[0])]
    example = f"{len(boxes)} boxes, such as {shown[:4]} in an image of {shown[4]:g} x {shown[5]:g}"
    if (np.abs(boxes) <= 1).all():
        return "fractions", example
    over = (first + second > sizes + BORDER).any(axis=1).mean()
    if over > 0.5 and (second > first).all() and (second <= sizes + BORDER).all():
        return "xyxy", f"{over:.0%} leave their image as xywh: {example}"
    return "xywh", ""


def _name(entry: Any, place: int | None = None) -> str:
    """Names an entry by its id, or by its place in the list."""
    if isinstance(entry, dict) and entry.get("id") is not None:
        return str(entry["id"])
    return f"number {place} of the list (no id)"


def _first(ids: Iterable[Any], count: int = 5) -> str:
    listed = list(ids)
    return ", ".join(map(str, listed[:count])) + (", ..." if len(listed) > count else "")
