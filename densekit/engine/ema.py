"""A running average of the weights, which is evaluated and kept in the place of the weights that are trained.

After each update of the optimizer ``average = DECAY * average + (1 - DECAY) * weights`` (Polyak averaging, as in "Mean
teachers are better role models", arXiv 1703.01780), for parameters and for floating-point buffers such as the running
statistics of BatchNorm; other buffers are copied.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from densekit.ops.sharded import part_like

__all__ = ["WeightAverage", "averaged", "use_average"]


class WeightAverage:
    """The average of a model's state, on the model's device.

    Args:
        model: not wrapped; its modules stay the same objects.
        decay: how much of the average stays in each update, 0 .. 1.

    Attributes:
        loaded: whether :meth:`load_state_dict` has set the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"MODEL_EMA.DECAY is {decay}; it must be at least 0 and below 1, such as 0.999.")
        saved = model.state_dict().keys()
        self._places = {name: place for name, place in _places(model) if name in saved}
        self._mean = {name: tensor.clone() for name, tensor in self._live.items()}
        self._share = 1 - decay
        self._exchanged = self._stepped = False
        self._skipped: torch.Tensor | None = None
        self.loaded = False

    @property
    def _live(self) -> dict[str, torch.Tensor]:
        """The model's tensors; buffers are looked up anew because a module may replace them."""
        return {name: find().detach() for name, find in self._places.items()}

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Makes :meth:`update_if_stepped` notice the steps of this optimizer."""

        def notice(stepped: torch.optim.Optimizer, *_: Any) -> None:
            self._stepped, self._skipped = True, getattr(stepped, "found_inf", None)

        optimizer.register_step_post_hook(notice)

    def update_if_stepped(self) -> None:
        """Updates the average if the optimizer has stepped since the last call.

        Where only the device knows that it skipped the step (``optimizer.found_inf``), the average stays there too.
        """
        if self._stepped:
            self.update(self._skipped)
        self._stepped = False

    @torch.no_grad()
    def restart(self) -> None:
        """Begins at the model's present weights."""
        for name, tensor in self._live.items():
            self._mean[name].copy_(tensor)

    @torch.no_grad()
    def update(self, skipped: torch.Tensor | None = None) -> None:
        """One step of the average.

        Args:
            skipped: 1 if the weights have not changed and the average is not to change either, else 0, on the device.
        """
        now = self._live
        floating = [name for name, tensor in now.items() if tensor.is_floating_point()]
        mean, live = [_local(self._mean[name]) for name in floating], [_local(now[name]) for name in floating]
        if skipped is None:
            torch._foreach_lerp_(mean, live, self._share)
        else:
            change = torch._foreach_sub(live, mean)
            torch._foreach_mul_(change, (1 - skipped.reshape(())) * self._share)
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
        """``"tensors"``: the average, or if ``"exchanged"`` the weights in training, the model having the average."""
        return {"tensors": dict(self._mean), "exchanged": self._exchanged}

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


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor that is spread over the processes; it shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _shape(tensor: Any) -> Any:
    return tensor.shape if isinstance(tensor, torch.Tensor) else None
