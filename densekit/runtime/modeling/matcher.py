"""Assignment of ground truth to anchors or proposals by overlap (Faster R-CNN, arXiv:1506.01497, section 3.1.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Matcher:
    """Labels each prediction by its best overlap, and names the ground truth behind it.

    Args:
        thresholds: Increasing overlaps that split the predictions into ``len(thresholds) + 1`` ranges; a value on a
            threshold belongs to the upper range.
        labels: Label of each range: 0 negative, 1 positive, -1 ignored.
        allow_low_quality_matches: Also make positive every prediction that is the best, or tied for the best, of some
            ground truth.

    Raises:
        ValueError: The thresholds are not positive and increasing, or the labels do not fit them.
    """

    def __init__(
        self, thresholds: Sequence[float], labels: Sequence[int], allow_low_quality_matches: bool = False
    ) -> None:
        if not thresholds or thresholds[0] <= 0 or list(thresholds) != sorted(thresholds):
            raise ValueError(f"Matcher thresholds={list(thresholds)} must be positive and increasing.")
        if len(labels) != len(thresholds) + 1 or not set(labels) <= {-1, 0, 1}:
            raise ValueError(
                f"Matcher labels={list(labels)} must hold one of -1, 0, 1 for each of the {len(thresholds) + 1} ranges "
                f"that thresholds={list(thresholds)} make."
            )
        self.thresholds = list(thresholds)
        self.labels = list(labels)
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Matches M ground truths with N predictions.

        Args:
            match_quality_matrix: (M, N) overlaps, not negative.

        Returns:
            Index of the best ground truth per prediction (N,) int64, the first of equals, and label (N,) int8. Without
            ground truth or predictions: index 0 and the label of the lowest range.
        """
        quality = match_quality_matrix
        if quality.numel() == 0:
            matches = quality.new_zeros(quality.shape[1], dtype=torch.int64)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        best, matches = quality.max(dim=0)
        labels = torch.full_like(matches, self.labels[0], dtype=torch.int8)
        for threshold, label in zip(self.thresholds, self.labels[1:]):
            labels.masked_fill_(best >= threshold, label)
        if self.allow_low_quality_matches:
            best_of_gt = quality.max(dim=1, keepdim=True).values
            labels.masked_fill_((quality == best_of_gt).any(dim=0), 1)
        return matches, labels
