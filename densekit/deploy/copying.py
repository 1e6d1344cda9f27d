"""Copies of models that share the numbers and nothing else."""

import copy
from itertools import chain
from typing import Any

from torch import nn

__all__ = ["shared_copy"]


def shared_copy(model: nn.Module) -> nn.Module:
    """Copies the modules of a model, hooks included; parameters and buffers are the model's own.

    A change of a module of the copy leaves the model alone; a change in place of a tensor does not.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, memo)
