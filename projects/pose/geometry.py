"""From a person's box to a crop and back (arXiv 1902.09212, section 4.1; arXiv 1804.06208).

A region is (center x, center y, width, height) in the pixel indices of the image: pixel k is at k, as in COCO's
keypoints and the authors' code, not at k + 0.5 as elsewhere here. It has the shape of the network's input.
"""

import cv2
import numpy as np

PADDING = 1.25  # of a box to its region


def box_regions(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The regions of boxes.

    Args:
        boxes: (R, 4) xywh, image pixels.
        shape: Width and height of the network's input.

    Returns:
        (R, 4), around the centers, grown to the shape of the input and then by :data:`PADDING`.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, PADDING * fit_shape(boxes[:, 2:], shape)], axis=1)


def fit_shape(sizes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Sizes (R, 2), width and height, with the smaller side grown to the ratio of ``shape``, width and height."""
    ratio = shape[0] / shape[1]
    width = np.maximum(sizes[:, 0], sizes[:, 1] * ratio)
    return np.stack([width, width / ratio], axis=1)


def region_matrix(region: np.ndarray, output: tuple[int, int], rotation: float = 0.0) -> np.ndarray:
    """The (2, 3) matrix from image points to points of the crop.

    Args:
        region: (4,).
        output: Width and height of the crop; the width of the region becomes its width.
        rotation: Degrees by which the region is turned clockwise in the image.
    """
    angle, scale = np.deg2rad(rotation), output[0] / region[2]
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    shift = np.array(output) / 2 - turn @ np.asarray(region[:2], dtype=np.float64)
    return np.concatenate([turn, shift[:, None]], axis=1)


def crop(image: np.ndarray, matrix: np.ndarray, output: tuple[int, int]) -> np.ndarray:
    """The pixels (output height, output width, C) of an image (H, W, C), bilinear, 0 beyond it."""
    return cv2.warpAffine(image, matrix, output, flags=cv2.INTER_LINEAR)


def to_image(points: np.ndarray, regions: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Points (R, K, 2) on maps of a size, width and height, as points of the image; regions (R, 4) are not turned."""
    scale = regions[:, 2] / size[0]
    return (points - np.array(size) / 2) * scale[:, None, None] + regions[:, None, :2]


def move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (..., 2) through a (2, 3) matrix."""
    return points @ matrix[:, :2].T + matrix[:, 2]
