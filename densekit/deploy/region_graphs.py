"""The R-CNN family as graphs of tensors: proposals, regions and suppression without structures or choices in Python.

One picture. R: proposals. D: detections. K: classes. M: cells of a mask along a side.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.d2.modeling import GeneralizedRCNN, PanopticFPN
from densekit.d2.modeling.poolers import ROIPooler
from densekit.d2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from densekit.d2.modeling.roi_heads.keypoint_head import BaseKeypointRCNNHead
from densekit.d2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from densekit.deploy.graphs import DETECTIONS, ImageGraph, rows_of_map, suppressed

__all__ = ["PanopticGraph", "RegionGraph"]

_HEADS = (StandardROIHeads, CascadeROIHeads, Res5ROIHeads)


class RegionGraph(ImageGraph):
    """A GeneralizedRCNN as a graph.

    Region heads of a system take part by a method ``graph_mask_scores(features, regions, logits, masks, found)``: how
    good the masks (D, M, M) of ``found`` (boxes, scores, classes) are, (D,), given the backbone's maps, what the mask
    head has seen (D, C, S, S), and its logits.

    Args:
        model: in evaluation mode, with an RPN.

    Raises:
        ValueError: its region heads or one of its branches are of a system that has no graph.
    """

    kind = "instances"
    inputs = ("image", "size")

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__(model)
        heads: Any = model.roi_heads
        self.scores_masks = hasattr(heads, "graph_mask_scores")
        if type(heads) not in _HEADS and not self.scores_masks:
            names = ", ".join(one.__name__ for one in _HEADS)
            raise ValueError(f"MODEL.ROI_HEADS.NAME {type(heads).__name__} cannot be exported; {names} can.")
        if model.proposal_generator is None:
            raise ValueError("A model that reads proposals from a file cannot be exported.")
        self.has_masks = bool(heads.mask_on)
        self.has_keypoints = bool(getattr(heads, "keypoint_on", False))
        if self.has_masks and type(heads.mask_head).forward is not BaseMaskRCNNHead.forward:
            raise ValueError(f"MODEL.ROI_MASK_HEAD.NAME {type(heads.mask_head).__name__} cannot be exported.")
        if self.has_keypoints and type(heads.keypoint_head).forward is not BaseKeypointRCNNHead.forward:
            raise ValueError(f"MODEL.ROI_KEYPOINT_HEAD.NAME {type(heads.keypoint_head).__name__} cannot be exported.")
        branches = {"masks": self.has_masks, "mask_scores": self.scores_masks, "heatmaps": self.has_keypoints}
        self.outputs = DETECTIONS + tuple(name for name, given in branches.items() if given)

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Returns what :attr:`outputs` names.

        Args:
            image: (C, H, W), padded to the right and below.
            size: (2,) float32, height and width of the picture in it, which boxes are clipped to.
        """
        return self.detections(self.features(image), size)

    def detections(self, features: dict[str, Tensor], size: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`forward`, from the backbone's maps."""
        heads: Any = self.model.roi_heads
        maps = [features[name] for name in heads.in_features]
        found: tuple[Tensor, ...] = self._boxes(maps, self._proposals(features, size), size)
        boxes, _, classes = found
        if self.has_masks:
            if isinstance(heads, Res5ROIHeads):
                regions = heads.res5(pooled(heads.pooler, maps, boxes))
            else:
                regions = self._branch(heads, "mask", features, boxes)
            logits = heads.mask_head.layers(regions)  # (D, K or 1, M, M)
            wanted = torch.zeros_like(classes) if logits.shape[1] == 1 else classes
            index = wanted[:, None, None, None].expand(-1, 1, *logits.shape[2:])
            masks = logits.gather(1, index)[:, 0].sigmoid()
            scores = (heads.graph_mask_scores(features, regions, logits, masks, found),) if self.scores_masks else ()
            found += (masks, *scores)
        if self.has_keypoints:
            found += (heads.keypoint_head.layers(self._branch(heads, "keypoint", features, boxes)),)
        return found

    @staticmethod
    def _branch(heads: Any, name: str, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
        maps = [features[one] for one in getattr(heads, f"{name}_in_features")]
        return pooled(getattr(heads, f"{name}_pooler"), maps, boxes)

    def _proposals(self, features: dict[str, Tensor], size: Tensor) -> Tensor:
        """Boxes (R, 4) of the RPN, best first."""
        rpn: Any = self.model.proposal_generator
        maps = [features[name] for name in rpn.in_features]
        candidates = []
        for level, (anchors, logits, deltas) in enumerate(zip(rpn.anchor_generator(maps), *rpn.rpn_head(maps))):
            scores = rows_of_map(logits, 1)[:, 0]
            # A number that a trace takes for a fixed one where its own picture has as many anchors or more.
            count = torch.sym_min(scores.shape[0], rpn.pre_nms_topk[False])
            best = scores.argsort(descending=True)[:count]
            boxes = rpn.box2box_transform.apply_deltas(rows_of_map(deltas, 4)[best], anchors.tensor[best])
            candidates.append((boxes, scores[best], torch.full_like(best, level)))
        boxes, scores, levels = (torch.cat(parts) for parts in zip(*candidates))
        boxes = clipped(boxes, size)
        kept = ((boxes[:, 2:] - boxes[:, :2]) > rpn.min_box_size).all(1).nonzero()[:, 0]
        boxes, scores, levels = boxes[kept], scores[kept], levels[kept]
        return boxes[suppressed(boxes, scores, levels, rpn.nms_thresh)[: rpn.post_nms_topk[False]]]

    def _boxes(self, maps: list[Tensor], proposals: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Boxes (D, 4), scores (D,) and classes (D,), best first."""
        heads: Any = self.model.roi_heads
        if isinstance(heads, Res5ROIHeads):
            regions = heads.res5(pooled(heads.pooler, maps, proposals)).mean((2, 3))
            boxes, scores = _refined(heads.box_predictor, regions, proposals)
            return selected(heads.box_predictor, clipped(boxes, size), scores)
        if not isinstance(heads, CascadeROIHeads):
            regions = heads.box_head(pooled(heads.box_pooler, maps, proposals))
            boxes, scores = _refined(heads.box_predictor, regions, proposals)
            return selected(heads.box_predictor, clipped(boxes, size), scores)
        boxes, stages = proposals, list[Tensor]()
        parts: list[Any] = [heads.box_head, heads.box_predictor]
        for head, predictor in zip(*parts):
            boxes, scores = _refined(predictor, head(pooled(heads.box_pooler, maps, boxes)), boxes)
            boxes = clipped(boxes, size)
            stages.append(scores)
        return selected(heads.box_predictor[-1], boxes, torch.stack(stages).mean(0))


class PanopticGraph(RegionGraph):
    """A PanopticFPN as a graph, up to the scores that are merged into one map."""

    kind = "panoptic"

    def __init__(self, model: PanopticFPN) -> None:
        super().__init__(model)
        self.outputs = (*self.outputs, "sem_seg")
        names = ("combine_overlap_thresh", "combine_stuff_area_thresh", "combine_instances_score_thresh")
        self.settings = {name: float(getattr(model, name)) for name in names}

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Returns what a detector does, and the scores of pixels (K, H, W)."""
        features = self.features(image)
        scores, _ = self.model.sem_seg_head(features, None)
        return (*self.detections(features, size), scores[0])


def clipped(boxes: Tensor, size: Tensor) -> Tensor:
    """Moves corners that lie outside a picture of ``size`` (2,), height and width, to its border."""
    reach = torch.stack([size[1], size[0]]).repeat(boxes.shape[-1] // 2)
    return boxes.clamp(min=0).minimum(reach)


def pooled(pooler: ROIPooler, maps: list[Tensor], boxes: Tensor) -> Tensor:
    """Pools boxes (R, 4), each from the level of its size, as the host's pooler does."""
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    levels: list[nn.Module] = list(pooler.level_poolers)
    if len(levels) == 1:
        return levels[0](maps[0], rois)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    level = torch.floor(pooler.canonical_level + torch.log2(area.sqrt() / pooler.canonical_box_size + 1e-8))
    level = level.clamp(pooler.min_level, pooler.max_level) - pooler.min_level
    chosen = [(level == number).nonzero()[:, 0] for number in range(len(levels))]
    parts = [one(features, rois[rows]) for one, features, rows in zip(levels, maps, chosen)]
    return torch.cat(parts)[torch.cat(chosen).argsort()]


def _refined(predictor: Any, regions: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (R, K * 4) or (R, 4), and probabilities (R, K + 1)."""
    logits, deltas = predictor(regions)
    scores = logits.sigmoid() if getattr(predictor, "use_sigmoid_ce", False) else F.softmax(logits, 1)
    return predictor.box2box_transform.apply_deltas(deltas, proposals), scores


def selected(predictor: Any, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The detections above the threshold that no better one of their class suppresses, best first.

    Args:
        predictor: with the limits.
        boxes: (R, K * 4) or (R, 4).
        scores: (R, K + 1), background last.
    """
    scores = scores[:, :-1]
    where, classes = (scores > predictor.test_score_thresh).nonzero(as_tuple=True)
    values = scores[where, classes]
    boxes = boxes[where] if boxes.shape[1] == 4 else boxes.view(-1, scores.shape[1], 4)[where, classes]
    kept = suppressed(boxes, values, classes, predictor.test_nms_thresh)[: predictor.test_topk_per_image]
    return boxes[kept], values[kept], classes[kept]
