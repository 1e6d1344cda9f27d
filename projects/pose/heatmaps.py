"""Heat maps of keypoints: targets, loss, decoding and the average with a mirrored image.

Shapes: P persons, K keypoints, H x W a map, whose pixels are ``stride`` pixels of the crop wide.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def gaussian_targets(
    joints: Tensor, visible: Tensor, size: tuple[int, int], stride: float, sigma: float
) -> tuple[Tensor, Tensor]:
    """A Gaussian with a peak of 1 at every keypoint, rounded to a pixel and cut off at three deviations.

    Args:
        joints: (P, K, 2) x and y, pixels of the crop.
        visible: (P, K), above 0 where a keypoint is labelled.
        size: H and W.
        stride: Of the maps.
        sigma: Deviation in pixels of the maps.

    Returns:
        (P, K, H, W) targets and (P, K) weights: 0 for keypoints without a label, and for those whose Gaussian lies
        beyond the map.
    """
    height, width = size
    radius = 3 * sigma
    centers = (joints / stride + 0.5).trunc()  # towards 0, as the authors' int()
    x, y = centers[..., 0], centers[..., 1]
    seen = (x - radius < width) & (y - radius < height) & (x + radius + 1 >= 0) & (y + radius + 1 >= 0)
    weights = (visible > 0) & seen
    dx = torch.arange(width, device=joints.device) - x.unsqueeze(-1)  # (P, K, W)
    dy = torch.arange(height, device=joints.device) - y.unsqueeze(-1)
    rows = torch.exp(-dy.square() / (2 * sigma**2)) * (dy.abs() <= radius)
    columns = torch.exp(-dx.square() / (2 * sigma**2)) * (dx.abs() <= radius)
    targets = rows.unsqueeze(-1) * columns.unsqueeze(-2) * weights[..., None, None]
    return targets.float(), weights.float()


def pose_loss(maps: Tensor, targets: Tensor, weights: Tensor | None = None, hardest: int = 0) -> Tensor:
    """Half the mean squared difference of the maps of labelled keypoints; 0 where there is nobody.

    Args:
        maps: (P, K, H, W).
        targets: (P, K, H, W).
        weights: (P, K) of the keypoints; those of weight 0 count as if they were right. None: all have 1.
        hardest: Only so many keypoints of each person count, those with the largest difference; 0 for all.
    """
    difference = maps - targets
    if weights is not None:
        difference = difference * weights[..., None, None]
    losses = 0.5 * difference.square().flatten(2).mean(dim=2)  # (P, K)
    if not losses.numel():
        return losses.sum()
    if hardest:
        losses = losses.topk(min(hardest, losses.shape[1]), dim=1).values
    return losses.mean()


def decode(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the maxima, moved by a quarter of a pixel towards the larger neighbour along each axis.

    Args:
        maps: (P, K, H, W).

    Returns:
        (P, K, 2) x and y in pixels of the maps, 0 where no value is above 0, and (P, K) the maxima.
    """
    height, width = maps.shape[2:]
    flat = maps.flatten(2)
    scores, places = flat.max(dim=2)
    x, y = places % width, places.div(width, rounding_mode="floor")
    found = scores > 0
    inner = found & (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)

    def slope(step: int, at: Tensor) -> Tensor:
        """The sign of the difference of the two neighbours along an axis."""
        at = at.clamp(step, height * width - 1 - step)
        before, behind = (flat.gather(2, (at + move).unsqueeze(2)).squeeze(2) for move in (-step, step))
        return torch.where(inner, (behind - before).sign(), 0.0)

    points = torch.stack([x + 0.25 * slope(1, places), y + 0.25 * slope(width, places)], dim=2)
    return points * found.unsqueeze(2), scores


def mirror_back(maps: Tensor, pairs: Sequence[Sequence[int]]) -> Tensor:
    """The maps (P, K, H, W) of mirrored crops as those of the crops: ``pairs`` of keypoints change places."""
    order = list(range(maps.shape[1]))
    for a, b in pairs:
        order[a], order[b] = b, a
    return maps.flip(3)[:, order]


def average_with_mirrored(maps: Tensor, mirrored: Tensor) -> Tensor:
    """The mean of maps and those of :func:`mirror_back`, which are moved right by the pixel that mirroring costs."""
    moved = torch.cat([mirrored[..., :1], mirrored[..., :-1]], dim=3)
    return 0.5 * (maps + moved)
