"""The annotations of a test set in the form that COCO's metrics want, from its JSON file or from its dicts.

The index is the evaluator's own: image ids, which may be strings, become the numbers 1, 2 ... by ascending id (the
order in which COCO breaks ties), and nothing that a data set catalogue holds is touched.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from faster_coco_eval.core.coco import COCO

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.structures import BoxMode
from densekit.data.coco_fields import is_id, normalised
from densekit.data.coco_json import entries_by_id, read_json
from densekit.data.coco_masks import polygon_problem

_FIELDS = ("id", "category_id", "bbox", "area", "iscrowd", "segmentation", "keypoints", "num_keypoints")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroundTruth:
    """Annotations of a test set.

    Attributes:
        source: The JSON file, or the name of the data set, for messages.
        coco: Images, annotations and categories, indexed; ``image_id`` is a number of ``image_numbers``.
        image_numbers: The data set's image id -> the number of that image.
        categories: The data set's category id -> name, by ascending id.
        annotated: Whether the data set has annotations at all; a test set without them can only be predicted on.
        annotation_ids: The number of an annotation in ``coco`` -> the data set's id, which may be text.
    """

    source: str
    coco: COCO
    image_numbers: dict[Any, int]
    categories: dict[int, str]
    annotated: bool
    annotation_ids: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset_name: str) -> "GroundTruth":
        """Reads the ground truth of a registered data set: its ``json_file`` if it has one, else its dicts."""
        path = MetadataCatalog.get(dataset_name).get("json_file")
        if path is None:
            return cls.from_coco(dataset_to_coco(dataset_name), source=f"data set '{dataset_name}'")
        return cls.from_coco(read_coco_json(path), source=path)

    @classmethod
    def from_coco(cls, content: Mapping[str, Any], source: str) -> "GroundTruth":
        """Indexes the content of a COCO JSON file.

        Raises:
            ValueError: An annotation belongs to no image, or two annotations share an id.
        """
        content = normalised(content).content
        listed_images = entries_by_id(source, "image", content["images"], ("id",))
        numbers = {key: number for number, key in enumerate(listed_images, start=1)}
        listed_categories = entries_by_id(source, "category", content["categories"], ("id", "name"))
        categories = {key: str(category["name"]) for key, category in listed_categories.items()}
        listed = content.get("annotations", ())
        annotations = [_renumbered(annotation, numbers, source) for annotation in listed]
        _check_annotations(annotations, categories, source)
        annotation_ids = _numbered(annotations)
        images = [
            {"id": numbers[image["id"]], "height": _pixels(image, "height"), "width": _pixels(image, "width")}
            for image in listed_images.values()
        ]
        coco = COCO(
            {
                "images": images,
                "annotations": annotations,
                "categories": [{"id": key, "name": name} for key, name in sorted(categories.items())],
            }
        )
        names = dict(sorted(categories.items()))
        return cls(source, coco, numbers, names, "annotations" in content, annotation_ids)


def _pixels(image: Mapping[str, Any], side: str) -> int | None:
    """A side of an image; tables of numbers are often written with a point, 640.0, which the metrics cannot take."""
    return None if image.get(side) is None else int(image[side])


def read_coco_json(path: str) -> dict[str, Any]:
    """Reads a COCO JSON file.

    Raises:
        ValueError: The file is not JSON, or it lacks the images or the categories.
    """
    content, _ = read_json(path)
    missing = {"images", "categories"} - set(content) if isinstance(content, dict) else {"images", "categories"}
    if missing:
        raise ValueError(f"{path} is not a COCO file: it has no {' and no '.join(sorted(missing))} at its top level.")
    return content


def dataset_to_coco(dataset_name: str, records: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Returns the content of a COCO JSON file for a data set that is registered as Python dicts.

    Boxes become XYWH, keypoints go back to pixel indices (half a pixel less), and areas are those of the masks where
    there are masks. Without ``annotations`` in any dict the result has none either, as in a test set.

    Raises:
        ValueError: The data set has no class names.
    """
    metadata = MetadataCatalog.get(dataset_name)
    dicts = DatasetCatalog.get(dataset_name) if records is None else records
    names = metadata.get("thing_classes")
    if not names:
        raise ValueError(
            f"Data set '{dataset_name}' has neither a json_file nor class names. Set them with "
            f"MetadataCatalog.get('{dataset_name}').thing_classes = [...]."
        )
    to_dataset_id = {k: key for key, k in metadata.get("thing_dataset_id_to_contiguous_id", {}).items()}
    points = {"keypoints": list(metadata.keypoint_names)} if metadata.get("keypoint_names") else {}
    content: dict[str, Any] = {
        "images": [],
        "categories": [{"id": to_dataset_id.get(k, k), "name": name, **points} for k, name in enumerate(names)],
    }
    if any("annotations" in record for record in dicts):
        content["annotations"] = []
    keys = _own_ids(dicts)
    for index, record in enumerate(dicts):
        image_id = record.get("image_id", index)
        size = {"height": int(record["height"]), "width": int(record["width"])}
        content["images"].append({"id": image_id, "file_name": str(record["file_name"]), **size})
        for annotation in record.get("annotations", ()):
            converted = _annotation_to_coco(annotation, size)
            converted["category_id"] = to_dataset_id.get(converted["category_id"], converted["category_id"])
            key = next(keys) if keys else len(content["annotations"]) + 1
            content["annotations"].append({"id": key, "image_id": image_id, **converted})
    return content


