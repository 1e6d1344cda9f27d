"""Rates, decay and averages of the training. YOLOv6, arXiv 2209.02976, section 3.1.

Plain torch.
"""

import math
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Recipe:
    """The schedule of a run.

    Attributes:
        epochs: of the run.
        base_rate: of learning, after the warm-up.
        last_share: of it at the end.
        warmup_epochs: length of the warm-up, of which ``warmup_steps`` are the least.
        warmup_steps: see there.
        warmup_momentum: that the momentum begins with.
        warmup_bias_rate: that the rate of the biases begins with, falling.
        momentum: after the warm-up.
        batch: images whose gradients are to be summed up after the warm-up.
    """

    epochs: int
    base_rate: float = 0.01
    last_share: float = 0.01
    warmup_epochs: float = 3
    warmup_steps: int = 1000
    warmup_momentum: float = 0.8
    warmup_bias_rate: float = 0.1
    momentum: float = 0.937
    batch: int = 64

    def share(self, epoch: float) -> float:
        """Cosine from 1 to ``last_share``, of the base rate."""
        return 1 - (1 - self.last_share) * (1 - math.cos(math.pi * epoch / self.epochs)) / 2

    def warmup(self, steps_per_epoch: int) -> int:
        """Steps of the warm-up."""
        return max(round(self.warmup_epochs * steps_per_epoch), self.warmup_steps)

    def rates(self, epoch: int, step: int, steps_per_epoch: int, images: int) -> "Rates":
        """Returns the learning rates, momentum and accumulation of a step.

        Args:
            epoch: that it belongs to.
            step: in the epoch, from 0.
            steps_per_epoch: how many there are.
            images: in a step of one process.
        """
        done = epoch * steps_per_epoch + step
        where = min(done / self.warmup(steps_per_epoch), 1.0)
        goal = self.base_rate * self.share(epoch)
        return Rates(
            weights=goal * where,
            biases=self.warmup_bias_rate + (goal - self.warmup_bias_rate) * where,
            momentum=self.warmup_momentum + (self.momentum - self.warmup_momentum) * where,
            accumulate=max(1, round(1 + (self.batch / images - 1) * where)),
        )


@dataclass(frozen=True)
class Rates:
    """Of one step: of weights, of biases, the momentum, and steps whose gradients are summed up."""

    weights: float
    biases: float
    momentum: float
    accumulate: int


def average_decay(updates: int, most: float = 0.9999, time: float = 2000) -> float:
    """Share of the average of the weights that stays in its update with this number, from 1."""
    return most * (1 - math.exp(-updates / time))


def parameter_kinds(model: nn.Module) -> dict[str, list[str]]:
    """Names of the trainable parameters: ``"norms"`` and ``"biases"`` are not decayed, ``"weights"`` are.

    ``"left"`` are the factors of shortcuts, which the authors' optimizer leaves as they are.
    """
    kinds: dict[str, list[str]] = {"norms": [], "weights": [], "biases": [], "left": []}
    for place, module in model.named_modules():
        for key, parameter in module.named_parameters(place, recurse=False):
            if not parameter.requires_grad:
                continue
            last = key.rpartition(".")[2]
            if last == "bias":
                kinds["biases"].append(key)
            elif last != "weight":
                kinds["left"].append(key)
            else:
                kinds["norms" if isinstance(module, _BatchNorm) else "weights"].append(key)
    return kinds
