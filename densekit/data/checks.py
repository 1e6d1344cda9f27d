"""What can be known to be wrong before a run begins: data sets that do not fit the config."""

import difflib
from collections.abc import Iterator
from typing import Any

import densekit.data.builtin  # noqa: F401 - registers the standard names, which are looked up here
from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetCatalog, MetadataCatalog

__all__ = ["CLASS_COUNT_KEYS", "check_datasets"]

# Which key says how many classes of things a system of this architecture tells apart.
CLASS_COUNT_KEYS = {
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "PanopticFPN": "MODEL.ROI_HEADS.NUM_CLASSES",
}

Records = list[dict[str, Any]]


def check_datasets(cfg: CfgNode, *, train: bool = True) -> None:
    """Loads the data sets of a config and compares them with it.

    Args:
        cfg: The config of the run.
        train: Whether the run trains; otherwise only DATASETS.TEST is looked at.

    Raises:
        ValueError: An unknown name, no images, a number of classes or keypoints that contradicts the model, masks or
            keypoints that are missing, or nothing left to train on. The message names the key to set.
        FileNotFoundError: An annotation file is missing.
    """
    if train and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty. Set it to the names of registered data sets to train on.")
    chosen = [*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST]
    for name in dict.fromkeys(chosen):
        _check_registered(name)
    for name in dict.fromkeys(chosen):
        records = DatasetCatalog.get(name)
        if not isinstance(records, list):  # a torch data set brings its own format
            continue
        if not records:
            raise ValueError(f"Data set {name!r} has no images.")
        trains = train and name in cfg.DATASETS.TRAIN
        _check_classes(cfg, name, records)
        _check_masks(cfg, name, records, trains)
        if cfg.MODEL.KEYPOINT_ON:
            _check_keypoints(cfg, name, records, trains)
        if trains:
            _check_something_left(cfg, name, records)


def _check_registered(name: str) -> None:
    if name in DatasetCatalog:
        return
    near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3, cutoff=0.5)
    raise ValueError(
        f"Data set {name!r} (DATASETS.TRAIN or DATASETS.TEST) is not registered. "
        + (f"Did you mean {' or '.join(map(repr, near))}? " if near else "")
        + "Own data: --datasets FILE with a line 'NAME: {form: coco, json: FILE, images: FOLDER}', or in Python "
        "densekit.data.register_coco_instances(name, {}, json_file, image_root)."
    )


def _objects(records: Records) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Goes through (record, annotation), crowds left out."""
    for record in records:
        for annotation in record.get("annotations", ()):
            if not annotation.get("iscrowd", 0):
                yield record, annotation


def _where(record: dict[str, Any], annotation: dict[str, Any]) -> str:
    return f"annotation {annotation.get('id', '(no id)')} of {record.get('file_name', '(no file name)')}"


def _check_classes(cfg: CfgNode, name: str, records: Records) -> None:
    key = CLASS_COUNT_KEYS.get(cfg.MODEL.META_ARCHITECTURE)
    classes = MetadataCatalog.get(name).get("thing_classes")
    if key is None or classes is None:
        return
    count = cfg
    for part in key.split("."):
        count = count[part]
    if count != len(classes):
        shown = ", ".join(list(classes)[:5]) + (", ..." if len(classes) > 5 else "")
        raise ValueError(
            f"{key} is {count}, but data set {name!r} has {len(classes)} classes ({shown}). Set {key} {len(classes)}."
        )
    for record, annotation in _objects(records):
        if not 0 <= annotation["category_id"] < len(classes):
            raise ValueError(
                f"Data set {name!r}: {_where(record, annotation)} has category_id {annotation['category_id']}; with "
                f"{len(classes)} classes it must be 0 to {len(classes) - 1}."
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
        raise ValueError(
            f"Data set {name!r} has {len(records)} images and no annotation to train on (crowds do not count). Set "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS False to train on background alone, or correct the annotation file."
        )
    least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    if least and not any(
        sum(v > 0 for a in record["annotations"] for v in a.get("keypoints", ())[2::3]) >= least for record in records
    ):
        raise ValueError(
            f"No image of data set {name!r} has at least {least} labelled keypoints, which "
            "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE asks for. Lower it, or label points (visibility 1 or 2)."
        )
