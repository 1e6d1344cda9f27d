"""COCO's run-length encoding of masks that are a small part of a large picture."""

from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_utils
from torch import Tensor


def encode_in_frame(masks: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Encodes masks of a part of a picture as masks of the whole picture, which is never made in memory.

    Args:
        masks: (N, h, w) bool of the part.
        corner: x and y of the part's first pixel in the picture.
        size: H and W of the picture.

    Returns:
        N dicts ``{"size": [H, W], "counts": bytes}``.
    """
    height, width = size
    encoded = []
    for mask in masks.cpu().numpy().astype(np.uint8):
        left, top, columns, rows = cv2.boundingRect(mask)
        inside = mask[top : top + rows, left : left + columns]
        # Down the columns, each closed by a zero: the values change where runs begin and end.
        padded = np.zeros((columns, rows + 1), dtype=np.int8)
        padded[:, :rows] = inside.T
        edges = np.flatnonzero(np.diff(padded.ravel(), prepend=0))
        column, row = np.divmod(edges, rows + 1)
        places = (corner[0] + left + column) * height + corner[1] + top + row
        # A run that ends at the last row of the picture goes on in the next column if that begins with one.
        touching = np.flatnonzero(places[1:-1:2] == places[2::2])
        places = np.delete(places, np.concatenate([2 * touching + 1, 2 * touching + 2]))
        counts = np.diff(places, prepend=0, append=height * width).tolist()
        if not counts[-1]:
            counts.pop()  # the last run goes to the very end
        encoded.append(mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    return encoded
