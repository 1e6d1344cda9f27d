"""Checks of regions that features are pooled from."""

from torch import Tensor

__all__ = ["check_regions"]


def check_regions(rois: Tensor) -> None:
    """Refuses what are no rows (image index, x0, y0, x1, y1).

    Raises:
        ValueError: The shape is not (R, 5).
    """
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"RoIs are rows (image index, x0, y0, x1, y1), shape (R, 5); got {tuple(rois.shape)}.")
