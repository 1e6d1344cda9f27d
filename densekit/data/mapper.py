"""The mapper with errors that name the file and the annotation, and the registry that configs choose mappers from."""

import copy
import pickle
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from densekit.d2.config import CfgNode, configurable
from densekit.d2.data import DatasetMapper as HostMapper
from densekit.d2.data import detection_utils as utils
from densekit.d2.data import transforms as T
from densekit.d2.structures import Instances
from densekit.d2.utils.file_io import PathManager
from densekit.d2.utils.registry import Registry
from densekit.data.labels import load_sem_seg, without_label_map
from densekit.data.pictures import TURNED, exif_orientation, name_hint, read_picture
from densekit.data.semantic_augment import refuse_steps, semantic_augmentations
from densekit.data.training_images import TrainingInput, as_planes, read_training_image
from densekit.files.image_limit import readable

__all__ = [
    "MAPPERS",
    "CropAfterResizeMapper",
    "DatasetMapper",
    "MultiScaleCropMapper",
    "build_mapper",
    "inference_augmentations",
    "mapper_class",
    "size_message",
]

# What INPUT.MAPPER may name: called with the config and whether it is for training.
MAPPERS = Registry("MAPPER")


def mapper_class(cfg: CfgNode) -> Any:
    """The class that ``INPUT.MAPPER`` names; "" is :class:`DatasetMapper`.

    Raises:
        ValueError: there is no such mapper.
    """
    name = cfg.INPUT.MAPPER or "DatasetMapper"
    if name not in MAPPERS:
        raise ValueError(f"INPUT.MAPPER {name!r} is not one of {', '.join(sorted(name for name, _ in MAPPERS))}.")
    return MAPPERS.get(name)


def build_mapper(cfg: CfgNode, *, is_train: bool) -> Any:
    """Makes the mapper that ``INPUT.MAPPER`` names, which turns a record into what the model takes.

    Raises:
        ValueError: there is no such mapper, or a key of another one is set for a training.
    """
    chosen = mapper_class(cfg)
    if is_train and not (isinstance(chosen, type) and issubclass(chosen, CropAfterResizeMapper)):
        refuse_steps(cfg)
    return chosen(cfg, is_train)


def inference_augmentations(cfg: CfgNode) -> T.AugmentationList:
    """Returns the resizing before inference, that of the mapper of the configuration.

    Raises:
        ValueError: There is no such mapper, or it does not keep its ``augmentations``.
    """
    mapper = build_mapper(cfg, is_train=False)
    augmentations = getattr(mapper, "augmentations", None)
    if augmentations is None:
        raise ValueError(
            f"INPUT.MAPPER {cfg.INPUT.MAPPER}: {type(mapper).__name__} has no `augmentations`, so nobody knows how it "
            "resizes a picture that is no record of a data set. Give it the attribute, as the host's mapper has it."
        )
    return augmentations


