"""Mean over the cells of a fixed grid, in a form that exports with dynamic sizes.

ONNX Runtime either refuses torch's ``adaptive_avg_pool2d`` at sizes other than the traced one or pools other cells; two
matrix products are exact at all of them, and on small grids as fast.
"""

import torch
from torch import Tensor


def grid_mean(x: Tensor, grid: int) -> Tensor:
    """Averages a map over a grid, as ``adaptive_avg_pool2d(x, grid)`` does.

    Args:
        x: (N, C, H, W).
        grid: cells along each side; where the map has fewer pixels, cells repeat them.

    Returns:
        (N, C, grid, grid).
    """
    rows, columns = cell_weights(x.shape[2], grid, x), cell_weights(x.shape[3], grid, x)
    return rows @ x @ columns.mT


def cell_weights(side: int, grid: int, like: Tensor) -> Tensor:
    """Gives each pixel of a side its weight in the mean of each cell, (grid, side) in the dtype of ``like``.

    Cell i covers the pixels from floor(i side / grid) up to but without ceil((i + 1) side / grid).
    """
    cells = torch.arange(grid, device=like.device)
    pixels = torch.arange(side, device=like.device)
    first = (cells * side) // grid
    last = ((cells + 1) * side + grid - 1) // grid
    inside = (pixels >= first[:, None]) & (pixels < last[:, None])
    return inside.to(like.dtype) / (last - first)[:, None].to(like.dtype)
