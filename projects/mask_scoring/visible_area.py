"""Share of each object that a box shows: it turns an overlap inside a box into one with the whole object.

Shapes: R pairs of an object and a box, H x W the image.
"""

import numpy as np
import pycocotools.mask as mask_utils
import torch

from densekit.d2.structures import BitMasks, PolygonMasks


def visible_fraction(masks: PolygonMasks | BitMasks, boxes: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """The share of each object's area inside its box.

    Args:
        masks: R objects.
        boxes: (R, 4) xyxy in pixels.
        image_size: H and W. Parts of polygons beyond the image count for nothing.

    Returns:
        (R,) float32 in [0, 1], on the device of the boxes; 0 for an object without area.
    """
    if isinstance(masks, BitMasks):
        return _of_bitmaps(masks.tensor, boxes)
    # In single precision, as the authors': where a corner falls on the grid of pixels, doubles may count another one.
    frames = boxes.detach().cpu().numpy().astype(np.float32)
    single = ([np.asarray(polygon, dtype=np.float32) for polygon in polygons] for polygons in masks.polygons)
    shares = [_of_polygons(polygons, frame, image_size) for polygons, frame in zip(single, frames)]
    return torch.tensor(shares, dtype=torch.float32, device=boxes.device)


def _of_bitmaps(bitmaps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Exact for boxes at any fraction of a pixel: a pixel counts by its overlap with the box along each axis."""
    pixels = bitmaps.to(boxes.dtype)  # (R, H, W)
    rows = _overlap(boxes[:, 1], boxes[:, 3], pixels.shape[1])  # (R, H)
    columns = _overlap(boxes[:, 0], boxes[:, 2], pixels.shape[2])  # (R, W)
    inside = (torch.bmm(rows[:, None], pixels)[:, 0] * columns).sum(dim=1)
    return inside / pixels.flatten(1).sum(dim=1).clamp(min=1)


def _overlap(start: torch.Tensor, end: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the share of each of ``count`` unit cells that lies between start and end, (R, count)."""
    cells = torch.arange(count, device=start.device)
    return torch.minimum(end[:, None], cells + 1).sub(torch.maximum(start[:, None], cells)).clamp(min=0)


def _of_polygons(polygons: list[np.ndarray], box: np.ndarray, image_size: tuple[int, int]) -> float:
    """Pixels of the polygons in the box, by pixels in the frame of box and polygons together.

    Both are counted from a corner of their own frame and in whole pixels of it, as the authors count.
    """
    if not polygons:
        return 0.0
    points = np.concatenate(polygons).reshape(-1, 2)
    low = np.maximum(np.minimum(np.trunc(box[:2]), points.min(axis=0)), np.float32(0))
    last = np.array([image_size[1] - 1, image_size[0] - 1], dtype=np.float32)
    high = np.minimum(np.maximum(np.trunc(box[2:]) + np.float32(1), points.max(axis=0)), last)
    whole = _pixels(polygons, low, high)
    return min(_pixels(polygons, box[:2], box[2:]) / whole, 1.0) if whole else 0.0


def _pixels(polygons: list[np.ndarray], low: np.ndarray, high: np.ndarray) -> float:
    width, height = (high - low).astype(int)
    if width < 1 or height < 1:
        return 0.0
    shifted = [(polygon.reshape(-1, 2) - low).ravel() for polygon in polygons]
    return float(mask_utils.area(mask_utils.merge(mask_utils.frPyObjects(shifted, int(height), int(width)))))
