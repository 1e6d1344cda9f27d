"""Tensors of which every process holds a part (torch's DTensor): whole ones of them, and parts of whole ones."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["has_parts", "load_whole_optimizer_states", "load_whole_states", "local_part", "part_like", "whole"]


def has_parts(model: nn.Module) -> bool:
    """Tells whether the parameters of a model are spread over the processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tree: Any, *, keep: bool = True) -> Any:
    """Nested dicts, lists and tuples with every tensor whole; all processes must call this with the same keys.

    Args:
        tree: such as a state dict. What is whole already stays as it is.
        keep: False for a process that only helps the others; its gathered tensors are empty.
    """
    if isinstance(tree, DTensor):
        gathered = tree.full_tensor()
        # One at a time in the memory of the GPU: all together need not fit.
        return gathered.cpu() if keep else gathered.new_empty(0)
    if isinstance(tree, Mapping):
        return {key: whole(value, keep=keep) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)) and not hasattr(tree, "_fields"):
        return type(tree)(whole(value, keep=keep) for value in tree)
    return tree


def local_part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is spread over the processes; it shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, target: DTensor) -> DTensor:
    """This process's part of a whole tensor, cut like ``target``; all processes must call this together."""
    moved = tensor.to(target.device, target.dtype)
    return distribute_tensor(moved, target.device_mesh, target.placements)


def load_whole_states(model: nn.Module) -> None:
    """Makes ``load_state_dict`` of a model that is spread over the processes accept whole tensors."""

    def cut(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        own = dict(module.named_parameters()) | dict(module.named_buffers())
        for name, target in own.items():
            value = state.get(prefix + name)
            if isinstance(target, DTensor) and isinstance(value, Tensor) and not isinstance(value, DTensor):
                state[prefix + name] = part_like(value, target)

    model.register_load_state_dict_pre_hook(cut)


def load_whole_optimizer_states(optimizer: torch.optim.Optimizer) -> None:
    """The same for the optimizer of such a model: what has a parameter's shape is cut like it."""

    def cut(loaded: torch.optim.Optimizer) -> None:
        for parameter, state in loaded.state.items():
            if isinstance(parameter, DTensor):
                for key, value in state.items():
                    if isinstance(value, Tensor) and not isinstance(value, DTensor) and value.shape == parameter.shape:
                        state[key] = part_like(value, parameter)

    optimizer.register_load_state_dict_post_hook(cut)
