"""Layers and box operators that the detectors are built of."""

from densekit.runtime.layers.blocks import ASPP, CNNBlockBase, DepthwiseSeparableConv2d
from densekit.runtime.layers.conv import BatchNorm2d, Conv2d, ConvTranspose2d, Linear
from densekit.runtime.layers.deform_conv import DeformConv, ModulatedDeformConv
from densekit.runtime.layers.losses import ciou_loss, cross_entropy, diou_loss, empty_input_loss_func_wrapper
from densekit.runtime.layers.mask_ops import paste_masks_in_image
from densekit.runtime.layers.nms import batched_nms, nms
from densekit.runtime.layers.norm import FrozenBatchNorm2d, LayerNorm, NaiveSyncBatchNorm, get_norm
from densekit.runtime.layers.roi_align import ROIAlign, roi_align
from densekit.runtime.layers.tensor_ops import (
    ShapeSpec,
    cat,
    interpolate,
    move_device_like,
    nonzero_tuple,
    shapes_to_tensor,
)

__all__ = [
    "ASPP",
    "BatchNorm2d",
    "CNNBlockBase",
    "Conv2d",
    "ConvTranspose2d",
    "DeformConv",
    "DepthwiseSeparableConv2d",
    "FrozenBatchNorm2d",
    "LayerNorm",
    "Linear",
    "ModulatedDeformConv",
    "NaiveSyncBatchNorm",
    "ROIAlign",
    "ShapeSpec",
    "batched_nms",
    "cat",
    "ciou_loss",
    "cross_entropy",
    "diou_loss",
    "empty_input_loss_func_wrapper",
    "get_norm",
    "interpolate",
    "move_device_like",
    "nms",
    "nonzero_tuple",
    "paste_masks_in_image",
    "roi_align",
    "shapes_to_tensor",
]
