"""RoIAlign (He et al., "Mask R-CNN", arXiv:1703.06870) with half-pixel alignment, by torchvision."""

import torch
from torch import nn
from torchvision.ops import roi_align

from densekit.ops.regions import check_regions


class ROIAlign(nn.Module):
    """Samples a feature map in boxes."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
    ) -> None:
        """Sets the sampling.

        Args:
            output_size: (height, width) of the result, in bins.
            spatial_scale: Map pixels per unit of the boxes: 1 / stride.
            sampling_ratio: Samples per bin and axis; 0 takes as many as the bin has map pixels.
            aligned: Shifts the scaled boxes by half a pixel, so that a pixel's value sits at its centre. False is the
                first release's convention ("ROIAlign"), True the second ("ROIAlignV2").
        """
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Samples every box.

        Args:
            input: (N, C, H, W) features.
            rois: (R, 5) of (image index, x0, y0, x1, y1), cast to the features' dtype.

        Returns:
            (R, C, output height, output width).

        Raises:
            ValueError: ``rois`` has another shape.
        """
        check_regions(rois)
        rois = rois.to(input.dtype)
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
