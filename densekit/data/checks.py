"""Checks of data sets against the config, before a run begins."""

import logging
from collections.abc import Iterator
from typing import Any

import densekit.data.builtin  # registers the standard names, which are looked up here
import densekit.data.image_classes  # noqa: F401 - registers the mapper of whole images and the count of their classes
from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.modeling import META_ARCH_REGISTRY
from densekit.d2.utils.logger import log_first_n
from densekit.data.class_counts import KEYPOINTS, STUFF, THINGS, count_keys, get_key, shortly
from densekit.data.file_checks import check_files, check_listed_once, overlap_note
from densekit.data.labels import load_sem_seg
from densekit.data.mapper import mapper_class
from densekit.data.pictures import depth_note
from densekit.data.proposals import check_test_proposals
from densekit.data.registry import check_registered, load_and_keep

__all__ = ["check_chosen", "check_datasets", "evaluator_of_model"]

Records = list[dict[str, Any]]

logger = logging.getLogger(__name__)


def evaluator_of_model(cfg: CfgNode) -> str:
    """The evaluator of what the model gives on whatever data; "" where the data set's own type decides.

    A model says so in the class attribute ``evaluator_type``. It learns from pictures and needs no annotations.
    """
    return getattr(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), "evaluator_type", "")


def check_datasets(cfg: CfgNode, *, train: bool = True, files: bool = False) -> None:
    """Loads the data sets of a config and compares them with it.

    What the run loads first, to train or to evaluate, is kept for it, so that no file is parsed twice on the way.

    Args:
        cfg: The config of the run.
        train: Whether the run trains; otherwise only DATASETS.TEST is looked at.
        files: Whether to look at the pictures and label maps themselves.

    Raises:
        ValueError: An unknown name, no images, a number of classes or keypoints that contradicts the model, other
            classes in one data set than in another, masks, keypoints or label maps that are missing, or nothing left to
            train on. The message names the key to set.
        FileNotFoundError: An annotation file is missing.
    """
    if train and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty. Set it to the names of registered data sets to train on.")
    chosen = [*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST]
    for name in dict.fromkeys(chosen):
        check_chosen(name)
    paths: dict[bool, dict[str, Records]] = {}
    for name in dict.fromkeys(chosen):
        comes_first = name in (cfg.DATASETS.TRAIN if train else cfg.DATASETS.TEST)
        records = load_and_keep(name) if comes_first else DatasetCatalog.get(name)
        if not isinstance(records, list):  # a torch data set brings its own format
            continue
        if not records:
            raise ValueError(f"Data set {name!r} has no images.")
        trains = train and name in cfg.DATASETS.TRAIN
        _check_task(cfg, name, records, trains)
        _check_classes(cfg, name, records)
        _check_label_maps(cfg, name, records, trains)
        _check_masks(cfg, name, records, trains)
        if name in cfg.DATASETS.TEST:
            check_test_proposals(cfg, name, records)
        if cfg.MODEL.KEYPOINT_ON:
            _check_keypoints(cfg, name, records, trains)
        if trains:
            _check_something_left(cfg, name, records)
            check_listed_once(name, records)
        paths.setdefault(trains, {})[name] = [{"file_name": record.get("file_name", "")} for record in records]
        if files:
            _check_files(cfg, name, records)
    _check_agreement(cfg, list(dict.fromkeys(chosen)))
    if note := overlap_note(paths.get(True, {}), paths.get(False, {})):
        logger.warning(note)


def _check_files(cfg: CfgNode, name: str, records: Records) -> None:
    check_files(name, records, labels=STUFF in count_keys(cfg).values())
    bits = records[0].get("bit_depth", cfg.INPUT.get("BIT_DEPTH", 0))
    if note := depth_note(records[0]["file_name"], bits):
        log_first_n(logging.INFO, note, key="message")


