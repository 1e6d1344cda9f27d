"""The moving average that a dense detector divides its losses by, as a part of checkpoints.

RetinaNet keeps the mean number of positive anchors beside its weights, on either host: Detectron2 as a number that is
an attribute of the model from the first step on, the runtime as a buffer that is not saved. It must not become an entry
of the weights, whose names are Detectron2's.
"""

from typing import Any

import torch
from torch import nn

__all__ = ["LossNormalizer", "has_loss_normalizer"]

_NAME = "loss_normalizer"


def has_loss_normalizer(model: nn.Module) -> bool:
    """Tells whether a model that is not wrapped divides by such an average, now or from its first step on."""
    return hasattr(model, _NAME) or hasattr(model, "_ema_update")


class LossNormalizer:
    """The average of a model, with a state for checkpoints.

    Args:
        model: not wrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, float]:
        """``"value"``, which is missing before Detectron2's first step."""
        value = getattr(self._model, _NAME, None)
        return {} if value is None else {"value": float(value)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from the value of a checkpoint."""
        if "value" not in state:
            return
        present = getattr(self._model, _NAME, None)
        if isinstance(present, torch.Tensor):
            present.fill_(state["value"])
        else:
            setattr(self._model, _NAME, state["value"])
