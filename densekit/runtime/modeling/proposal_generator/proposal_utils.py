"""Selection of proposals. Shape shorthand: N images, L levels, Ri anchors of level i, K candidates over all levels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from densekit.runtime.layers import batched_nms, cat
from densekit.runtime.structures import Boxes, Instances

# Added ground truth gets the logit of a probability of 1 - 1e-10.
_GT_LOGIT = math.log((1.0 - 1e-10) / (1 - (1.0 - 1e-10)))


def find_top_rpn_proposals(
    proposals: list[Tensor],
    pred_objectness_logits: list[Tensor],
    image_sizes: list[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """Keeps the best boxes of each level, then of each image after non-maximum suppression within the levels.

    Args:
        proposals: Per level (N, Ri, 4) boxes, xyxy in input-image pixels.
        pred_objectness_logits: Per level (N, Ri).
        image_sizes: Height and width of each image.
        nms_thresh: IoU above which the lower-scoring box goes.
        pre_nms_topk: Boxes per level and image before suppression.
        post_nms_topk: Boxes per image after it.
        min_box_size: Boxes whose width or height is not larger, in pixels, are dropped.
        training: Whether non-finite predictions are an error rather than dropped.

    Returns:
        Per image ``proposal_boxes`` and ``objectness_logits``, best first.

    Raises:
        FloatingPointError: In training, a box or a score is not finite.
    """
    boxes, scores, levels = [], [], []
    for level, (level_boxes, logits) in enumerate(zip(proposals, pred_objectness_logits)):
        top_scores, index = top_logits(logits, pre_nms_topk)
        scores.append(top_scores)
        boxes.append(gather_rows(level_boxes, index))
        levels.append(torch.full_like(index[0], level))
    return suppress_proposals(
        cat(boxes, dim=1),
        cat(scores, dim=1),
        cat(levels),
        image_sizes,
        nms_thresh=nms_thresh,
        post_nms_topk=post_nms_topk,
        min_box_size=min_box_size,
        training=training,
    )


def top_logits(logits: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """The ``topk`` largest of each row of (N, Ri), or all if there are fewer: values and indices, largest first."""
    return logits.topk(min(logits.shape[1], topk), dim=1)


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """``values[n, index[n]]`` for all n: (N, Ri, B) and (N, k) give (N, k, B)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def suppress_proposals(
    boxes: Tensor,
    scores: Tensor,
    levels: Tensor,
    image_sizes: list[tuple[int, int]],
    *,
    nms_thresh: float,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """The second half of :func:`find_top_rpn_proposals`, on candidates (N, K, 4), (N, K) and their levels (K,)."""
    finite = torch.isfinite(boxes).all(dim=2) & torch.isfinite(scores)  # (N, K)
    if training and not bool(finite.all()):
        raise FloatingPointError("The RPN predicted infinite or NaN boxes or scores: training has diverged.")
    results = []
    for image_boxes, image_scores, valid, (height, width) in zip(boxes, scores, finite, image_sizes):
        x, y = image_boxes[:, 0::2].clamp(0, width), image_boxes[:, 1::2].clamp(0, height)
        clipped = torch.stack((x, y), dim=2).flatten(1)  # (K, 4)
        large = (x[:, 1] - x[:, 0] > min_box_size) & (y[:, 1] - y[:, 0] > min_box_size)
        chosen = (valid & large).nonzero()[:, 0]
        clipped, image_scores = clipped[chosen], image_scores[chosen]
        kept = batched_nms(clipped, image_scores, levels[chosen], nms_thresh)[:post_nms_topk]
        result = Instances((height, width))
        result.proposal_boxes = Boxes(clipped[kept])
        result.objectness_logits = image_scores[kept]
        results.append(result)
    return results


def add_ground_truth_to_proposals(gt: Sequence[Instances | Boxes], proposals: list[Instances]) -> list[Instances]:
    """Appends the ground-truth boxes of each image to its proposals, as near-certain ones.

    Args:
        gt: Per image Instances with ``gt_boxes``, or just the boxes.
        proposals: Per image Instances with ``proposal_boxes``, ``objectness_logits``; ``gt`` must have any other field.

    Raises:
        ValueError: The numbers of images differ, or ``gt`` lacks a field of the proposals.
    """
    if len(gt) != len(proposals):
        raise ValueError(f"Got ground truth of {len(gt)} images and proposals of {len(proposals)}.")
    return [add_ground_truth_to_proposals_single_image(item, found) for item, found in zip(gt, proposals)]


def add_ground_truth_to_proposals_single_image(gt: Instances | Boxes, proposals: Instances) -> Instances:
    """:func:`add_ground_truth_to_proposals` for one image."""
    fields = {} if isinstance(gt, Boxes) else gt.get_fields()
    boxes = gt if isinstance(gt, Boxes) else gt.gt_boxes
    extra = Instances(proposals.image_size, **fields)
    extra.proposal_boxes = boxes
    extra.objectness_logits = proposals.objectness_logits.new_full((len(boxes),), _GT_LOGIT)
    missing = [name for name in proposals.get_fields() if not extra.has(name)]
    if missing:
        raise ValueError(f"The proposals have fields that the ground truth lacks: {missing}.")
    return Instances.cat([proposals, extra])
