"""Ground truth at points and the loss on it. PointRend, https://arxiv.org/abs/1912.08193, section 4.1.

Shapes: R regions of all images, P points of each, C mask channels (K classes, or 1 if class-agnostic), H x W an image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from densekit.d2.structures import BitMasks, Instances
from densekit.d2.utils.events import get_event_storage
from densekit.layers.points import points_in_image, sample_bitmaps
from densekit.modeling.mask_logits import select_classes

IGNORED = -1.0  # label of a point that the loss passes over


def point_labels(instances: Sequence[Instances], points: torch.Tensor) -> torch.Tensor:
    """The matched object's mask at points inside each region.

    Args:
        instances: per image, R in all, with "proposal_boxes" and "gt_masks" as bitmaps.
        points: (R, P, 2) in [0, 1] of the boxes.

    Returns:
        (R, P) in [0, 1]; bilinear, so fractions at the outline.

    Raises:
        ValueError: the masks are polygons.
    """
    labels = []
    for x, own in zip(instances, points.split([len(x) for x in instances])):
        if len(x) == 0:  # and no masks either, where an image has no objects
            continue
        if not isinstance(x.gt_masks, BitMasks):
            raise ValueError(
                "Points are compared with bitmaps, and the ground truth has polygons: set INPUT.MASK_FORMAT bitmask."
            )
        height, width = x.gt_masks.image_size
        size = torch.tensor([width, height], dtype=torch.float32, device=points.device)
        labels.append(sample_bitmaps(x.gt_masks.tensor, points_in_image(x.proposal_boxes.tensor, own) / size))
    return torch.cat(labels) if labels else points.new_zeros(points.shape[:2])


def point_loss(logits: torch.Tensor, classes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy over all points; ignored ones add nothing, but count.

    Args:
        logits: (R, C, P).
        classes: (R,), whose mask each region learns.
        labels: (R, P) in [0, 1], or -1 to ignore a point.

    Returns:
        A scalar; 0, with a gradient path, if there are no regions.
    """
    if len(labels) == 0:
        return logits.sum() * 0
    own = select_classes(logits, classes)  # (R, P)
    counted = labels != IGNORED
    # A point on an outline is inside where its label is 1 and nothing less.
    right = ((own.detach() > 0) == (labels >= 1)) & counted
    get_event_storage().put_scalar("point/accuracy", (right.sum() / counted.sum().clamp(min=1)).item())
    return F.binary_cross_entropy_with_logits(own, labels, weight=counted.to(own.dtype))
