"""From padded images to feature maps and the cells of the last one that are padding.

B: images, Hi, Wi: padded batch, H, W: last feature map.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PADDING_MASKS = ("ceil", "nearest")


class MaskedBackbone(nn.Module):
    """A backbone that also says which cells of its last feature map lie in the padding.

    Args:
        backbone: maps images to a dict of feature maps, finest first.
        stride: of its last feature map, pixels.
        padding_mask: ``"nearest"`` takes a cell for padding if the pixel at its upper left corner is, the convention of
            the original code; ``"ceil"`` only if no pixel of the image is in it, that of its Detectron2 wrapper.

    Raises:
        ValueError: there is no such convention.
    """

    def __init__(self, backbone: nn.Module, *, stride: int, padding_mask: str) -> None:
        super().__init__()
        if padding_mask not in PADDING_MASKS:
            raise ValueError(f"MODEL.DETR.PADDING_MASK is {padding_mask!r}; it can be one of {PADDING_MASKS}.")
        self.backbone, self.stride, self.padding_mask = backbone, stride, padding_mask

    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]] | None) -> tuple[list[Tensor], Tensor | None]:
        """Runs the backbone.

        Args:
            images: (B, 3, Hi, Wi), normalised, padded at the right and the bottom.
            sizes: (height, width) of each image before padding; None where nothing is padding.

        Returns:
            The feature maps, finest first, and (B, H, W) bool, True on the padding; None if no cell is.
        """
        features = list(self.backbone(images).values())
        if sizes is None:
            return features, None
        cells = (int(features[-1].shape[-2]), int(features[-1].shape[-1]))
        mask = self.mask(sizes, (int(images.shape[-2]), int(images.shape[-1])), cells)
        # Decided on the CPU, where the sizes are: without padding all attention is spared its mask.
        return features, mask.to(images.device, non_blocking=True) if mask.any() else None

    def mask(self, sizes: Sequence[tuple[int, int]], padded: tuple[int, int], cells: tuple[int, int]) -> Tensor:
        """(B, H, W) bool on the CPU, True on the padding."""
        axes = [
            torch.stack([self._valid(size[axis], padded[axis], cells[axis]) for size in sizes]) for axis in range(2)
        ]
        return ~(axes[0][:, :, None] & axes[1][:, None, :])

    def _valid(self, size: int, padded: int, cells: int) -> Tensor:
        """(cells,) bool: whether each cell along an axis belongs to the image."""
        if self.padding_mask == "ceil":
            return torch.arange(cells) < math.ceil(size / self.stride)
        inside = (torch.arange(padded) < size).float()
        return F.interpolate(inside[None, None], size=cells)[0, 0].bool()
