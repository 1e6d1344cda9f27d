"""Ground-truth boxes that no anchor fits: a detector cannot learn them well, and of small objects that is most.

Shape shorthand: B boxes, L feature maps, Ai anchors per location of the i-th map. Boxes are xyxy in pixels of the input
image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from densekit.d2.structures import BoxMode


@dataclass
class Anchors:
    """Anchors of a detector, without an image.

    Attributes:
        cells: per map (Ai, 4), around the origin.
        strides: per map, in pixels.
        offset: of the first anchor's centre, in strides.
        threshold: the overlap below which an anchor is background.
    """

    cells: list[Tensor]
    strides: list[int]
    offset: float
    threshold: float


def anchors_of(model: nn.Module) -> Anchors | None:
    """The anchors of a one-stage detector or of a proposal generator; None where there are no axis-aligned ones."""
    part: Any = getattr(model, "proposal_generator", None) or model
    generator, matcher = getattr(part, "anchor_generator", None), getattr(part, "anchor_matcher", None)
    if generator is None or matcher is None or not hasattr(generator, "cell_anchors") or generator.box_dim != 4:
        return None
    cells = [cell.detach().cpu() for cell in generator.cell_anchors]
    # Detectron2's matcher keeps an infinity at either end of its thresholds.
    threshold = min(value for value in matcher.thresholds if value > 0)
    return Anchors(cells, list(generator.strides), float(generator.offset), float(threshold))


def best_overlaps(boxes: Tensor, sizes: Tensor, anchors: Anchors) -> Tensor:
    """The largest intersection over union that any anchor has with each box.

    Of the anchors of one shape the one with the nearest centre overlaps most, along either axis by itself, so that a
    box needs one look at each shape.

    Args:
        boxes: (B, 4).
        sizes: (B, 2) height and width of each box's image.
        anchors: of the detector.

    Returns:
        (B,) in [0, 1].
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    centers, areas = (low + high) / 2, (high - low).clamp(min=0).prod(dim=1)
    best = boxes.new_zeros(len(boxes))
    for cell, stride in zip(anchors.cells, anchors.strides):
        last = torch.ceil(sizes.flip(1) / stride) - 1  # (B, 2) x and y of the last location
        place = (centers / stride - anchors.offset).round().clamp(min=0)
        nearest = (torch.minimum(place, last) + anchors.offset) * stride
        for shape in cell.to(boxes):
            inner = torch.minimum(high, nearest + shape[2:]) - torch.maximum(low, nearest + shape[:2])
            shared = inner.clamp(min=0).prod(dim=1)
            union = areas + (shape[2:] - shape[:2]).prod() - shared
            best = torch.maximum(best, shared / union.clamp(min=1e-9))
    return best


def scaled_boxes(records: Sequence[dict[str, Any]], short_side: int, max_side: int) -> tuple[Tensor, Tensor]:
    """The boxes of a data set's records as the network sees them.

    Args:
        records: dicts with ``height``, ``width`` and ``annotations`` in pixels of the image; crowds are left out.
        short_side: what the shorter side of an image becomes; 0 leaves it.
        max_side: the longer side's limit.

    Returns:
        (B, 4) boxes and (B, 2) heights and widths of their images, after resizing.
    """
    rows, sizes = [], []
    for record in records:
        height, width = record.get("height"), record.get("width")
        if not height or not width:
            continue
        scale = 1.0 if short_side == 0 else min(short_side / min(height, width), max_side / max(height, width))
        for annotation in record.get("annotations", ()):
            if annotation.get("iscrowd", 0) or "bbox" not in annotation:
                continue
            box = BoxMode.convert([float(v) for v in annotation["bbox"]], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            rows.append([value * scale for value in box])
            sizes.append([height * scale, width * scale])
    return torch.tensor(rows).reshape(-1, 4), torch.tensor(sizes).reshape(-1, 2)


def describe(boxes: Tensor, sizes: Tensor, anchors: Anchors) -> str:
    """A line on the boxes that no anchor covers, with their sizes and a remedy."""
    overlaps = best_overlaps(boxes, sizes, anchors)
    missed = overlaps < anchors.threshold
    count, total = int(missed.sum()), len(boxes)
    line = f"{count} of {total} boxes overlap no anchor by {anchors.threshold:g}"
    if not count:
        return line
    sides = (boxes[missed, 2:] - boxes[missed, :2]).clamp(min=0)
    lengths, shapes = sides.prod(dim=1).sqrt(), sides[:, 1] / sides[:, 0].clamp(min=1e-6)
    known = torch.cat([cell[:, 2:] - cell[:, :2] for cell in anchors.cells]).prod(dim=1).sqrt()
    smallest, largest = (float(lengths.quantile(q)) for q in (0.1, 0.9))
    flattest, tallest = (float(shapes.quantile(q)) for q in (0.1, 0.9))
    return (
        f"{line}: sides of {smallest:.0f} to {largest:.0f} pixels (root of the area, the middle 80 %), height / width "
        f"{flattest:.2g} to {tallest:.2g}. The anchors have sides of {float(known.min()):.0f} to "
        f"{float(known.max()):.0f}. Each such box trains its best anchor alone, and one that touches none trains none: "
        "change MODEL.ANCHOR_GENERATOR.SIZES or ASPECT_RATIOS, or INPUT.MIN_SIZE_TRAIN"
    )
