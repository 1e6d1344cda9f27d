"""Layers and box operators that the detectors are built of."""

from torchvision.ops import complete_box_iou_loss as ciou_loss  # arXiv:1911.08287
from torchvision.ops import distance_box_iou_loss as diou_loss

from densekit.runtime.layers.blocks import ASPP, CNNBlockBase, DepthwiseSeparableConv2d
from densekit.runtime.layers.conv import BatchNorm2d, Conv2d, ConvTranspose2d, Linear
from densekit.runtime.layers.deform_conv import DeformConv, ModulatedDeformConv
from densekit.runtime.layers.losses import cross_entropy, empty_input_loss_func_wrapper
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
