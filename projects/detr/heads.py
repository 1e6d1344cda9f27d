"""The box head."""

import torch.nn.functional as F
from torch import Tensor, nn


class BoxMLP(nn.Module):
    """Three linear layers with ReLU between them.

    Args:
        dim: width of the input and between the layers.
        out_dim: width of the output.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out_dim)])

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
