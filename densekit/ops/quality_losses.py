"""Classification losses whose target is a quality in [0, 1], and the loss of a distance as a distribution.

- Varifocal: "VarifocalNet" (arXiv 2008.13367), equation 2.
- Quality focal and distribution focal: "Generalized Focal Loss" (arXiv 2006.04388), equations 5 and 6.
- Focal: "Focal Loss for Dense Object Detection" (arXiv 1708.02002), with a quality in the place of the label.
- Poly: "PolyLoss" (arXiv 2204.12511), equation 6: focal loss and the first term of its series once more.

All take logits, and return a value for each element, (..., K) as the logits, unless they say otherwise.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["CLASS_LOSSES", "distribution_focal_loss", "focal_loss", "poly_loss", "quality_focal_loss", "varifocal_loss"]


def varifocal_loss(logits: Tensor, quality: Tensor, positive: Tensor, alpha: float = 0.75, gamma: float = 2) -> Tensor:
    """Positives weighted by their quality q, negatives by alpha p^gamma.

    Args:
        logits: (..., K).
        quality: (..., K), what the probability p is to be; 0 where ``positive`` is false.
        positive: (..., K) bool, the class of the object there.
        alpha: of the negatives.
        gamma: of the negatives.
    """
    probability = logits.sigmoid()
    weight = torch.where(positive, quality, alpha * probability.pow(gamma))
    return weight * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")


def quality_focal_loss(logits: Tensor, quality: Tensor, positive: Tensor, beta: float = 2) -> Tensor:
    """Cross-entropy weighted by |q - p|^beta; arguments as of :func:`varifocal_loss`."""
    weight = (quality - logits.sigmoid()).abs().pow(beta)
    return weight * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")


def focal_loss(logits: Tensor, quality: Tensor, positive: Tensor, alpha: float = 0.25, gamma: float = 2) -> Tensor:
    """Cross-entropy weighted by |q - p|^gamma, and alpha for positives or 1 - alpha; as :func:`varifocal_loss`."""
    balance = torch.where(positive, alpha, 1 - alpha)
    return balance * quality_focal_loss(logits, quality, positive, gamma)


def poly_loss(
    logits: Tensor, quality: Tensor, positive: Tensor, alpha: float = 0.25, gamma: float = 2, epsilon: float = 1
) -> Tensor:
    """Focal loss plus epsilon |q - p|^(gamma + 1), balanced by alpha as it; as :func:`varifocal_loss`."""
    balance = torch.where(positive, alpha, 1 - alpha)
    first_term = (quality - logits.sigmoid()).abs().pow(gamma + 1)
    return focal_loss(logits, quality, positive, alpha, gamma) + epsilon * balance * first_term


def distribution_focal_loss(logits: Tensor, distance: Tensor) -> Tensor:
    """Cross-entropy with the two bins next to the distance, each weighted by its nearness.

    Args:
        logits: (..., B), bins for the distances 0 .. B - 1.
        distance: (...), in bins, 0 <= distance < B - 1.

    Returns:
        (...).
    """
    left = distance.long()
    right_weight = distance - left
    log_probability = logits.log_softmax(-1)
    chosen = torch.stack([left, left + 1], -1)
    weights = torch.stack([1 - right_weight, right_weight], -1)
    return -(log_probability.gather(-1, chosen) * weights).sum(-1)


CLASS_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "vfl": varifocal_loss,
    "qfl": quality_focal_loss,
    "focal": focal_loss,
    "poly": poly_loss,
}
