"""A running average of the weights, which is evaluated and kept in the place of the weights that are trained.

After each update of the optimizer ``average = DECAY * average + (1 - DECAY) * weights`` (Polyak averaging, as in "Mean
teachers are better role models", arXiv 1703.01780), for parameters and for floating-point buffers such as the running
statistics of BatchNorm; other buffers are copied. With a ramp, update number n has ``DECAY * (1 - exp(-n / RAMP))``
instead, so that the random weights of the start are soon forgotten (as in the code of arXiv 2209.02976).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from densekit.ops.sharded import local_part, part_like

__all__ = ["WeightAverage", "averaged", "note_on_start", "use_average"]

_MUCH = 0.02  # of the first weights in the last average


class WeightAverage:
    """The average of a model's state, on the model's device.

    Args:
        model: not wrapped; its modules stay the same objects.
        decay: how much of the average stays in each update, 0 .. 1.
        left_out: modules that are not averaged, as a discriminator that no evaluation needs.
        ramp: updates after which the decay has reached 1 - 1 / e of ``decay``; 0: it is ``decay`` from the first.

    Attributes:
        loaded: whether :meth:`load_state_dict` has set the average.
    """

    def __init__(
        self, model: nn.Module, decay: float, left_out: Iterable[nn.Module] = (), *, ramp: float = 0.0
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"MODEL_EMA.DECAY is {decay}; it must be at least 0 and below 1, such as 0.999.")
        if ramp < 0:
            raise ValueError(f"MODEL_EMA.RAMP is {ramp}; it is a number of updates, such as 2000, or 0 for no ramp.")
        saved, out = model.state_dict().keys(), set(_tensors_of(left_out))
        self._places = {name: place for name, place in _places(model) if name in saved and id(place()) not in out}
        self._mean = {name: tensor.clone() for name, tensor in self._live.items()}
        self._decay, self._ramp, self._updates = decay, ramp, 0
        self._exchanged = False
        self.loaded = False

    @property
    def _live(self) -> dict[str, torch.Tensor]:
        """The model's tensors; buffers are looked up anew because a module may replace them."""
        return {name: find().detach() for name, find in self._places.items()}

    @torch.no_grad()
    def restart(self) -> None:
        """Begins at the model's present weights."""
        for name, tensor in self._live.items():
            self._mean[name].copy_(tensor)

    @torch.no_grad()
    def update(self, skipped: bool | torch.Tensor = False) -> None:
        """One step of the average.

        Args:
            skipped: whether the weights have not changed, and the average is not to change either; a tensor where only
                the device knows.
        """
        if skipped is True:
            return
        self._updates += 1
        share = 1 - self._decay * (-math.expm1(-self._updates / self._ramp) if self._ramp else 1)
        now = self._live
        floating = [name for name, tensor in now.items() if tensor.is_floating_point()]
        mean, live = [local_part(self._mean[name]) for name in floating], [local_part(now[name]) for name in floating]
        if skipped is False:
            torch._foreach_lerp_(mean, live, share)
        else:
            change = torch._foreach_sub(live, mean)
            torch._foreach_mul_(change, (1 - skipped.reshape(()).float()) * share)
            torch._foreach_add_(mean, change)
        for name in now.keys() - set(floating):
            self._mean[name].copy_(now[name])

    @torch.no_grad()
    def exchange(self) -> None:
        """Puts the average into the model and the model's weights where the average was; a second call undoes it."""
        for name, tensor in self._live.items():
            weights = tensor.clone()
            tensor.copy_(self._mean[name])
            self._mean[name].copy_(weights)
        self._exchanged = not self._exchanged

    def state_dict(self) -> dict[str, Any]:
        """The state in a checkpoint.

        Returns:
            ``"tensors"``: the average, or if ``"exchanged"`` the weights in training, the model having the average;
            ``"updates"``: how many there were.
        """
        return {"tensors": dict(self._mean), "exchanged": self._exchanged, "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the average; the model's own weights have been loaded from the same checkpoint before.

        Raises:
            ValueError: The average is that of another model.
        """
        differ = [name for name, tensor in self._mean.items() if _shape(state["tensors"].get(name)) != tensor.shape]
        if differ:
            raise ValueError(
                f"The average in the checkpoint is of another model: {len(differ)} of {len(self._mean)} tensors "
                f"differ, one is {differ[0]}. Resume with the configuration of the run."
            )
        with torch.no_grad():
            for name, tensor in self._mean.items():
                value = state["tensors"][name]
                tensor.copy_(part_like(value, tensor) if isinstance(tensor, DTensor) else value)
        self._updates = int(state.get("updates", 0))  # files of before there was a ramp do not count
        self._exchanged = bool(state["exchanged"])
        if self._exchanged:
            self.exchange()
        self.loaded = True


@contextmanager
def averaged(average: WeightAverage | None) -> Iterator[None]:
    """Gives the model its average for the block; without one nothing happens."""
    if average is None:
        yield
        return
    average.exchange()
    try:
        yield
    finally:
        average.exchange()


def use_average(model: nn.Module, kept: Mapping[str, Any]) -> bool:
    """Gives a model the average of the checkpoint that its weights were loaded from.

    Args:
        model: not wrapped.
        kept: what the checkpoint holds beside the weights.

    Returns:
        Whether the checkpoint has an average; the weights of ``model_final.pth`` and ``model_best.pth`` are one.
    """
    state = kept.get("ema")
    if not state:
        return bool(kept.get("averaged"))
    if not state["exchanged"]:
        average = WeightAverage(model, 0)
        average.load_state_dict(state)
        average.exchange()
    return True


def _places(model: nn.Module) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Each tensor once, however many names it has, for it must be exchanged once: its first name and how to find it."""
    for name, parameter in model.named_parameters():
        yield name, partial(_itself, parameter)  # where it lies is another in a sharded model's forward pass
    seen = set()
    for prefix, module in model.named_modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in seen:
                seen.add(id(buffer))
                yield f"{prefix}.{key}" if prefix else key, partial(module._buffers.__getitem__, key)


def _tensors_of(modules: Iterable[nn.Module]) -> Iterator[int]:
    """The identities of the parameters and buffers of some modules."""
    for module in modules:
        yield from map(id, (*module.parameters(), *module.buffers()))


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _shape(tensor: Any) -> Any:
    return tensor.shape if isinstance(tensor, torch.Tensor) else None


def note_on_start(keys: Any, iterations: int) -> str:
    """Says that an average would keep much of the weights that a training begins with; "" where it does not.

    Args:
        keys: ``MODEL_EMA``.
        iterations: of the training.
    """
    share = 0.0 if keys.RAMP else keys.DECAY**iterations
    if share <= _MUCH:
        return ""
    return (
        f"MODEL_EMA.DECAY {keys.DECAY:g} over {iterations} iterations leaves {share:.0%} of the first weights in the "
        "average, which is what is evaluated. Set MODEL_EMA.RAMP, such as 2000.0, or a lower DECAY."
    )
