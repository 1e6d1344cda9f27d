"""Losses of semantic segmentation: tensors in, one number out.

Pixels with nothing to learn never count, and a batch that has nothing else gives 0, with gradients of 0.

Shapes: N images, C classes, H x W pixels, P pixels with a label.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.ops.precision import at_least_single


class PixelLoss(nn.Module):
    """A weighted sum of losses of the scores of pixels.

    Args:
        terms: Weights by name, of :data:`TERMS`.
        class_weights: One for each class, or none.
        ohem_threshold: Of :func:`hard_cross_entropy`.
        ohem_min_kept: Of :func:`hard_cross_entropy`.

    Raises:
        ValueError: There are no terms, or one has another name.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        ignore_value: int,
        terms: Mapping[str, float],
        class_weights: Sequence[float] = (),
        ohem_threshold: float = 0.9,
        ohem_min_kept: int = 131072,
    ) -> None:
        super().__init__()
        if not terms or set(terms) - set(TERMS):
            raise ValueError(f"Losses of pixels are {', '.join(TERMS)}, one or more of them, not {list(terms)}.")
        self.ignore_value = ignore_value
        self.terms = dict(terms)
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept
        # Part of the configuration, not of the weights.
        weights = torch.tensor(list(class_weights), dtype=torch.float32) if class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The loss of scores (N, C, ...) with labels (N, ...), whole pixels or points.

        Raises:
            ValueError: There is not one class weight for each class.
        """
        if self.class_weights is not None and len(self.class_weights) != scores.shape[1]:
            raise ValueError(f"There are {len(self.class_weights)} class weights for {scores.shape[1]} classes.")
        scores = at_least_single(scores)  # the sum over a whole batch of pixels overflows half precision
        weights = None if self.class_weights is None else self.class_weights.to(scores.dtype)
        total = scores.new_zeros(())
        for name, factor in self.terms.items():
            if name == "ohem":
                part = hard_cross_entropy(
                    scores, labels, self.ignore_value, weights, self.ohem_threshold, self.ohem_min_kept
                )
            else:
                part = TERMS[name](scores, labels, self.ignore_value, weights)
            total = total + factor * part
        return total


def mean_cross_entropy(scores: Tensor, labels: Tensor, ignore_value: int, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy, the mean over labelled pixels, each counting with the weight of its class.

    Args:
        scores: (N, C, ...).
        labels: (N, ...) classes.
        ignore_value: Label of pixels that do not count.
        weights: (C,), or None for equal ones.
    """
    total = F.cross_entropy(scores, labels, weights, ignore_index=ignore_value, reduction="sum")
    if weights is None:
        return total / (labels != ignore_value).sum().clamp(min=1)
    counts = torch.stack([(labels == k).sum() for k in range(len(weights))])
    mass = (counts * weights).sum()
    return total / torch.where(mass > 0, mass, torch.ones_like(mass))


def hard_cross_entropy(
    scores: Tensor, labels: Tensor, ignore_value: int, weights: Tensor | None, threshold: float, min_kept: int
) -> Tensor:
    """Cross-entropy of the hard pixels alone (OHEM, arXiv 1604.03540, as HRNet's authors use it).

    Hard is a pixel whose true class has a probability below the threshold, which rises until ``min_kept`` pixels are
    below it, as far as there are so many. The mean over them is not divided by class weights.

    Args:
        scores: (N, C, ...).
        labels: (N, ...) classes.
        ignore_value: Label of pixels that do not count.
        weights: (C,) factors of a pixel's loss by its class, or None.
        threshold: The least threshold, 0 to 1.
        min_kept: How many pixels of the batch are to be kept.
    """
    losses = F.cross_entropy(scores, labels, weights, ignore_index=ignore_value, reduction="none")
    kept = _hard(scores.detach(), labels, ignore_value, threshold, min_kept)
    return torch.where(kept, losses, 0.0).sum() / kept.sum().clamp(min=1)


def _hard(scores: Tensor, labels: Tensor, ignore_value: int, threshold: float, min_kept: int) -> Tensor:
    """Returns a mask of the hard pixels, (N, ...) bool."""
    valid = labels != ignore_value
    if not (count := int(valid.sum())):
        return valid
    true = torch.where(valid, labels, 0).unsqueeze(1)
    probabilities = scores.softmax(dim=1).gather(1, true).squeeze(1)
    edge = probabilities[valid].kthvalue(min(min_kept, count - 1) + 1).values
    return valid & (probabilities < edge.clamp(min=threshold))


def lovasz_softmax(scores: Tensor, labels: Tensor, ignore_value: int, weights: Tensor | None = None) -> Tensor:
    """The Lovasz extension of 1 - IoU (arXiv 1705.08790, Algorithm 1), the mean over the classes that the batch shows.

    Arguments as of :func:`mean_cross_entropy`; the weights are those of the mean.
    """
    probabilities, truth = _labelled(scores, labels, ignore_value)  # (P, C) each
    errors, order = (truth - probabilities).abs().sort(dim=0, descending=True)
    truth_sorted = truth.gather(0, order)
    total = truth.sum(dim=0)
    intersection = total - truth_sorted.cumsum(dim=0)
    union = total + (1 - truth_sorted).cumsum(dim=0)
    jaccard = 1 - intersection / union.clamp(min=1)
    steps = torch.diff(jaccard, dim=0, prepend=jaccard.new_zeros(1, jaccard.shape[1]))
    return _mean_over_shown((errors * steps).sum(dim=0), total, weights)


def dice_loss(scores: Tensor, labels: Tensor, ignore_value: int, weights: Tensor | None = None) -> Tensor:
    """1 - the Dice coefficient (V-Net, arXiv 1606.04797, section 3), the mean over the classes that the batch shows.

    Arguments as of :func:`mean_cross_entropy`; the weights are those of the mean.
    """
    probabilities, truth = _labelled(scores, labels, ignore_value)
    total = truth.sum(dim=0)
    overlap = 2 * (probabilities * truth).sum(dim=0)
    losses = 1 - overlap / (probabilities.square().sum(dim=0) + total).clamp(min=1e-6)
    return _mean_over_shown(losses, total, weights)


TERMS: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": mean_cross_entropy,
    "ohem": hard_cross_entropy,
    "lovasz": lovasz_softmax,
    "dice": dice_loss,
}


def _labelled(scores: Tensor, labels: Tensor, ignore_value: int) -> tuple[Tensor, Tensor]:
    """Probabilities and truth (P, C) of the pixels with a label."""
    classes = scores.shape[1]
    valid = labels != ignore_value
    probabilities = scores.softmax(dim=1).movedim(1, -1)[valid]
    return probabilities, F.one_hot(labels[valid], classes).to(scores.dtype)


def _mean_over_shown(losses: Tensor, pixels: Tensor, weights: Tensor | None) -> Tensor:
    """The weighted mean of losses (C,) of classes with pixels."""
    shown = (pixels > 0).to(losses.dtype)
    if weights is not None:
        shown = shown * weights
    mass = shown.sum()
    return (losses * shown).sum() / torch.where(mass > 0, mass, torch.ones_like(mass))
