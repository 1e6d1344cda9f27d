"""Values of maps at points, and the choice of points. PointRend, https://arxiv.org/abs/1912.08193, section 3.

Coordinates are (x, y) in [0, 1] x [0, 1] of a map or a box, (0, 0) its upper left corner and not the middle of a pixel.
Shapes: N maps or boxes, C channels, H x W a map, P points, I images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from densekit.ops.precision import at_least_single


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


@dataclass(frozen=True)
class Taps:
    """Cells and weights of bilinear sampling: each point is a weighted sum of four cells.

    Attributes:
        cells: (N, P, 4) indices into rows that hold the cells of all maps, row by row.
        weights: (N, P, 4); 0 beyond the border.
    """

    cells: torch.Tensor
    weights: torch.Tensor

    def sum(self, rows: torch.Tensor, constant: torch.Tensor | None = None) -> torch.Tensor:
        """Samples rows (cells, C), and adds a constant (C,) to every point: (N, P, C), at least in single precision."""
        cells, weights = self.cells.flatten(0, 1), self.weights.flatten(0, 1)
        if constant is not None:  # a fifth cell that all points read
            cells, weights = F.pad(cells, (0, 1), value=len(rows)), F.pad(weights, (0, 1), value=1.0)
            rows = torch.cat([rows, constant[None]])
        rows = at_least_single(rows)  # half precision has too few digits for the weights
        values = F.embedding_bag(cells, rows.contiguous(), mode="sum", per_sample_weights=weights.to(rows.dtype))
        return values.unflatten(0, self.cells.shape[:2])


@torch.no_grad()
def bilinear_taps(points: torch.Tensor, height: int, width: int, maps: torch.Tensor | None = None) -> Taps:
    """Returns the taps of ``point_sample`` for maps whose channels lie together in memory.

    Args:
        points: (N, P, 2) in [0, 1] of the maps.
        height: H.
        width: W.
        maps: (N,) which map each row of points is on; by default row k is on map k.
    """
    position = 2.0 * points - 1.0
    size = torch.tensor([width, height], dtype=torch.float64, device=points.device)
    # grid_sample multiplies and subtracts with one rounding; on a wide map two roundings would be felt.
    position = ((position + 1.0).double() * (size / 2) - 0.5).to(points.dtype)
    low = position.floor()
    x, y = torch.stack([low, low + 1], dim=3).unbind(dim=2)  # (N, P, 2): left and right, upper and lower
    part = position - low
    weight_x, weight_y = torch.stack([1 - part, part], dim=3).unbind(dim=2)
    weight_x = weight_x * ((x >= 0) & (x < width))
    weight_y = weight_y * ((y >= 0) & (y < height))
    maps = torch.arange(len(points), device=points.device) if maps is None else maps
    start = (maps * (height * width))[:, None, None, None]
    x, y = x.clamp(0, width - 1).long(), y.clamp(0, height - 1).long()
    cells = start + y[..., :, None] * width + x[..., None, :]  # (N, P, 2, 2)
    return Taps(cells.flatten(2), (weight_y[..., :, None] * weight_x[..., None, :]).flatten(2))


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
        (N, P, sum of C).
    """
    counts = torch.tensor([len(b) for b in boxes], device=points.device)
    image = torch.arange(len(boxes), device=points.device).repeat_interleave(counts, output_size=len(points))
    in_image = points_in_image(torch.cat(list(boxes)), points)
    levels = []
    for level, scale in zip(maps, scales):
        height, width = level.shape[-2:]
        size = torch.tensor([width, height], device=level.device) / scale  # in image pixels
        taps = bilinear_taps(in_image / size, height, width, image)
        levels.append(taps.sum(level.permute(0, 2, 3, 1).flatten(0, 2)))
    return levels[0] if len(levels) == 1 else torch.cat(levels, dim=2)


@torch.no_grad()
def sample_bitmaps(bitmaps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Bilinear values of binary maps at points, without a copy of the maps in floating point.

    Args:
        bitmaps: (N, H, W) bool.
        points: (N, P, 2) in [0, 1] of the maps.

    Returns:
        (N, P) in [0, 1]; beyond the border a map is 0.
    """
    taps = bilinear_taps(points, *bitmaps.shape[-2:])
    return (bitmaps.flatten()[taps.cells] * taps.weights).sum(dim=2)
