"""Values of maps at points, and the choice of points. PointRend, https://arxiv.org/abs/1912.08193, section 3.

Coordinates are (x, y) in [0, 1] x [0, 1] of a map or a box, (0, 0) its upper left corner and not the middle of a pixel.
Shapes: N maps or boxes, C channels, H x W a map, P points, I images.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F


def point_sample(
    maps: torch.Tensor, points: torch.Tensor, *, mode: str = "bilinear", align_corners: bool = False
) -> torch.Tensor:
    """Samples maps at points; beyond its border a map is 0.

    Args:
        maps: (N, C, H, W).
        points: (N, P, 2), or (N, A, B, 2) on a grid.
        mode: "bilinear" or "nearest".
        align_corners: as in ``grid_sample``; False fits the coordinates above.

    Returns:
        (N, C, P), or (N, C, A, B).
    """
    grid = points if points.dim() == 4 else points[:, :, None]
    values = F.grid_sample(maps, 2.0 * grid - 1.0, mode=mode, align_corners=align_corners)
    return values if points.dim() == 4 else values[..., 0]


def regular_grid(count: int, side: int, device: torch.device | str | None = None) -> torch.Tensor:
    """The centres of side x side cells, row by row, (count, side * side, 2); all alike, and of one memory."""
    # From the same affine map as every grid in torch, so that the last digits are the same too.
    affine = torch.tensor([[[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]], device=device)
    grid = F.affine_grid(affine, [1, 1, side, side], align_corners=False)
    return grid.view(1, side * side, 2).expand(count, -1, -1)


def random_uncertain_points(
    logits: torch.Tensor,
    uncertainty: Callable[[torch.Tensor], torch.Tensor],
    count: int,
    *,
    oversample: float,
    importance: float,
) -> torch.Tensor:
    """Points for training: most of them where the prediction is uncertain, the rest anywhere (section 3.1).

    Draws uniform points (N, int(count * oversample), 2) first, then the rest, if there is one.

    Args:
        logits: (N, C, H, W).
        uncertainty: from logits at points (N, C, P) to (N, 1, P), larger where less certain. It is asked about sampled
            logits: between a sure yes and a sure no the prediction is 0, though neither neighbour is uncertain.
        count: P.
        oversample: k, how many points are drawn for each that is wanted.
        importance: beta, the share of points that are chosen for their uncertainty.

    Returns:
        (N, P, 2): the uncertain ones, the most uncertain first, then the others.

    Raises:
        ValueError: oversample below 1, or importance outside [0, 1].
    """
    if oversample < 1 or not 0 <= importance <= 1:
        raise ValueError(
            f"Points need OVERSAMPLE_RATIO >= 1 and 0 <= IMPORTANCE_SAMPLE_RATIO <= 1, got {oversample}, {importance}."
        )
    total, chosen = len(logits), int(importance * count)
    points = torch.rand(total, int(count * oversample), 2, device=logits.device)
    ranking = uncertainty(point_sample(logits, points))[:, 0].topk(chosen, dim=1).indices  # (N, chosen)
    points = points.gather(1, ranking[:, :, None].expand(-1, -1, 2))
    if chosen == count:
        return points
    return torch.cat([points, torch.rand(total, count - chosen, 2, device=logits.device)], dim=1)


def uncertain_grid_points(uncertainty: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The most uncertain cells of a map, for one subdivision step (section 3.1, inference).

    Args:
        uncertainty: (N, 1, H, W).
        count: how many; all cells if there are fewer.

    Returns:
        Indices (N, P) into the H * W cells, and the cells' centres (N, P, 2).
    """
    height, width = uncertainty.shape[-2:]
    indices = uncertainty.flatten(1).topk(min(height * width, count), dim=1).indices
    step_x, step_y = 1.0 / width, 1.0 / height
    x = step_x / 2 + (indices % width).float() * step_x
    y = step_y / 2 + indices.div(width, rounding_mode="floor").float() * step_y
    return indices, torch.stack([x, y], dim=2)


@torch.no_grad()
def points_in_image(boxes: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """From coordinates in boxes to coordinates in the image, in pixels.

    Args:
        boxes: (N, 4) xyxy in pixels.
        points: (N, P, 2) in [0, 1] of the boxes.
    """
    corner, opposite = boxes[:, None].split(2, dim=2)  # (N, 1, 2)
    return points * (opposite - corner) + corner


def sample_in_boxes(
    maps: Sequence[torch.Tensor], scales: Sequence[float], boxes: Sequence[torch.Tensor], points: torch.Tensor
) -> torch.Tensor:
    """Values of feature maps at points inside boxes, the channels of all maps one behind another.

    Args:
        maps: of every level (I, C, H, W).
        scales: of every level, map pixels per image pixel.
        boxes: of every image (Ni, 4) xyxy in image pixels, N in all.
        points: (N, P, 2) in [0, 1] of the boxes.

    Returns:
        (N, sum of C, P).
    """
    in_image = points_in_image(torch.cat(list(boxes)), points).split([len(b) for b in boxes])
    levels = []
    for level, scale in zip(maps, scales):
        size = torch.tensor([level.shape[-1], level.shape[-2]], device=level.device) / scale  # in image pixels
        # One map per image, its boxes' points as the rows of a grid: (1, C, Ni, P).
        per_image = [point_sample(one[None], (p / size)[None])[0] for one, p in zip(level, in_image)]
        levels.append(torch.cat(per_image, dim=1))
    return torch.cat(levels).transpose(0, 1)


@torch.no_grad()
def sample_bitmaps(bitmaps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Bilinear values of binary maps at points, without a copy of the maps in floating point.

    Args:
        bitmaps: (N, H, W) bool.
        points: (N, P, 2) in [0, 1] of the maps.

    Returns:
        (N, P) in [0, 1]; beyond the border a map is 0.
    """
    height, width = bitmaps.shape[-2:]
    # In the order of operations of grid_sample, so that the last digits agree.
    x = ((2.0 * points[..., 0] - 1.0 + 1.0) * width - 1.0) / 2.0
    y = ((2.0 * points[..., 1] - 1.0 + 1.0) * height - 1.0) / 2.0
    left, top = x.floor(), y.floor()
    rows = torch.arange(len(bitmaps), device=bitmaps.device)[:, None]
    total = torch.zeros_like(x)
    for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
        for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            cell = bitmaps[rows, row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()]
            total += (cell & inside) * (weight_x * weight_y)
    return total
