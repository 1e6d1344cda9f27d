"""Copies of models that share the numbers and nothing else."""

import copy
from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import nn

from densekit.d2.engine import HookBase

__all__ = ["shared_copy"]


def shared_copy(model: nn.Module) -> nn.Module:
    """Copies the modules of a model with what hooks into their passes; parameters and buffers are the model's own.

    A change of a module of the copy leaves the model alone; a change in place of a tensor does not. Hooks of a training
    that modules keep are shared as well: they know the trainer, and through it loaders, optimizers and open files.

    Raises:
        TypeError: A module holds something that cannot be copied.
    """
    shared = chain(model.parameters(), model.buffers(), _training_hooks(model))
    memo: dict[int, Any] = {id(one): one for one in shared}
    return copy.deepcopy(model, memo)


def _training_hooks(model: nn.Module) -> Iterator[HookBase]:
    for module in model.modules():
        for value in vars(module).values():
            members = value if isinstance(value, list | tuple) else (value,)
            yield from (member for member in members if isinstance(member, HookBase))
