"""Running on when CUDA memory is short."""

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Result = TypeVar("_Result")


def retry_if_cuda_oom(func: Callable[..., _Result]) -> Callable[..., _Result]:
    """Wraps ``func`` to try again when CUDA memory runs out: once with the cache emptied, then on the CPU.

    Args:
        func: A function without state, as it may run up to three times. Tensors directly among its arguments move to
            the CPU for the last attempt, so its result may be on the CPU; nested ones are left where they are.
    """

    @functools.wraps(func)
    def attempt(*args: Any, **kwargs: Any) -> _Result:
        try:
            return func(*args, **kwargs)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        try:
            return func(*args, **kwargs)
        except torch.OutOfMemoryError:
            name = getattr(func, "__qualname__", repr(func))
            logging.getLogger(__name__).warning(
                "CUDA memory ran out twice in %s; it now runs on the CPU, slowly.", name
            )
        return func(*map(_to_cpu, args), **{key: _to_cpu(value) for key, value in kwargs.items()})

    return attempt


def _to_cpu(value: Any) -> Any:
    """Moves what can be moved: a tensor, or a structure with a ``device`` and a ``to``."""
    on_cuda = getattr(getattr(value, "device", None), "type", None) == "cuda"
    return value.to(device="cpu") if on_cuda and hasattr(value, "to") else value
