"""From the masks of all queries to one label per pixel: DETR (arXiv 2005.12872), section 4.4 and appendix A.5.

Q: queries, C: classes, S: segments, h, w: masks, H, W: wanted size.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_LEAST_AREA = 4  # pixels; segments up to this size are dropped
_MASKS_AT_ONCE = 16


def merge_masks(
    logits: Tensor,
    masks: Tensor,
    *,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int] | None = None,
    things: Collection[int],
    score_threshold: float = 0.85,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Gives every pixel to the most certain mask.

    As in the authors' code, queries of one stuff class are joined into the first of them; if small segments are then
    dropped, the joined ones are among them (they own no pixel any more), and the pixels are given out anew.

    Args:
        logits: (Q, C + 1), the last class being "no object".
        masks: (Q, h, w) logits of the padded image.
        padded_size: (height, width) of the padded image.
        image_size: (height, width) of the image that the network saw, without its padding.
        output_size: (H, W) of the result; ``image_size`` if None.
        things: the classes that are things; the others are stuff.
        score_threshold: least score of a query that takes part.

    Returns:
        (H, W) int32 on the CPU, the segment of each pixel; and per segment ``id`` from 0, ``isthing``, ``category_id``
        (the row of the class scores) and ``area`` in pixels. Without any segment all pixels are 0, the list is empty.
    """
    scores, classes = logits.softmax(dim=-1).max(dim=-1)
    keep = (classes != logits.shape[-1] - 1) & (scores > score_threshold)
    labels = classes[keep].tolist()
    size = output_size or image_size
    if not labels:
        return torch.zeros(size, dtype=torch.int32), []
    scaled = _upsampled(masks[keep].float(), padded_size, image_size)

    kept = torch.arange(len(labels), device=scaled.device)
    segments = _resized(_joined(scaled.argmax(dim=0), labels, things), size)
    while True:
        areas = np.bincount(segments.reshape(-1), minlength=len(kept))
        large = areas > _LEAST_AREA
        if large.all() or not len(kept):
            break
        kept = kept[torch.from_numpy(large).to(kept.device)]
        if not len(kept):
            return torch.zeros(size, dtype=torch.int32), []
        segments = _resized(scaled[kept].argmax(dim=0), size)
    found = [labels[index] for index in kept.tolist()]
    info = [
        {"id": number, "isthing": label in things, "category_id": label, "area": int(area)}
        for number, (label, area) in enumerate(zip(found, areas))
    ]
    return torch.from_numpy(segments), info


def paste_masks(
    masks: Tensor, padded_size: tuple[int, int], image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Binary masks of single queries in the wanted frame.

    Args:
        masks: (Q, h, w) logits of the padded image.
        padded_size: (height, width) of the padded image.
        image_size: (height, width) of the image that the network saw, without its padding.
        output_size: (H, W).

    Returns:
        (Q, H, W) bool: where the probability at the network's resolution is above one half.
    """
    if not len(masks):
        return torch.zeros(0, *output_size, dtype=torch.bool, device=masks.device)
    pasted = [
        F.interpolate(
            (_upsampled(part, padded_size, image_size) > 0)[None].to(torch.uint8), size=output_size, mode="nearest"
        )[0].bool()
        for part in masks.split(_MASKS_AT_ONCE)  # at full resolution a hundred masks of floats are large
    ]
    return torch.cat(pasted)


def _upsampled(masks: Tensor, padded_size: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """(Q, h, w) of the padded image to (Q, height, width) of the image."""
    full = F.interpolate(masks[None], size=padded_size, mode="bilinear", align_corners=False)[0]
    return full[:, : image_size[0], : image_size[1]]


def _joined(owners: Tensor, labels: list[int], things: Collection[int]) -> Tensor:
    """Replaces each query by the first of its class where that is stuff; (h, w) indices."""
    first = [index if label in things else labels.index(label) for index, label in enumerate(labels)]
    return torch.tensor(first, device=owners.device)[owners]


def _resized(owners: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(h, w) indices to (H, W) int32 by PIL's choice of the nearest pixel, which the published numbers rest on."""
    picture = Image.fromarray(owners.to("cpu", torch.int32).numpy())
    return np.array(picture.resize((size[1], size[0]), Image.Resampling.NEAREST))
