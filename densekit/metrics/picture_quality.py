"""Closeness of one picture to another: L1, PSNR and SSIM, over all pixels or over some.

torchmetrics has the same numbers over whole pictures (a test compares), but not over a region, so they stand here in
plain numpy and nothing has to be installed for them.

H, W: size. Pictures are uint8, or floats in 0..255.
"""

from typing import NamedTuple

import cv2
import numpy as np

_RANGE = 255.0
_SIGMA, _SIDE = 1.5, 11  # of the Gaussian window
_C1, _C2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2


class Quality(NamedTuple):
    """The numbers of a picture; NaN where there is no pixel to compare.

    Attributes:
        l1: mean absolute difference, 0 to 100, in percent of the range.
        psnr: peak signal-to-noise ratio in decibels; infinite for equal pixels.
        ssim: structural similarity, at most 1.
    """

    l1: float
    psnr: float
    ssim: float


def picture_quality(picture: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> Quality:
    """Compares two pictures (H, W, C).

    Args:
        picture: to judge.
        truth: the right one.
        region: (H, W) bool, the pixels that count; None: all.

    Raises:
        ValueError: The sizes differ.
    """
    if picture.shape != truth.shape or (region is not None and region.shape != truth.shape[:2]):
        raise ValueError(f"Pictures of the sizes {picture.shape} and {truth.shape} cannot be compared.")
    a, b = picture.astype(np.float64), truth.astype(np.float64)
    counted = np.ones(truth.shape[:2], bool) if region is None else region
    if not counted.any():
        return Quality(np.nan, np.nan, np.nan)
    difference = (a - b)[counted]
    error = float(np.mean(difference**2))
    similarity = ssim_map(a, b)[counted]
    psnr = float("inf") if error == 0 else 10 * float(np.log10(_RANGE**2 / error))
    return Quality(100 * float(np.abs(difference).mean()) / _RANGE, psnr, float(similarity.mean()))


def ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The similarity around each pixel (H, W, C) of pictures (H, W, C), which are mirrored at their border.

    Wang et al., *Image Quality Assessment: From Error Visibility to Structural Similarity*, IEEE Transactions on Image
    Processing 13(4), 2004, with a Gaussian window of 11 pixels.
    """
    means = [_blur(x) for x in (a, b)]
    variances = [_blur(x * x) - mean * mean for x, mean in zip((a, b), means)]
    covariance = _blur(a * b) - means[0] * means[1]
    light = (2 * means[0] * means[1] + _C1) / (means[0] ** 2 + means[1] ** 2 + _C1)
    return light * (2 * covariance + _C2) / (variances[0] + variances[1] + _C2)


def _blur(x: np.ndarray) -> np.ndarray:
    blurred = cv2.GaussianBlur(x, (_SIDE, _SIDE), _SIGMA, borderType=cv2.BORDER_REFLECT_101)
    return blurred.reshape(x.shape)
