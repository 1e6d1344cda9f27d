"""The maths of the template: plain torch, no configuration, no host.

N: regions, C: channels, H, W: side of the pooled region, D: hidden width.
"""

import torch
from torch import nn


class PooledMLP(nn.Module):
    """Global average pooling, then two linear layers with ReLU."""

    def __init__(self, *, in_channels: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps region features (N, C, H, W) to vectors (N, D)."""
        x = x.mean(dim=(2, 3))  # (N, C)
        return self.fc2(self.fc1(x).relu()).relu()
