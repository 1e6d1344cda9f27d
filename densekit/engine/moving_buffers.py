"""The buffers that a forward pass changes, such as BatchNorm's running averages, and how to take a pass back."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

# Their kernels write running averages behind the back of the version counter that other changes in place move on.
_UNCOUNTED = (_BatchNorm, _InstanceNorm)


class MovingBuffers:
    """Copies of a model's buffers; those that never change, most of them, are copied once.

    Args:
        model: its buffers change in place.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        uncounted = [buffer for part in model.modules() if isinstance(part, _UNCOUNTED) for buffer in part.buffers()]
        self._uncounted = set(map(id, uncounted))
        self._copies: list[Tensor] = []
        self._versions: list[int] = []

    def remember(self) -> None:
        """Copies what has changed since the last call."""
        if not self._copies:
            self._copies = [buffer.detach().clone() for buffer in self._buffers]
        else:
            _copy([(self._copies[index], self._buffers[index]) for index in self._changed()])
        self._versions = [buffer._version for buffer in self._buffers]

    def undo(self) -> None:
        """Puts back what :meth:`remember` has copied."""
        _copy([(self._buffers[index], self._copies[index]) for index in self._changed()])

    def undo_where(self, flag: Tensor) -> None:
        """The same where a flag of one element is true, without waiting for its device."""
        for index in self._changed():
            buffer = self._buffers[index]
            torch.where(flag, self._copies[index], buffer, out=buffer)

    def _changed(self) -> list[int]:
        return [
            index
            for index, buffer in enumerate(self._buffers)
            if buffer._version != self._versions[index] or id(buffer) in self._uncounted
        ]


@torch.no_grad()
def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Copies the second of each pair into the first, in few kernels."""
    for dtype in {target.dtype for target, _ in pairs}:
        targets, sources = zip(*(pair for pair in pairs if pair[0].dtype == dtype))
        torch._foreach_copy_(targets, sources)
