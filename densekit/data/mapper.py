"""The mapper with errors that name the file and the annotation, and the table that configs choose mappers from."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetMapper as HostMapper
from densekit.d2.data import detection_utils as utils
from densekit.d2.data import transforms as T
from densekit.d2.utils.file_io import PathManager
from densekit.data.colour import SSDColours
from densekit.data.labels import load_sem_seg, without_label_map
from densekit.data.pictures import TURNED, exif_orientation

__all__ = ["MAPPERS", "CropAfterResizeMapper", "DatasetMapper"]


class DatasetMapper(HostMapper):
    """The host's mapper; whatever goes wrong with a record ends in an error that names its file.

    Label maps are read by :func:`~densekit.data.labels.load_sem_seg`, which knows what their values stand for, and only
    in training: inference has no use for them.

    Raises:
        FileNotFoundError: The image is not there.
        ValueError: It cannot be decoded, has another size than its record says, or an annotation breaks.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        labelled = self.is_train and "sem_seg_file_name" in dataset_dict
        labels = load_sem_seg(dataset_dict) if labelled else None
        record = without_label_map(dataset_dict)
        try:
            return super().__call__(record) if labels is None else self._with_labels(labels)(record)
        except Exception as error:
            raise self._explained(dataset_dict, error) from error

    def _with_labels(self, labels: np.ndarray) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The host's mapper for one record, whose label map joins the image as the augmentations begin."""
        augmentations = self.augmentations

        def augment(inputs: T.AugInput) -> T.TransformList:
            inputs.sem_seg = labels
            return augmentations(inputs)

        mapper = copy.copy(self)
        mapper.augmentations = augment  # type: ignore[assignment] # it is only called
        return functools.partial(HostMapper.__call__, mapper)

    def _explained(self, record: dict[str, Any], error: Exception) -> Exception:
        name = record.get("file_name")
        if name is None:
            return ValueError(f"Record of image id {record.get('image_id')} has no file_name.")
        if not PathManager.isfile(name):
            return FileNotFoundError(
                f"Image {name} (image id {record.get('image_id')}) does not exist. The folder is the data set's "
                "image_root, the rest is file_name in its annotation file."
            )
        try:
            image = utils.read_image(name)
        except Exception as reason:
            return ValueError(
                f"Image {name} (image id {record.get('image_id')}) cannot be read: {reason}. Copy or download it "
                "again, or take it out of the annotation file."
            )
        height, width = image.shape[:2]
        expected = (record.get("width", width), record.get("height", height))
        if (width, height) != expected:
            return utils.SizeMismatchError(_size_message(name, (width, height), expected))
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


class CropAfterResizeMapper(DatasetMapper):
    """Resizes, then crops, as semantic segmentation is trained: crops of one size at many scales.

    The host's mapper crops first, so that after the resizing each image has another size. ``INPUT.CROP`` says what is
    cropped; with ``SINGLE_CATEGORY_MAX_AREA`` below 1 a crop that one class fills to more than that is drawn again, up
    to ten times (DeepLab's rule in Detectron2), which needs label maps. ``INPUT.COLOR_AUG_SSD`` distorts the colours.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        options = super().from_config(cfg, is_train)
        if not is_train:
            return options
        resize, *others = utils.build_augmentation(cfg, is_train)
        if cfg.INPUT.COLOR_AUG_SSD:
            others = [SSDColours(cfg.INPUT.FORMAT), *others]
        if not cfg.INPUT.CROP.ENABLED:
            return options | {"augmentations": [resize, *others]}
        crop: T.Augmentation = T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)
        if cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA < 1:
            crop = T.RandomCrop_CategoryAreaConstraint(
                cfg.INPUT.CROP.TYPE,
                cfg.INPUT.CROP.SIZE,
                cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA,
                cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            )
        return options | {"augmentations": [resize, crop, *others]}


def _size_message(name: str, found: tuple[Any, Any], expected: tuple[Any, Any]) -> str:
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


# What INPUT.MAPPER may name: called with the config and whether it is for training. "" is the default.
MAPPERS: dict[str, Callable[..., Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "": DatasetMapper,
    "DatasetMapper": DatasetMapper,
    "CropAfterResizeMapper": CropAfterResizeMapper,
}
