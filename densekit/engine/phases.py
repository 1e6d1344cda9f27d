"""The phases of a training step in this process; an ordinary step is one of them."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from densekit.d2.config import CfgNode
from densekit.engine.failed_forward import TrainingForward
from densekit.engine.step_record import PhaseNumbers, of_all_processes
from densekit.modeling.phases import Phase, phases_of
from densekit.ops.sharded import has_parts, local_part
from densekit.solver import Clipping, complete_state, phase_config

__all__ = ["LearningPhase", "config_of_phase", "losses_of", "parameters_by_module"]


class LearningPhase:
    """Losses, the parameters that learn from them, and their optimizer.

    Each phase has its own scale of the losses in float16: gradients of different losses differ by orders of magnitude,
    and an overflow lowers the scale of that loss alone.

    Args:
        model: takes a batch, returns a dict of scalar losses or one scalar; it may be wrapped for its process.
        optimizer: of the parameters.
        part: that the model has declared; None for an ordinary step, in which all parameters learn.
        precision: of the forward pass; None for that of the weights. float16 scales the losses.
        clipping: of all gradients together.
        shares: whether the failures of one process are to be those of all.

    Attributes:
        name: of the phase; empty for an ordinary step.
        precision: as above.
        decides_on_device: whether the optimizer can leave a step out without asking the host.
        grad_scaler: of the losses in float16, else None.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        part: Phase | None = None,
        *,
        precision: torch.dtype | None = None,
        clipping: Clipping | None = None,
        shares: bool = False,
    ) -> None:
        self.model, self.optimizer, self.part = model, optimizer, part
        self.name = part.name if part else ""
        self._parameters = part.parameters() if part else None
        self._inputs, self._others = self._parameters, []
        if part and has_parts(model):
            # The gradients of shards come from tensors that FSDP gathers, which a backward pass cannot be asked for.
            own = set(map(id, part.parameters()))
            self._inputs, self._others = None, [value for value in model.parameters() if id(value) not in own]
        self._modules = parameters_by_module(getattr(model, "module", model), self._parameters)
        self._device = next(model.parameters()).device
        self.precision, self._clipping = precision, clipping
        self._norm_type = clipping.norm_type if clipping else 2.0
        self._forward_pass = TrainingForward(model, self._parameters, shares=shares, phase=self.name)
        self.grad_scaler = torch.amp.GradScaler(self._device.type) if precision is torch.float16 else None
        self.decides_on_device = all(group.get("fused") for group in optimizer.param_groups)

    def takes_part(self, iteration: int) -> bool:
        """Tells whether the phase belongs to the step of an iteration."""
        return self.part is None or iteration % self.part.period == 0

    @property
    def is_joint(self) -> bool:
        """Tells whether its update waits for the end of the step."""
        return self.part is not None and self.part.joint

    def learn(self, parts: Sequence[Any], data_time: float) -> tuple[PhaseNumbers, str]:
        """Computes the gradients of a batch.

        Args:
            parts: its micro-batches.
            data_time: seconds that this process waited for them.

        Returns:
            Losses, which are means over the micro-batches, and norms; and the message of an error in whose place the
            losses are.

        Raises:
            FloatingPointError: by the model, where the other processes do not know.
        """
        self.optimizer.zero_grad()
        gradients = [parameter.grad for parameter in self._others]
        for parameter in self._others:
            parameter.grad = None
        sums: dict[str, Tensor] = {}
        message = ""
        for number, part in enumerate(parts, start=1):
            with _gradients_shared(self.model, number == len(parts)) if len(parts) > 1 else nullcontext():
                losses, total, error = self._losses_of(part)
                message = message or error
                total = total if len(parts) == 1 else total / len(parts)
                total = self.grad_scaler.scale(total) if self.grad_scaler else total
                total.backward(inputs=self._inputs)
            for name, loss in losses.items():
                value = loss.detach().float().reshape(())
                sums[name] = sums[name] + value if name in sums else value
        for parameter, gradient in zip(self._others, gradients):
            parameter.grad = gradient
        values = torch.stack(list(sums.values()))
        values = of_all_processes(values if len(parts) == 1 else values / len(parts), data_time)
        norms, norm = self._gradient_norms()
        return PhaseNumbers(self.name, list(sums), list(self._modules), values, norms, norm, self._scale()), message

    def _losses_of(self, batch: Any) -> tuple[dict[str, Tensor], Any, str]:
        """The losses by name, their sum, and the message of an error in whose place they are."""
        with torch.autocast(self._device.type, dtype=self.precision, enabled=self.precision is not None):
            losses, error = self._forward_pass(batch)
            return losses, sum(losses.values()), error

    def _gradient_norms(self) -> tuple[list[Tensor], Tensor]:
        """The norm of the gradients of each top module, and of all, of the losses as they are without their scale."""
        if self.grad_scaler:
            self.grad_scaler.unscale_(self.optimizer)
        norms = []
        for parameters in self._modules.values():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            norm = get_total_norm(gradients, self._norm_type) if gradients else torch.zeros((), device=self._device)
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of sharded gradients
            norms.append(norm.float())
        return norms, torch.linalg.vector_norm(torch.stack(norms), self._norm_type)

    def _scale(self) -> Tensor:
        one = torch.ones((), device=self._device)
        return self.grad_scaler.scale(one) if self.grad_scaler else one

    def update(self, norm: Tensor | None, bad: Tensor | None = None) -> None:
        """Changes the weights; where ``bad`` is true they stay, without waiting for the device.

        Args:
            norm: of the gradients, if it is known.
            bad: None if the step is known to be finite.
        """
        if bad is not None:
            # The protocol between GradScaler and fused optimizers, which works without the former as well.
            self.optimizer.grad_scale, self.optimizer.found_inf = None, bad.float()  # type: ignore[attr-defined]
        if self._clipping:
            self._clipping(self._optimized(), norm)
        self.optimizer.step()

    def _optimized(self) -> Iterable[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"optimizer": self.optimizer.state_dict()}
        return state | ({"grad_scaler": self.grad_scaler.state_dict()} if self.grad_scaler else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state; the kernels are a matter of this machine, not of the one that saved it."""
        kernels = [{key: group.get(key) for key in ("fused", "foreach")} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, chosen in zip(self.optimizer.param_groups, kernels):
            group.update(chosen)
        complete_state(self.optimizer)
        if self.grad_scaler and state.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state["grad_scaler"])


class BeforeUpdate:
    """Copies of all that an optimizer is about to change, for an update that is taken back."""

    @torch.no_grad()
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = [
            {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
        ]
        self._weights = [(parameter, local_part(parameter.detach()).clone()) for parameter in _parameters(optimizer)]
        self._states = {parameter: _copied(state) for parameter, state in optimizer.state.items()}

    @torch.no_grad()
    def restore(self) -> None:
        """Puts everything back."""
        for parameter, value in self._weights:
            local_part(parameter.detach()).copy_(value)
        for group, entries in zip(self._optimizer.param_groups, self._groups):
            group.update(entries)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._states)

    @torch.no_grad()
    def restore_where(self, flag: Tensor) -> None:
        """The same where a flag of one element is true, without waiting for its device.

        A state that had not begun becomes zero, with which fused optimizers begin.
        """
        for weight, value in self._weights:
            torch.where(flag, value, weight, out=weight.data)
        for parameter, state in self._optimizer.state.items():
            before = self._states.get(parameter, {})
            for key, now in state.items():
                if isinstance(now, Tensor):
                    torch.where(flag, before.get(key, torch.zeros_like(now)), now, out=now)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else copy.copy(value) for key, value in state.items()}


def config_of_phase(cfg: CfgNode, part: Phase | None) -> CfgNode:
    """Returns the config with the phase's own keys below SOLVER; of an ordinary step the config itself."""
    return cfg if part is None else phase_config(cfg, part.solver, f"The phase {part.name} of the training step")


def losses_of(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """The losses of all phases of a model, which is not wrapped, on one batch, by name."""
    if phases := phases_of(model):
        return {name: loss for phase in phases for name, loss in model(batch, phase.name).items()}
    losses = model(batch)
    return losses if isinstance(losses, dict) else {"total_loss": losses}


def parameters_by_module(
    model: nn.Module, parameters: Sequence[nn.Parameter] | None = None
) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters by the name of their top module, or one level deeper if there is one alone.

    Args:
        model: not wrapped.
        parameters: which of them; None for all.
    """
    wanted = None if parameters is None else set(map(id, parameters))
    trainable = [
        (name.split("."), value)
        for name, value in model.named_parameters()
        if value.requires_grad and (wanted is None or id(value) in wanted)
    ]
    depth = 1 if len({path[0] for path, _ in trainable}) > 1 else 2
    groups: dict[str, list[nn.Parameter]] = {}
    for path, parameter in trainable:
        groups.setdefault(".".join(path[: min(depth, max(len(path) - 1, 1))]), []).append(parameter)
    return groups


@contextmanager
def _gradients_shared(model: nn.Module, shared: bool) -> Iterator[None]:
    """Lets the backward passes in the block share their gradients among the processes, or not."""
    if isinstance(model, DistributedDataParallel):
        with nullcontext() if shared else model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(shared)
    yield
