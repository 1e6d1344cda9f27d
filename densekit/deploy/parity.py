"""Comparison of an exported model with the one that it was made of."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from densekit.d2.structures import Instances

__all__ = ["difference"]

_SCORES = 1e-4  # of maps, relative to the largest; float32 in another order of sums gives 1e-6 to 1e-5
_DETECTION = 1e-3  # of the score of a detection
_OVERLAP = 0.99  # of its box
_MASK = 0.95  # of its mask, of which a pixel at the threshold can turn
_KEYPOINT = 1.0  # pixels that a keypoint may lie away, where two cells are as good
_PIXELS = 0.01  # share of a panoptic map, of which a segment at a threshold can turn


def difference(exported: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """The worst difference between two results of one image.

    Args:
        exported: outputs of the file.
        expected: those of the model.

    Returns:
        For maps of scores relative to the largest score; for detections in scores.

    Raises:
        ValueError: They differ by more than arithmetic explains; the message says where.
    """
    worst = 0.0
    if "class_scores" in expected:
        worst = _of_classes(exported["class_scores"], expected["class_scores"])
    if "sem_seg" in expected:
        worst = _of_maps(exported["sem_seg"], expected["sem_seg"])
    if "instances" in expected:
        mine, theirs = exported["instances"], expected["instances"]
        worst = max(worst, _of_detections(mine, theirs, "misses"), _of_detections(theirs, mine, "adds"))
    if "panoptic_seg" in expected:
        _compare_segments(exported["panoptic_seg"], expected["panoptic_seg"])
    return worst


def _of_classes(mine: Tensor, theirs: Tensor) -> float:
    worst = (mine - theirs).abs().max().item()
    if not worst <= _SCORES:
        raise ValueError(f"the scores of the classes differ by {worst:.1e} (allowed: {_SCORES:g})")
    return worst


def _of_maps(mine: Tensor, theirs: Tensor) -> float:
    if mine.shape != theirs.shape:
        raise ValueError(f"the map has the shape {tuple(mine.shape)} for {tuple(theirs.shape)}")
    gap = (mine - theirs).abs()
    worst = (gap.max() / theirs.abs().max().clamp(min=1e-12)).item()
    if not worst <= _SCORES:  # NaN, too
        number, row, column = torch.unravel_index(gap.nan_to_num(torch.inf).argmax(), gap.shape)
        raise ValueError(
            f"the scores differ by {worst:.1e} of the largest one (allowed: {_SCORES:g}), most at class {int(number)}, "
            f"row {int(row)}, column {int(column)}"
        )
    return worst


def _of_detections(mine: Instances, theirs: Instances, verb: str) -> float:
    """Looks for each of ``theirs`` in ``mine``; the lowest may have fallen out, at a threshold."""
    boxes, scores, classes = theirs.pred_boxes.tensor, theirs.scores, theirs.pred_classes
    if not len(scores):
        return 0.0
    gap = (scores[:, None] - mine.scores).abs()
    fits = (box_iou(boxes, mine.pred_boxes.tensor) >= _OVERLAP) & (classes[:, None] == mine.pred_classes)
    gap = gap.masked_fill(~fits, torch.inf)
    nearest, partner = gap.min(1) if gap.shape[1] else (torch.full_like(scores, torch.inf), torch.zeros_like(classes))
    wrong = ~(nearest <= _DETECTION)
    lowest = scores <= scores.min() + _DETECTION
    if (wrong & ~lowest).any() or 2 * wrong.sum() > len(wrong):
        index = int(wrong.nonzero()[0])
        raise ValueError(
            f"the file {verb} a detection of {_described(theirs, index)}; allowed are {_DETECTION:g} in the score and "
            f"an overlap of {_OVERLAP:g}"
        )
    for index in (~wrong).nonzero()[:, 0].tolist():
        _compare_shapes(mine, int(partner[index]), theirs, index)
    return nearest[~wrong].max().item()


def _compare_shapes(mine: Instances, partner: int, theirs: Instances, index: int) -> None:
    """Compares the masks, with their scores, and the keypoints of two detections that are one."""
    if theirs.has("pred_masks"):
        one, other = mine.pred_masks[partner], theirs.pred_masks[index]
        union = (one | other).sum().item()
        if union and (one & other).sum().item() < _MASK * union - 2:  # tiny masks have few pixels to lose
            raise ValueError(f"the mask of {_described(theirs, index)} overlaps the model's by less than {_MASK:g}")
    if theirs.has("mask_scores"):
        gap = (mine.mask_scores[partner] - theirs.mask_scores[index]).abs().item()
        if not gap <= _DETECTION:
            raise ValueError(f"the score of the mask of {_described(theirs, index)} differs by {gap:.1e}")
    if theirs.has("pred_keypoints"):
        gap = (mine.pred_keypoints[partner] - theirs.pred_keypoints[index])[:, :2].abs().max().item()
        if not gap <= _KEYPOINT:
            raise ValueError(f"a keypoint of {_described(theirs, index)} lies {gap:.1f} pixels away")


def _described(found: Instances, index: int) -> str:
    box = ", ".join(f"{value:.1f}" for value in found.pred_boxes.tensor[index].tolist())
    return f"class {int(found.pred_classes[index])}, score {found.scores[index]:.4f}, box ({box})"


def _compare_segments(mine: Any, theirs: Any) -> None:
    """Compares the classes that two panoptic maps show."""
    one, other = (_classes_of(*segments) for segments in (mine, theirs))
    share = (one != other).float().mean().item()
    if share > _PIXELS:
        raise ValueError(f"{share:.1%} of the panoptic map have another class; allowed are {_PIXELS:.0%}")


def _classes_of(ids: Tensor, segments: list[dict[str, Any]]) -> Tensor:
    """(H, W): the class of each pixel, things below 0, and 0 where there is none."""
    table = torch.zeros(int(ids.max()) + 1, dtype=torch.long)
    for segment in segments:
        table[segment["id"]] = (segment["category_id"] + 1) * (-1 if segment["isthing"] else 1)
    return table[ids.long()]
