"""Learned positions of one size for another: the authors' rules for checkpoints of other windows and images.

Shapes: M side of a window, A heads, L = h * w tokens of an image, C channels.
"""

import logging
import math

import torch.nn.functional as F
from torch import Tensor, nn

# Buffers of the authors' code that follow from the configuration.
_DERIVED = ("relative_position_index", "attn_mask")


def resize_bias_table(table: Tensor, rows: int) -> Tensor:
    """A table of relative positions ((2M - 1)^2, A) for windows of another side, bicubic, in the table's dtype.

    Args:
        table: Of square windows.
        rows: (2M' - 1)^2, how many the new table has.

    Raises:
        ValueError: One of the two is of no square window.
    """
    old, new = math.isqrt(len(table)), math.isqrt(rows)
    if old * old != len(table) or new * new != rows:
        raise ValueError(f"Swin: a bias table of {len(table)} rows cannot become one of {rows}; windows are square.")
    grid = table.t().reshape(1, -1, old, old)
    resized = F.interpolate(grid.float(), size=(new, new), mode="bicubic", align_corners=False)
    return resized.reshape(-1, rows).t().contiguous().to(table.dtype)


def resize_absolute_positions(value: Tensor, like: Tensor) -> Tensor | None:
    """Positions of a checkpoint in the form of the model's.

    A classifier has (1, L, C), of a square image; a backbone (1, C, h, w), which it resizes to each map.

    Args:
        value: Of the checkpoint.
        like: Of the model.

    Returns:
        A tensor of the model's shape; None if the channels differ or the grid is no square.
    """
    if value.dim() == 3:
        side = math.isqrt(value.shape[1])
        if side * side != value.shape[1]:
            return None
        value = value.transpose(1, 2).unflatten(2, (side, side))
    if like.dim() == 3:
        side = math.isqrt(like.shape[1])
        size, channels = (side, side), like.shape[2]
    else:
        size, channels = (like.shape[2], like.shape[3]), like.shape[1]
    if value.shape[1] != channels or (like.dim() == 3 and size[0] * size[1] != like.shape[1]):
        return None
    if tuple(value.shape[2:]) != size:
        value = F.interpolate(value.float(), size=size, mode="bicubic", align_corners=False).to(value.dtype)
    return value.flatten(2).transpose(1, 2).contiguous() if like.dim() == 3 else value


def fit_positions(module: nn.Module, weights: dict[str, Tensor], prefix: str) -> None:
    """Resizes what is of another window or image than the module's, in place, and says so in the log.

    Args:
        module: Whose parameters the weights are for.
        weights: Of a whole model; buffers that the module makes itself are taken out.
        prefix: What the module's entries begin with.
    """
    for name in [name for name in weights if name.startswith(prefix) and name.endswith(_DERIVED)]:
        del weights[name]
    fitted = []
    for name, parameter in module.named_parameters():
        value = weights.get(prefix + name)
        if value is None or value.shape == parameter.shape:
            continue
        new: Tensor | None = None
        if name.endswith("relative_position_bias_table") and value.shape[1:] == parameter.shape[1:]:
            new = resize_bias_table(value, len(parameter))
        elif name == "absolute_pos_embed":
            new = resize_absolute_positions(value, parameter)
        if new is not None:
            weights[prefix + name] = new
            fitted.append(f"{name} {tuple(value.shape)} to {tuple(parameter.shape)}")
    if fitted:
        more = f" and {len(fitted) - 1} more" if len(fitted) > 1 else ""
        logging.getLogger(__name__).info(f"Swin: positions were resized (bicubic): {fitted[0]}{more}.")
