"""Linear layers with their matrix approximated by its largest singular values: Fast R-CNN (arXiv 1504.08083), 3.1.

u x v matrix W, rank t: W ~ U diag(s) V^T costs t (u + v) multiplications instead of u v.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.ops.precision import at_least_single


@torch.no_grad()
def truncated_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Splits a matrix (u, v) into (u, rank) and (rank, v), whose product is the nearest matrix of that rank.

    Raises:
        ValueError: The rank is not in 1 ... min(u, v).
    """
    if not 1 <= rank <= min(weight.shape):
        raise ValueError(f"A matrix of {tuple(weight.shape)} has ranks from 1 to {min(weight.shape)}, not {rank}.")
    left, values, right = torch.linalg.svd(at_least_single(weight), full_matrices=False)
    return left[:, :rank].to(weight.dtype), (values[:rank, None] * right[:rank]).to(weight.dtype)


class TruncatedLinear:
    """Applies a linear layer by two thin ones. The layer stays as it is, so that checkpoints do not change.

    The factors are computed when they are first wanted, and anew after the layer's weights have changed.

    Args:
        layer: the linear layer.
        rank: how many singular values are kept; from its full rank on the layer itself is applied.

    Raises:
        ValueError: The rank is negative or 0.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        if rank < 1:
            raise ValueError(f"A truncated linear layer keeps at least one singular value, not {rank}.")
        self.layer, self.rank = layer, rank
        self._factors: tuple[Tensor, Tensor] | None = None
        self._made_of: tuple[object, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Maps (N, v) to (N, u)."""
        weight = self.layer.weight
        if self.rank >= min(weight.shape):
            return self.layer(x)
        # Weights are loaded, trained and moved to other devices in place.
        state = (weight.data_ptr(), weight._version, weight.device, weight.dtype)
        if self._factors is None or state != self._made_of:
            self._factors, self._made_of = truncated_factors(weight, self.rank), state
        left, right = self._factors
        return F.linear(F.linear(x, right), left, self.layer.bias)
