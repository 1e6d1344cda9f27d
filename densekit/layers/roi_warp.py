"""RoIWarp: a box rounded to the map's cells, resized by bilinear sampling, then max pooled.

Sources: "Instance-aware Semantic Segmentation via Multi-task Network Cascades" (arXiv:1512.04412), section 3.2, for the
resizing; "Mask R-CNN" (arXiv:1703.06870), section 4.1, which compares with it and has it round as RoIPool does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from densekit.ops.regions import check_regions

__all__ = ["SAMPLES", "RoIWarp"]

SAMPLES = 2  # per bin and axis, of which the largest is kept


class RoIWarp(nn.Module):
    """Resizes each rounded box to twice the bins along either axis and takes the largest of each bin's four values.

    Args:
        output_size: (height, width) of the result, in bins.
        spatial_scale: Map cells per unit of the boxes: 1 / stride.
    """

    def __init__(self, output_size: tuple[int, int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pools every box.

        The result has gradients with respect to the map only: the corners are rounded.

        Args:
            input: (N, C, H, W) features.
            rois: (R, 5) of (image index, x0, y0, x1, y1).

        Returns:
            (R, C, output height, output width).

        Raises:
            ValueError: ``rois`` has another shape.
        """
        check_regions(rois)
        # Half a cell goes up, as in RoIPool. Both corner cells belong to the box, so that it has at least one cell.
        low, high = (rois[:, 1:] * self.spatial_scale + 0.5).floor().split(2, dim=1)
        cells = torch.cat([rois[:, :1], low, torch.maximum(high, low) + 1], dim=1).to(input.dtype)
        height, width = self.output_size
        resized = roi_align(input, cells, (height * SAMPLES, width * SAMPLES), 1.0, sampling_ratio=1, aligned=True)
        return F.max_pool2d(resized, SAMPLES)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"
