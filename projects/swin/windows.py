"""Windows of a map and what attention inside of them needs: "Swin Transformer" (arXiv 2103.14030), section 3.2.

Shapes: N images, H x W map, Hp x Wp padded to whole windows, C channels, M side of a window, T = M * M tokens of it,
K = (Hp / M) * (Wp / M) windows of an image, row by row. Maps keep their channels last: (N, H, W, C).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# What separates the regions of a window that a shift has brought together. Not minus infinity: as published.
_APART = -100.0


def relative_position_index(height: int, width: int) -> Tensor:
    """The row of the bias table for each pair of tokens of a window (T, T): query in rows, key in columns.

    Row (dy + height - 1) * (2 width - 1) + (dx + width - 1) is for a query dy below and dx right of the key.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y, x[:, None] - x
    return (dy + height - 1) * (2 * width - 1) + (dx + width - 1)


def shift_mask(height: int, width: int, window: int, shift: int, like: Tensor) -> Tensor:
    """Returns the term added to the attention of shifted windows, (K, T, T): 0 in a region, -100 between two.

    Args:
        height: Hp, a multiple of ``window``.
        width: Wp, likewise.
        window: M.
        shift: How far the map was rolled up and left.
        like: Gives dtype and device.
    """
    rows, columns = (_regions(size, window, shift, like.device) for size in (height, width))
    regions = (3 * rows[:, None] + columns).reshape(1, height, width, 1)
    labels = cut(regions, window)[..., 0]  # (K, T)
    apart = labels[:, :, None] != labels[:, None, :]
    return apart.to(like.dtype) * _APART


def _regions(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """0 for whole windows, and 1 and 2 for the two parts of the last one, which come from either end of the map."""
    place = torch.arange(size, device=device)
    return (place >= size - window).long() + (place >= size - shift).long()


def missing(size: int, multiple: int) -> int:
    """Returns the distance of a size to the next multiple; in this form a symbolic size stays a product."""
    return (size + multiple - 1) // multiple * multiple - size


def pad_to(x: Tensor, multiple: int) -> Tensor:
    """Appends zeros below and to the right until both sides are multiples."""
    down, right = missing(x.shape[1], multiple), missing(x.shape[2], multiple)
    # An exported graph pads whatever the size; a branch would hold it to the sizes of its trace.
    if torch.compiler.is_exporting() or down or right:
        return F.pad(x, (0, 0, 0, right, 0, down))
    return x


def cut(x: Tensor, window: int) -> Tensor:
    """(N, Hp, Wp, C) to (N * K, T, C)."""
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = x.view(x.shape[0], rows, window, columns, window, x.shape[3])
    return x.transpose(2, 3).reshape(-1, window * window, x.shape[5])


def join(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """(N * K, T, C) to (N, Hp, Wp, C): undoes :func:`cut`."""
    rows, columns = height // window, width // window
    x = windows.view(-1, rows, columns, window, window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])
