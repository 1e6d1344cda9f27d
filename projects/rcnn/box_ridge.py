"""Ridge regression from features to the correction of a box: R-CNN (arXiv 1311.2524), appendix C.

D: features. The sums below are all that the solution depends on, so that regions are looked at once and not held.
"""

import torch
from torch import Tensor

__all__ = ["BoxRidge"]


class BoxRidge:
    """The corrections of one class's boxes, by least squares with a penalty on the weights.

    The paper's code whitens the targets first. The solution is linear in the targets and the penalty that of all four
    alike, so that the whitening cancels out; only their mean is taken off, because the bias is penalised too.

    Args:
        size: D.
        penalty: lambda, above 0.
    """

    def __init__(self, size: int, penalty: float) -> None:
        self.penalty, self.count = penalty, 0
        # Of the features with a constant 1 behind them.
        self._gram = torch.zeros(size + 1, size + 1, dtype=torch.float64)
        self._products = torch.zeros(size + 1, 4, dtype=torch.float64)
        self._targets = torch.zeros(4, dtype=torch.float64)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Takes regions: features (N, D) and targets (N, 4), which are (dx, dy, log dw, log dh)."""
        x = torch.cat([features, features.new_ones(len(features), 1)], dim=1).double()
        y = targets.double()
        self.count += len(x)
        self._gram += x.T @ x
        self._products += x.T @ y
        self._targets += y.sum(dim=0)

    def solve(self) -> tuple[Tensor, Tensor]:
        """Returns the weights (4, D) and the biases (4,); zeros, which leave boxes as they are, of no regions."""
        size = len(self._gram) - 1
        if not self.count:
            return torch.zeros(4, size), torch.zeros(4)
        mean = self._targets / self.count
        centred = self._products - self._gram[:, -1:] * mean  # the last column of the Gram matrix sums the features
        penalised = self._gram + self.penalty * torch.eye(size + 1, dtype=torch.float64)
        found = torch.linalg.solve(penalised, centred)
        return found[:-1].T.float().contiguous(), (found[-1] + mean).float()
