"""Non-maximum suppression, by torchvision."""

import torch
from torchvision.ops import batched_nms as _batched_nms
from torchvision.ops import nms as nms


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Suppresses boxes within each group (class or pyramid level) on its own.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
        idxs: (N,) group of each box.
        iou_threshold: A box goes where its overlap with a better one of its group is above it.

    Returns:
        int64 indices of the boxes kept, by decreasing score.
    """
    # float32 always: to keep groups apart torchvision may shift them beyond what half precision can resolve.
    return _batched_nms(boxes.float(), scores, idxs, iou_threshold)
