"""The evaluator of a data set: its ``evaluator_type`` names an entry of one registry."""

import logging
import os
from collections.abc import Callable, Iterable

from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.evaluation import DatasetEvaluator, DatasetEvaluators
from densekit.d2.utils.file_io import PathManager
from densekit.d2.utils.logger import log_first_n
from densekit.d2.utils.registry import Registry
from densekit.data.checks import evaluator_of_model
from densekit.data.cityscapes import list_frames
from densekit.evaluation.cityscapes import (
    CityscapesInstanceEvaluator,
    CityscapesPanopticEvaluator,
    CityscapesSemSegEvaluator,
)
from densekit.evaluation.cityscapes.frames import ground_truth
from densekit.evaluation.coco_evaluator import COCOEvaluator
from densekit.evaluation.image_classes import ImageClassEvaluator
from densekit.evaluation.panoptic_evaluator import COCOPanopticEvaluator
from densekit.evaluation.sem_seg import SemSegEvaluator

_PERSON_SIGMAS = 17
_COCO_DETECTIONS = 100

# evaluator_type -> maker, called with the config, the data set's name and the folder for files.
EVALUATORS = Registry("EVALUATOR")


@EVALUATORS.register()
def coco(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """Judges boxes, masks and keypoints by COCO's measures."""
    return COCOEvaluator(
        dataset_name,
        output_dir=output_folder,
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        boundary=cfg.TEST.BOUNDARY,
        max_dets_per_image=cfg.TEST.get("COCO_DETECTIONS", 0) or None,
    )


@EVALUATORS.register()
def sem_seg(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """Judges the classes of pixels."""
    return SemSegEvaluator(dataset_name, output_folder, boundary=cfg.TEST.BOUNDARY)


@EVALUATORS.register()
def coco_panoptic_seg(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """Judges the classes and, where the data set has objects, the instances too."""
    evaluators = [sem_seg(cfg, dataset_name, output_folder)]
    has_file = MetadataCatalog.get(dataset_name).get("json_file")
    if has_file or any("annotations" in record for record in DatasetCatalog.get(dataset_name)):
        evaluators.append(coco(cfg, dataset_name, output_folder))
    evaluators.append(COCOPanopticEvaluator(dataset_name, output_folder))
    return DatasetEvaluators(evaluators)


@EVALUATORS.register()
def cityscapes_panoptic_seg(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """Judges the classes and the instances too, where the model has those outputs."""
    evaluators: list[DatasetEvaluator] = [
        CityscapesPanopticEvaluator(dataset_name, output_folder),
        CityscapesInstanceEvaluator(dataset_name, output_folder, required=False),
    ]
    # One class stands for all things, as for Panoptic FPN: the benchmark's 19 classes cannot be told apart.
    if "things" in MetadataCatalog.get(dataset_name).get("stuff_classes", ()):
        evaluators.append(sem_seg(cfg, dataset_name, output_folder))
    else:
        evaluators.append(CityscapesSemSegEvaluator(dataset_name, output_folder, required=False))
    return DatasetEvaluators(evaluators)


@EVALUATORS.register()
def cityscapes_instance(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """Judges instances by Cityscapes' own measures."""
    return CityscapesInstanceEvaluator(dataset_name, output_folder)


@EVALUATORS.register()
def cityscapes_sem_seg(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """Judges the classes of pixels by Cityscapes' own measures."""
    return CityscapesSemSegEvaluator(dataset_name, output_folder)


@EVALUATORS.register()
def image_classes(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """Judges the classes of whole images."""
    return ImageClassEvaluator(dataset_name, output_folder)


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """Returns the evaluator for a registered data set.

    Args:
        cfg: The config.
        dataset_name: One of ``DATASETS.TEST``.
        output_folder: Where its files go; by default ``OUTPUT_DIR/inference/<dataset_name>``, a folder per data set so
            that no test set overwrites another's predictions.

    Raises:
        ValueError: The data set has no ``evaluator_type``, or one that is not registered.
    """
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    return _builder(dataset_name, evaluator_of_model(cfg))(cfg, dataset_name, folder)


def check_evaluation(dataset_names: Iterable[str], cfg: CfgNode | None = None) -> None:
    """Refuses, before a training, test sets of which its end could not evaluate the predictions.

    Args:
        dataset_names: As of DATASETS.TEST.
        cfg: The config, for what depends on the model; None looks at files alone.

    Raises:
        ValueError: A data set has no ``evaluator_type``, or one that is not registered, or the sigmas of keypoints
            are of another number.
        FileNotFoundError: Files that only the evaluation reads do not exist.
    """
    own = evaluator_of_model(cfg) if cfg is not None else ""
    for name in dataset_names:
        _builder(name, own)
        if own:
            continue
        metadata = MetadataCatalog.get(name)
        if cfg is not None:
            _check_sigmas(cfg, name)
            if metadata.evaluator_type == "coco" and (note := _detections_note(cfg)):
                log_first_n(logging.WARNING, note, key="message")
        if metadata.evaluator_type.startswith("cityscapes"):
            _check_cityscapes_files(name)
        for key in ("panoptic_json", "panoptic_root"):
            path = metadata.get(key)
            if not path or PathManager.exists(path):
                continue
            remedy = ""
            if metadata.evaluator_type == "cityscapes_panoptic_seg":
                tree = os.path.dirname(os.path.dirname(os.path.abspath(path)))
                remedy = (
                    f" It is made from the instance labels with `python datasets/prepare_cityscapes.py --root {tree}`."
                )
            raise FileNotFoundError(f"{path} does not exist, with which data set '{name}' is evaluated.{remedy}")


def _check_sigmas(cfg: CfgNode, name: str) -> None:
    """COCO's metric of keypoints needs a sigma for each; its own are for the 17 of a person."""
    keypoints = MetadataCatalog.get(name).get("keypoint_names")
    if not cfg.MODEL.KEYPOINT_ON or MetadataCatalog.get(name).evaluator_type != "coco" or keypoints is None:
        return
    sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or _PERSON_SIGMAS
    if sigmas != len(keypoints):
        values = ", ".join(["0.05"] * len(keypoints))
        given = (
            f"TEST.KEYPOINT_OKS_SIGMAS has {sigmas} numbers"
            if cfg.TEST.KEYPOINT_OKS_SIGMAS
            else (f"COCO's own {sigmas} sigmas, of persons, are the default")
        )
        raise ValueError(
            f"Data set {name!r} has {len(keypoints)} keypoints, and {given}: its evaluation needs one for each. Set "
            f"TEST.KEYPOINT_OKS_SIGMAS, such as '[{values}]' (0.025 is exact as an eye, 0.1 vague as a hip)."
        )


def _detections_note(cfg: CfgNode) -> str:
    kept, counted = cfg.TEST.DETECTIONS_PER_IMAGE, cfg.TEST.get("COCO_DETECTIONS", 0) or _COCO_DETECTIONS
    if kept <= counted:
        return ""
    return (
        f"TEST.DETECTIONS_PER_IMAGE {kept} keeps more detections than COCO's AP counts, the best {counted} of an image "
        f"and class. TEST.COCO_DETECTIONS {kept} counts them all; such an AP is not COCO's."
    )


def _check_cityscapes_files(name: str) -> None:
    """The files of the frames that the benchmark's measures read beside the predictions."""
    metadata = MetadataCatalog.get(name)
    images, labels = metadata.get("image_dir") or metadata.get("image_root"), metadata.get("gt_dir")
    if not images or not labels or not os.path.isdir(images) or not os.path.isdir(labels):
        return  # the loader has said so
    needed = {"cityscapes_instance": ("instanceIds",)}.get(metadata.evaluator_type, ("labelIds", "instanceIds"))
    frames = list_frames(images, labels)
    annotated = {os.path.basename(frame.labels).rpartition("_")[0] for frame in frames}
    for kind in needed:
        truth = ground_truth(labels, kind)
        if not truth and kind == needed[0]:
            return  # a test split without annotations can be predicted on
        for frame in frames:
            frame.need(f"_{kind}.png")
        strays = sorted(truth.keys() - annotated)
        if strays:
            raise FileNotFoundError(
                f"{len(strays)} frames of data set {name!r} have labels and no image in {images}, such as "
                f"{truth[strays[0]]}: they would count as missed. Unpack the images too, or take the labels away."
            )


def _builder(dataset_name: str, own: str = "") -> Callable[[CfgNode, str, str], DatasetEvaluator]:
    """Makes the evaluator ``own`` of a model, or "" that of the data set's type."""
    kind = own or MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATORS:
        known = ", ".join(sorted(name for name, _ in EVALUATORS))
        raise ValueError(
            f"Data set '{dataset_name}' has the evaluator_type {kind!r}; known are {known}. "
            f"Set it with MetadataCatalog.get('{dataset_name}').evaluator_type = 'coco'."
        )
    return EVALUATORS.get(kind)
