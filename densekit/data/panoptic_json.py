"""Reading a COCO panoptic annotation file with checks that say what is wrong, where, and what to do."""

from dataclasses import dataclass
from typing import Any

from densekit.data.coco_json import check_inside, entries_by_id, read_json
from densekit.files.panoptic_png import MAX_ID

__all__ = ["PanopticFile", "read_panoptic_file"]


@dataclass(frozen=True)
class PanopticFile:
    """A checked file.

    Attributes:
        path: As given, for messages.
        images: By id, sorted.
        categories: By id, sorted; each with ``name`` and ``isthing``.
        annotations: By image id, in the order of the file: ``file_name`` of the PNG and ``segments_info``.
    """

    path: str
    images: dict[Any, dict[str, Any]]
    categories: dict[int, dict[str, Any]]
    annotations: dict[Any, dict[str, Any]]

    @property
    def things(self) -> list[dict[str, Any]]:
        """The categories whose objects are counted."""
        return [category for category in self.categories.values() if category["isthing"]]

    @property
    def stuff(self) -> list[dict[str, Any]]:
        """The other categories."""
        return [category for category in self.categories.values() if not category["isthing"]]


def read_panoptic_file(path: str) -> PanopticFile:
    """Reads and checks a file; PNGs are not opened.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON or not COCO panoptic, or an id, a category or a file name is wrong.
    """
    content, _ = read_json(path)
    wanted = ("images", "annotations", "categories")
    missing = [key for key in wanted if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise ValueError(f"{path} is not a COCO panoptic file: it has no list {', '.join(missing)} at its top level.")
    images = entries_by_id(path, "image", content["images"], ("id", "file_name"))
    categories = entries_by_id(path, "category", content["categories"], ("id", "name", "isthing"))
    if not content["annotations"]:
        raise ValueError(f"{path} has no annotations: the list is empty.")
    annotations: dict[Any, dict[str, Any]] = {}
    for number, annotation in enumerate(content["annotations"]):
        _check(path, number, annotation, categories)
        image_id = annotation["image_id"]
        if not isinstance(image_id, int | str) or image_id not in images:
            raise ValueError(f"{path}: an annotation is of image {image_id!r}, which 'images' does not list.")
        if image_id in annotations:
            raise ValueError(f"{path}: image {image_id!r} has two annotations. Remove one.")
        annotations[image_id] = annotation
    for image_id in annotations:
        check_inside(path, f"image {image_id}", images[image_id]["file_name"])
    return PanopticFile(path, images, categories, annotations)


def _check(path: str, number: int, annotation: Any, categories: dict[int, dict[str, Any]]) -> None:
    keys = ("image_id", "file_name", "segments_info")
    missing = [key for key in keys if not isinstance(annotation, dict) or annotation.get(key) is None]
    if missing:
        hint = ""
        if isinstance(annotation, dict) and "bbox" in annotation:
            hint = " This is a file of instances, form coco; a panoptic file has one annotation for each image."
        raise ValueError(f"{path}: annotation number {number} of the list has no {', '.join(missing)}.{hint}")
    where = f"the annotation of image {annotation['image_id']}"
    check_inside(path, where, annotation["file_name"])
    seen: set[int] = set()
    segments = annotation["segments_info"]
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise ValueError(f"{path}: {where} has segments_info that is no list of objects with id and category_id.")
    for segment in segments:
        segment_id, category = segment.get("id"), segment.get("category_id")
        if not isinstance(segment_id, int) or not 0 < segment_id <= MAX_ID or segment_id in seen:
            raise ValueError(
                f"{path}: {where} has a segment with id {segment_id!r}. Ids are different numbers from 1 to {MAX_ID}, "
                "the colours of the PNG; 0 is what belongs to no segment."
            )
        if not isinstance(category, int | str) or category not in categories:
            raise ValueError(
                f"{path}: {where}: segment {segment_id} has category_id {category!r}, which 'categories' does not list."
            )
        seen.add(segment_id)
