"""The losses of a set of predictions that is matched to a set of objects: DETR (arXiv 2005.12872), section 3.1.

They are normalised by what all processes of a run hold together: its gradients are those of one process with the joint
batch. (The authors normalise the classification by each process's own part.)

K: decoder layers, B: images, Q: predictions of an image, C: classes without "no object", M: matched pairs of a layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, sigmoid_focal_loss

from densekit.modeling.matcher import HungarianMatcher, Targets
from densekit.ops.generalized_iou import generalized_iou
from densekit.ops.precision import at_least_single

Losses = dict[str, Tensor]
# Which decoder layers' pairs: image, prediction and object of each, (K, M) int64.
_Pairs = tuple[Tensor, Tensor, Tensor]


class SetCriterion(nn.Module):
    """Classification, box and mask losses of matched predictions, for every decoder layer.

    Args:
        num_classes: C; index C means "no object".
        matcher: finds the pairs, for every layer anew.
        no_object_weight: weight of "no object" among the classes.
    """

    empty_weight: Tensor

    def __init__(self, *, num_classes: int, matcher: HungarianMatcher, no_object_weight: float = 0.1) -> None:
        super().__init__()
        self.num_classes, self.matcher = num_classes, matcher
        weight = torch.ones(num_classes + 1)
        weight[-1] = no_object_weight
        self.register_buffer("empty_weight", weight)

    def forward(self, outputs: dict[str, Any], targets: Targets) -> Losses:
        """Compares predictions with objects.

        Args:
            outputs: ``pred_logits`` (B, Q, C + 1), ``pred_boxes`` (B, Q, 4) cxcywh relative to the image and, with
                masks, ``pred_masks`` (B, Q, h, w) logits of the last layer; ``aux_outputs``: the same of the layers
                before it, without masks, if they are to learn too; ``enc_outputs``: predictions of the encoder's cells,
                any number of them.
            targets: per image ``labels`` (Ti,), ``boxes`` (Ti, 4) cxcywh relative to the image and, with masks,
                ``masks`` (Ti, H, W) of the padded batch's size.

        Returns:
            Unweighted ``loss_ce``, ``loss_bbox``, ``loss_giou`` and, with masks, ``loss_mask``, ``loss_dice`` of the
            last layer; of the others with ``_0``, ``_1`` ... ``_enc`` behind the name. Two figures to watch are added:
            ``class_error``, the share of matched predictions with a wrong class in percent, and ``cardinality_error``,
            by how many the number of predicted objects is off.
        """
        losses = self._layers(outputs, targets)
        if "enc_outputs" in outputs:
            encoder = self._layers(outputs["enc_outputs"], targets)
            losses.update((f"{name}_enc", loss) for name, loss in encoder.items())
        return losses

    def _layers(self, outputs: dict[str, Any], targets: Targets) -> Losses:
        """The losses of the decoder's layers, or of the encoder's cells."""
        layers = [*outputs.get("aux_outputs", ()), outputs]
        logits = at_least_single(torch.stack([layer["pred_logits"] for layer in layers]))  # (K, B, Q, C + 1)
        boxes = at_least_single(torch.stack([layer["pred_boxes"] for layer in layers]))  # (K, B, Q, 4)
        matches = self.matcher({"pred_logits": logits.flatten(0, 1), "pred_boxes": boxes.flatten(0, 1)}, targets)
        pairs = _pairs(matches, targets, len(layers), logits.device)
        labels = torch.cat([target["labels"] for target in targets])
        expected, normalisers = self._expected(logits, labels, pairs)

        per_layer = {
            "loss_ce": self._classification(logits, expected) / normalisers[0],
            **self._boxes(boxes, torch.cat([target["boxes"] for target in targets]).to(boxes), pairs, normalisers[1]),
            "cardinality_error": self._cardinality_error(logits, targets),
        }
        losses = {name: values[-1] for name, values in per_layer.items()}
        for name, values in per_layer.items():
            losses.update((f"{name}_{index}", value) for index, value in enumerate(values[:-1]))
        if "pred_masks" in outputs:
            losses.update(_mask_losses(at_least_single(outputs["pred_masks"]), targets, pairs, normalisers[1]))
        return losses | {"class_error": _class_error(logits[-1], labels, pairs)}

    def _expected(self, logits: Tensor, labels: Tensor, pairs: _Pairs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The class each prediction should have (K, B, Q); by what classes (K,) and boxes (scalar) are divided."""
        images, predictions, objects = pairs
        expected = torch.full(logits.shape[:3], self.num_classes, device=logits.device)
        layers = torch.arange(len(logits), device=logits.device)[:, None].expand_as(images)
        expected[layers, images, predictions] = labels[objects]
        class_weight = self.empty_weight[expected].sum(dim=(1, 2))
        totals = torch.cat((class_weight, class_weight.new_tensor([float(len(labels))])))
        totals = _mean_over_processes(totals)
        return expected, (totals[:-1], totals[-1].clamp(min=1))

    def _classification(self, logits: Tensor, expected: Tensor) -> Tensor:
        """Summed cross-entropy of each layer, (K,)."""
        weight = self.empty_weight.to(logits.dtype)
        return F.cross_entropy(logits.movedim(-1, 1), expected, weight, reduction="none").sum(dim=(1, 2))

    @staticmethod
    def _boxes(boxes: Tensor, objects: Tensor, pairs: _Pairs, count: Tensor) -> Losses:
        found, truth = _gather(boxes, pairs), objects[pairs[2]]  # (K, M, 4)
        overlap = generalized_iou(box_convert(found, "cxcywh", "xyxy"), box_convert(truth, "cxcywh", "xyxy"))
        distance = (found - truth).abs().sum(dim=(1, 2))
        return {"loss_bbox": distance / count, "loss_giou": (1 - overlap).sum(dim=1) / count}

    @torch.no_grad()
    def _cardinality_error(self, logits: Tensor, targets: Targets) -> Tensor:
        counts = torch.tensor([len(target["labels"]) for target in targets], device=logits.device)
        found = (logits.argmax(dim=-1) != self.num_classes).sum(dim=2)  # (K, B)
        return (found - counts).abs().float().mean(dim=1)


