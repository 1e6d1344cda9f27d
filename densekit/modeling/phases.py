"""Training steps of several phases: losses that different parameters learn from, each with an optimizer of its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["Phase", "phases_of"]


@dataclass(frozen=True)
class Phase:
    """A part of the training step, as a generator's or a discriminator's.

    A model with phases has the method ``training_phases() -> Sequence[Phase]``, and its forward pass in training takes
    the name of one: ``forward(batch, phase)`` returns the losses of that phase. The phases of a step follow one
    another, each with the weights that those before it have left. A step that is not finite in one of them changes
    nothing in any.

    Attributes:
        name: of the phase; it heads nothing but messages and metrics, so losses need names of their own.
        modules: whose trainable parameters learn from the losses; those of others get no gradients.
        solver: what differs from ``cfg.SOLVER`` for their optimizer and schedule: key, such as ``"BASE_LR"`` or
            ``"CLIP_GRADIENTS.ENABLED"`` -> value. The length of the run is the same for all.
        period: the phase takes part in every so-manieth iteration.
        joint: its update waits for the end of the step, so that the phases after it still see the weights before.
        averaged: whether ``MODEL_EMA`` averages its modules.
    """

    name: str
    modules: Sequence[nn.Module]
    solver: Mapping[str, Any] = field(default_factory=dict)
    period: int = 1
    joint: bool = False
    averaged: bool = True

    def parameters(self) -> list[nn.Parameter]:
        """Returns the trainable ones, each once."""
        every = (parameter for module in self.modules for parameter in module.parameters())
        return list({id(parameter): parameter for parameter in every if parameter.requires_grad}.values())


def phases_of(model: nn.Module) -> list[Phase]:
    """Returns the phases of a model, which is not wrapped; none if its step is an ordinary one.

    Raises:
        ValueError: names are double, no period is 1, or a trainable parameter is in no phase or in several.
    """
    declared = getattr(model, "training_phases", None)
    if declared is None:
        return []
    phases = list(declared())
    problem = next(_problems(model, phases), None)
    if problem:
        raise ValueError(f"{type(model).__name__}.training_phases: {problem}")
    return phases


def _problems(model: nn.Module, phases: Sequence[Phase]) -> Iterator[str]:
    names = [phase.name for phase in phases]
    if not phases or len(set(names)) < len(names):
        yield f"each phase needs a name of its own, and they are {names}."
    yield from (f"{phase.name} has the period {phase.period}." for phase in phases if phase.period < 1)
    if all(phase.period > 1 for phase in phases):
        yield "one phase takes part in every iteration, so its period is 1."
    owners: dict[int, list[str]] = {}
    for phase in phases:
        for parameter in phase.parameters():
            owners.setdefault(id(parameter), []).append(phase.name)
    for name, parameter in model.named_parameters():
        learners = owners.get(id(parameter), [])
        if parameter.requires_grad and len(learners) != 1:
            yield f"the parameter {name} learns in {' and '.join(learners) or 'no phase'}; it needs exactly one."
