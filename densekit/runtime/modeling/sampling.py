"""Random choice of a fixed number of labelled anchors or proposals for the loss."""

import torch
from torch import Tensor

from densekit.runtime.layers import nonzero_tuple


def subsample_labels(
    labels: Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[Tensor, Tensor]:
    """Draws positives up to a share of the sample and fills up with negatives.

    Args:
        labels: (N,) labels: -1 ignored, ``bg_label`` negative, all others positive.
        num_samples: Size of the whole sample; it is smaller if there are not enough candidates.
        positive_fraction: At most ``int(num_samples * positive_fraction)`` positives are drawn.
        bg_label: The negative label.

    Returns:
        Indices of the positives and of the negatives, in random order.
    """
    positive = nonzero_tuple((labels != -1) & (labels != bg_label))[0]
    negative = nonzero_tuple(labels == bg_label)[0]
    num_positive = min(len(positive), int(num_samples * positive_fraction))
    num_negative = min(len(negative), num_samples - num_positive)
    return _draw(positive, num_positive), _draw(negative, num_negative)


def _draw(candidates: Tensor, count: int) -> Tensor:
    return candidates[torch.randperm(len(candidates), device=candidates.device)[:count]]
