"""Training data with the augmentation of DETR (arXiv 2005.12872), appendix A.4, and panoptic segments as objects."""

import copy
from typing import Any

import numpy as np
import torch

from densekit.d2.data import detection_utils as utils
from densekit.d2.structures import BitMasks, Instances
from densekit.data.labels import read_values
from densekit.data.mapper import MAPPERS, MultiScaleCropMapper
from densekit.data.training_images import TrainingInput, as_planes, read_training_image

_VOID = 255  # pixels of no segment, while a map of segments is transformed


@MAPPERS.register()
class DetrDatasetMapper(MultiScaleCropMapper):
    """The paper's augmentation for boxes, masks and panoptic segments.

    Of panoptic records (``pan_seg_file_name``) every segment, thing or stuff, becomes an instance with the box of its
    mask.
    """

    learns_segments = True

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Maps one record, which is left as it is; returns as the default mapper.

        Raises:
            FileNotFoundError: the image is not there.
            ValueError: an image or its segments cannot be used; the message names the file.
        """
        if not self.is_train or "pan_seg_file_name" not in dataset_dict:
            return super().__call__(dataset_dict)
        try:
            return self._panoptic(copy.deepcopy(dataset_dict))
        except Exception as error:
            raise self._explained(dataset_dict, error) from error

    def _panoptic(self, record: dict[str, Any]) -> dict[str, Any]:
        image = read_training_image(record["file_name"], self.image_format)
        utils.check_image_size(record, image)
        segments = record.pop("segments_info")
        numbers = _numbered(read_values(record.pop("pan_seg_file_name")), [segment["id"] for segment in segments])
        inputs = TrainingInput(image, sem_seg=numbers)
        self.augmentations(inputs)
        record["image"] = as_planes(inputs.image)
        classes = torch.tensor([segment["category_id"] for segment in segments], dtype=torch.int64)
        instances = _segment_instances(torch.tensor(inputs.sem_seg), classes)
        if not self.use_instance_mask:
            instances.remove("gt_masks")
        record["instances"] = instances
        return record


def _numbered(ids: np.ndarray, segment_ids: list[int]) -> np.ndarray:
    """(H, W) ids of segments to their places in the list, as bytes, which every transform takes."""
    if len(segment_ids) > _VOID:
        raise ValueError(f"{len(segment_ids)} segments; DetrDatasetMapper takes at most {_VOID} of an image.")
    numbers = np.full(ids.shape, _VOID, dtype=np.uint8)
    for number, segment_id in enumerate(segment_ids):
        numbers[ids == segment_id] = number
    return numbers


def _segment_instances(numbers: torch.Tensor, classes: torch.Tensor) -> Instances:
    """The segments that are left in (H, W) numbers."""
    present = numbers.unique().long()
    present = present[present != _VOID]
    masks = BitMasks(numbers == present[:, None, None].to(numbers))
    height, width = numbers.shape
    return Instances((height, width), gt_masks=masks, gt_boxes=masks.get_bounding_boxes(), gt_classes=classes[present])
