"""The random state of a process as plain data, so that a checkpoint can hold it and a resumed run goes on with it."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class Moment:
    """The states that the generators have now, as they give them: quick enough for every step."""

    def __init__(self) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def state(self) -> dict[str, Any]:
        """The same as :func:`random_state` would have returned then."""
        version, words, gauss = self._python
        name, keys, *rest = self._numpy
        state: dict[str, Any] = {
            "python": [version, torch.from_numpy(np.array(words)), gauss],
            "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
            "torch": self._torch,
        }
        return state if self._cuda is None else state | {"cuda": self._cuda}


def random_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators (this process's GPU included), as tensors and numbers."""
    return Moment().state()


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores what :func:`random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Puts the random state back after the block: an evaluation must not change the training that follows it."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