def _own_ids(dicts: list[dict[str, Any]]) -> Iterator[Any] | None:
    """The annotations' own ids, where each has one and no two the same."""
    ids = [annotation.get("id") for record in dicts for annotation in record.get("annotations", ())]
    usable = all(map(is_id, ids)) and len(set(ids)) == len(ids)
    return iter(ids) if usable else None


def _annotation_to_coco(annotation: Mapping[str, Any], size: Mapping[str, int]) -> dict[str, Any]:
    """Returns a new COCO annotation, without its ids, for one of a data set's dicts."""
    box = BoxMode.convert([float(x) for x in annotation["bbox"]], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    converted: dict[str, Any] = {
        "category_id": int(annotation["category_id"]),
        "bbox": [round(x, 3) for x in box],
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }
    if "segmentation" in annotation:
        converted["segmentation"] = _plain_segmentation(annotation["segmentation"], size)
        converted["area"] = segmentation_area(converted["segmentation"])
    else:
        converted["area"] = float(box[2] * box[3])
    if "keypoints" in annotation:
        points = np.asarray(annotation["keypoints"], dtype=np.float64).reshape(-1, 3)
        converted["keypoints"] = (points - (0.5, 0.5, 0.0)).ravel().tolist()
        converted["num_keypoints"] = int(annotation.get("num_keypoints", (points[:, 2] > 0).sum()))
    return converted


def _plain_segmentation(segmentation: Any, size: Mapping[str, int]) -> list[list[float]] | dict[str, Any]:
    """Returns polygons as lists and RLE with text counts, both of which JSON can hold."""
    if not isinstance(segmentation, Mapping):
        return [np.asarray(polygon, dtype=np.float64).ravel().tolist() for polygon in segmentation]
    counts = segmentation["counts"]
    if isinstance(counts, list):
        counts = mask_utils.frPyObjects(dict(segmentation), size["height"], size["width"])["counts"]
    return {"size": list(segmentation["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def segmentation_area(segmentation: list[list[float]] | dict[str, Any]) -> float:
    """Returns the area in pixels of polygons (each by the shoelace formula) or of an RLE."""
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return float(sum(segmentation["counts"][1::2]))
        return float(mask_utils.area(segmentation))
    corners = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T for polygon in segmentation]
    return float(sum(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 for x, y in corners))


def _renumbered(annotation: Mapping[str, Any], numbers: Mapping[Any, int], source: str) -> dict[str, Any]:
    """Returns the fields that metrics use, complete: own data often lacks the crowd flag and the area."""
    lacks = [key for key in ("id", "image_id", "category_id") if annotation.get(key) is None]
    if lacks:
        raise ValueError(f"{source}: annotation {annotation.get('id', '(no id)')} has no {', '.join(lacks)}.")
    if isinstance(annotation["image_id"], list | dict) or annotation["image_id"] not in numbers:
        raise ValueError(
            f"{source}: annotation {annotation.get('id')} belongs to image {annotation['image_id']!r}, which is not "
            "among the images of that file."
        )
    kept = {name: annotation[name] for name in _FIELDS if annotation.get(name) is not None}
    for name in ("segmentation", "keypoints"):
        if not kept.get(name, True):
            del kept[name]  # an empty list is no mask
    kept["image_id"] = numbers[annotation["image_id"]]
    if kept.setdefault("iscrowd", 0) not in (0, 1):
        raise ValueError(
            f"{source}: annotation {annotation.get('id')} has iscrowd {kept['iscrowd']!r}, which says neither yes nor "
            "no. Write 0 or 1."
        )
    if "area" not in kept:
        _, _, width, height = kept["bbox"]
        masks = kept.get("segmentation")
        if isinstance(masks, list):
            masks = [polygon for polygon in masks if isinstance(polygon, list) and not polygon_problem(polygon)[0]]
        kept["area"] = segmentation_area(masks) if masks else width * height
    if "keypoints" in kept:
        kept.setdefault("num_keypoints", sum(flag > 0 for flag in kept["keypoints"][2::3]))
    return kept


def _numbered(annotations: list[dict[str, Any]]) -> dict[int, Any]:
    """Gives annotations the numbers 1, 2 ... for the metrics' tables, which hold floats; returns their ids.

    What has the id 0 keeps it: COCO's code takes it for 'no match', and its numbers are to be equal here.
    """
    ids: dict[int, Any] = {}
    for place, annotation in enumerate(annotations, start=1):
        number = 0 if annotation["id"] == 0 else place
        ids[number] = annotation["id"]
        annotation["id"] = number
    return ids


def _check_annotations(annotations: Iterable[Mapping[str, Any]], categories: Mapping[int, str], source: str) -> None:
    """Refuses ids that would mix annotations up and reports what COCO's metrics would pass over in silence."""
    seen: set[Any] = set()
    unknown: set[Any] = set()
    for annotation in annotations:
        if not is_id(annotation.get("id")):
            raise ValueError(f"{source}: an annotation has the id {annotation.get('id')!r}. Ids are numbers or text.")
        if annotation["id"] in seen:
            raise ValueError(f"{source}: two annotations have the id {annotation['id']}; ids must be unique.")
        seen.add(annotation["id"])
        if annotation["category_id"] not in categories:
            unknown.add(annotation["category_id"])
    if unknown:
        logger.warning(f"{source}: annotations of category ids {sorted(unknown)} are left out: no such categories.")
    if 0 in seen:
        logger.warning(
            f"{source}: the annotation with id 0 counts as never found, because COCO's metrics use 0 for 'no match'. "
            "Number the annotations from 1."
        )
