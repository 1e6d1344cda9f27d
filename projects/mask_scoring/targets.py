"""Targets of the MaskIoU head: the overlap of each predicted mask with the objects that its region shows.

Shapes: R regions of one image, G objects in it, P pairs of both, C mask channels (K classes or 1), M x M mask pixels.
"""

import torch

from densekit.d2.structures import BitMasks, Boxes, Instances, PolygonMasks, pairwise_iou
from densekit.modeling.mask_logits import select_classes

from .maskiou_head import mask_iou
from .visible_area import visible_fraction


class ImageObjects:
    """A field of regions that holds all objects of their image, and is selected along with the regions.

    Args:
        objects: "gt_boxes", "gt_classes" and "gt_masks".
        rows: (R,), one entry for each region.
    """

    def __init__(self, objects: Instances, rows: torch.Tensor) -> None:
        self.objects = objects
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: slice | torch.Tensor) -> "ImageObjects":
        return ImageObjects(self.objects, self.rows[item.to(self.rows.device) if torch.is_tensor(item) else item])


def maskiou_targets(masks: torch.Tensor, regions: Instances, num_classes: int) -> torch.Tensor:
    """The overlaps to learn.

    Args:
        masks: (R, C, M, M) bool, the predicted masks.
        regions: "proposal_boxes", and the matched object's "gt_classes" and "gt_masks"; with a "gt_image"
            (:class:`ImageObjects`) the masks of other classes than the region's are learned too: of each class the
            object that overlaps the region most.
        num_classes: K.

    Returns:
        (R, K) in [0, 1]; 0 for a class without an object in the region.
    """
    targets = masks.new_zeros((len(regions), num_classes), dtype=torch.float32)
    if len(regions) == 0:
        return targets
    boxes, classes, size = regions.proposal_boxes.tensor, regions.gt_classes, regions.image_size
    truth = regions.gt_image.objects if regions.has("gt_image") else None
    if truth is not None and len(truth):
        region, obj = _best_of_other_classes(boxes, classes, truth).nonzero(as_tuple=True)
        other = truth.gt_classes[obj]
        chosen = masks[region, other if masks.shape[1] > 1 else 0]
        targets[region, other] = _overlaps(chosen, truth.gt_masks[obj], boxes[region], size)
    own = _overlaps(select_classes(masks, classes), regions.gt_masks, boxes, size)
    return targets.scatter(1, classes[:, None], own[:, None])


def best_overlaps(masks: torch.Tensor, detections: Instances, truth: Instances) -> torch.Tensor:
    """The overlap of each detected mask with that object of its class which it overlaps most.

    Args:
        masks: (R, M, M) bool, in the boxes of the detections.
        detections: "pred_boxes" and "pred_classes".
        truth: all objects of the image, "gt_boxes", "gt_classes" and "gt_masks".

    Returns:
        (R,) in [0, 1]; 0 where no object of the class meets the box.
    """
    best = torch.zeros(len(detections), device=masks.device)
    if len(detections) == 0 or len(truth) == 0:  # an image without objects has no masks either
        return best
    meet = pairwise_iou(detections.pred_boxes, truth.gt_boxes) > 0
    meet &= detections.pred_classes[:, None] == truth.gt_classes
    region, obj = meet.nonzero(as_tuple=True)
    boxes = detections.pred_boxes.tensor[region]
    overlaps = _overlaps(masks[region], truth.gt_masks[obj], boxes, detections.image_size)
    return best.scatter_reduce(0, region, overlaps, "amax")


def _best_of_other_classes(boxes: torch.Tensor, classes: torch.Tensor, truth: Instances) -> torch.Tensor:
    """(R, G) bool: object g overlaps region r, is not of its class, and no object of g's class overlaps r more."""
    iou = pairwise_iou(Boxes(boxes), truth.gt_boxes)  # (R, G)
    same = truth.gt_classes[:, None] == truth.gt_classes[None]  # (G, G)
    order = torch.arange(len(truth), device=iou.device)
    # Of equal overlaps the first object counts, so that each class has one.
    beaten = (iou[:, None] > iou[:, :, None]) | ((iou[:, None] == iou[:, :, None]) & (order < order[:, None]))
    beaten = (beaten & same).any(dim=2)  # by an object in the last axis
    return (iou > 0) & ~beaten & (truth.gt_classes != classes[:, None])


def _overlaps(
    masks: torch.Tensor, objects: PolygonMasks | BitMasks, boxes: torch.Tensor, image_size: tuple[int, int]
) -> torch.Tensor:
    """Overlap (P,) of binary masks (P, M, M) with one object each."""
    inside = objects.crop_and_resize(boxes, masks.shape[-1]).to(masks.device)
    return mask_iou(masks, inside, visible_fraction(objects, boxes, image_size))
