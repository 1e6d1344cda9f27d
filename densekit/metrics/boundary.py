"""Boundaries of segments ("Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", arXiv:2103.16562).

The boundary of a segment is what lies in it within d pixels of its outline, where d is 2 % of the image's diagonal and
the image's own border is an outline too.
"""

import cv2
import numpy as np

DILATION_RATIO = 0.02


def boundary_width(height: int, width: int, dilation_ratio: float = DILATION_RATIO) -> int:
    """Returns how many pixels deep boundaries are in an image of this size; at least 1."""
    return max(1, round(dilation_ratio * float(np.hypot(height, width))))


def boundary_pixels(labels: np.ndarray, dilation_ratio: float = DILATION_RATIO) -> np.ndarray:
    """Marks the boundaries of all segments of a map at once.

    Args:
        labels: (H, W) uint8 or uint16 map, or one segment as bool or 0 and 1.
        dilation_ratio: The depth of a boundary as a share of the image's diagonal.

    Returns:
        (H, W) bool: the pixel lies within that depth of another label or of the image's border. The boundary of one
        segment is this and the segment.
    """
    height, width = labels.shape
    depth = boundary_width(height, width, dilation_ratio)
    values = labels.astype(np.uint8) if labels.dtype == bool else labels
    window = np.ones((2 * depth + 1, 2 * depth + 1), dtype=np.uint8)
    # A window of one label has the same smallest and largest value. Outside the image OpenCV leaves both alone.
    marked = cv2.erode(values, window) != cv2.dilate(values, window)
    marked[:depth] = marked[-depth:] = True
    marked[:, :depth] = marked[:, -depth:] = True
    return marked
