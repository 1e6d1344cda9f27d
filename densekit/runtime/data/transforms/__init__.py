"""Transforms of images with their annotations, and the policies that draw them.

The elementary transforms and their protocol are fvcore's; what is here besides is the crop without shapely, the
transforms through PIL and OpenCV, and the augmentations.
"""

from fvcore.transforms.transform import (
    BlendTransform,
    GridSampleTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    ScaleTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from densekit.runtime.data.transforms.augmentation import AugInput, Augmentation, AugmentationList, apply_augmentations
from densekit.runtime.data.transforms.colour import ColorTransform, PILColorTransform
from densekit.runtime.data.transforms.geometry import CropTransform, ExtentTransform, ResizeTransform, RotationTransform
from densekit.runtime.data.transforms.photometric import (
    RandomBrightness,
    RandomContrast,
    RandomLighting,
    RandomSaturation,
)
from densekit.runtime.data.transforms.spatial import (
    FixedSizeCrop,
    MinIoURandomCrop,
    RandomApply,
    RandomCrop,
    RandomCrop_CategoryAreaConstraint,
    RandomExtent,
    RandomFlip,
    RandomResize,
    RandomRotation,
    Resize,
    ResizeScale,
    ResizeShortestEdge,
)
