"""Small helpers on tensors and shapes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

interpolate = F.interpolate


@dataclass
class ShapeSpec:
    """Shape of a feature map as one module tells it to the next; None where it is not known.

    Attributes:
        channels: Number of channels.
        height: Pixels of the map.
        width: Pixels of the map.
        stride: Input pixels per map pixel.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


def cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """``torch.cat`` that returns a single tensor as it is, without a copy."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)


def nonzero_tuple(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Indices of the non-zero elements, one vector per dimension."""
    return x.nonzero(as_tuple=True)


def move_device_like(src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    """``src`` on the device of ``dst``."""
    return src.to(dst.device)


def shapes_to_tensor(x: Sequence[int], device: torch.device | None = None) -> torch.Tensor:
    """A list of sizes as an integer vector."""
    return torch.as_tensor(x, device=device)
