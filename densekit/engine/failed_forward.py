"""Forward passes that raise FloatingPointError in one of several processes, and do not keep the others waiting.

The others wait for this process's gradients in the backward pass. So that all of them learn of the failure with no
exchange beside the usual ones, the losses of a failed pass are NaN, with gradients that are NaN for every parameter:
after the sums over the processes the step is finite in none of them, and they skip it, or stop, together.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from densekit.engine.single_values import single_values_named

__all__ = ["NOT_SHARED", "TrainingForward"]

NOT_SHARED = (
    "SOLVER.NAN_SKIP skips no forward pass that fails in one of several processes in their first step, with "
    "MODEL.SHARDING or MODEL.DDP.STATIC_GRAPH, or where they exchange numbers in that pass, as synchronized BatchNorm "
    "does."
)


class TrainingForward:
    """The losses of a batch; NaN where the forward pass fails and the other processes can be told so.

    They cannot before the first pass has shown how many losses there are; nor where processes meet in the forward pass
    itself, which the others have not left; nor with a static graph, which knows no other backward pass than its own.

    Args:
        model: takes a batch, returns a dict of scalar losses or one scalar.
        parameters: that learn from them; None for all that are trainable.
        shares: whether the failures of one process are to be those of all.
        phase: that the model is asked for; empty for one without phases.
    """

    def __init__(
        self, model: nn.Module, parameters: Sequence[nn.Parameter] | None = None, *, shares: bool, phase: str = ""
    ) -> None:
        self._model, self._parameters = model, parameters
        self._phase = (phase,) if phase else ()
        self._shares = shares and isinstance(model, DistributedDataParallel) and not model.static_graph
        self._names: list[str] = []

    def __call__(self, batch: Any) -> tuple[dict[str, Tensor], str]:
        """Returns the losses by name, and the message of the error in whose place they are.

        Raises:
            FloatingPointError: by the model, where it is not shared.
            DataError: A batch norm got single values; the message names it.
        """
        try:
            first = self._shares and not self._names
            with single_values_named(self._model):
                losses = self._first(batch) if first else self._model(batch, *self._phase)
        except FloatingPointError as error:
            if not (self._shares and self._names):
                raise
            nothing = self._failed()
            return dict.fromkeys(self._names, nothing), str(error) or type(error).__name__
        losses = {"total_loss": losses} if isinstance(losses, Tensor) else losses
        self._names = list(losses)
        return losses, ""

    def _first(self, batch: Any) -> Any:
        with _Exchanges() as exchanges:
            losses = self._model(batch, *self._phase)
        self._shares = not exchanges.found
        return losses

    def _failed(self) -> Tensor:
        """A scalar that is NaN, as are all gradients it leads to, by a pass in which DDP expects gradients again."""
        inner: Any = self._model.module
        parameters = inner.parameters() if self._parameters is None else self._parameters
        inner.forward = lambda _: _nan_of(parameters)
        try:
            return self._model(None)
        finally:
            del inner.forward


def _nan_of(parameters: Iterable[nn.Parameter]) -> Tensor:
    sums = [parameter.sum().float() for parameter in parameters if parameter.requires_grad]
    return torch.stack(sums).sum() * math.nan


class _Exchanges(TorchDispatchMode):
    """Notices whether processes exchange anything in the block.

    Attributes:
        found: whether they did.
    """

    found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= "c10d" in func.namespace
        return func(*args, **(kwargs or {}))