def weighted(losses: Losses, weights: dict[str, float]) -> Losses:
    """The losses that have a weight, multiplied by it; those of earlier layers by the weight of the last."""
    names = {name: name if name in weights else name.rpartition("_")[0] for name in losses}
    return {name: weights[names[name]] * loss for name, loss in losses.items() if names[name] in weights}


def _pairs(matches: Sequence[tuple[Tensor, Tensor]], targets: Targets, layers: int, device: torch.device) -> _Pairs:
    """The matches of all layers as indices; objects count through the batch."""
    starts = [0]
    for target in targets:
        starts.append(starts[-1] + len(target["labels"]))
    images = [torch.full_like(rows, index % len(targets)) for index, (rows, _) in enumerate(matches)]
    objects = [columns + starts[index % len(targets)] for index, (_, columns) in enumerate(matches)]
    stacked = torch.stack((torch.cat(images), torch.cat([rows for rows, _ in matches]), torch.cat(objects)))
    # Every layer has equally many pairs: each image the smaller of its objects and its predictions.
    image, prediction, target_index = stacked.view(3, layers, -1).to(device)
    return image, prediction, target_index


def _gather(values: Tensor, pairs: _Pairs) -> Tensor:
    """(K, B, Q, ...) values of the matched predictions: (K, M, ...)."""
    layers = torch.arange(len(values), device=values.device)[:, None]
    return values[layers, pairs[0], pairs[1]]


def _mean_over_processes(totals: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(totals)
        totals = totals / torch.distributed.get_world_size()
    return totals


@torch.no_grad()
def _class_error(logits: Tensor, labels: Tensor, pairs: _Pairs) -> Tensor:
    """Of the last layer's matched predictions, percent; 100 without objects."""
    images, predictions, objects = (index[-1] for index in pairs)
    right = logits[images, predictions].argmax(dim=-1) == labels[objects]
    return 100 - 100 * right.sum() / max(len(right), 1)


def _mask_losses(masks: Tensor, targets: Targets, pairs: _Pairs, count: Tensor) -> Losses:
    """Focal loss (arXiv 1708.02002) and Dice loss (arXiv 1606.04797) of the last layer's masks (B, Q, h, w)."""
    images, predictions, objects = (index[-1] for index in pairs)
    truth = torch.cat([target["masks"] for target in targets])[objects].to(masks)  # (M, H, W)
    found = masks[images, predictions][:, None]
    found = F.interpolate(found, size=truth.shape[-2:], mode="bilinear", align_corners=False).flatten(1)
    truth = truth.flatten(1)
    focal = sigmoid_focal_loss(found, truth, alpha=0.25, gamma=2.0).mean(dim=1).sum()
    probability = found.sigmoid()
    overlap = 2 * (probability * truth).sum(dim=1)
    dice = 1 - (overlap + 1) / (probability.sum(dim=1) + truth.sum(dim=1) + 1)
    return {"loss_mask": focal / count, "loss_dice": dice.sum() / count}