@MAPPERS.register()
class DatasetMapper(HostMapper):
    """The host's mapper; whatever goes wrong with a record ends in an error that names its file.

    Label maps are read by :func:`~densekit.data.labels.load_sem_seg`, which knows what their values stand for, and only
    in training: inference has no use for them.

    Attributes:
        learns_segments: Whether panoptic records, which have ``segments_info`` and no ``annotations``, give instances.

    Raises:
        FileNotFoundError: The image is not there.
        ValueError: It cannot be decoded, has another size than its record says, or an annotation breaks.
    """

    learns_segments = False

    @configurable
    def __init__(self, *args: Any, bit_depth: int = 0, **options: Any) -> None:
        """Takes the host's arguments.

        Args:
            *args: As the host's.
            bit_depth: How many bits of a picture's 16 are used; 0 takes what the file says. A record's own goes before.
            **options: As the host's.
        """
        super().__init__(*args, **options)
        self.bit_depth = bit_depth

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        return super().from_config(cfg, is_train) | {"bit_depth": cfg.INPUT.get("BIT_DEPTH", 0)}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        labelled = self.is_train and "sem_seg_file_name" in dataset_dict
        labels = load_sem_seg(dataset_dict) if labelled else None
        record = without_label_map(dataset_dict)
        try:
            return self._for_training(record, labels) if self.is_train else self._for_inference(record)
        except Exception as error:
            raise self._explained(dataset_dict, error) from error

    def _for_training(self, record: dict[str, Any], labels: np.ndarray | None) -> dict[str, Any]:
        """Returns the same as the host's mapper in training, in half its time.

        Args:
            record: without label map; it is left as it is.
            labels: (H, W) uint8, which are augmented with the image.
        """
        record = pickle.loads(pickle.dumps(record))  # a deep copy in a tenth of copy.deepcopy's time
        image = read_training_image(record["file_name"], self.image_format, self._bits(record))
        utils.check_image_size(record, image)
        inputs = TrainingInput(image, sem_seg=labels, crop_class=record.pop("crop_class", None))
        transforms = self.augmentations(inputs)
        size = inputs.image.shape[:2]
        record["image"] = as_planes(inputs.image)
        if inputs.sem_seg is not None:
            record["sem_seg"] = torch.as_tensor(inputs.sem_seg.astype(np.int64))
        if self.proposal_topk is not None:
            utils.transform_proposals(record, size, transforms, proposal_topk=self.proposal_topk)
        if "annotations" in record:
            record["instances"] = self._targets(record.pop("annotations"), transforms, size)
        return record

    def _for_inference(self, record: dict[str, Any]) -> dict[str, Any]:
        """Returns the same as the host's mapper in inference."""
        record = pickle.loads(pickle.dumps(record))
        image = read_picture(record["file_name"], self.image_format, self._bits(record))
        utils.check_image_size(record, image)
        inputs = T.AugInput(image)
        transforms = self.augmentations(inputs)
        record["image"] = as_planes(inputs.image)
        if self.proposal_topk is not None:
            utils.transform_proposals(record, inputs.image.shape[:2], transforms, proposal_topk=self.proposal_topk)
        record.pop("annotations", None)
        return record

    def _bits(self, record: dict[str, Any]) -> int:
        return record.get("bit_depth", self.bit_depth)

    def _targets(
        self, annotations: list[dict[str, Any]], transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        """Annotations in the frame of the augmented image of (height, width) ``size``."""
        wanted = [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]
        for annotation in wanted:
            if not self.use_instance_mask:
                annotation.pop("segmentation", None)
            if not self.use_keypoint:
                annotation.pop("keypoints", None)
            utils.transform_instance_annotations(
                annotation, transforms, size, keypoint_hflip_indices=self.keypoint_hflip_indices
            )
        instances = utils.annotations_to_instances(wanted, size, mask_format=self.instance_mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return cast(Instances, utils.filter_empty_instances(instances))

    def _explained(self, record: dict[str, Any], error: Exception) -> Exception:
        name = record.get("file_name")
        if name is None:
            return ValueError(f"Record of image id {record.get('image_id')} has no file_name.")
        if not PathManager.isfile(name):
            return FileNotFoundError(
                f"Image {name} (image id {record.get('image_id')}) does not exist. The folder is the data set's "
                f"image_root, the rest is file_name in its annotation file. {name_hint(name)}".rstrip()
            )
        try:
            image = read_picture(name)
        except Exception as reason:
            return ValueError(
                f"Image {name} (image id {record.get('image_id')}) cannot be read: {readable(reason)}. Copy or "
                "download it again, or take it out of the annotation file."
            )
        height, width = image.shape[:2]
        expected = (record.get("width", width), record.get("height", height))
        if (width, height) != expected:
            return utils.SizeMismatchError(size_message(name, (width, height), expected))
        return self._annotation_error(record, (height, width)) or ValueError(
            f"Image {name} (image id {record.get('image_id')}) cannot be mapped: {type(error).__name__}: {error}"
        )

    def _annotation_error(self, record: dict[str, Any], image_size: tuple[int, int]) -> ValueError | None:
        """Tries the annotations one by one, mirrored if there are keypoints, and says what the first bad one does."""
        keypoints = self.use_keypoint and self.keypoint_hflip_indices is not None
        transforms = T.TransformList([T.HFlipTransform(image_size[1])] if keypoints else [])
        for number, annotation in enumerate(copy.deepcopy(record.get("annotations", []))):
            if annotation.get("iscrowd", 0):
                continue
            label = annotation.get("id", f"number {number}")
            for key, wanted in (("segmentation", self.use_instance_mask), ("keypoints", self.use_keypoint)):
                if not wanted:
                    annotation.pop(key, None)
                elif key not in annotation:
                    return ValueError(f"Image {record['file_name']}: annotation {label} has no {key}.")
            try:
                moved = utils.transform_instance_annotations(
                    annotation, transforms, image_size, keypoint_hflip_indices=self.keypoint_hflip_indices
                )
                utils.annotations_to_instances([moved], image_size, mask_format=self.instance_mask_format)
            except Exception as reason:
                return ValueError(
                    f"Image {record['file_name']}: annotation {label} cannot be used: {type(reason).__name__}: {reason}"
                )
        return None


@MAPPERS.register()
class CropAfterResizeMapper(DatasetMapper):
    """Resizes, then crops, as semantic segmentation is trained: crops of one size at many scales.

    The host's mapper crops first, so that after the resizing each image has another size. The keys of the steps are
    those of :func:`~densekit.data.semantic_augment.semantic_augmentations`. With ``SINGLE_CATEGORY_MAX_AREA`` below 1 a
    crop that one class fills to more than that is drawn again, up to ten times (DeepLab's rule in Detectron2), which
    needs label maps.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        options = super().from_config(cfg, is_train)
        return options | {"augmentations": semantic_augmentations(cfg)} if is_train else options


@MAPPERS.register()
class MultiScaleCropMapper(DatasetMapper):
    """Mirrors, crops every other image, and resizes: DETR's augmentation (arXiv 2005.12872, A.4), which Swin shares.

    With ``INPUT.CROP.ENABLED`` a window of ``INPUT.CROP`` is cut from half of the images, after a resize to a short
    side of 400, 500 or 600 pixels if it is given in pixels; all are then resized as usual.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        options = super().from_config(cfg, is_train)
        if is_train:
            resize, *flip = utils.build_augmentation(cfg, is_train)
            crop = [T.RandomApply(_crop(cfg.INPUT.CROP), prob=0.5)] if cfg.INPUT.CROP.ENABLED else []
            options["augmentations"] = [*flip, *crop, resize]
        return options


_BEFORE_CROP = (400, 500, 600)  # short sides, pixels


def _crop(keys: CfgNode) -> T.Augmentation:
    """A window of a size in pixels is cut from an image of a known size; a relative one needs no resize before it."""
    window = T.RandomCrop(keys.TYPE, keys.SIZE)
    if keys.TYPE.startswith("relative"):
        return window
    return T.AugmentationList([T.ResizeShortestEdge(_BEFORE_CROP, sample_style="choice"), window])


def size_message(name: str, found: tuple[Any, Any], expected: tuple[Any, Any]) -> str:
    """Says that a picture is not of the size of its record, both (width, height), and why that may be."""
    message = (
        f"Image {name} is {found[0]} x {found[1]} (width x height) and its annotation file says "
        f"{expected[0]} x {expected[1]}."
    )
    with PathManager.open(name, "rb") as stream, Image.open(stream) as image:
        orientation = exif_orientation(image)
    if found == expected[::-1] and orientation in TURNED:
        return (
            f"{message} The file carries EXIF orientation {orientation}: its pixels are stored lying on the side, and "
            "it is read upright, as viewers show it, while the annotations were made on the stored pixels. Remove the "
            f"tag (exiftool -Orientation= {name}), or annotate the upright picture."
        )
    return f"{message} Is it another version of the image? Correct width and height, or exchange the file."
