"""A frozen model that a student learns from, beside it: neither its weights nor its gradients are the student's.

It is no submodule, so that checkpoints, replicas, shards, averages and optimizers do not know it; a resumed run builds
it from its files again.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from densekit.checkpoint import Checkpointer
from densekit.config import load_config
from densekit.d2.config import CfgNode
from densekit.d2.modeling import build_model

__all__ = ["Teacher"]


class Teacher:
    """A model in evaluation mode whose outputs have no gradients.

    A student keeps it as an attribute ``teacher``; the trainer then loads it before the training. Where nobody trains
    it is never built.

    Args:
        build: makes the model, on its device.
        weights: path or address, as ``MODEL.WEIGHTS``.
        min_coverage: the least share of its entries that the weights must fill.
    """

    def __init__(self, build: Callable[[], nn.Module], weights: str, *, min_coverage: float = 1.0) -> None:
        self._build, self._weights, self._min_coverage = build, weights, min_coverage
        self._model: nn.Module | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Teacher | None":
        """Returns the teacher of ``MODEL.TEACHER``, or None where WEIGHTS is empty.

        Without a CONFIG_FILE it has the student's own configuration, without a teacher.
        """
        keys = cfg.MODEL.TEACHER
        if not keys.WEIGHTS:
            return None

        def build() -> nn.Module:
            own = load_config(keys.CONFIG_FILE) if keys.CONFIG_FILE else cfg.clone()
            own.defrost()
            own.MODEL.DEVICE, own.MODEL.TEACHER.WEIGHTS = cfg.MODEL.DEVICE, ""
            return build_model(own)

        return cls(build, keys.WEIGHTS)

    def load(self) -> nn.Module:
        """Builds the model and loads its weights, once; to be called in all processes.

        Raises:
            FileNotFoundError, ValueError: the weights are not there, or not those of the model.
        """
        if self._model is None:
            # A resumed run builds it at another iteration, and its random numbers are to be those of the first.
            cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
            with torch.random.fork_rng(devices=cuda):
                model = self._build()
            Checkpointer(model, min_coverage=self._min_coverage).load(self._weights)
            self._model = model.eval().requires_grad_(False)
        return self._model

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.load()(*args, **kwargs)
