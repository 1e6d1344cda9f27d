"""Cityscapes trees (arXiv 1604.01685): records for instance, semantic and panoptic systems, from fine or coarse labels.

The layout, the label ids and the rules are those of cityscapesScripts, whose label table is used: an instance id below
1000 of a class that has instances is a crowd, ``gtFine`` and ``gtCoarse`` are read alike. Records have the fields that
Detectron2's users know. Where it differs: instances come from the instanceIds pictures and so have exactly the pixels
that the benchmark counts, and semantic systems train from labelIds where labelTrainIds have not been made.
"""

import functools
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import labels as LABELS

from densekit.data.labels import IGNORE, read_values
from densekit.data.outline_cache import OutlineCache
from densekit.data.pictures import image_size
from densekit.data.regions import in_threads, outline_regions
from densekit.data.registry import Entry, Records
from densekit.files.cityscapes_files import FIRST_INSTANCE, label_of

__all__ = [
    "cityscapes_entries",
    "cityscapes_metadata",
    "load_cityscapes_instances",
    "load_cityscapes_semantic",
]

IMAGE_ENDING = "_leftImg8bit.png"

CLASSES = [label for label in LABELS if 0 <= label.trainId < IGNORE]  # the 19 that are trained, by trainId
THINGS = [label for label in CLASSES if label.hasInstances]
_TRAIN_IDS = {label.id: label.trainId if label in CLASSES else IGNORE for label in LABELS if label.id >= 0}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """One picture of a tree, and what its labels begin with.

    Attributes:
        image: File.
        labels: Path of its label files up to and with ``gtFine`` or ``gtCoarse``.
    """

    image: str
    labels: str

    def need(self, ending: str) -> str:
        """Returns the label file of this ending.

        Raises:
            FileNotFoundError: It does not exist.
        """
        path = self.labels + ending
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"{path} does not exist, and image {self.image} needs it. Unpack the labels anew, or remove the image."
            )
        return path


def list_frames(image_dir: str, gt_dir: str) -> list[Frame]:
    """Finds the pictures of a split, sorted by name.

    Args:
        image_dir: ``.../leftImg8bit/<split>``.
        gt_dir: ``.../gtFine/<split>`` or ``.../gtCoarse/<split>``.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: There are no pictures.
    """
    for folder in (image_dir, gt_dir):
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"Folder {folder} does not exist. A Cityscapes tree has leftImg8bit/<split>/<city>/ and gtFine/<split>/"
                "<city>/ (or gtCoarse); datasets/README.md shows it. DETECTRON2_DATASETS names the folder that holds "
                "cityscapes/."
            )
    kind = os.path.basename(os.path.dirname(os.path.normpath(gt_dir)))
    frames = []
    for city in sorted(os.listdir(image_dir)):
        folder = os.path.join(image_dir, city)
        if city.startswith("."):
            continue
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if name.endswith(IMAGE_ENDING) and not name.startswith("."):  # macOS' ._ files are none
                stem = name.removesuffix(IMAGE_ENDING)
                frames.append(Frame(os.path.join(folder, name), os.path.join(gt_dir, city, f"{stem}_{kind}")))
    if not frames:
        raise ValueError(f"Folder {image_dir} has no <city>/*{IMAGE_ENDING}. Is it leftImg8bit/<split>?")
    return frames


def load_cityscapes_semantic(image_dir: str, gt_dir: str) -> Records:
    """Reads the records of a split for semantic segmentation; labels are not opened.

    Returns:
        ``file_name, sem_seg_file_name, height, width``; the label map is ``_labelTrainIds.png`` if it has been made and
        else ``_labelIds.png`` with ``sem_seg_values``.

    Raises:
        FileNotFoundError: A folder or a label file does not exist.
        ValueError: There are no pictures, or one cannot be read.
    """

    def record(frame: Frame) -> dict[str, Any]:
        height, width = image_size(frame.image)
        return {"file_name": frame.image, "height": height, "width": width, **train_labels(frame)}

    return in_threads(record, list_frames(image_dir, gt_dir))


def train_labels(frame: Frame) -> dict[str, Any]:
    """Returns the part of a record that names the label map of the 19 classes."""
    made = f"{frame.labels}_labelTrainIds.png"
    if os.path.isfile(made):
        return {"sem_seg_file_name": made}
    return {"sem_seg_file_name": frame.need("_labelIds.png"), "sem_seg_values": _TRAIN_IDS}


