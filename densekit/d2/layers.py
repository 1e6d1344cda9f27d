"""Layers and box operators: the names that densekit uses of ``detectron2.layers``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.layers as host
else:
    import detectron2.layers as host

ASPP = host.ASPP
BatchNorm2d = host.BatchNorm2d
CNNBlockBase = host.CNNBlockBase
Conv2d = host.Conv2d
ConvTranspose2d = host.ConvTranspose2d
DeformConv = host.DeformConv
DepthwiseSeparableConv2d = host.DepthwiseSeparableConv2d
FrozenBatchNorm2d = host.FrozenBatchNorm2d
Linear = host.Linear
ModulatedDeformConv = host.ModulatedDeformConv
NaiveSyncBatchNorm = host.NaiveSyncBatchNorm
ROIAlign = host.ROIAlign
ShapeSpec = host.ShapeSpec
batched_nms = host.batched_nms
cat = host.cat
ciou_loss = host.ciou_loss
cross_entropy = host.cross_entropy
diou_loss = host.diou_loss
get_norm = host.get_norm
interpolate = host.interpolate
move_device_like = host.move_device_like
nms = host.nms
nonzero_tuple = host.nonzero_tuple
paste_masks_in_image = host.paste_masks_in_image
roi_align = host.roi_align
