"""The MaskIoU head of Mask Scoring R-CNN (https://arxiv.org/abs/1903.00241), its targets and its loss.

Plain torch. Shapes: R regions, C channels of their features, S x S their size (14), M x M mask pixels (28), K classes.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

MaskInput = Literal["selected", "product", "all", "high_res"]
TargetClasses = Literal["selected", "present", "all"]


class MaskIoUHead(nn.Module):
    """Regresses the overlap of a predicted mask with the object's (section 3.2).

    Args:
        in_channels: C.
        resolution: S; twice that where the input is "high_res".
        num_classes: K, the outputs.
        mask_channels: masks of the input "all": K, or 1 if the mask head is class-agnostic.
        mask_input: how mask and features meet, (a) to (d) of Figure 3.
        num_conv: 3x3 convolutions; the last halves the size. With "high_res" the one before it does so too, so that the
            first linear layer stays as it is (the paper does not say where its variant shrinks).
        conv_dim: their channels.
        fc_dim: width of the two linear layers.

    Raises:
        ValueError: an unknown input, or too few convolutions to bring a region to half its size.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        resolution: int,
        num_classes: int,
        mask_channels: int,
        mask_input: MaskInput = "selected",
        num_conv: int = 4,
        conv_dim: int = 256,
        fc_dim: int = 1024,
    ) -> None:
        super().__init__()
        if mask_input not in get_args(MaskInput):
            raise ValueError(
                f"MODEL.MASK_SCORING.INPUT is {mask_input!r}, not one of {', '.join(get_args(MaskInput))}."
            )
        halvings = 2 if mask_input == "high_res" else 1
        if num_conv < halvings:
            raise ValueError(
                f"MODEL.MASK_SCORING.NUM_CONV is {num_conv}, the input {mask_input!r} needs at least {halvings}."
            )
        self.mask_input = mask_input
        channels = in_channels + {"product": 0, "all": mask_channels}.get(mask_input, 1)
        self.num_conv = num_conv
        for k in range(1, num_conv + 1):
            stride = 2 if k > num_conv - halvings else 1
            self.add_module(f"maskiou_fcn{k}", nn.Conv2d(channels, conv_dim, 3, stride=stride, padding=1))
            channels = conv_dim
            resolution = (resolution - 1) // stride + 1
        self.maskiou_fc1 = nn.Linear(conv_dim * resolution**2, fc_dim)
        self.maskiou_fc2 = nn.Linear(fc_dim, fc_dim)
        self.maskiou = nn.Linear(fc_dim, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "fcn" in name:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
            elif name.startswith("maskiou_fc"):
                nn.init.kaiming_uniform_(parameter, a=1)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Predicts the overlap for every class.

        Args:
            features: (R, C, S, S) of the regions, as they enter the mask head.
            masks: mask probabilities in the regions, not binarised: (R, 1, M, M) of each region's class, or
                (R, mask_channels, M, M) for the input "all".

        Returns:
            (R, K); usually between 0 and 1, but nothing confines it.
        """
        x = self._join(features, masks)
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)  # what the CPU's convolutions work in
        for k in range(1, self.num_conv + 1):
            x = self.get_submodule(f"maskiou_fcn{k}")(x).relu_()
        x = self.maskiou_fc1(x.flatten(1)).relu_()
        return self.maskiou(self.maskiou_fc2(x).relu_())

    def _join(self, features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        side = features.shape[-1] * (1 if self.mask_input == "high_res" else 2)
        if masks.shape[-1] != side:  # a head whose masks are finer than 28 x 28
            masks = F.adaptive_avg_pool2d(masks, side)
        if self.mask_input != "high_res":
            masks = F.max_pool2d(masks, 2)
        return features * masks if self.mask_input == "product" else torch.cat([features, masks], dim=1)


def mask_iou(predicted: torch.Tensor, truth: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Overlap of masks inside boxes with whole objects, of which a box may show a part only (section 3.2, training).

    Args:
        predicted: (R, M, M) bool.
        truth: (R, M, M) bool, the object inside the box.
        visible: (R,), the share of the object's area that lies inside the box.

    Returns:
        (R,) in [0, 1]; 0 where the box shows nothing of the object.
    """
    inside = truth.flatten(1).sum(dim=1).float()
    overlap = (predicted & truth).flatten(1).sum(dim=1).float()
    whole = torch.where(visible > 0, inside / visible.clamp(min=1e-6), inside)
    union = predicted.flatten(1).sum(dim=1) + whole - overlap
    return overlap / union.clamp(min=1)


def mask_iou_loss(predicted: torch.Tensor, target: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean of half the squared error over the counted entries; 0, with a gradient path, if there are none.

    Args:
        predicted: any shape.
        target: the same shape.
        counted: the same shape, bool.
    """
    error = 0.5 * (predicted - target).square() * counted
    return error.sum() / counted.sum().clamp(min=1)
