"""Convolutions with their normalisation and activation."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from densekit.runtime.layers.norm import fold_norm, has_hooks

BatchNorm2d = nn.BatchNorm2d
ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear

Activation = Callable[[torch.Tensor], torch.Tensor]


class Conv2d(nn.Conv2d):
    """A convolution, then an optional norm, then an optional activation; batches may be empty.

    A norm with fixed statistics costs nothing: it is folded into the kernel at every call (see ``fold_norm``), in
    training too. The parameters and their names stay those of the two modules.
    """

    def __init__(self, *args: Any, norm: nn.Module | None = None, activation: Activation | None = None, **kwargs: Any):
        """Takes the arguments of ``torch.nn.Conv2d`` and two more.

        Args:
            args: As in ``torch.nn.Conv2d``.
            norm: Module on the output.
            activation: Function or module on the normalised output.
            kwargs: As in ``torch.nn.Conv2d``.
        """
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and isinstance(self.norm, nn.SyncBatchNorm) and x.numel() == 0:
            raise ValueError("SyncBatchNorm cannot train on an empty batch; use the norm naiveSyncBN_N.")
        folded = fold_norm(self.weight, self.bias, self.norm)
        x = self._conv_forward(x, *(folded or (self.weight, self.bias)))
        return finish(x, None if folded else self.norm, self.activation)


def finish(x: torch.Tensor, norm: nn.Module | None, activation: Activation | None) -> torch.Tensor:
    """Applies what follows a convolution to its fresh output."""
    if norm is not None:
        x = norm(x)
    if activation is None:
        return x
    # Nobody else holds the map, and neither the convolution nor these norms need it for their gradients.
    owned = norm is None or (type(norm) in (nn.BatchNorm2d, nn.GroupNorm) and not has_hooks(norm))
    is_relu = activation is F.relu or (type(activation) is nn.ReLU and not has_hooks(activation))
    return F.relu_(x) if owned and is_relu else activation(x)
