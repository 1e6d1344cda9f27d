"""The default mapper: from a record to the image tensor and the instances that models take."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.data import detection_utils as utils
from densekit.runtime.data import transforms as T


class DatasetMapper:
    """Reads the image of a record, augments it with its annotations and makes tensors of both."""

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: Sequence[int] | np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ) -> None:
        """Sets what is read and how.

        Args:
            is_train: Whether annotations are wanted.
            augmentations: Policies or fixed transforms, applied in this order.
            image_format: As for :func:`~densekit.runtime.data.detection_utils.read_image`.
            use_instance_mask: Whether masks are wanted.
            use_keypoint: Whether keypoints are wanted.
            instance_mask_format: "polygon" or "bitmask".
            keypoint_hflip_indices: Order of the keypoints in a mirrored image.
            precomputed_proposal_topk: How many precomputed proposals are kept; None leaves them alone.
            recompute_boxes: Whether boxes are taken anew from the masks, which a crop may have cut.

        Raises:
            ValueError: ``recompute_boxes`` without masks.
        """
        if recompute_boxes and not use_instance_mask:
            raise ValueError("recompute_boxes takes boxes from masks and needs use_instance_mask.")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask, self.instance_mask_format = use_instance_mask, instance_mask_format
        self.use_keypoint, self.keypoint_hflip_indices = use_keypoint, keypoint_hflip_indices
        self.proposal_topk = precomputed_proposal_topk
        self.recompute_boxes = recompute_boxes
        logging.getLogger(__name__).info(
            "Augmentations in %s: %s", "training" if is_train else "inference", self.augmentations
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Reads INPUT, and of MODEL whether masks, keypoints and precomputed proposals are wanted."""
        augmentations: list[T.Augmentation] = utils.build_augmentation(cfg, is_train)
        crop = cfg.INPUT.CROP.ENABLED and is_train
        if crop:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        topk = None
        if cfg.MODEL.LOAD_PROPOSALS:
            sets = cfg.DATASETS
            topk = sets.PRECOMPUTED_PROPOSAL_TOPK_TRAIN if is_train else sets.PRECOMPUTED_PROPOSAL_TOPK_TEST
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "use_keypoint": cfg.MODEL.KEYPOINT_ON,
            "keypoint_hflip_indices": (
                utils.create_keypoint_hflip_indices(cfg.DATASETS.TRAIN) if cfg.MODEL.KEYPOINT_ON and is_train else None
            ),
            "precomputed_proposal_topk": topk,
            "recompute_boxes": crop and cfg.MODEL.MASK_ON,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Maps one record, which is left as it is.

        Returns:
            The record with ``image``, a (C, H, W) uint8 tensor; in training ``instances`` in its frame in place of
            ``annotations``; ``sem_seg``, an (H, W) int64 tensor, if the record names a label map.
        """
        record = copy.deepcopy(dataset_dict)
        image = utils.read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(record, image)
        labels = None
        if "sem_seg_file_name" in record:
            labels = utils.read_image(record.pop("sem_seg_file_name"), "L")[:, :, 0]

        inputs = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(inputs)
        image_shape = inputs.image.shape[:2]
        # Tensors travel from worker processes through shared memory, arrays would be copied.
        record["image"] = torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))  # (C, H, W)
        if inputs.sem_seg is not None:
            record["sem_seg"] = torch.as_tensor(inputs.sem_seg.astype(np.int64))
        if self.proposal_topk is not None:
            utils.transform_proposals(record, image_shape, transforms, proposal_topk=self.proposal_topk)

        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            record["instances"] = self._instances(record.pop("annotations"), transforms, image_shape)
        return record

    def _instances(
        self, annotations: list[dict[str, Any]], transforms: T.TransformList, image_shape: tuple[int, int]
    ) -> Any:
        unwanted = [
            key
            for key, wanted in (("segmentation", self.use_instance_mask), ("keypoints", self.use_keypoint))
            if not wanted
        ]
        moved = []
        for annotation in annotations:
            if annotation.get("iscrowd", 0):
                continue
            for key in unwanted:
                annotation.pop(key, None)
            moved.append(
                utils.transform_instance_annotations(
                    annotation, transforms, image_shape, keypoint_hflip_indices=self.keypoint_hflip_indices
                )
            )
        instances = utils.annotations_to_instances(moved, image_shape, mask_format=self.instance_mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)