def check_chosen(name: str) -> None:
    """Raises a ValueError if a data set that the configuration chooses is not registered."""
    check_registered(
        name,
        "DATASETS.TRAIN and DATASETS.TEST take registered names. Own data: --datasets FILE with a line 'NAME: {form: "
        "coco, json: FILE, images: FOLDER}', or in Python densekit.data.register_coco_instances(name, {}, json_file, "
        "image_root) or register_dataset(name, form, ...).",
    )


def _objects(records: Records) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Goes through (record, annotation), crowds left out."""
    for record in records:
        for annotation in record.get("annotations", ()):
            if not annotation.get("iscrowd", 0):
                yield record, annotation


def _where(record: dict[str, Any], annotation: dict[str, Any]) -> str:
    return f"annotation {annotation.get('id', '(no id)')} of {record.get('file_name', '(no file name)')}"


def _check_task(cfg: CfgNode, name: str, records: Records, trains: bool) -> None:
    if evaluator_of_model(cfg):
        return
    if getattr(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), "learns_image_classes", False):
        _check_image_classes(name, records)
        return
    if not trains and MetadataCatalog.get(name).get("evaluator_type") is None and "annotations" not in records[0]:
        raise ValueError(
            f"Data set {name!r} has images and no annotations, so DATASETS.TEST cannot name it: densekit predict makes "
            "predictions on it."
        )
    has_segments = "segments_info" in records[0] and getattr(mapper_class(cfg), "learns_segments", False)
    has_objects = "annotations" in records[0] or has_segments
    if trains and THINGS in count_keys(cfg).values() and not has_objects:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} learns objects, and data set {name!r} has none "
            "(no 'annotations' in its records). Train on data with boxes, or choose a semantic system."
        )


def _check_image_classes(name: str, records: Records) -> None:
    count = len(MetadataCatalog.get(name).get(THINGS) or ())
    for record in records:
        number = record.get("category_id", -1)
        if not 0 <= number < count:
            raise ValueError(
                f"The model learns the classes of whole images, and image {record.get('file_name')} of data set "
                f"{name!r} has {'none' if number < 0 else f'class {number} of {count}'} (category_id in its record). "
                "Use data of the form 'classes', a folder for each class."
            )


def _check_classes(cfg: CfgNode, name: str, records: Records) -> None:
    metadata = MetadataCatalog.get(name)
    for key, names in count_keys(cfg).items():
        classes, count = metadata.get(names), get_key(cfg, key)
        if names != KEYPOINTS and classes is not None and count != len(classes):
            raise ValueError(
                f"{key} is {count}, but data set {name!r} has {len(classes)} classes ({shortly(classes)}). Set {key} "
                f"{len(classes)}."
            )
    classes = metadata.get(THINGS)
    if THINGS not in count_keys(cfg).values() or classes is None:
        return
    for record, annotation in _objects(records):
        if not 0 <= annotation["category_id"] < len(classes):
            raise ValueError(
                f"Data set {name!r}: {_where(record, annotation)} has category_id {annotation['category_id']}; with "
                f"{len(classes)} classes it must be 0 to {len(classes) - 1}."
            )


def _check_label_maps(cfg: CfgNode, name: str, records: Records, trains: bool) -> None:
    """Looks at one label map too: a table of values that is wrong is wrong for all."""
    key = next((key for key, names in count_keys(cfg).items() if names == STUFF), None)
    if key is None or not trains:
        return
    without = next((record for record in records if "sem_seg_file_name" not in record), None)
    if without is not None:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} learns label maps, and image "
            f"{without.get('file_name')} of data set {name!r} has none (no 'sem_seg_file_name' in its record)."
        )
    ignore, said = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, MetadataCatalog.get(name).get("ignore_label")
    if said is not None and said != ignore:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {ignore}, but label maps of data set {name!r} are read with {said} "
            f"where there is no class. Set MODEL.SEM_SEG_HEAD.IGNORE_VALUE {said}."
        )
    labels, count = load_sem_seg(records[0]), get_key(cfg, key)
    beyond = labels[(labels >= count) & (labels != ignore)]
    if beyond.size:
        raise ValueError(
            f"Label map {records[0]['sem_seg_file_name']} of data set {name!r} has the class {beyond.max()}; with "
            f"{key} {count} classes are 0 to {count - 1}, and {ignore} is ignored."
        )


def _check_agreement(cfg: CfgNode, chosen: list[str]) -> None:
    """Class k of one data set must be class k of the others."""
    for names in dict.fromkeys(count_keys(cfg).values()):
        lists = {name: MetadataCatalog.get(name).get(names) for name in chosen}
        known = {name: list(classes) for name, classes in lists.items() if classes is not None}
        first = next(iter(known), None)
        for name, classes in known.items():
            if first is not None and classes != known[first]:
                raise ValueError(
                    f"Data sets {first!r} and {name!r} have different {names}: {shortly(known[first])} and "
                    f"{shortly(classes)}. Give both one list in one order; forms that find classes in the annotations "
                    "take it under 'classes'."
                )


def _check_masks(cfg: CfgNode, name: str, records: Records, trains: bool) -> None:
    if not cfg.MODEL.MASK_ON:
        return
    for record, annotation in _objects(records):
        mask = annotation.get("segmentation")
        if mask is None:
            raise ValueError(
                f"MODEL.MASK_ON is True, but {_where(record, annotation)} in data set {name!r} has no segmentation. "
                "Set MODEL.MASK_ON False to train on boxes, or add the masks."
            )
        if trains and cfg.INPUT.MASK_FORMAT == "polygon" and not isinstance(mask, list):
            raise ValueError(
                f"INPUT.MASK_FORMAT is 'polygon', but {_where(record, annotation)} in data set {name!r} has an RLE "
                "mask. Set INPUT.MASK_FORMAT bitmask."
            )


def _check_keypoints(cfg: CfgNode, name: str, records: Records, trains: bool) -> None:
    count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    for record, annotation in _objects(records):
        if not annotation.get("keypoints"):
            raise ValueError(
                f"MODEL.KEYPOINT_ON is True, but {_where(record, annotation)} in data set {name!r} has no keypoints. "
                "Set MODEL.KEYPOINT_ON False, or add them (0, 0, 0 for each point that is not labelled)."
            )
        found = len(annotation["keypoints"]) // 3
        if found != count:
            raise ValueError(
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {count}, but {_where(record, annotation)} in data set "
                f"{name!r} has {found} keypoints. Set MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {found}."
            )
    metadata = MetadataCatalog.get(name)
    if trains and (metadata.get("keypoint_names") is None or metadata.get("keypoint_flip_map") is None):
        raise ValueError(
            f"Data set {name!r} has keypoints, but its metadata does not say which ones a mirror exchanges. Name them "
            "left_... and right_... in the categories' 'keypoints' of the annotation file, or pass keypoint_names and "
            "keypoint_flip_map (pairs of names; () where there are none) as metadata when registering it."
        )


def _check_something_left(cfg: CfgNode, name: str, records: Records) -> None:
    if "annotations" not in records[0]:
        return
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and next(_objects(records), None) is None:
        crowds = sum(len(record.get("annotations", ())) for record in records)
        why = f"its {crowds} annotations are crowds" if crowds else "its records have none"
        raise ValueError(
            f"Data set {name!r} has {len(records)} images and no annotation to train on: {why}; what was left out on "
            "reading is named above. Correct the annotations (densekit check lists what is wrong with them), or set "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS False to train on background alone."
        )
    least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    if least and not any(
        sum(v > 0 for a in record["annotations"] for v in a.get("keypoints", ())[2::3]) >= least for record in records
    ):
        raise ValueError(
            f"No image of data set {name!r} has at least {least} labelled keypoints, which "
            "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE asks for. Lower it, or label points (visibility 1 or 2)."
        )
