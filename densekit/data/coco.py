"""COCO data sets: the annotation file as records of the standard format, and their registration.

What is wrong with a file ends in one error that names the file, the image or annotation, the value and what to do.
Three things that real data sets have a few of are left out instead, with one warning that counts them: boxes of zero or
negative size, boxes that lie outside their image altogether, and polygons of fewer than three points (an annotation
that has no other polygon is left out with them). A box that is not four finite numbers is always an error. Boxes that
reach over the border are kept; they are clipped after augmentation.
"""

import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

import pycocotools.mask as mask_util

from densekit.d2.data import Metadata, MetadataCatalog
from densekit.d2.structures import BoxMode
from densekit.d2.utils.colormap import colormap
from densekit.d2.utils.logger import log_first_n
from densekit.data.coco_fields import number
from densekit.data.coco_json import CocoFile, drop_unusable, is_limb, read_coco_file
from densekit.data.coco_masks import polygon_problem, rle_problem
from densekit.data.registry import Entry, register

__all__ = ["load_coco_json", "register_coco_instances"]

_COPIED = ("id", "iscrowd", "bbox", "category_id")


def load_coco_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Reads a COCO file of instances or person keypoints; images are not opened.

    Args:
        json_file: The annotation file.
        image_root: Folder that the file's image names are relative to.
        dataset_name: Registered name. If given, categories get the numbers 0..C-1 in the order of their ids, and
            ``thing_classes``, ``thing_dataset_id_to_contiguous_id`` and, where the categories have keypoints,
            ``keypoint_names``, ``keypoint_flip_map`` and ``keypoint_connection_rules`` are entered in its metadata.
            Otherwise they keep their ids.
        extra_annotation_keys: Further keys of annotations to take over as they are.

    Returns:
        One record for each image, sorted by id: ``file_name``, ``height``, ``width``, ``image_id`` and ``annotations``
        with ``id``, ``bbox`` (xywh, pixels), ``bbox_mode``, ``category_id``, ``iscrowd``, ``segmentation`` (polygons or
        compressed RLE) and ``keypoints`` (x, y, visibility; COCO counts keypoints in whole pixels, so half a pixel is
        added to x and y, which puts them into the frame of boxes and polygons).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Something in it is wrong.
    """
    path = os.fspath(json_file)
    file = read_coco_file(path, os.fspath(image_root))
    _check_keypoint_names(file)
    numbers = {category_id: index for index, category_id in enumerate(file.categories)}
    if dataset_name is None:
        numbers = {category_id: category_id for category_id in file.categories}
    else:
        _enter_metadata(file, dataset_name, numbers)
    left_out: dict[str, list[Any]] = {}
    dropped = drop_unusable(file, left_out.__setitem__)
    keys = (*_COPIED, *(extra_annotation_keys or ()))
    convert = _Converter(file, numbers, keys, left_out)
    by_image: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in file.images}
    for annotation, drop in zip(file.annotations, dropped.tolist()):
        if not drop and (converted := convert(annotation)) is not None:
            by_image[annotation["image_id"]].append(converted)
    _report(path, left_out)
    root = os.fspath(image_root)
    summary = f"{path}: {len(file.images)} images, {sum(map(len, by_image.values()))} annotations."
    log_first_n(logging.INFO, summary, key="message")  # a run reads its files for the checks and again for its loaders
    return [
        {
            "file_name": os.path.join(root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image_id,
            "annotations": by_image[image_id],
        }
        for image_id, image in file.images.items()
    ]


def _check_keypoint_names(file: CocoFile) -> None:
    for category in file.categories.values():
        names = category.get("keypoints")
        if names and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError(
                f"{file.path}: category {category['name']!r} has keypoints {str(names)[:60]!r}; they are a list of "
                "names."
            )


class _Converter:
    """Turns annotations of one file into the standard format."""

    _NO_POLYGON = "annotations without any polygon of three points"
    _BOX = (
        "annotations whose segmentation is four numbers, a box or a line, and no polygon (write [[x0, y0, x1, y1, x2, "
        "y2, ...]], or leave 'segmentation' out and set MODEL.MASK_ON False)"
    )
    _SHORT = "polygons of fewer than three points or without area in annotations with others"
    _EMPTY = "masks without a pixel"

    def __init__(
        self, file: CocoFile, numbers: dict[Any, Any], keys: Sequence[str], left_out: dict[str, list[Any]]
    ) -> None:
        self._file, self._numbers, self._keys, self._left_out = file, numbers, keys, left_out
        self._points = {i: len(c["keypoints"]) for i, c in file.categories.items() if c.get("keypoints")}

    def __call__(self, annotation: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the converted annotation, None where it must be left out."""
        crowd = annotation.get("iscrowd", 0)
        if crowd not in (0, 1):
            self._file.fail(
                annotation, f"has iscrowd {str(crowd)[:40]!r}, which says neither yes nor no. Write 0 or 1."
            )
        out = {key: annotation[key] for key in self._keys if key in annotation}
        out["bbox"] = [float(number) for number in out["bbox"]]  # resizing an array of integers would round down
        out["bbox_mode"] = BoxMode.XYWH_ABS
        out["category_id"] = self._numbers[annotation["category_id"]]
        if annotation.get("ignore"):
            self._file.fail(annotation, "has 'ignore' set, which COCO's format does not have. Use iscrowd 1.")
        segmentation = annotation.get("segmentation")
        if segmentation:
            out["segmentation"] = self._mask(annotation, segmentation)
            if not out["segmentation"]:
                return None
        if annotation.get("keypoints"):
            out["keypoints"] = self._keypoints(annotation, annotation["keypoints"])
        return out

    def _mask(self, annotation: dict[str, Any], segmentation: Any) -> Any:
        if isinstance(segmentation, dict):
            return self._rle(annotation, segmentation)
        if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
            self._file.fail(
                annotation,
                f"has a segmentation that begins with {str(segmentation)[:40]}; it must be a list of polygons, "
                "[[x0, y0, x1, y1, ...], ...], or an RLE object with 'size' and 'counts'.",
            )
        problems = [polygon_problem(polygon) for polygon in segmentation]
        kept = [polygon for polygon, (kind, _) in zip(segmentation, problems) if not kind]
        for polygon, (kind, _) in zip(segmentation, problems):
            if kind == "segmentation-malformed":
                value = next(value for value in polygon if type(value) not in (int, float))
                self._file.fail(annotation, f"has a polygon with the coordinate {repr(value)[:40]}. Write numbers.")
            if kind == "polygon-nan":
                self._file.fail(annotation, "has a polygon with NaN or infinite coordinates. Remove or correct it.")
        if len(kept) < len(segmentation):
            boxes = any(kind == "polygon-box" for kind, _ in problems)
            what = self._SHORT if kept else self._BOX if boxes else self._NO_POLYGON
            self._left_out.setdefault(what, []).append(annotation["id"])
        return kept

    def _rle(self, annotation: dict[str, Any], rle: dict[str, Any]) -> dict[str, Any] | None:
        image = self._file.images[annotation["image_id"]]
        size, counts = [image["height"], image["width"]], rle.get("counts")
        if rle.get("size") != size or not counts:
            self._file.fail(
                annotation,
                f"has an RLE mask of size {rle.get('size')} (height, width) in image {annotation['image_id']}, which "
                f"is {size}. Mask and image must have one size, and the mask its 'counts'.",
            )
        kind, detail = rle_problem(rle, image)
        if kind == "mask-empty":
            self._left_out.setdefault(self._EMPTY, []).append(annotation["id"])
            return None
        if kind:
            self._file.fail(annotation, f"has an RLE mask that cannot be decoded: {detail}. Encode it again.")
        return mask_util.frPyObjects(rle, *size) if isinstance(counts, list) else rle

    def _keypoints(self, annotation: dict[str, Any], keypoints: list[float]) -> list[float]:
        if not isinstance(keypoints, list):
            self._file.fail(annotation, f"has keypoints {str(keypoints)[:40]!r}; they are a list of x, y, visibility.")
        expected = self._points.get(annotation["category_id"], len(keypoints) // 3)
        finite = set(map(type, keypoints)) <= {int, float} and None not in map(number, keypoints)
        if len(keypoints) != 3 * expected or not finite:
            self._file.fail(
                annotation,
                f"has {len(keypoints)} keypoint numbers, not all finite or not x, y, visibility for each of "
                f"{expected} keypoints. Points that are not labelled are 0, 0, 0.",
            )
        shifted = list(keypoints)
        shifted[0::3] = [x + 0.5 for x in keypoints[0::3]]
        shifted[1::3] = [y + 0.5 for y in keypoints[1::3]]
        return shifted


def _report(path: str, left_out: dict[str, list[Any]]) -> None:
    """Logs one warning about everything that was left out, once in a run."""
    if left_out:
        parts = [f"{len(ids)} {what} (ids {_first_few(ids)})" for what, ids in left_out.items()]
        log_first_n(logging.WARNING, f"{path}: left out as useless for training: {'; '.join(parts)}.", key="message")


def _first_few(ids: list[Any]) -> str:
    return ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")


def _enter_metadata(file: CocoFile, name: str, numbers: dict[Any, int]) -> None:
    metadata = MetadataCatalog.get(name)
    categories = list(file.categories.values())
    _enter(file, metadata, "thing_classes", [str(category["name"]) for category in categories])
    _enter(file, metadata, "thing_dataset_id_to_contiguous_id", numbers)
    with_points = {tuple(category["keypoints"]) for category in categories if category.get("keypoints")}
    if len(with_points) == 1:
        points = with_points.pop()
        _enter(file, metadata, "keypoint_names", points)
        pairs = tuple(
            (p, p.replace("left", "right")) for p in points if p.replace("left", "right") in set(points) - {p}
        )
        if pairs and metadata.get("keypoint_flip_map") is None:
            metadata.keypoint_flip_map = pairs
        limbs = next((c["skeleton"] for c in categories if isinstance(c.get("skeleton"), list) and c["skeleton"]), None)
        if limbs and metadata.get("keypoint_connection_rules") is None:
            metadata.keypoint_connection_rules = _limbs(limbs, points)


def _limbs(skeleton: list[Any], points: tuple[str, ...]) -> list[tuple[str, str, tuple[int, int, int]]]:
    """A skeleton, pairs of point numbers from 1, as (name, name, RGB colour); what is no such pair is left out."""
    colours = colormap(rgb=True).astype(int).tolist()
    pairs = [pair for pair in skeleton if is_limb(pair, len(points))]
    return [(points[a - 1], points[b - 1], tuple(colours[i % len(colours)])) for i, (a, b) in enumerate(pairs)]


def _enter(file: CocoFile, metadata: Metadata, key: str, value: Any) -> None:
    """Sets what the file says; equal values stay, whatever their container."""
    known = metadata.get(key)
    if known is None:
        metadata.set(**{key: value})
    elif type(value)(known) != value:
        raise ValueError(
            f"{file.path} contradicts the metadata of data set {metadata.name!r}: {key} is {value!r} in the file and "
            f"{known!r} in the metadata. Register the file under a name of its own."
        )


def register_coco_instances(
    name: str, metadata: dict[str, Any], json_file: str | os.PathLike, image_root: str | os.PathLike
) -> None:
    """Registers a COCO data set; the file is read when the data set is first used.

    Registering the same again is harmless.

    Args:
        name: For DATASETS.TRAIN and DATASETS.TEST.
        metadata: What is known beforehand, such as ``thing_colors``; may be empty.
        json_file: The annotation file.
        image_root: Folder of the images.

    Raises:
        ValueError: The name is taken by other files or another loader.
    """
    register(instances_entry(name, metadata, os.fspath(json_file), os.fspath(image_root)))


def instances_entry(name: str, metadata: dict[str, Any], json_file: str, image_root: str) -> Entry:
    """A data set of :func:`register_coco_instances`, not registered yet."""
    files = {"json_file": json_file, "image_root": image_root, "evaluator_type": "coco"}
    return Entry(name, functools.partial(load_coco_json, json_file, image_root, name), files | metadata)
