"""From annotations to Instances: the names that densekit uses of ``detectron2.data.detection_utils``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.data.detection_utils as host
else:
    import detectron2.data.detection_utils as host

SizeMismatchError = host.SizeMismatchError
annotations_to_instances = host.annotations_to_instances
build_augmentation = host.build_augmentation
check_image_size = host.check_image_size
convert_image_to_rgb = host.convert_image_to_rgb
create_keypoint_hflip_indices = host.create_keypoint_hflip_indices
filter_empty_instances = host.filter_empty_instances
gen_crop_transform_with_instance = host.gen_crop_transform_with_instance
read_image = host.read_image
transform_instance_annotations = host.transform_instance_annotations
transform_keypoint_annotations = host.transform_keypoint_annotations
transform_proposals = host.transform_proposals
