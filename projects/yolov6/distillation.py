"""A network taught by another. YOLOv6, arXiv 2209.02976, sections 2.4.1 and 2.5.2.

Channel-wise distillation: "Channel-wise Knowledge Distillation for Dense Prediction" (arXiv 2011.13256).

Plain torch. Shapes: N images, A positions, K classes, B bins, P positions with an object.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .head import HeadOutputs


@dataclass(frozen=True)
class Teaching:
    """Weights of a teacher's classes, boxes and maps, 0 for none; and the temperature."""

    classes: float = 1.0
    bins: float = 1.0
    features: float = 0.0
    temperature: float = 20.0


@dataclass(frozen=True)
class Lesson:
    """Outputs of a teacher for the batch.

    Attributes:
        outputs: its head's.
        share: factor of all that is learnt from it, 0 .. 1, of :func:`teacher_share`.
        class_weight: of its classes.
        bin_weight: of its boxes, beside the weight of the distribution focal loss.
        temperature: of both.
    """

    outputs: HeadOutputs
    share: float = 1.0
    class_weight: float = 1.0
    bin_weight: float = 1.0
    temperature: float = 20.0


def teacher_share(where: float) -> float:
    """The cosine from 1 to .01 by which the labels take over (equation 4); where: 0 .. 1, how far the training is."""
    return 0.01 + 0.99 * (1 + math.cos(math.pi * where)) / 2


def class_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Sum of the KL divergences of the classes at each position, times the square of the temperature.

    What is softened are probabilities, each of its own class, so that a softmax of them has no small values.

    Args:
        student: (N, A, K) probabilities.
        teacher: (N, A, K) probabilities.
        temperature: T.
    """
    log_share = (student / temperature).softmax(-1).log()
    return F.kl_div(log_share, (teacher / temperature).softmax(-1), reduction="sum") * temperature**2


def bin_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergences (P, 4) of the distances' distributions, times the square of the temperature.

    Args:
        student: (P, 4, B) logits.
        teacher: (P, 4, B) logits.
        temperature: T.
    """
    log_share = F.log_softmax(student / temperature, -1)
    return F.kl_div(log_share, (teacher / temperature).softmax(-1), reduction="none").sum(-1) * temperature**2


def channel_divergence(student: Sequence[Tensor], teacher: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """KL divergence of where each channel of each map is active, the mean of channels, the sum of maps.

    Args:
        student: maps (N, C, H, W).
        teacher: maps of the same shapes.
        temperature: T; the divergence is multiplied by its square.
    """
    total = student[0].new_zeros(())
    for own, other in zip(student, teacher):
        log_share = F.log_softmax(own.flatten(2) / temperature, -1)
        share = (other.flatten(2) / temperature).softmax(-1)
        divergence = F.kl_div(log_share, share, reduction="sum") * temperature**2
        total = total + divergence / (own.shape[0] * own.shape[1])
    return total


def teacher_from(outputs: HeadOutputs) -> tuple[Tensor, Tensor]:
    """The probabilities (N, A, K) and the bins' logits (N, A, 4, B) of a teacher, without gradients.

    Raises:
        ValueError: it predicts plain distances.
    """
    bins = outputs.bins if outputs.bins is not None else outputs.distances
    if bins.shape[-1] == 4:
        raise ValueError("The teacher predicts no distributions: give one with MODEL.YOLOV6.BINS above 1.")
    return outputs.logits.detach().float().sigmoid(), torch.unflatten(bins.detach().float(), -1, (4, -1))
