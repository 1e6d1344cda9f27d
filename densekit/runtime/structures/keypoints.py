"""Keypoint annotations, their training targets, and the decoding of predicted heatmaps.

Shapes: N = objects, K = keypoints of an object, S = side of the (square) heatmap.

Continuous and discrete coordinates follow Heckbert 1990 ("What are the coordinates of a pixel?"): the pixel d covers
[d, d + 1), so d = floor(c) and c = d + 0.5.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


class Keypoints:
    """The annotated keypoints of the objects of one image.

    Attributes:
        tensor: (N, K, 3) float32 of (x, y, v) in pixels, v as in COCO: 0 not labelled (x = y = 0), 1 labelled but
            hidden, 2 visible.
    """

    def __init__(self, keypoints: torch.Tensor | np.ndarray | Sequence[Any]) -> None:
        """Wraps keypoints.

        Raises:
            ValueError: The shape is not (N, K, 3).
        """
        tensor = torch.as_tensor(keypoints, dtype=torch.float32)
        if tensor.dim() != 3 or tensor.shape[2] != 3:
            raise ValueError(f"Keypoints takes (x, y, visibility) in shape (N, K, 3); got {tuple(tensor.shape)}.")
        self.tensor = tensor

    @staticmethod
    def cat(keypoints_list: Sequence["Keypoints"]) -> "Keypoints":
        """Joins at least one Keypoints into a new object."""
        return Keypoints(torch.cat([keypoints.tensor for keypoints in keypoints_list]))

    def to(self, *args: Any, **kwargs: Any) -> "Keypoints":
        return Keypoints(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def to_heatmap(self, boxes: torch.Tensor, heatmap_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Finds the heatmap bin of every keypoint inside its box: the classes of a softmax over space.

        Args:
            boxes: (N, 4) xyxy in pixels, one per object.
            heatmap_size: S.

        Returns:
            The bins, (N, K) int64 in [0, S * S), row-major, 0 where invalid; and (N, K) int64, 1 where the keypoint is
            labelled and lies in the box. Right and bottom edges belong to the last bin.
        """
        corner, far = boxes[:, None, :2], boxes[:, None, 2:]  # (N, 1, 2)
        xy, visibility = self.tensor[..., :2], self.tensor[..., 2]
        cell = ((xy - corner) * (heatmap_size / (far - corner))).floor().long()  # (N, K, 2)
        cell = torch.where(xy == far, heatmap_size - 1, cell)
        inside = ((cell >= 0) & (cell < heatmap_size)).all(dim=2)
        valid = (inside & (visibility > 0)).long()
        return (cell[..., 1] * heatmap_size + cell[..., 0]) * valid, valid

    def __getitem__(self, item: Any) -> "Keypoints":
        """Selects objects by an integer (one object), a slice, a list, an index vector or a bool vector."""
        return Keypoints(self.tensor[item][None] if isinstance(item, int) else self.tensor[item])

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"Keypoints(num_instances={len(self)})"


def heatmaps_to_keypoints(maps: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
    """Decodes heatmaps: resized bicubically to the box in pixels, the maximum is the keypoint.

    Args:
        maps: (N, K, S, S) logits.
        rois: (N, 4) boxes, xyxy in pixels.

    Returns:
        (N, K, 4): x, y in pixels, the logit at the maximum, and its probability under a softmax over the S x S map (not
        over the resized one, so that scores of boxes of different sizes compare).
    """
    sizes = (rois[:, 2:] - rois[:, :2]).clamp(min=1)
    whole = sizes.ceil()  # (N, 2) width, height in pixels
    if len(maps) == 0:
        return maps.new_zeros(0, maps.shape[1], 4)
    peaks = []
    # Box by box: every box has a map of its own size, and all of them padded to one size would take gigabytes. The
    # sizes come over in one transfer, so that the loop does not wait for the device.
    for heatmap, (width, height) in zip(maps, whole.long().tolist()):
        resized = F.interpolate(heatmap[None], size=(height, width), mode="bicubic", align_corners=False)
        peaks.append(resized.flatten(2).max(dim=2))  # (1, K) values and positions
    logit = torch.cat([peak.values for peak in peaks])  # (N, K)
    position = torch.cat([peak.indices for peak in peaks])
    columns = whole[:, :1].long()
    cell = torch.stack((position % columns, position // columns), dim=2)  # (N, K, 2) x, y
    xy = (cell + 0.5) * (sizes / whole)[:, None] + rois[:, None, :2]
    # The softmax is needed at its maximum only, where the numerator is exp(0).
    score = 1 / (maps - logit[..., None, None]).exp().sum(dim=(2, 3))
    return torch.cat((xy.to(maps.dtype), logit[..., None], score[..., None]), dim=2)
