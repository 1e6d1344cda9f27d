"""Augmentations: the names that densekit uses of ``detectron2.data.transforms``."""

from typing import TYPE_CHECKING, TypeAlias

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.data.transforms as host
else:
    import detectron2.data.transforms as host

AugInput = host.AugInput
Augmentation = host.Augmentation
AugmentationList = host.AugmentationList
BlendTransform = host.BlendTransform
ColorTransform = host.ColorTransform
CropTransform = host.CropTransform
ExtentTransform = host.ExtentTransform
FixedSizeCrop = host.FixedSizeCrop
HFlipTransform = host.HFlipTransform
MinIoURandomCrop = host.MinIoURandomCrop
NoOpTransform = host.NoOpTransform
PadTransform = host.PadTransform
RandomApply = host.RandomApply
RandomBrightness = host.RandomBrightness
RandomContrast = host.RandomContrast
RandomCrop = host.RandomCrop
RandomCrop_CategoryAreaConstraint = host.RandomCrop_CategoryAreaConstraint
RandomExtent = host.RandomExtent
RandomFlip = host.RandomFlip
RandomLighting = host.RandomLighting
RandomResize = host.RandomResize
RandomRotation = host.RandomRotation
RandomSaturation = host.RandomSaturation
Resize = host.Resize
ResizeScale = host.ResizeScale
ResizeShortestEdge = host.ResizeShortestEdge
ResizeTransform = host.ResizeTransform
RotationTransform = host.RotationTransform
Transform: TypeAlias = host.Transform
TransformList: TypeAlias = host.TransformList
VFlipTransform = host.VFlipTransform
