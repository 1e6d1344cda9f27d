"""From annotations to Instances: the names that densekit uses of ``detectron2.data.detection_utils``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.data.detection_utils import (
        SizeMismatchError,
        annotations_to_instances,
        build_augmentation,
        check_image_size,
        convert_image_to_rgb,
        create_keypoint_hflip_indices,
        filter_empty_instances,
        gen_crop_transform_with_instance,
        read_image,
        transform_instance_annotations,
        transform_keypoint_annotations,
        transform_proposals,
    )
else:
    from detectron2.data.detection_utils import (
        SizeMismatchError,
        annotations_to_instances,
        build_augmentation,
        check_image_size,
        convert_image_to_rgb,
        create_keypoint_hflip_indices,
        filter_empty_instances,
        gen_crop_transform_with_instance,
        read_image,
        transform_instance_annotations,
        transform_keypoint_annotations,
        transform_proposals,
    )

__all__ = [
    "SizeMismatchError",
    "annotations_to_instances",
    "build_augmentation",
    "check_image_size",
    "convert_image_to_rgb",
    "create_keypoint_hflip_indices",
    "filter_empty_instances",
    "gen_crop_transform_with_instance",
    "read_image",
    "transform_instance_annotations",
    "transform_keypoint_annotations",
    "transform_proposals",
]
