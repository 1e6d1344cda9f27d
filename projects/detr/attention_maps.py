"""Attention maps of a trained DETR as numbers: figures 3, 6 and 7 of arXiv 2005.12872.

Q: queries, H, W: last feature map.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .detr import DETR
from .meta_arch import DetrDetector
from .segmentation import SegmentingDETR


@dataclass
class Attention:
    """Attention of the last layers for one image, mean over the heads.

    Attributes:
        queries: (Q, H, W), of each query over the cells; each sums to one.
        cells: (H, W, H, W), of each cell over all cells; ``cells[y, x]`` sums to one.
        probability: (Q, C + 1) of the classes, the last being "no object".
        boxes: (Q, 4), cxcywh relative to the image.
    """

    queries: Tensor
    cells: Tensor
    probability: Tensor
    boxes: Tensor


@torch.no_grad()
def attention_of(model: DetrDetector, item: dict[str, Any]) -> Attention:
    """Runs the model on one image and computes the attention of its last layers.

    Args:
        model: in evaluation mode.
        item: with ``image`` (3, H, W), as the model takes it.

    Raises:
        ValueError: the encoder has no layers.
    """
    detector = _detector(model)
    transformer: Any = detector.transformer
    if not len(transformer.encoder.layers):
        raise ValueError("the encoder has no layers (MODEL.DETR.ENC_LAYERS 0), so it attends to nothing.")
    last = (transformer.encoder.layers[-1], transformer.decoder.layers[-1])
    images = model.preprocess_image([item])
    inputs: list[tuple[Any, ...]] = []
    hooks = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args)) for layer in last]
    try:
        encoded = detector.encode(images.tensor, images.image_sizes)
    finally:
        for hook in hooks:
            hook.remove()
    height, width = encoded.source.shape[-2:]
    cells, queries = (layer.attention(*args)[0].mean(dim=0) for layer, args in zip(last, inputs))
    outputs = detector.predict(encoded)
    return Attention(
        queries=queries.unflatten(1, (height, width)),
        cells=cells.unflatten(1, (height, width)).unflatten(0, (height, width)),
        probability=outputs["pred_logits"][0].softmax(dim=-1),
        boxes=outputs["pred_boxes"][0],
    )


@torch.no_grad()
def boxes_of_slots(model: DetrDetector, items: Iterable[dict[str, Any]]) -> Tensor:
    """Collects the boxes of every query over a data set, whatever their class.

    Returns:
        (images, Q, 4) boxes, cxcywh relative to their image.
    """
    found = []
    detector = _detector(model)
    for item in items:
        images = model.preprocess_image([item])
        found.append(detector(images.tensor, images.image_sizes)["pred_boxes"][0].cpu())
    return torch.stack(found)


def _detector(model: DetrDetector) -> DETR:
    """The part that predicts boxes."""
    return model.detr.detr if isinstance(model.detr, SegmentingDETR) else model.detr
