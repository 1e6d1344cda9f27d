"""Clipping of all gradients of an optimizer together, by the norm that a training step computes anyway."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from densekit.d2.config import CfgNode

__all__ = ["Clipping"]

TYPE = "full_model"


@dataclass(frozen=True)
class Clipping:
    """Scales the gradients of all parameters down to a norm.

    Attributes:
        limit: of the norm.
        norm_type: 2.0 for Euclid's.
    """

    limit: float
    norm_type: float = 2.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Clipping | None":
        """Returns the clipping of ``SOLVER.CLIP_GRADIENTS`` with CLIP_TYPE ``"full_model"``; None without it."""
        keys = cfg.SOLVER.CLIP_GRADIENTS
        return cls(keys.CLIP_VALUE, keys.NORM_TYPE) if keys.ENABLED and keys.CLIP_TYPE == TYPE else None

    def __call__(self, parameters: Iterable[nn.Parameter], norm: Tensor | None = None) -> None:
        """Scales the gradients.

        Args:
            parameters: those without a gradient are left out.
            norm: of their gradients, if it is known; it is computed otherwise.
        """
        if norm is None:
            nn.utils.clip_grad_norm_(parameters, self.limit, self.norm_type)
        else:
            nn.utils.clip_grads_with_norm_(parameters, self.limit, norm)