def load_cityscapes_instances(image_dir: str, gt_dir: str) -> Records:
    """Reads the records of a split for instance segmentation, from its instanceIds pictures.

    Returns:
        ``file_name, image_id`` (the file's name)``, height, width`` and ``annotations`` with ``bbox`` (xyxy, pixels),
        ``bbox_mode, area, segmentation`` (polygons), ``category_id`` (0..7) and ``iscrowd``.

    Raises:
        FileNotFoundError: A folder or a label file does not exist.
        ValueError: There are no pictures, or one cannot be read, or holds an id that is no label.
    """
    frames = list_frames(image_dir, gt_dir)
    logger.info("Outlining the instances of %d pictures of %s", len(frames), gt_dir)
    cache = OutlineCache(gt_dir)
    records = in_threads(lambda frame: _instances_of(frame, cache), frames)
    cache.save()
    return records


def instance_annotations(path: str, ids: np.ndarray) -> list[dict[str, Any]]:
    """Returns the annotations of a picture of instance ids, ``category_id`` among the 8 things, sorted by id."""
    index = {label.id: number for number, label in enumerate(THINGS)}
    found = np.flatnonzero(np.bincount(ids.ravel())).tolist()
    unknown = [value for value in found if label_of(value) not in _TRAIN_IDS]
    if unknown:
        raise ValueError(
            f"{path} has the instance id {unknown[0]}, which is no label of Cityscapes, nor one * 1000 + n."
        )
    regions = outline_regions(ids, [value for value in found if label_of(value) in index])
    return [
        region | {"category_id": index[label_of(value)], "iscrowd": int(value < FIRST_INSTANCE)}
        for value, region in regions.items()
        if region["segmentation"]
    ]


def _instances_of(frame: Frame, cache: OutlineCache) -> dict[str, Any]:
    path = frame.need("_instanceIds.png")
    found = cache.get(path)
    if found is None:
        ids = read_values(path)
        size = {"height": ids.shape[0], "width": ids.shape[1]}
        found = {**size, "annotations": instance_annotations(path, ids)}
        cache.put(path, found)
    if (found["height"], found["width"]) != image_size(frame.image):
        raise ValueError(f"{path} and its image {frame.image} have different sizes. Unpack both anew.")
    return {"file_name": frame.image, "image_id": os.path.basename(frame.image), **found}


def cityscapes_metadata() -> dict[str, Any]:
    """Returns names, colours (RGB) and the maps from label ids of the 8 things and of all 19 classes."""
    return {
        "thing_classes": [label.name for label in THINGS],
        "thing_colors": [label.color for label in THINGS],
        "thing_dataset_id_to_contiguous_id": {label.id: i for i, label in enumerate(THINGS)},
        "stuff_classes": [label.name for label in CLASSES],
        "stuff_colors": [label.color for label in CLASSES],
        "stuff_dataset_id_to_contiguous_id": {label.id: label.trainId for label in CLASSES},
    }


def cityscapes_entries(prefix: str, tree: str, labels: str, splits: Iterable[str]) -> Iterator[Entry]:
    """Goes through ``<prefix>_instance_seg_<split>`` and ``<prefix>_sem_seg_<split>`` of a tree.

    Args:
        prefix: Such as ``cityscapes_fine``.
        tree: Folder with ``leftImg8bit`` and the labels.
        labels: ``gtFine`` or ``gtCoarse``.
        splits: Names of folders.
    """
    for split in splits:
        folders = (os.path.join(tree, f"leftImg8bit/{split}/"), os.path.join(tree, f"{labels}/{split}/"))
        yield instance_entry(f"{prefix}_instance_seg_{split}", *folders)
        yield semantic_entry(f"{prefix}_sem_seg_{split}", *folders)


def instance_entry(name: str, image_dir: str, gt_dir: str) -> Entry:
    """A split for instance segmentation."""
    metadata = {"image_dir": image_dir, "gt_dir": gt_dir, "evaluator_type": "cityscapes_instance"}
    load = functools.partial(load_cityscapes_instances, image_dir, gt_dir)
    return Entry(name, load, metadata | cityscapes_metadata())


def semantic_entry(name: str, image_dir: str, gt_dir: str) -> Entry:
    """A split for semantic segmentation."""
    metadata = {"image_dir": image_dir, "gt_dir": gt_dir, "evaluator_type": "cityscapes_sem_seg"}
    load = functools.partial(load_cityscapes_semantic, image_dir, gt_dir)
    return Entry(name, load, {"ignore_label": IGNORE, **metadata, **cityscapes_metadata()})
