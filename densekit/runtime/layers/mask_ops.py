"""Pasting masks predicted inside boxes into the image.

Shapes: N = masks, M = side of a predicted mask, H, W = image.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

# The float32 images of one chunk on an accelerator, bytes.
_CHUNK_BYTES = 1 << 30


def paste_masks_in_image(
    masks: torch.Tensor, boxes: Any, image_shape: tuple[int, int], threshold: float = 0.5
) -> torch.Tensor:
    """Resamples each mask bilinearly onto the pixels of its box.

    A pixel is sampled at its centre; outside the grid the mask is 0, so it fades out within half a cell of the border.

    Args:
        masks: (N, M, M) probabilities.
        boxes: Boxes, or (N, 4) xyxy in image pixels.
        image_shape: (H, W).
        threshold: Pixels that reach it are in the mask. Negative: keep the values, as 0 to 255.

    Returns:
        (N, H, W), bool; uint8 with a negative threshold.

    Raises:
        ValueError: Masks that are not square, or not as many boxes as masks.
    """
    frames: torch.Tensor = boxes if isinstance(boxes, torch.Tensor) else boxes.tensor
    if masks.dim() != 3 or masks.shape[1] != masks.shape[2]:
        raise ValueError(f"masks to paste are square, shape (N, M, M); got {tuple(masks.shape)}.")
    if len(frames) != len(masks):
        raise ValueError(f"each mask needs a box to be pasted into; got {len(masks)} masks and {len(frames)} boxes.")
    height, width = image_shape
    dtype = torch.bool if threshold >= 0 else torch.uint8
    pasted = torch.zeros(len(masks), height, width, dtype=dtype, device=masks.device)
    if len(masks) == 0:
        return pasted
    values = masks if masks.is_floating_point() else masks.float()
    if values.device.type == "cpu":
        # One by one, each within the pixels around its box only: far less work than whole images on a CPU.
        for target, value, frame, window in zip(
            pasted, values.split(1), frames.split(1), _windows(frames, image_shape)
        ):
            x0, y0, x1, y1 = window
            if x0 < x1 and y0 < y1:
                target[y0:y1, x0:x1] = _quantise(_sample(value, frame, window)[0], threshold)
        return pasted
    chunk = max(1, _CHUNK_BYTES // (4 * height * width))
    for target, value, frame in zip(pasted.split(chunk), values.split(chunk), frames.split(chunk)):
        target.copy_(_quantise(_sample(value, frame, (0, 0, width, height)), threshold))
    return pasted


def _windows(boxes: torch.Tensor, image_shape: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """The pixels that each mask can reach, x0, y0, x1, y1: its box and one pixel around it, inside the image."""
    height, width = image_shape
    return [
        (
            max(math.floor(x0) - 1, 0),
            max(math.floor(y0) - 1, 0),
            min(math.ceil(x1) + 1, width),
            min(math.ceil(y1) + 1, height),
        )
        for x0, y0, x1, y1 in boxes.tolist()
    ]


def _sample(masks: torch.Tensor, boxes: torch.Tensor, window: tuple[int, int, int, int]) -> torch.Tensor:
    """Values of (n, M, M) masks at the centres of a window's pixels, (n, h, w)."""
    x0, y0, x1, y1 = window
    left, top, right, bottom = boxes.split(1, dim=1)  # (n, 1) each
    x = torch.arange(x0, x1, device=boxes.device, dtype=torch.float32) + 0.5
    y = torch.arange(y0, y1, device=boxes.device, dtype=torch.float32) + 0.5
    x = (x - left) / (right - left) * 2 - 1  # (n, w), -1 .. 1 over the box
    y = (y - top) / (bottom - top) * 2 - 1  # (n, h)
    shape = (len(masks), y.shape[1], x.shape[1])
    grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=3)
    return F.grid_sample(masks[:, None], grid.to(masks.dtype), align_corners=False)[:, 0]


def _quantise(values: torch.Tensor, threshold: float) -> torch.Tensor:
    return values >= threshold if threshold >= 0 else (values * 255).to(torch.uint8)
